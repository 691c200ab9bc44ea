"""Features and click decoder in one file: .safetensors, or a folder as hubs of models have them."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import safe_open
from safetensors.torch import save as serialize
from torch import Tensor, nn

from maskfeat.features.model_file import WEIGHTS_NAME, find_model
from maskfeat.features.onnx_encoder import OnnxEncoder
from maskfeat.features.pyramid import FeaturePyramid
from maskfeat.features.stored_config import checked_weights, class_entry, load_archive
from maskfeat.features.weights import DECODER_PREFIX, cast, load, read_card, save
from maskfeat.files import whole_file
from maskfeat.interactive.decoder import ClickDecoder, PromptDecoder
from maskfeat.onnx_file import ORIGIN_KEY, Graph, write_graph
from maskfeat.segment.merge_classifier import merge_classifier_name
from maskfeat.tensor_file import check_tensors, with_checksum

# Key of the metadata of a safetensors file and of a checkpoint of `ClickTask`.
DECODER_KEY = "maskfeat_click_decoder"
CONFIG_NAME = "config.json"
CARD_NAME = "README.md"
_OF_TASK = "averaged.module."
_FIRST = "image_half.0.weight"  # its second dimension is the maps of the image
_DECODER_KEY = "maskfeat_click_decoder"
# What the names of the two files end in, beside MODEL.onnx.
_IMAGE_HALF = ".look.onnx"
_PROMPT_HALF = ".click.onnx"
_OPEN_AXES = (2, 3)


def save_with_decoder(
    features: str | os.PathLike[str],
    decoder: ClickDecoder,
    path: str | os.PathLike[str],
    dtype: torch.dtype = torch.float16,
) -> None:
    """Write features and a decoder trained on them to one .safetensors file, whole or not at all.

    `maskfeat.load` reads the features, `load_decoder` the decoder.

    Args:
        features: A .safetensors file, or the name of a network that comes with the package. A
            decoder in it is left out.
        decoder: Trained on these features.
        path: Where to.
        dtype: Of the decoder's weights in the file; those of the features stay as they are.
    """
    with safe_open(find_model(features), framework="pt") as file:
        metadata = dict(file.metadata() or {})
        tensors = {n: file.get_tensor(n) for n in file.keys() if not n.startswith(DECODER_PREFIX)}
    weights, described = packed(decoder, dtype)
    with whole_file(path) as file:
        file.write(with_checksum(serialize, tensors | weights, metadata | described))


def packed(decoder: ClickDecoder, dtype: torch.dtype) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of a decoder, weights in a dtype, and its settings, as a file holds them."""
    weights = {
        DECODER_PREFIX + name: cast(value, dtype).contiguous().cpu()
        for name, value in decoder.state_dict().items()
    }
    return weights, {DECODER_KEY: json.dumps(decoder.config)}


def load_decoder(path: str | os.PathLike[str]) -> ClickDecoder | None:
    """The decoder of a file, in evaluation mode. Nothing in the file is run.

    Args:
        path: A file of `save_with_decoder`, a checkpoint of `ClickTask` (.ckpt; its averaged
            weights are taken), or the name of a network that comes with the package.

    Returns:
        None if the file holds features alone.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is damaged or none of maskfeat, or the weights do not fit.
    """
    path = find_model(path)
    if path.suffix == ".safetensors":
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            names = [name for name in file.keys() if name.startswith(DECODER_PREFIX)]
            weights = {name[len(DECODER_PREFIX) :]: file.get_tensor(name) for name in names}
        check_tensors(path, metadata)
        config = metadata.get(DECODER_KEY)
        return None if config is None else _built(json.loads(config), weights, str(path))
    instead = "give a checkpoint that `lightning fit` wrote (.ckpt), or a .safetensors file"
    checkpoint = load_archive(path, instead)
    if not isinstance(checkpoint, dict):
        raise ValueError(f"'{path}' holds no click decoder; {instead}")
    if DECODER_KEY not in checkpoint:
        return None
    states = checked_weights(checkpoint.get("state_dict"), f"'{path}'")
    weights = {n[len(_OF_TASK) :]: v for n, v in states.items() if n.startswith(_OF_TASK)}
    return _built(checkpoint[DECODER_KEY], weights, str(path))


def decoder_for(
    model: object, decoder: PromptDecoder | str | os.PathLike[str] | Literal[False] | None
) -> PromptDecoder | None:
    """The click decoder to use, or None for no decoder.

    Args:
        model: Gives features; one of `maskfeat.load` knows its file.
        decoder: A decoder, or the path of its file; None takes that in the model's file, if there
            is one; False takes none.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If a file that was asked for holds no decoder.
    """
    if decoder is False:
        return None
    if decoder is not None and not isinstance(decoder, str | os.PathLike):
        return decoder
    if isinstance(model, OnnxEncoder) and decoder is None:
        return load_onnx_decoder(model.loaded_from, model.origin)
    if decoder is None:
        file: Path | None = getattr(model, "loaded_from", None)
        return None if file is None or file.suffix != ".safetensors" else load_decoder(file)
    found = load_decoder(decoder)
    if found is None:
        raise ValueError(f"'{decoder}' holds features without a click decoder")
    return found


def _built(config: dict[str, object], weights: dict[str, Tensor], path: str) -> ClickDecoder:
    try:
        decoder = ClickDecoder(**config)  # type: ignore[arg-type]
        decoder.load_state_dict(weights)
    except (RuntimeError, TypeError, ValueError) as error:
        raise ValueError(
            f"the click decoder in '{path}' does not fit its own settings; take another file"
        ) from error
    return decoder.eval().requires_grad_(False)


