"""Graph cuts of scores and class probabilities, along the borders that the features have."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from sklearn.cluster import kmeans_plusplus

from maskfeat.arguments import checked_count, checked_number
from maskfeat.arrays import BoolArray, Float64Array, IntArray
from maskfeat.segment.inputs import (
    MAX_SCORE,
    GraphSource,
    graph_of,
    scores_of_superpixels,
    seeded_superpixels,
)
from maskfeat.segment.potts import Labeling, PottsEnergy, minimize_potts
from maskfeat.segment.superpixels import RegionGraph

# In variances of the score; not tuned on images.
SCORE_PAIRWISE_WEIGHT = 1.0
# In nats. The better of 10 and 30 on eight images of camvid train, one seed (experiments/labeling).
CLASS_PAIRWISE_WEIGHT = 10.0

MAX_GROUPS = 64
# Any border already costs more than all scores.
MAX_PAIRWISE_WEIGHT = 1e12

# An iteration that lowers the energy by less than this share is the last.
_LEAST_GAIN = 1e-7


class ScoreCut(NamedTuple):
    """Result of `score_cut`.

    Attributes:
        labels: Group of each pixel, int64, shape (H, W), 0 to num_groups - 1.
        groups: Group of each superpixel, int64, shape (K,).
        means: Mean score of each group, float64, shape (num_groups, C); of a group that lost its
            last superpixel, its last mean.
        energies: The energy at the start and after each step, falling; 0 where it is below the
            smallest number, as with scores of 1e-170.
    """

    labels: IntArray
    groups: IntArray
    means: Float64Array
    energies: list[float]


def score_cut(
    scores: npt.ArrayLike,
    features: GraphSource,
    *,
    pairwise_weight: float = SCORE_PAIRWISE_WEIGHT,
    num_groups: int = 2,
    seeds: npt.ArrayLike = (),
    max_rounds: int = 20,
    per_megapixel: float = 26_000,
) -> ScoreCut:
    """Group an image by any scores, with borders where the features have them.

    Minimizes, over the group x_i of each superpixel i and the mean score m_g of each group,

        sum_i size_i * |score_i - m_(x_i)|^2  +  pairwise_weight * V * sum_ij cut_ij * [x_i != x_j]

    the piecewise constant model of Chan and Vese on a graph, with `cut_costs` in place of the
    length of the contour, and without their area term. V is the variance of the scores over the
    image, so that the scale of the scores does not matter. Two steps alternate, and neither raises
    the energy: means are averages, given the groups; groups are a minimum cut, given the means
    (`minimize_potts`: exact for two groups, by expansion moves for more).

    The result is a local minimum. The start is deterministic: k-means++ with a fixed seed gives the
    first means; a group with seeds starts from the mean of its seeds.

    Args:
        scores: Finite numbers, for patches, shape (h, w) or (h, w, C), h and w patches that cover
            the whole image evenly; or for superpixels, with a `RegionGraph`, shape (K,) or (K, C).
        features: Of the image: a `RegionGraph`, or what `features_of` takes.
        pairwise_weight: lambda, 0 to 1e12: 0 for scores alone, more for fewer, smoother groups.
        num_groups: Maximum number of groups, 1 to 64; each costs a cut in each iteration.
        seeds: Clicks, integers, shape (N, 3): row, column, group. Hard constraints for the
            superpixels under them; two clicks in one superpixel must agree.
        max_rounds: Maximum number of iterations.
        per_megapixel: Superpixels for a million pixels, see `superpixels`.

    Returns:
        The groups. Only groups with seeds have meaningful numbers.

    Raises:
        ValueError: If scores or seeds have another shape or type, are not finite or lie outside,
            two seeds of one superpixel differ, or a setting is out of range.

    References:
        Chan, Vese: Active contours without edges, IEEE Trans. Image Processing, 2001.
    """
    pairwise_weight = checked_number(
        "pairwise_weight", pairwise_weight, least=0, most=MAX_PAIRWISE_WEIGHT
    )
    num_groups = checked_count("num_groups", num_groups, most=MAX_GROUPS)
    max_rounds = checked_count("max_rounds", max_rounds)
    graph = graph_of(features, per_megapixel)
    values = scores_of_superpixels(scores, graph, features is graph)
    unit = _unit_of(values)
    values = values / unit
    is_fixed, seeded = seeded_superpixels(seeds, graph, num_groups)
    sizes = graph.sizes.astype(np.float64)
    center = sizes @ values / sizes.sum()
    variance = float(sizes @ np.square(values - center).sum(axis=1)) / sizes.sum()
    costs = pairwise_weight * variance * cut_costs(graph)
    means = _first_means(values, sizes, num_groups, is_fixed, seeded)
    squares = _squares(values, sizes, means)
    energy = PottsEnergy(squares, graph.edges, costs)
    groups = np.where(is_fixed, seeded, squares.argmin(axis=1))
    energies = [energy.of(groups)]
    for _ in range(max_rounds):
        before = energies[-1]
        groups, found = minimize_potts(energy, groups, is_fixed)
        means = _group_means(values, sizes, groups, means)
        energy = PottsEnergy(_squares(values, sizes, means), graph.edges, costs)
        # By rounding, a step that changes nothing can seem to raise the energy.
        energies += [value for value in (found[-1], energy.of(groups)) if value < energies[-1]]
        if energies[-1] >= before - _LEAST_GAIN * abs(before):
            break
    energies = [energy * unit**2 for energy in energies]
    return ScoreCut(groups[graph.labels], groups, means * unit, energies)


def class_cut(
    probabilities: npt.NDArray[np.floating],
    graph: RegionGraph,
    costs: Float64Array,
    pairwise_weight: float,
    is_fixed: BoolArray,
    classes: IntArray,
) -> Labeling:
    """Label superpixels by class probabilities, with borders where the features have them.

    Minimizes, over the class x_i of each superpixel i, see `minimize_potts`,

        sum_i size_i * -log p_i(x_i)  +  pairwise_weight * sum_ij cut_ij * [x_i != x_j]

    Args:
        probabilities: Of L classes, rows of sum 1, shape (K, L).
        graph: The superpixels.
        costs: Their `cut_costs`, shape (E,).
        pairwise_weight: In nats for a pixel side of a border between equal features.
        is_fixed: Superpixels with hard constraints, bool, shape (K,).
        classes: Their classes, int64, shape (K,); ignored elsewhere.

    Returns:
        Class of each superpixel, and the energies.
    """
    likelihoods = np.log(np.maximum(probabilities.astype(np.float64), 1e-6))
    unary: Float64Array = -likelihoods * graph.sizes.astype(np.float64)[:, None]
    start = np.where(is_fixed, classes, unary.argmin(axis=1))
    return minimize_potts(PottsEnergy(unary, graph.edges, pairwise_weight * costs), start, is_fixed)


def cut_costs(graph: RegionGraph) -> Float64Array:
    """Pairwise cost of two adjacent superpixels in different groups, before `pairwise_weight`.

        cut_ij = length_ij * p_ij,    p = 2 / (1 + exp(scale * d2_ij))

    the length of the border in pixel sides, times the calibrated probability that both sides are
    one segment; d2 is the squared distance of the superpixels' mean features. float64, shape (E,).
    """
    d2 = graph.edge_distances().astype(np.float64)
    same: Float64Array = 2 * np.exp(-np.logaddexp(0, graph.scale * d2))
    return graph.border_lengths * same


def _unit_of(values: Float64Array) -> float:
    """A power of two near the span of the scores, (K, C).

    In this unit squares of small scores do not underflow, and thresholds of the solver do not
    depend on the scale; dividing by a power of two is exact.
    """
    span = float(np.ptp(values, axis=0).max())
    if span == 0:
        return 1.0
    # A constant channel may be much larger than the span of the others.
    smallest = max(float(np.abs(values).max()) / MAX_SCORE, np.finfo(np.float64).tiny)
    return float(2.0 ** np.floor(np.log2(max(span, smallest))))


def _first_means(
    values: Float64Array,
    sizes: Float64Array,
    num_groups: int,
    is_fixed: BoolArray,
    seeded: IntArray,
) -> Float64Array:
    """Initial means, (num_groups, C): of the seeds of a group, else by k-means++."""
    count = min(num_groups, len(values))
    starts, _ = kmeans_plusplus(values, count, sample_weight=sizes, random_state=0)
    means = np.repeat(starts[:1], num_groups, axis=0)
    means[:count] = starts
    for _ in range(10):  # Lloyd's iterations are cheap and save cuts
        squares = np.square(values[:, None] - means).sum(axis=2)
        means = _group_means(values, sizes, squares.argmin(axis=1), means)
    if not is_fixed.any():
        return means
    # Groups without seeds take the means that lie furthest from those of the seeds.
    named = np.unique(seeded[is_fixed])
    weights = sizes * is_fixed
    own = np.stack([np.average(values, 0, weights * (seeded == group)) for group in named])
    gaps = np.square(means[:, None] - own).sum(axis=2).min(axis=1)
    others = means[np.argsort(-gaps, kind="stable")]
    first = np.empty_like(means)
    first[named] = own
    first[np.setdiff1d(np.arange(num_groups), named)] = others[: num_groups - len(named)]
    return first


def _group_means(
    values: Float64Array, sizes: Float64Array, groups: IntArray, before: Float64Array
) -> Float64Array:
    """Mean score of each group; of an empty one, as before."""
    weights = np.bincount(groups, sizes, len(before))
    means = before.copy()
    for channel in range(values.shape[1]):
        sums = np.bincount(groups, sizes * values[:, channel], len(before))
        means[:, channel] = np.where(
            weights > 0, sums / np.maximum(weights, 1e-300), before[:, channel]
        )
    return means


def _squares(values: Float64Array, sizes: Float64Array, means: Float64Array) -> Float64Array:
    """Unary cost of each group at each superpixel, (K, num_groups)."""
    squares: Float64Array = np.square(values[:, None] - means).sum(axis=2) * sizes[:, None]
    return squares
