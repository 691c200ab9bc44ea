"""What users may pass: features, scores, seeds and settings, checked and brought to superpixels."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy import sparse
from torch import Tensor

from maskfeat.arguments import ImageLike, array_of, checked_count, checked_number, rgb_of
from maskfeat.arrays import BoolArray, Float64Array, Int32Array, IntArray
from maskfeat.features.color import LabEncoder
from maskfeat.features.reading import FeatureModel, Features
from maskfeat.segment.superpixels import RegionGraph, superpixels

FeatureSource = Features | Tensor | npt.NDArray[np.floating] | ImageLike
GraphSource = RegionGraph | FeatureSource

# The squares of larger scores, times pixels, exceed double precision.
MAX_SCORE = 1e100


def model_of(model: FeatureModel | str | os.PathLike[str]) -> FeatureModel:
    """The model itself; a name or a path is loaded for inference, see `weights.load_fused`.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it has no method `features`.
    """
    if isinstance(model, str | os.PathLike):
        from maskfeat.features.weights import load_fused  # timm takes seconds to import

        return load_fused(model)
    if isinstance(model, type) or not callable(getattr(model, "features", None)):
        raise ValueError(
            "model must have a method features(rgb), as those of maskfeat.load have, or be the "
            f"name or path of one, got {type(model).__name__}"
        )
    return model


def checked_features(features: object) -> Features:
    """`Features`, unchanged.

    Raises:
        ValueError: If it is something else.
    """
    if not isinstance(features, Features):
        raise ValueError(
            f"features must be a Features, got {type(features).__name__}; Features.from_dense "
            "makes one of an array of shape (H, W, C)"
        )
    return features


def as_features(source: FeatureSource) -> Features:
    """`Features` unchanged, any per-pixel numbers, or the Lab color of an image.

    Args:
        source: `Features`; floats of shape (H, W, C); or RGB, uint8, shape (H, W, 3), a PIL image
            or the path of an image.

    Raises:
        ValueError: If the array has another shape or type, or is not finite.
    """
    if isinstance(source, Features):
        return source
    if isinstance(source, Image.Image | str | os.PathLike):
        return LabEncoder().features(rgb_of(source))
    values = array_of("features", source)
    if values.ndim != 3 or values.size == 0:
        raise ValueError(
            "features must be a Features, floats of shape (H, W, C) or a uint8 RGB image of shape "
            f"(H, W, 3), got {values.dtype} {values.shape}"
        )
    if values.dtype == np.uint8:
        if values.shape[2] != 3:
            raise ValueError(f"a uint8 image must have shape (H, W, 3), got {values.shape}")
        return LabEncoder().features(values)
    if not np.issubdtype(values.dtype, np.floating):
        raise ValueError(
            f"features must be float, or uint8 for an RGB image, got {values.dtype}; cast them"
        )
    return Features.from_dense(values)


def graph_of(features: GraphSource, per_megapixel: float = 26_000) -> RegionGraph:
    """The graph unchanged, or the superpixels of what `as_features` takes."""
    if isinstance(features, RegionGraph):
        return features
    return superpixels(as_features(features), per_megapixel)


def checked_granularity(granularity: object) -> float:
    """A number in (0, 1)."""
    return checked_number("granularity", granularity, above=0, below=1)


def checked_num_segments(num_segments: object) -> int:
    """A whole number of at least 1."""
    return checked_count("num_segments", num_segments)


def checked_per_megapixel(per_megapixel: object) -> float:
    """Superpixels for a million pixels, above 0."""
    return checked_number("per_megapixel", per_megapixel, above=0, most=1e6)


def scores_of_superpixels(
    scores: npt.ArrayLike, graph: RegionGraph, may_be_superpixels: bool
) -> Float64Array:
    """Scores as `score_cut` takes them, (h, w), (h, w, C), (K,) or (K, C), become (K, C), float64.

    K rows mean superpixels only for a caller who gave the graph.

    Raises:
        ValueError: If they have another shape, are not real, not finite or above 1e100.
    """
    values = array_of("scores", scores).astype(np.float64)
    if values.size == 0:
        raise ValueError(f"scores must be finite numbers, at least one, got shape {values.shape}")
    if not (values.min() >= -MAX_SCORE and values.max() <= MAX_SCORE):
        raise ValueError(
            "scores must be finite numbers, no NaN or infinity, and at most 1e100 in size, got "
            f"{values.min():g} to {values.max():g}; check what made them"
        )
    if may_be_superpixels and values.ndim in (1, 2) and len(values) == graph.num_superpixels:
        return values.reshape(graph.num_superpixels, -1)
    if values.ndim == 2:
        values = values[..., None]
    if values.ndim != 3:
        raise ValueError(
            "scores must have shape (h, w) or (h, w, C) for patches, or "
            f"({graph.num_superpixels},) or ({graph.num_superpixels}, C) for the superpixels, "
            f"got {values.shape}"
        )
    return RegionReader(graph.labels, graph.num_superpixels).means(values)


def seeded_superpixels(
    seeds: npt.ArrayLike, graph: RegionGraph, num_groups: int
) -> tuple[BoolArray, IntArray]:
    """Superpixels with hard constraints, bool (K,), and their groups, int64 (K,), 0 elsewhere.

    Raises:
        ValueError: If seeds are malformed, lie outside, or differ within a superpixel.
    """
    rows = array_of("seeds", () if seeds is None else seeds)
    is_fixed = np.zeros(graph.num_superpixels, bool)
    groups = np.zeros(graph.num_superpixels, np.int64)
    if rows.size == 0:
        return is_fixed, groups
    if rows.ndim != 2 or rows.shape[1] != 3 or not np.issubdtype(rows.dtype, np.integer):
        raise ValueError(
            "seeds must be integers of shape (N, 3), row, column and group, "
            f"got {rows.dtype} {rows.shape}"
        )
    size = graph.labels.shape
    if (rows[:, :2] < 0).any() or (rows[:, :2] >= size).any():
        raise ValueError(f"seeds must lie inside the image of {size} pixels (height, width)")
    if (rows[:, 2] < 0).any() or (rows[:, 2] >= num_groups).any():
        raise ValueError(
            f"seeds must name groups of 0 to {num_groups - 1}, "
            f"got {rows[:, 2].min()} to {rows[:, 2].max()}"
        )
    clicked = graph.labels[rows[:, 0], rows[:, 1]]
    is_fixed[clicked] = True
    groups[clicked] = rows[:, 2]
    if (groups[clicked] != rows[:, 2]).any():
        raise ValueError(
            "two seeds of different groups lie in one superpixel; take one back, or raise "
            "per_megapixel"
        )
    return is_fixed, groups


class RegionReader:
    """Averages coarse maps over K regions, as if they were enlarged to the image bilinearly.

    The mean of an enlarged map over a region is a weighted sum of few cells. The weights depend on
    shapes alone, so they are computed once for each shape of map; each map then costs a sparse
    product. Labels are the region of each pixel, (H, W), 0 to K - 1.
    """

    def __init__(self, labels: npt.NDArray[np.integer], num_regions: int) -> None:
        self._labels = labels
        self._num_regions = num_regions
        self._weights: dict[tuple[int, int], sparse.csr_matrix] = {}

    def means(self, values: npt.NDArray[np.floating]) -> Float64Array:
        """Means over regions, float64 (K, C), of a map (h, w, C) that covers the image evenly."""
        height, width, num_channels = values.shape
        weights = self._weights.get((height, width))
        if weights is None:
            weights = self._weights[height, width] = self._weights_of(height, width)
        means: Float64Array = weights @ values.reshape(-1, num_channels).astype(np.float64)
        return means

    def _weights_of(self, height: int, width: int) -> sparse.csr_matrix:
        """Weight of each cell in the mean of each region, (K, h * w), rows of sum 1."""

        def neighbors(num_pixels: int, num_cells: int) -> list[tuple[Int32Array, Float64Array]]:
            """The two cells whose centers enclose each pixel, and their shares."""
            at = (np.arange(num_pixels) + 0.5) * (num_cells / num_pixels) - 0.5
            at = at.clip(0, num_cells - 1)
            before = np.floor(at).astype(np.int32)
            after = np.minimum(before + 1, num_cells - 1)
            return [(before, 1 - (at - before)), (after, at - before)]

        cells, shares = [], []
        for rows, row_shares in neighbors(self._labels.shape[0], height):
            for columns, column_shares in neighbors(self._labels.shape[1], width):
                cells.append((rows[:, None] * width + columns).ravel())
                shares.append((row_shares[:, None] * column_shares).ravel())
        regions = self._labels.ravel().astype(np.int32)
        total = sparse.coo_matrix(
            (np.concatenate(shares), (np.tile(regions, 4), np.concatenate(cells))),
            (self._num_regions, height * width),
        ).tocsr()
        counts = np.bincount(regions, minlength=self._num_regions).clip(min=1)
        return sparse.diags(1 / counts) @ total


def reduced(rgb: npt.NDArray[np.uint8], max_megapixels: float) -> npt.NDArray[np.uint8]:
    """The image, reduced by box averages to at most `max_megapixels` if it is larger.

    Other inputs than uint8 (H, W, 3) are returned unchanged; the caller validates.
    """
    if not isinstance(rgb, np.ndarray) or rgb.ndim != 3 or not rgb.size:
        return rgb
    height, width = rgb.shape[:2]
    scale = (max_megapixels * 1e6 / (height * width)) ** 0.5
    if scale >= 1:
        return rgb
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return np.asarray(Image.fromarray(rgb).resize(size, Image.Resampling.BOX))


def scaled(pixels_yx: IntArray, size: tuple[int, int], to: tuple[int, int]) -> IntArray:
    """The pixels of a resized image that contain the pixels of an image of `size`, (N, 2)."""
    return pixels_yx if size == to else pixels_yx * np.array(to) // np.array(size)


def scaled_box(
    box: tuple[int, int, int, int] | None, size: tuple[int, int], to: tuple[int, int]
) -> tuple[int, int, int, int] | None:
    """The smallest box of a resized image that contains a box of an image of `size`."""
    if box is None or size == to:
        return box
    corners = scaled(np.array([box[:2], (box[2] - 1, box[3] - 1)]), size, to)
    (top, left), (bottom, right) = corners.tolist()
    return top, left, bottom + 1, right + 1


def resized(mask: BoolArray, size: tuple[int, int]) -> BoolArray:
    """The mask at another size, with a smooth outline."""
    if mask.shape == size:
        return mask
    image = Image.fromarray(mask.astype(np.uint8) * 255)
    resized: BoolArray = np.asarray(image.resize(size[::-1], Image.Resampling.BILINEAR)) > 127
    return resized


def enlarged_labels(labels: IntArray, size: tuple[int, int]) -> IntArray:
    """The labels at another size, by the nearest pixel."""
    if labels.shape == size:
        return labels
    rows, columns = (np.arange(n) * m // n for n, m in zip(size, labels.shape, strict=True))
    return labels[np.ix_(rows, columns)]


def nearest_cells(num_cells: int, num_pixels: int) -> IntArray:
    """Which of some cells in a row holds the center of each of some pixels as long in all.

    `cells[nearest_cells(len(cells), n)]` enlarges cells to n pixels. Where these are no fewer,
    every cell is met.
    """
    return ((np.arange(num_pixels) + 0.5) * (num_cells / num_pixels)).astype(np.int64)


def enlarged(values: npt.NDArray[Any], size: tuple[int, ...]) -> npt.NDArray[Any]:
    """Values (h, w) at another size (H, W): each pixel takes that of the cell at its center."""
    if values.shape == size:
        return values
    rows, columns = (nearest_cells(n, m) for n, m in zip(values.shape, size, strict=True))
    return values[np.ix_(rows, columns)]