def start_from_trained(decoder: ClickDecoder, trained: ClickDecoder, origin: str) -> None:
    """Give a decoder the weights of a trained one, which may read fewer maps of the image.

    Weights of maps that are new to it become zero.

    Raises:
        ValueError: If they differ otherwise; it says the origin of the trained one.
    """
    weights = trained.state_dict()
    own = decoder.state_dict()[_FIRST]
    known = weights[_FIRST].shape[1]
    same = ("prompt_channels", "width", "stages", "blocks")
    differing = [n for n in same if trained.config[n] != decoder.config[n]]
    if differing or known > own.shape[1]:
        raise ValueError(
            f"the click decoder in '{origin}' differs in {', '.join(differing or ['its maps'])}; "
            "start from one of the same build, or set model.start_from to null"
        )
    weights[_FIRST] = torch.zeros_like(own)
    weights[_FIRST][:, :known] = trained.state_dict()[_FIRST]
    decoder.load_state_dict(weights)


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


def write_decoder(decoder: ClickDecoder, path: str | os.PathLike[str], origin: str) -> list[Path]:
    """Write a click decoder beside MODEL.onnx, weights in 32 bits; the two files.

    - MODEL.look.onnx: `image_maps` (1, image channels, h, w) -> `encoded`, once for each look.
    - MODEL.click.onnx: `encoded`, and `prompt_maps` (1, prompt channels, h, w) -> `logits`
      (1, h, w) of "object", for each set of prompts. h and w are multiples of `decoder.multiple`.

    `maskfeat.interactive.decoder_unary` says what the maps hold, `maskfeat.onnx_file.origin_of`
    what the origin is.

    Raises:
        ModuleNotFoundError: If the packages of the extra `onnx` are not there.
        ValueError: If it reads maps inside the network.
    """
    if decoder.inner_strides:
        raise ValueError(
            "a click decoder that reads maps inside the network cannot be written as ONNX, as "
            "the graph of the network does not give them"
        )
    decoder = decoder.fused()
    height, width = 3 * decoder.multiple, 2 * decoder.multiple
    image_maps = torch.zeros(1, decoder.config["image_channels"], height, width)
    prompt_maps = torch.zeros(1, decoder.config["prompt_channels"], height, width)
    with torch.inference_mode():
        encoded = decoder.encode(image_maps)
    metadata = {ORIGIN_KEY: origin, _DECODER_KEY: json.dumps(decoder.config)}
    files = [Path(path).with_suffix(ending) for ending in (_IMAGE_HALF, _PROMPT_HALF)]
    image_half, prompt_half = _ImageHalf(decoder).eval(), _PromptHalf(decoder).eval()
    inputs = {"image_maps": image_maps}
    write_graph(files[0], image_half, inputs, ["encoded"], _OPEN_AXES, metadata)
    inputs = {"encoded": encoded.clone(), "prompt_maps": prompt_maps}
    write_graph(files[1], prompt_half, inputs, ["logits"], _OPEN_AXES, metadata)
    return files


class OnnxClickDecoder:
    """A click decoder of two graphs, run by onnxruntime in place of a `ClickDecoder`."""

    def __init__(self, image_half: Graph, prompt_half: Graph) -> None:
        self._image_half, self._prompt_half = image_half, prompt_half
        self.config: dict[str, Any] = json.loads(image_half.metadata[_DECODER_KEY])
        self.inner_strides = tuple(self.config["inner_strides"])
        self.multiple = int(2 ** (len(self.config["stages"]) - 1))

    def fused(self) -> OnnxClickDecoder:
        """Itself: its norms were folded into convolutions when it was written."""
        return self

    def encode(self, image_maps: Tensor) -> Tensor:
        """See `ClickDecoder.encode`."""
        return self._image_half.run(image_maps=image_maps)[0]

    def __call__(self, encoded: Tensor, prompt_maps: Tensor) -> Tensor:
        """See `ClickDecoder.forward`."""
        return self._prompt_half.run(encoded=encoded, prompt_maps=prompt_maps)[0]


def remove_decoder(path: str | os.PathLike[str]) -> None:
    """Remove the click decoder beside MODEL.onnx, if there is one: that of an earlier model."""
    for ending in (_IMAGE_HALF, _PROMPT_HALF):
        Path(path).with_suffix(ending).unlink(missing_ok=True)


def load_onnx_decoder(path: str | os.PathLike[str], origin: str) -> OnnxClickDecoder | None:
    """The click decoder beside MODEL.onnx, a file of this origin; None if there is none.

    Raises:
        FileNotFoundError: If one of its two files is missing.
        ValueError: If a file is damaged, or of another model.
    """
    files = [Path(path).with_suffix(ending) for ending in (_IMAGE_HALF, _PROMPT_HALF)]
    if not any(file.is_file() for file in files):
        return None
    for file in files:
        if not file.is_file():
            raise FileNotFoundError(f"'{file}' is missing, the other half of a click decoder")
    image_half, prompt_half = (Graph(file) for file in files)
    for file, graph in zip(files, (image_half, prompt_half), strict=True):
        if graph.metadata[ORIGIN_KEY] != origin or _DECODER_KEY not in graph.metadata:
            raise ValueError(f"'{file}' belongs to another model than '{path}'; export both again")
    return OnnxClickDecoder(image_half, prompt_half)


class _ImageHalf(nn.Module):
    def __init__(self, decoder: ClickDecoder) -> None:
        super().__init__()
        self.decoder = decoder

    def forward(self, image_maps: Tensor) -> Tensor:
        return self.decoder.encode(image_maps)


class _PromptHalf(nn.Module):
    def __init__(self, decoder: ClickDecoder) -> None:
        super().__init__()
        self.decoder = decoder

    def forward(self, encoded: Tensor, prompt_maps: Tensor) -> Tensor:
        logits: Tensor = self.decoder(encoded, prompt_maps)
        return logits
