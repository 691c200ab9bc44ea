"""Scores and distances become labels: who knows classes and who knows borders, together."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from sklearn.cluster import kmeans_plusplus

from maskfeat.arguments import checked_count, checked_number
from maskfeat.deprecation import renamed_argument
from maskfeat.segment.potts import PottsEnergy, minimize_potts
from maskfeat.segment.score_maps import (
    MAX_SCORE,
    BoolArray,
    FloatArray,
    GraphSource,
    IntArray,
    graph_of,
    scores_of_superpixels,
    seeded_superpixels,
)
from maskfeat.segment.superpixels import RegionGraph

# Of variances of the score: not tuned on images.
SCORE_PAIRWISE_WEIGHT = 1.0
# In nats. Of 10 and 30 the better on eight images of camvid train, one seed (experiments/hill).
CLASS_PAIRWISE_WEIGHT = 10.0

MAX_GROUPS = 64
# Any border already costs more than all scores.
MAX_PAIRWISE_WEIGHT = 1e12

# A round that gains less than this share of the energy is the last.
_LEAST_GAIN = 1e-7


class ScoreCut(NamedTuple):
    """What a cut of scores found.

    Attributes:
        labels: Group of each pixel, int64, shape (H, W), 0 to num_groups - 1.
        groups: Group of each superpixel, int64, shape (K,).
        means: Mean score of each group, float64, shape (num_groups, C); of a group that lost its
            last superpixel, what it was before.
        energies: The energy at the start and after each step, falling; 0 where it is below the
            smallest number, as with scores of 1e-170.
    """

    labels: IntArray
    groups: IntArray
    means: FloatArray
    energies: list[float]


class ClassCut(NamedTuple):
    """What a cut of class probabilities found.

    Attributes:
        labels: Class of each pixel, int64, shape (H, W), 0 to L - 1.
        classes: Class of each superpixel, int64, shape (K,).
        energies: The energy at the start and after each move, falling.
    """

    labels: IntArray
    classes: IntArray
    energies: list[float]


@renamed_argument("smoothness", "pairwise_weight")
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
    """Group an image by scores whose meaning is unknown, with borders where features have them.

    Minimizes, over the group x_i of each superpixel i and the mean score m_g of each group,

        sum_i size_i * |score_i - m_(x_i)|^2  +  pairwise_weight * V * sum_ij cut_ij * [x_i != x_j]

    which is the piecewise constant model of Chan and Vese (Active contours without edges, IEEE
    Trans. Image Processing 2001, without its area term) on a graph, their length of the
    contour replaced by what the features say of each border, see `cut_costs`. V is the variance
    of the scores over the image: so `pairwise_weight` has no unit but pixels, and any scale of the
    scores gives the same groups. As there, two steps take turns and neither raises the energy:

    - the means, given the groups, are averages;
    - the groups, given the means, are a minimum cut: exact for two groups, by expansion moves
      for more (Boykov, Veksler, Zabih, Fast approximate energy minimization via graph cuts, PAMI
      2001), see `minimize_potts`.

    It ends in a local minimum, that of the start. The start is deterministic: k-means++ with a
    fixed seed chooses the first means, but the mean of a group with seeds is that of its seeds.

    Args:
        scores: Finite numbers for patches, shape (h, w) or (h, w, C), h and w patches that cover
            the image evenly, whole; or for superpixels, with an `RegionGraph`, shape (K,) or (K,
            C).
        features: Of the image: an `RegionGraph` as it is, or what `features_of` takes.
        pairwise_weight: lambda, 0 to 1e12: 0 for scores alone, more for fewer, smoother groups.
        num_groups: How many groups there may be, 1 to 64: each costs a cut in each round.
        seeds: Clicks, integers, shape (N, 3): row, column, group. The superpixels under them are
            held; two clicks in one superpixel must agree.
        max_rounds: How often means and groups take turns at most.
        per_megapixel: Superpixels for a million pixels, see `superpixels`.

    Returns:
        The groups. Their numbers mean nothing but for groups with seeds.

    Raises:
        ValueError: If scores or seeds have another shape or type, are not finite or lie outside,
            two seeds of one superpixel differ, or a setting is out of range.
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
    held, seeded = seeded_superpixels(seeds, graph, num_groups)
    sizes = graph.sizes.astype(np.float64)
    center = sizes @ values / sizes.sum()
    variance = float(sizes @ np.square(values - center).sum(axis=1)) / sizes.sum()
    costs = pairwise_weight * variance * cut_costs(graph)
    means = _first_means(values, sizes, num_groups, held, seeded)
    squares = _squares(values, sizes, means)
    energy = PottsEnergy(squares, graph.edges, costs)
    groups = np.where(held, seeded, squares.argmin(axis=1))
    energies = [energy.of(groups)]
    for _ in range(max_rounds):
        before = energies[-1]
        groups, found = minimize_potts(energy, groups, held)
        means = _group_means(values, sizes, groups, means)
        energy = PottsEnergy(_squares(values, sizes, means), graph.edges, costs)
        # Rounding can make a step that changes nothing seem to cost something.
        energies += [value for value in (found[-1], energy.of(groups)) if value < energies[-1]]
        if energies[-1] >= before - _LEAST_GAIN * abs(before):
            break
    energies = [energy * unit**2 for energy in energies]
    return ScoreCut(groups[graph.labels], groups, means * unit, energies)


