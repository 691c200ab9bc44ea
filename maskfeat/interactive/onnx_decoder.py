"""A click decoder as two ONNX graphs: its image half, and what every click runs."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from maskfeat.interactive.decoder import ClickDecoder
from maskfeat.onnx_file import ORIGIN_KEY, Graph, write_graph

_DECODER_KEY = "maskfeat_click_decoder"
# What the names of the two files end in, beside MODEL.onnx.
_IMAGE_HALF = ".look.onnx"
_PROMPT_HALF = ".click.onnx"
_OPEN_AXES = (2, 3)


def write_decoder(decoder: ClickDecoder, path: str | os.PathLike[str], origin: str) -> list[Path]:
    """Write a click decoder beside MODEL.onnx, weights in 32 bits.

    - MODEL.look.onnx: `image_maps` (1, image channels, h, w) -> `encoded`, once for each look.
    - MODEL.click.onnx: `encoded`, and `prompt_maps` (1, prompt channels, h, w) -> `logits`
      (1, h, w) of "object", for each set of prompts. h and w are multiples of `decoder.multiple`.

    `maskfeat.interactive.prompt_maps` says what the maps hold.

    Args:
        decoder: Trained on the features of the model.
        path: MODEL.onnx.
        origin: Of the model, see `maskfeat.onnx_file.origin_of`.

    Returns:
        The two files.

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
    """A click decoder run by onnxruntime, in place of a `ClickDecoder` in evaluation mode.

    Args:
        image_half: MODEL.look.onnx.
        prompt_half: MODEL.click.onnx.
    """

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
    """The click decoder beside MODEL.onnx.

    Args:
        path: MODEL.onnx.
        origin: Of that file.

    Returns:
        None if there is none.

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
