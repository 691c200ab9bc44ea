"""Do feature distances tell pixels of one segment from pixels of two?"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np

from maskfeat.arrays import BoolArray, Float64Array, IntArray
from maskfeat.features.reading import Features


def pair_auc(
    features: Features,
    masks: BoolArray,
    num_pairs: int = 20_000,
    radius: float = 32,
    disputed: Literal["leave out", "vote"] = "leave out",
    *,
    rng: np.random.Generator,
) -> float:
    """AUC of "same segment" for pairs of nearby pixels, with minus the squared distance as score.

    Positive are pairs that lie in exactly the same masks, negative those that share none; a pair
    on which masks dispute (annotators disagree, or one part of an object against another) is
    left out. Or each mask votes: a pair counts as positive as often as masks hold both pixels,
    and as negative half as often as masks hold exactly one (a border between two segments breaks
    two masks); for complete partitions that is one vote per annotator.

    Args:
        features: Features of the image.
        masks: True masks, may overlap, bool, shape (M, H, W).
        num_pairs: Pairs to draw: the first pixel uniformly from the image, the second uniformly
            from the other pixels of the disc around it that lie inside the image.
        radius: Of the disc, pixels.
        disputed: What becomes of pairs on which masks do not agree.
        rng: Source of the pairs.

    Returns:
        In [0, 1], 0.5 for features that know nothing; NaN if there are no positive or no
        negative pairs (e.g. one mask that fills the image).

    Raises:
        ValueError: If the masks do not have the size of the features, or there is no pair to draw.
    """
    if masks.ndim != 3 or masks.shape[1:] != features.size:
        raise ValueError(
            f"masks must have shape (M, {features.size[0]}, {features.size[1]}) like the "
            f"features, got {masks.shape}"
        )
    first, second = draw_nearby_pairs(features.size, num_pairs, radius, rng)
    difference = features.at(first).astype(np.float64) - features.at(second)
    in_first, in_second = masks[:, first[:, 0], first[:, 1]], masks[:, second[:, 0], second[:, 1]]
    same = (in_first & in_second).sum(axis=0).astype(np.float64)
    different = 0.5 * (in_first ^ in_second).sum(axis=0)
    if disputed == "leave out":
        same, different = (
            ((same > 0) & (different == 0)).astype(np.float64),
            ((same == 0) & (different > 0)).astype(np.float64),
        )
    return weighted_auc(-np.square(difference).sum(axis=1), same, different)


def draw_nearby_pairs(
    size: tuple[int, int], num_pairs: int, radius: float, rng: np.random.Generator
) -> tuple[IntArray, IntArray]:
    """Draw pairs of different pixels, the second in a disc around the first.

    The image has a size (height, width), the disc a radius, in pixels, at least 1.

    Returns:
        First and second pixels, (row, column), int64, shape (N, 2) each.

    Raises:
        ValueError: If the image has one pixel, or no other pixel lies within the radius.
    """
    if size[0] * size[1] < 2 or radius < 1:
        raise ValueError(
            f"pairs need an image of two pixels and a radius of 1, got {size} and {radius}"
        )
    reach = np.minimum(int(radius), np.array(size) - 1)
    rows, columns = (np.arange(-r, r + 1) for r in reach)
    grid = np.stack(np.meshgrid(rows, columns, indexing="ij"), axis=-1).reshape(-1, 2)
    lengths = np.square(grid).sum(axis=1)
    disc = grid[(lengths > 0) & (lengths <= radius**2)]

    first = rng.integers(0, size, size=(num_pairs, 2))
    second = np.full_like(first, -1)
    open_ = np.arange(num_pairs)  # pairs whose second pixel is not inside the image yet
    while open_.size:
        second[open_] = first[open_] + disc[rng.integers(0, len(disc), size=open_.size)]
        is_outside = ((second[open_] < 0) | (second[open_] >= np.array(size))).any(axis=1)
        open_ = open_[is_outside]
    return first, second


def weighted_auc(scores: Float64Array, positive: Float64Array, negative: Float64Array) -> float:
    """Chance that a positive scores above a negative, ties counted half; in [0, 1].

    Of scores (N,), each with a weight as a positive and one as a negative, not negative; an entry
    may count as both. NaN if all weights of one kind are zero.
    """
    if positive.sum() <= 0 or negative.sum() <= 0:
        return math.nan
    _, group = np.unique(scores, return_inverse=True)  # groups of equal score, ascending
    positives = np.bincount(group, positive)
    negatives = np.bincount(group, negative)
    below = np.cumsum(negatives) - negatives / 2
    return float((positives * below).sum() / (positives.sum() * negatives.sum()))
