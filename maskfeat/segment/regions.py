"""Regions of an image while they are merged, and features of pairs of adjacent regions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import sparse

from maskfeat.arrays import Float64Array, IntArray
from maskfeat.segment.superpixels import RegionGraph
from maskfeat.segment.tree import simple_edges

# What `pair_features` gives, in order. "Small" and "large" are the two regions by size. Files of
# merge classifiers hold these strings; "contrast" is boundary strength.
PAIR_FEATURES = (
    "log distance of the means",
    "log mean squared contrast along the common border",
    "log share of the image, small",
    "log share of the image, large",
    "log variance within, small",
    "log variance within, large",
    "log mean squared contrast along the outline, small",
    "log mean squared contrast along the outline, large",
    "log squared length of the common border over area, small",
    "log squared perimeter over area, small",
    "log squared perimeter over area, large",
    "log share of the outline that is common, small",
    "share of the image's rim, small",
    "share of the image's rim, large",
    # Only where the network predicts boundaries; 0 otherwise.
    "logit of the mean predicted boundary along the common border",
    "logit of the mean predicted boundary along the outline, small",
    "logit of the mean predicted boundary along the outline, large",
)
NUM_WITHOUT_BOUNDARIES = 14  # how many of them there are without predicted boundaries
_LEAST = 1e-6  # before a logarithm


class RegionSums(NamedTuple):
    """Sums over single regions; all float64 but `means`.

    Attributes:
        sizes: Pixels, shape (R,).
        means: Mean feature, shape (R, C).
        squares: Squared norms of the superpixels' features, summed over pixels, shape (R,).
        outlines: Pixel sides of the outline without the image's rim, shape (R,).
        strengths: Squared feature distance across the outline, summed along it, shape (R,).
        rims: Share of the image's rim, shape (R,).
        boundaries: Predicted probability of a boundary, summed along the outline, shape (R,).
    """

    sizes: Float64Array
    means: npt.NDArray[np.floating]
    squares: Float64Array
    outlines: Float64Array
    strengths: Float64Array
    rims: Float64Array
    boundaries: Float64Array


class PairSums(NamedTuple):
    """Sums over the common borders of pairs of regions, float64, shapes (M,).

    Attributes:
        lengths: Pixel sides of the common border.
        strengths: Squared feature distance across it, summed along it.
        boundaries: Predicted probability of a boundary, summed along it.
    """

    lengths: Float64Array
    strengths: Float64Array
    boundaries: Float64Array


def pair_features(
    regions: RegionSums, pairs: IntArray, borders: PairSums, num_pixels: int, scale: float
) -> Float64Array:
    """Features of pairs (M, 2) of adjacent regions, see `PAIR_FEATURES`, float64, (17, M).

    The borders are those between the two regions of each pair, the pixels those of the image.
    Regions may contain each other, as the nodes of a tree do. Distances d are scaled so that the
    probability of "same mask" is 2 / (1 + exp(d^2)): they mean the same for all features with a
    calibrated scale.
    """
    sizes, means = regions.sizes, regions.means
    first, second = pairs.T
    swap = sizes[first] > sizes[second]  # of equal sizes the first counts as the smaller
    small, large = np.where(swap, second, first), np.where(swap, first, second)
    steps = means[small] - means[large]
    norms = np.einsum("rc,rc->r", means, means, dtype=np.float64)
    variances = np.maximum(regions.squares / sizes - norms, 0) * scale
    outlines = regions.outlines.clip(min=1)
    strengths = regions.strengths / outlines * scale
    shares = sizes / num_pixels
    logs = [
        np.sqrt(np.einsum("mc,mc->m", steps, steps) * scale),
        borders.strengths / borders.lengths.clip(min=1) * scale,
        shares[small],
        shares[large],
        variances[small],
        variances[large],
        strengths[small],
        strengths[large],
        borders.lengths**2 / sizes[small],
        outlines[small] ** 2 / sizes[small],
        outlines[large] ** 2 / sizes[large],
        borders.lengths / outlines[small],
    ]
    rims = [regions.rims[small], regions.rims[large]]
    common = borders.boundaries / borders.lengths.clip(min=1)
    along_outline = regions.boundaries / outlines
    boundaries = np.array([common, along_outline[small], along_outline[large]])
    boundaries = boundaries.clip(_LEAST, 1 - _LEAST)
    logits = np.log(boundaries / (1 - boundaries))
    return np.concatenate([np.log(np.maximum(logs, _LEAST)), rims, logits])


@dataclass(frozen=True)
class Regions:
    """A partition of an image into regions.

    Attributes:
        sums: Of each of the R regions.
        pairs: Adjacent regions, int64, shape (M, 2), the smaller number first, rows sorted.
        borders: Between the two regions of each pair.
        num_pixels: Of the image.
        scale: Of the features, see `RegionGraph`.
    """

    sums: RegionSums
    pairs: IntArray
    borders: PairSums
    num_pixels: int
    scale: float

    @classmethod
    def of_superpixels(cls, graph: RegionGraph) -> Regions:
        """Each superpixel as a region."""
        lengths = graph.border_lengths.astype(np.float64)
        predicted = graph.boundary_probabilities
        boundaries = np.zeros(len(lengths)) if predicted is None else lengths * predicted
        borders = PairSums(lengths, lengths * graph.boundary_strengths, boundaries)
        pairs, count = graph.edges.astype(np.int64), graph.num_superpixels
        outlines, strengths, outer_boundaries = (
            np.bincount(pairs.ravel(), np.repeat(values, 2), count).astype(np.float64)
            for values in borders
        )
        sizes, labels = graph.sizes.astype(np.float64), graph.labels
        squares = np.einsum("kc,kc->k", graph.features, graph.features, dtype=np.float64) * sizes
        rim = np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]])
        rims = np.bincount(rim, minlength=count) / len(rim)
        sums = RegionSums(
            sizes, graph.features, squares, outlines, strengths, rims, outer_boundaries
        )
        return cls(sums, pairs, borders, labels.size, graph.scale)

    def pair_features(self, which: IntArray) -> Float64Array:
        """`pair_features` of some pairs, (M',) -> (17, M')."""
        borders = PairSums(*(values[which] for values in self.borders))
        return pair_features(self.sums, self.pairs[which], borders, self.num_pixels, self.scale)

    def grouped(self, groups: IntArray) -> Regions:
        """Larger regions, each the union of a group.

        Args:
            groups: The new region that contains each region, shape (R,), 0 to R' - 1, no group
                empty.
        """
        old, count = self.sums, int(groups.max()) + 1
        gather = sparse.csc_array(
            (np.ones(len(groups)), groups, np.arange(len(groups) + 1)), (count, len(groups))
        )
        ends = groups[self.pairs]
        is_inside = ends[:, 0] == ends[:, 1]
        # A border inside a new region was part of two outlines.
        lost = [
            np.bincount(ends[is_inside, 0], 2 * values[is_inside], count).astype(np.float64)
            for values in self.borders
        ]
        sizes = gather @ old.sizes
        sums = RegionSums(
            sizes,
            gather @ (old.means * old.sizes[:, None]) / sizes[:, None],
            gather @ old.squares,
            gather @ old.outlines - lost[0],
            gather @ old.strengths - lost[1],
            gather @ old.rims,
            gather @ old.boundaries - lost[2],
        )
        pairs, borders = simple_edges(ends, count, *self.borders)
        return Regions(sums, pairs, PairSums(*borders), self.num_pixels, self.scale)