@renamed_argument("smoothness", "pairwise_weight")
def class_cut(
    probabilities: npt.ArrayLike,
    features: GraphSource,
    *,
    pairwise_weight: float = CLASS_PAIRWISE_WEIGHT,
    seeds: npt.ArrayLike = (),
    per_megapixel: float = 26_000,
) -> ClassCut:
    """Label an image by the probabilities of known classes, with borders where features have them.

    Minimizes, over the class x_i of each superpixel i,

        sum_i size_i * -log p_i(x_i)  +  pairwise_weight * sum_ij cut_ij * [x_i != x_j]

    the Potts model of Boykov, Veksler and Zabih (PAMI 2001, section 7) with their expansion moves,
    see `minimize_potts`: exact for two classes. `cut_costs` says what a border costs.

    Args:
        probabilities: Of L classes in the last axis, not negative, in any measure (rows are
            scaled to sum 1): for patches (h, w, L), or for superpixels, with an `RegionGraph`, (K,
                L).
        features: As in `score_cut`.
        pairwise_weight: lambda, in nats, 0 to 1e12: what a pixel side of a border between like
            features costs.
        seeds: Clicks, integers, shape (N, 3): row, column, class; see `score_cut`.
        per_megapixel: Superpixels for a million pixels, see `superpixels`.

    Returns:
        The classes.

    Raises:
        ValueError: As `score_cut`; or if a probability is negative or a row has none above 0.
    """
    pairwise_weight = checked_number(
        "pairwise_weight", pairwise_weight, least=0, most=MAX_PAIRWISE_WEIGHT
    )
    graph = graph_of(features, per_megapixel)
    values = scores_of_superpixels(probabilities, graph, features is graph)
    totals = values.sum(axis=1, keepdims=True)
    if (values < 0).any() or not (totals > 0).all():
        raise ValueError(
            "probabilities must not be negative, and one of each row must be above 0, "
            f"got {values.min():g} and a row of sum {totals.min():g}"
        )
    held, seeded = seeded_superpixels(seeds, graph, values.shape[1])
    return class_cut_of_superpixels(
        values / totals, graph, cut_costs(graph), pairwise_weight, held, seeded
    )


def class_cut_of_superpixels(
    probabilities: npt.NDArray[np.floating],
    graph: RegionGraph,
    costs: FloatArray,
    pairwise_weight: float,
    is_held: BoolArray,
    held_at: IntArray,
) -> ClassCut:
    """`class_cut` with all prepared: (K, L), cost of each border (E,), held superpixels (K,)."""
    likelihoods = np.log(np.maximum(probabilities.astype(np.float64), 1e-6))
    unary: FloatArray = -likelihoods * graph.sizes.astype(np.float64)[:, None]
    start = np.where(is_held, held_at, unary.argmin(axis=1))
    energy = PottsEnergy(unary, graph.edges, pairwise_weight * costs)
    found = minimize_potts(energy, start, is_held)
    return ClassCut(found.labels[graph.labels], found.labels, found.energies)


def cut_costs(graph: RegionGraph) -> FloatArray:
    """What parting two adjacent superpixels costs, before `pairwise_weight`.

        cut_ij = length_ij * p_ij,    p = 2 / (1 + exp(scale * d2_ij))

    the length of the border in pixel sides, times the probability that both sides belong to one
    segment, as the features are calibrated to say; d2 is the squared distance of the superpixels'
    mean features.

    Args:
        graph: The superpixels.

    Returns:
        float64, shape (E,), not negative.
    """
    d2 = graph.edge_distances().astype(np.float64)
    same: FloatArray = 2 * np.exp(-np.logaddexp(0, graph.scale * d2))
    return graph.border_lengths * same


def _unit_of(values: FloatArray) -> float:
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
    values: FloatArray,
    sizes: FloatArray,
    num_groups: int,
    held: BoolArray,
    seeded: IntArray,
) -> FloatArray:
    """Means to start with, (num_groups, C): of seeds, else of k-means++."""
    count = min(num_groups, len(values))
    starts, _ = kmeans_plusplus(values, count, sample_weight=sizes, random_state=0)
    means = np.repeat(starts[:1], num_groups, axis=0)
    means[:count] = starts
    for _ in range(10):  # Lloyd's steps are cheap; the cuts then begin near
        squares = np.square(values[:, None] - means).sum(axis=2)
        means = _group_means(values, sizes, squares.argmin(axis=1), means)
    if not held.any():
        return means
    # Seeded groups begin at their seeds; the others take the means that lie furthest from those.
    named = np.unique(seeded[held])
    weights = sizes * held
    own = np.stack([np.average(values, 0, weights * (seeded == group)) for group in named])
    gaps = np.square(means[:, None] - own).sum(axis=2).min(axis=1)
    others = means[np.argsort(-gaps, kind="stable")]
    first = np.empty_like(means)
    first[named] = own
    first[np.setdiff1d(np.arange(num_groups), named)] = others[: num_groups - len(named)]
    return first


def _group_means(
    values: FloatArray, sizes: FloatArray, groups: IntArray, before: FloatArray
) -> FloatArray:
    """Mean score of each group; of an empty one, as before."""
    weights = np.bincount(groups, sizes, len(before))
    means = before.copy()
    for channel in range(values.shape[1]):
        sums = np.bincount(groups, sizes * values[:, channel], len(before))
        means[:, channel] = np.where(
            weights > 0, sums / np.maximum(weights, 1e-300), before[:, channel]
        )
    return means


def _squares(values: FloatArray, sizes: FloatArray, means: FloatArray) -> FloatArray:
    """What each group costs each superpixel, (K, num_groups)."""
    squares: FloatArray = np.square(values[:, None] - means).sum(axis=2) * sizes[:, None]
    return squares
