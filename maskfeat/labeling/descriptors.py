"""Maps of descriptors of an image, before any class is known.

A feature extractor is a function of an image and its features that returns maps, `(rgb, features)
-> [map, ...]`: float, shape (h, w, C), h and w cells that cover the image evenly, each map of any
size. A network of your own can be one. To have its descriptors kept on disk, give it a `key`, a
text that differs where its maps differ.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from scipy import ndimage
from skimage.color import rgb2lab
from torch import nn

from maskfeat.batch import normalize_images
from maskfeat.features.backbone import backbone_maps
from maskfeat.features.cache import model_digest
from maskfeat.features.pyramid import FeaturePyramid
from maskfeat.features.reading import Features
from maskfeat.segment.inputs import RegionReader

FloatArray = npt.NDArray[np.floating]
Rgb = npt.NDArray[np.uint8]
FeatureExtractor = Callable[[Rgb, Features], list[FloatArray]]

_STAT_STRIDE = 4


class ColorAndTexture:
    """What needs no network: color, texture, surroundings, and where in the image.

    Lab color and its std within 4 x 4 pixels, its means over Gaussians of 8 and 32 pixels,
    the strength of edges at two scales in four directions, row and column with their squares.
    All at stride 4.

    Args:
        has_place: Whether row and column are descriptors; they help where cameras are upright.
    """

    def __init__(self, has_place: bool = True) -> None:
        self.has_place = has_place
        self.key = f"color-and-texture-1{'-place' if has_place else ''}"

    def __call__(self, rgb: Rgb, features: Features) -> list[FloatArray]:
        """One map of 35 channels, 31 without place."""
        size = tuple(max(1, round(side / _STAT_STRIDE)) for side in rgb.shape[:2])
        lab = (rgb2lab(rgb) / 100).astype(np.float32)
        mean = _shrunk(lab, size)
        std = np.sqrt(np.maximum(_shrunk(lab**2, size) - mean**2, 0))
        around = [ndimage.gaussian_filter(mean, (s, s, 0)) for s in (2, 8)]
        std_around = ndimage.gaussian_filter(std, (4, 4, 0))
        edges = [_edge_strengths(lab[..., 0], sigma, size) for sigma in (1, 2.5)]
        around_edges = [ndimage.gaussian_filter(one, (3, 3, 0)) for one in edges]
        channels = [mean, std, *around, std_around, *edges, *around_edges]
        if self.has_place:
            y, x = np.meshgrid(*(np.linspace(-1, 1, n) for n in size), indexing="ij")
            channels.append(np.stack([y, x, y * y, x * x], axis=2))
        return [np.concatenate(channels, axis=2).astype(np.float32)]


class PyramidLevels:
    """The coarse levels of the features themselves, and their surroundings.

    Args:
        min_stride: Finer levels are left out.
    """

    def __init__(self, min_stride: int = 4) -> None:
        self.min_stride = min_stride
        self.key = f"pyramid-1-{min_stride}"

    def __call__(self, rgb: Rgb, features: Features) -> list[FloatArray]:
        """Each level, then the coarsest one blurred over 4 of its cells."""
        maps = []
        for level, stride in zip(features.pyramid, features.strides, strict=True):
            if stride >= min(self.min_stride, max(features.strides)):
                cells = tuple(-(-side // stride) for side in features.size)
                maps.append(level[:, : cells[0], : cells[1]].permute(1, 2, 0).cpu().numpy())
        return [*maps, ndimage.gaussian_filter(maps[-1], (4, 4, 0))]


class BackboneMaps:
    """The maps of a model's own backbone, before decoder and heads: more meaning, fewer borders.

    Args:
        model: Its backbone is used as it is.
        min_stride: Finer maps are left out.
    """

    def __init__(self, model: FeaturePyramid, min_stride: int = 4) -> None:
        self._network = model.backbone
        self._multiple = model.size_multiple
        strides = model.backbone_strides
        self._kept = [i for i, stride in enumerate(strides) if stride >= min_stride]
        self._kept = self._kept or [len(strides) - 1]
        self.min_stride = min_stride
        self.key = f"backbone-1-{min_stride}-{weights_key(model.backbone)}"

    @torch.inference_mode()
    def __call__(self, rgb: Rgb, features: Features) -> list[FloatArray]:
        """The maps of stride `min_stride` and above, finest first."""
        sides = [max(1, round(n / self._multiple)) * self._multiple for n in rgb.shape[:2]]
        pixels = torch.from_numpy(rgb.copy()).permute(2, 0, 1).unsqueeze(0).float()
        images = F.interpolate(pixels, sides, mode="bilinear", antialias=True, align_corners=False)
        was_training = self._network.training
        self._network.eval()
        try:
            maps = backbone_maps(self._network, normalize_images(images))
        finally:
            self._network.train(was_training)
        return [maps[place][0].float().permute(1, 2, 0).cpu().numpy() for place in self._kept]


class Joined:
    """Several extractors side by side.

    Args:
        extractors: In the order of their channels.
    """

    def __init__(self, extractors: Sequence[FeatureExtractor]) -> None:
        self._extractors = tuple(extractors)
        self.key = "+".join(extractor_key(one) for one in extractors)

    def __call__(self, rgb: Rgb, features: Features) -> list[FloatArray]:
        """The maps of all."""
        return [one for extractor in self._extractors for one in extractor(rgb, features)]


def default_extractor(model: object) -> FeatureExtractor:
    """What works offline: the backbone of the model where it has one, its features, and color."""
    own = [BackboneMaps(model)] if isinstance(model, FeaturePyramid) else []
    return Joined([*own, PyramidLevels(), ColorAndTexture()])


def describe(maps: Sequence[FloatArray], reader: RegionReader) -> npt.NDArray[np.float32]:
    """Mean of all maps over each region, channels side by side, float32, shape (K, D).

    Raises:
        ValueError: If a map has another shape than (h, w, C), or is not finite.
    """
    for one in maps:
        if one.ndim != 3 or one.size == 0 or not np.isfinite(one).all():
            raise ValueError(
                "a feature extractor must give finite maps of shape (h, w, C), "
                f"got {one.shape}, finite {bool(np.isfinite(one).all())}"
            )
    return np.concatenate([reader.means(one) for one in maps], axis=1).astype(np.float32)


def extractor_key(extractor: FeatureExtractor) -> str:
    """The `key` of a feature extractor, or for a plain function its name."""
    key = getattr(extractor, "key", None) or getattr(extractor, "__qualname__", None)
    return str(key or type(extractor).__qualname__)


def weights_key(network: nn.Module) -> str:
    """A short text that differs between networks: by class, settings and weights."""
    return model_digest(network).hex()[:16]


def _shrunk(values: npt.NDArray[np.float32], size: Sequence[int]) -> npt.NDArray[np.float32]:
    """Means over blocks, (H, W, C) -> (h, w, C)."""
    tensor = torch.from_numpy(np.ascontiguousarray(values.transpose(2, 0, 1))).unsqueeze(0)
    shrunk: npt.NDArray[np.float32]
    shrunk = F.adaptive_avg_pool2d(tensor, (size[0], size[1]))[0].permute(1, 2, 0).numpy()
    return shrunk


def _edge_strengths(
    lightness: npt.NDArray[np.float32], sigma: float, size: Sequence[int]
) -> npt.NDArray[np.float32]:
    """Size of the gradient in four directions, (h, w, 4)."""
    down, right = (
        ndimage.gaussian_filter(lightness, sigma, order=order) for order in ((1, 0), (0, 1))
    )
    turned = [down, right, (down + right) / np.sqrt(2), (down - right) / np.sqrt(2)]
    return _shrunk(np.abs(np.stack(turned, axis=2)).astype(np.float32), size)
