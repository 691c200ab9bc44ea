"""A feature network as an ONNX graph: written for other runtimes, and run by onnxruntime."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from maskfeat.arguments import ImageLike, checked_count, checked_number, rgb_of
from maskfeat.batch import normalize_images
from maskfeat.features.color import color_distances
from maskfeat.features.model_file import find_model
from maskfeat.features.pyramid import FeaturePyramid
from maskfeat.features.reading import Features
from maskfeat.onnx_file import ORIGIN_KEY, Graph, origin_of, write_graph

# Keys of the metadata of the file.
_CONFIG_KEY = "maskfeat_net"
_SCALE_KEY = "maskfeat_scale"
CARD_KEY = "maskfeat_card"
# An example to trace by; no axis has the length 1, which would be taken for a fixed one.
_EXAMPLE = (2, 70, 101, 3)


def write_encoder(net: FeaturePyramid, path: str | os.PathLike[str], card: str = "") -> None:
    """Write a network as an ONNX graph with its card, weights in 32 bits.

    Its input is `rgb`, uint8, (B, H, W, 3), any size; it is normalized and padded inside. Its
    outputs are `level_S` for each stride S, float32, (B, C, h, w), as `FeaturePyramid.forward` has
    them, and, of a network that predicts boundaries, their logits `boundaries`, (B, 2, H, W).

    Raises:
        ModuleNotFoundError: If the packages of the extra `onnx` are not there.
    """
    outputs = [f"level_{stride}" for stride in net.strides]
    outputs += ["boundaries"] if net.boundary_heads else []
    metadata = {
        _CONFIG_KEY: json.dumps(net.config),
        _SCALE_KEY: repr(net.scale.item()),
        ORIGIN_KEY: origin_of(net),
        CARD_KEY: card,
    }
    example = {"rgb": torch.zeros(_EXAMPLE, dtype=torch.uint8)}
    write_graph(path, _FromPixels(net).eval(), example, outputs, (0, 1, 2), metadata)


class OnnxEncoder:
    """Features of images by an ONNX graph: what `maskfeat.load("model.onnx")` gives.

    It takes the place of a `FeaturePyramid` wherever features are asked for, but for a
    `cache_dir`. It runs on the CPU, cannot be trained, and has no maps inside the network.

    Args:
        path: A file made by `write_encoder`.

    Attributes:
        config: The arguments of the network that was written.
        strides: Input pixels per map pixel, one per level.
        scale: Turns squared distances into probabilities.
        card: See `maskfeat.read_card`.
        loaded_from: The file.

    Raises:
        FileNotFoundError: If there is no such file.
        ModuleNotFoundError: If onnxruntime is not there.
        ValueError: If the file is damaged or holds something else.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.loaded_from: Path = find_model(path)
        self._graph = Graph(self.loaded_from)
        known = self._graph.metadata
        if _CONFIG_KEY not in known:
            raise ValueError(
                f"'{path}' holds a part of a click decoder; give the file of the network beside it"
            )
        self.origin = known[ORIGIN_KEY]
        self.card = known.get(CARD_KEY, "")
        self.config = json.loads(known[_CONFIG_KEY])
        self.strides = tuple(2**level for level in self.config["levels"])
        self.scale = checked_number(f"the scale of '{path}'", float(known[_SCALE_KEY]), above=0)

    def features(self, rgb: ImageLike) -> Features:
        """Features of one image, those of `FeaturePyramid.features` but for rounding.

        Args:
            rgb: uint8, shape (H, W, 3), any size; or a PIL image, or the path of an image.

        Raises:
            ValueError: If `rgb` is something else, or the features are not finite.
        """
        rgb = rgb_of(rgb)
        pixels = torch.from_numpy(rgb.copy())  # rgb may be read-only, or a view turned round
        pyramid = [found[0] for found in self._graph.run(rgb=pixels.unsqueeze(0))]
        logits = pyramid.pop() if len(pyramid) > len(self.strides) else None
        color = color_distances(pixels.permute(2, 0, 1)) if self.config["color"] else None
        size = (rgb.shape[0], rgb.shape[1])
        return Features(pyramid, self.strides, size, self.scale, logits, color)

    def features_batch(self, images: Sequence[ImageLike], batch_size: int = 8) -> list[Features]:
        """Features of several images, in turn whatever the `batch_size`; see `features`."""
        checked_count("batch_size", batch_size)
        return [self.features(image) for image in images]


class _FromPixels(nn.Module):
    """A network with what comes before it."""

    def __init__(self, net: FeaturePyramid) -> None:
        super().__init__()
        self.net = net

    def forward(self, rgb: Tensor) -> list[Tensor]:
        pyramid, boundaries = self.net.maps(normalize_images(rgb.permute(0, 3, 1, 2)))
        return pyramid if boundaries is None else [*pyramid, boundaries]
