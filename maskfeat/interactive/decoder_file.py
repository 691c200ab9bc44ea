"""A click decoder in the file of its features: one .safetensors holds both."""

from __future__ import annotations

import json
import os

from safetensors import safe_open
from safetensors.torch import save as serialize
from torch import Tensor

from maskfeat.features.model_file import find_model
from maskfeat.features.stored_config import checked_weights
from maskfeat.features.unreadable import load_archive
from maskfeat.features.weights import DECODER_PREFIX
from maskfeat.files import whole_file
from maskfeat.interactive.decoder import ClickDecoder
from maskfeat.tensor_file import check_tensors, with_checksum

# Key of the metadata of a safetensors file and of a checkpoint of `ClickTask`.
DECODER_KEY = "maskfeat_click_decoder"
_OF_TASK = "averaged.module."


def save_with_decoder(
    features: str | os.PathLike[str], decoder: ClickDecoder, path: str | os.PathLike[str]
) -> None:
    """Write the features of a file and a decoder for them to one file, whole or not at all.

    Args:
        features: A .safetensors file, or the name of a network that comes with the package. A
            decoder in it is left out.
        decoder: Trained on these features; kept in 32 bits.
        path: Where to; the name should end in .safetensors. `maskfeat.load` reads the features,
            `load_decoder` the decoder.
    """
    with safe_open(find_model(features), framework="pt") as file:
        metadata = dict(file.metadata() or {})
        tensors = {n: file.get_tensor(n) for n in file.keys() if not n.startswith(DECODER_PREFIX)}
    weights = {n: v.cpu().contiguous() for n, v in decoder.state_dict().items()}
    tensors |= {DECODER_PREFIX + name: value for name, value in weights.items()}
    metadata[DECODER_KEY] = json.dumps(decoder.config)
    with whole_file(path) as file:
        file.write(with_checksum(serialize, tensors, metadata))


def load_decoder(path: str | os.PathLike[str]) -> ClickDecoder | None:
    """The decoder of a file, in evaluation mode. Nothing in the file is run.

    Args:
        path: A file of `save_with_decoder`, a checkpoint of `ClickTask` (.ckpt; its averaged
            weights are taken), or the name of a network that comes with the package.

    Returns:
        None if a .safetensors file holds features alone.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is damaged, a checkpoint is not one of `ClickTask`, or the weights
            do not fit.
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
    instead = "give a checkpoint that training a ClickTask wrote (.ckpt), or a .safetensors file"
    checkpoint = load_archive(path, instead)
    if not isinstance(checkpoint, dict) or DECODER_KEY not in checkpoint:
        raise ValueError(f"'{path}' holds no click decoder; {instead}")
    states = checked_weights(checkpoint.get("state_dict"), f"'{path}'")
    weights = {n[len(_OF_TASK) :]: v for n, v in states.items() if n.startswith(_OF_TASK)}
    return _built(checkpoint[DECODER_KEY], weights, str(path))


def _built(config: dict[str, object], weights: dict[str, Tensor], path: str) -> ClickDecoder:
    try:
        decoder = ClickDecoder(**config)  # type: ignore[arg-type]
        decoder.load_state_dict(weights)
    except (RuntimeError, TypeError, ValueError) as error:
        raise ValueError(
            f"the click decoder in '{path}' does not fit its own settings; take another file"
        ) from error
    return decoder.eval().requires_grad_(False)
