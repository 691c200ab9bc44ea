"""Models as folders, as hubs of models have them: model.safetensors, config.json, README.md."""

from __future__ import annotations

import json
import os
from pathlib import Path

import torch

from maskfeat.features.model_file import WEIGHTS_NAME
from maskfeat.features.network import class_entry
from maskfeat.features.pyramid import FeaturePyramid
from maskfeat.features.weights import load, read_card, save
from maskfeat.files import whole_file
from maskfeat.interactive.decoder_file import load_decoder, packed
from maskfeat.segment.merge_classifier import merge_classifier_name

CONFIG_NAME = "config.json"
CARD_NAME = "README.md"


def save_pretrained(
    model: FeaturePyramid | str | os.PathLike[str],
    folder: str | os.PathLike[str],
    card: str | None = None,
    dtype: torch.dtype = torch.float16,
) -> None:
    """Write a model to a folder that can be given to others, or uploaded to a hub as it is.

    - model.safetensors: the features and, where it has one, the click decoder; no pickle. It is
      all that is read back.
    - config.json: what is in it, to be read by people: the settings of both networks, and which
      merge classifier of the package builds its trees.
    - README.md: the card, if there is one; else the file goes.

    Args:
        model: A network, with the click decoder of the file it was loaded from; or its file, or
            the name of a network that comes with the package.
        folder: Where to; made if it is not there. Each file is written whole, or not at all.
        card: What people should know of it, Markdown; None takes that of the model's file.
        dtype: Of the weights in the file; float32 is exact.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the model is no network of maskfeat's, or a weight is no number.
    """
    net = load(model) if isinstance(model, str | os.PathLike) else model
    if not isinstance(net, FeaturePyramid):
        raise ValueError(
            f"a network with weights of its own can be saved, got a {type(net).__name__}"
        )
    source, place = net.loaded_from, Path(folder)
    decoder = None if source is None else load_decoder(source)
    if card is None:
        card = read_card(source) if source is not None and source.suffix != ".ckpt" else ""
    beside = ({}, {}) if decoder is None else packed(decoder, dtype)
    save(net, place / WEIGHTS_NAME, dtype, card, beside)
    config = {
        "library_name": "maskfeat",
        "features": {**net.config, **class_entry(net)},
        "click_decoder": None if decoder is None else decoder.config,
        "merge_classifier": merge_classifier_name(bool(net.boundary_heads)),
    }
    with whole_file(place / CONFIG_NAME) as file:
        file.write(json.dumps(config, indent=2).encode() + b"\n")
    (place / CARD_NAME).unlink(missing_ok=True)  # that of another model says nothing of this one
    if card:
        with whole_file(place / CARD_NAME) as file:
            file.write(card.encode())


def from_pretrained(
    place: str | os.PathLike[str],
    revision: str | None = None,
    device: str | torch.device = "cpu",
    net_class: type[torch.nn.Module] | None = None,
) -> FeaturePyramid:
    """Load a model from a folder of `save_pretrained`, or from the Hugging Face hub.

    What comes from the hub is data: nothing of it is run.

    Args:
        place: A folder; or OWNER/NAME of a repository, whose model.safetensors is fetched once and
            kept. With HF_HUB_OFFLINE=1 the kept one is taken.
        revision: Branch, tag or commit of the repository.
        device: As for `maskfeat.load`, as is the next.
        net_class: The class of the network, if it is one of your own.

    Returns:
        The network, ready to give features; `InteractiveSegmenter` takes its click decoder.

    Raises:
        FileNotFoundError: If the folder holds no model.
        ValueError: If the repository cannot be fetched, or as `maskfeat.load`.
    """
    if os.path.isdir(place):
        return load(place, device, net_class)
    from huggingface_hub import hf_hub_download  # timm needs it, too

    try:
        path = hf_hub_download(os.fspath(place), WEIGHTS_NAME, revision=revision)
    except Exception as error:  # of the hub, of HTTP, of names that are none
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise ValueError(
            f"'{place}' is no folder, and {WEIGHTS_NAME} of the repository '{place}' cannot be "
            f"fetched from the hub: {reason}"
        ) from error
    return load(path, device, net_class)
