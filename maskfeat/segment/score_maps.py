"""What a cut of scores is given: maps of patches, features, clicks, brought to superpixels."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import sparse

from maskfeat.arguments import array_of
from maskfeat.segment.inputs import FeatureSource, features_of
from maskfeat.segment.superpixels import RegionGraph, superpixels

BoolArray = npt.NDArray[np.bool_]
FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
GraphSource = RegionGraph | FeatureSource

# The squares of larger ones, times pixels, are more than double precision holds.
MAX_SCORE = 1e100


class RegionReader:
    """Averages coarse maps over regions, as if they were enlarged to the image bilinearly.

    The mean of an enlarged map over a region is a sum of few cells with weights that depend on
    shapes alone: they are computed once for each shape of map, then any number of channels costs
    a sparse product.

    Args:
        labels: Region of each pixel, integers, shape (H, W), 0 to K - 1.
        num_regions: K.
    """

    def __init__(self, labels: npt.NDArray[np.integer], num_regions: int) -> None:
        self._labels = labels
        self._num_regions = num_regions
        self._weights: dict[tuple[int, int], sparse.csr_matrix] = {}

    def means(self, values: npt.NDArray[np.floating]) -> FloatArray:
        """Mean of a map over each region.

        Args:
            values: Shape (h, w, C): h and w cells that cover the image evenly, whole.

        Returns:
            float64, shape (K, C).
        """
        height, width, num_channels = values.shape
        weights = self._weights.get((height, width))
        if weights is None:
            weights = self._weights[height, width] = self._weights_of(height, width)
        means: FloatArray = weights @ values.reshape(-1, num_channels).astype(np.float64)
        return means

    def _weights_of(self, height: int, width: int) -> sparse.csr_matrix:
        """How much each cell counts in each region, (K, h * w), rows of sum 1."""
        rows = _interpolation(self._labels.shape[0], height)
        columns = _interpolation(self._labels.shape[1], width)
        regions = self._labels.ravel().astype(np.int32)
        cells, shares = [], []
        for cell_rows, row_shares in rows:
            for cell_columns, column_shares in columns:
                cells.append((cell_rows[:, None] * width + cell_columns).ravel())
                shares.append((row_shares[:, None] * column_shares).ravel())
        total = sparse.coo_matrix(
            (np.concatenate(shares), (np.tile(regions, 4), np.concatenate(cells))),
            (self._num_regions, height * width),
        ).tocsr()
        counts = np.bincount(regions, minlength=self._num_regions).clip(min=1)
        return sparse.diags(1 / counts) @ total


def _interpolation(
    num_pixels: int, num_cells: int
) -> list[tuple[npt.NDArray[np.int32], FloatArray]]:
    """Both cells between whose centers each pixel lies, and their shares."""
    places = ((np.arange(num_pixels) + 0.5) * (num_cells / num_pixels) - 0.5).clip(0, num_cells - 1)
    before = np.floor(places).astype(np.int32)
    after = np.minimum(before + 1, num_cells - 1)
    return [(before, 1 - (places - before)), (after, places - before)]


def graph_of(features: GraphSource, per_megapixel: float = 26_000) -> RegionGraph:
    """The graph as it is, or that of the superpixels of what `features_of` takes."""
    if isinstance(features, RegionGraph):
        return features
    return superpixels(features_of(features), per_megapixel)


def scores_of_superpixels(
    scores: npt.ArrayLike, graph: RegionGraph, may_be_superpixels: bool
) -> FloatArray:
    """Scores of patches or superpixels, as `score_cut` takes them, of superpixels, float64 (K, C).

    Args:
        scores: Shape (h, w) or (h, w, C); or (K,) or (K, C).
        graph: The superpixels.
        may_be_superpixels: Whether K rows are superpixels. Whoever gave no graph cannot know the
            superpixels.

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
            f"({graph.num_superpixels},) or "
            f"({graph.num_superpixels}, C) for the superpixels, got {values.shape}"
        )
    return RegionReader(graph.labels, graph.num_superpixels).means(values)


def seeded_superpixels(
    seeds: npt.ArrayLike, graph: RegionGraph, num_groups: int
) -> tuple[BoolArray, IntArray]:
    """Which superpixels are held, bool (K,), and at what, int64 (K,), 0 where they are not.

    Raises:
        ValueError: If seeds are malformed, lie outside, or contradict one another in a superpixel.
    """
    marks = array_of("seeds", () if seeds is None else seeds)
    held, groups = np.zeros(graph.num_superpixels, bool), np.zeros(graph.num_superpixels, np.int64)
    if marks.size == 0:
        return held, groups
    if marks.ndim != 2 or marks.shape[1] != 3 or not np.issubdtype(marks.dtype, np.integer):
        raise ValueError(
            "seeds must be integers of shape (N, 3), row, column and group, "
            f"got {marks.dtype} {marks.shape}"
        )
    size = graph.labels.shape
    if (marks[:, :2] < 0).any() or (marks[:, :2] >= size).any():
        raise ValueError(f"seeds must lie inside the image of {size} pixels (height, width)")
    if (marks[:, 2] < 0).any() or (marks[:, 2] >= num_groups).any():
        raise ValueError(
            f"seeds must name groups of 0 to {num_groups - 1}, "
            f"got {marks[:, 2].min()} to {marks[:, 2].max()}"
        )
    clicked = graph.labels[marks[:, 0], marks[:, 1]]
    held[clicked] = True
    groups[clicked] = marks[:, 2]
    if (groups[clicked] != marks[:, 2]).any():
        raise ValueError(
            "two seeds of different groups lie in one superpixel; take one back, or raise "
            "per_megapixel"
        )
    return held, groups
