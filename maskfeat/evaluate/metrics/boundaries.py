"""Do the borders of segments lie where true borders lie?

A border runs in the crack between two neighboring pixels of different segments. Here it is
drawn in pixels: of each such pair the left or upper pixel is marked, in the partition and in the
target alike, so that borders are about one pixel thick and the two sides are shifted alike.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
from scipy import ndimage, sparse
from scipy.sparse import csgraph
from scipy.spatial import cKDTree

from maskfeat.arrays import BoolArray, IntArray
from maskfeat.evaluate.metrics.overlap import LabelMap, checked_label_maps
from maskfeat.segment.superpixels import border_pixels


def boundary_recall(labels: LabelMap, target: LabelMap, tolerance: float = 0.0075) -> float:
    """Share of true border pixels with a border pixel of the partition nearby.

    The tolerant, many-to-one match of the superpixel literature (Stutz et al., CVIU 2018): many
    or thick borders are rewarded, so read it together with `boundary_precision` and the number
    of segments. At the usual tolerance (4.3 px on BSDS500) it saturates near 400 segments.

    Args:
        labels: The partition to evaluate, any integers, shape (H, W).
        target: True label map, integers, shape (H, W); -1 marks pixels that are not counted:
            a crack beside one is no true border.
        tolerance: Largest Euclidean distance between pixel centers, in image diagonals.

    Returns:
        In [0, 1]; NaN if the target has no border.

    Raises:
        ValueError: If the shapes differ, are not those of label maps, or tolerance is negative.
    """
    found, true = checked_label_maps(labels, target)
    is_true = border_pixels(true, counted=true >= 0)
    if not is_true.any():
        return math.nan
    near = within(border_pixels(found), _tolerance_px(found.shape, tolerance))
    return float(near[is_true].mean())


def boundary_precision(labels: LabelMap, target: LabelMap, tolerance: float = 0.0075) -> float:
    """Share of the partition's border pixels with a true border pixel nearby.

    Args:
        labels: The partition to evaluate, any integers, shape (H, W).
        target: True label map, integers, shape (H, W); -1 marks pixels that are not counted.
            Borders within the tolerance of such a pixel are not evaluated: what the truth has
            there is not known.
        tolerance: Largest Euclidean distance between pixel centers, in image diagonals.

    Returns:
        In [0, 1]; NaN if no border of the partition can be evaluated.

    Raises:
        ValueError: If the shapes differ, are not those of label maps, or tolerance is negative.
    """
    found, true = checked_label_maps(labels, target)
    radius = _tolerance_px(found.shape, tolerance)
    assessed = border_pixels(found) & ~within(true < 0, radius)
    if not assessed.any():
        return math.nan
    near = within(border_pixels(true, counted=true >= 0), radius)
    return float(near[assessed].mean())


def boundary_f(
    labels: LabelMap,
    target: LabelMap,
    tolerance: float = 0.0075,
    match: Literal["nearby", "one to one"] = "one to one",
) -> float:
    """Harmonic mean of the precision and the recall of borders.

    Args:
        labels: The partition to evaluate, any integers, shape (H, W).
        target: True label map, integers, shape (H, W); -1 marks pixels that are not counted.
            Borders within the tolerance of such a pixel cost no precision, but are found.
        tolerance: Largest Euclidean distance between matched pixel centers, in image diagonals.
        match: "one to one": each border pixel answers for at most one of the other side, as many
            as can be matched at all (Martin, Fowlkes, Malik, TPAMI 2004, who also ask for the
            least total distance, which no count depends on); thick and doubled borders cost
            precision. "nearby": many to one, see `boundary_recall`.

    Returns:
        In [0, 1]; NaN if the target has no border, 0 if only the partition has none. Where none
        of its borders can be evaluated, precision counts as 1.

    Raises:
        ValueError: If the shapes differ, are not those of label maps, or tolerance is negative.
    """
    if match not in ("nearby", "one to one"):
        raise ValueError(f"match must be 'nearby' or 'one to one', got {match!r}")
    if match == "nearby":
        recall = boundary_recall(labels, target, tolerance)
        precision = boundary_precision(labels, target, tolerance)
    else:
        recall, precision = _one_to_one(*checked_label_maps(labels, target), tolerance)
    if math.isnan(recall):
        return math.nan
    precision = 1.0 if math.isnan(precision) else precision
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def num_matched(first: BoolArray, second: BoolArray, radius: float) -> int:
    """Largest number of pairs, one pixel of each map, no pixel twice, at most `radius` apart.

    Args:
        first: bool, shape (H, W).
        second: bool, shape (H, W).
        radius: Largest distance between pixel centers, pixels.
    """
    return len(matched(first, second, radius))


def matched(first: BoolArray, second: BoolArray, radius: float) -> IntArray:
    """The pixels of the first map in one of the largest sets of pairs, see `num_matched`.

    Returns:
        (row, column), int64, shape (N, 2).
    """
    places, others = np.argwhere(first), np.argwhere(second)
    if not (len(places) and len(others)):
        return places[:0]
    reach = math.nextafter(radius, math.inf)  # the tree compares squares: root 13 squared is < 13
    near = cKDTree(places).sparse_distance_matrix(cKDTree(others), reach, output_type="ndarray")
    # Unit capacities from a source to each pixel of one map, on to its neighbors in the other,
    # and on to a sink: Dinic's algorithm, twenty times faster here than scipy's matching.
    left, right = np.arange(len(places)), len(places) + np.arange(len(others))
    source, sink = len(places) + len(others), len(places) + len(others) + 1
    tails = np.concatenate([np.full(len(left), source), near["i"], right])
    heads = np.concatenate([left, len(places) + near["j"], np.full(len(right), sink)])
    network = sparse.csr_matrix(
        (np.ones(len(tails), np.int32), (tails, heads)), (sink + 1, sink + 1), dtype=np.int32
    )
    flow = csgraph.maximum_flow(network, source, sink).flow
    is_matched = flow[[source]].toarray()[0, : len(places)] > 0
    pixels: IntArray = places[is_matched]
    return pixels


def _one_to_one(found: IntArray, true: IntArray, tolerance: float) -> tuple[float, float]:
    """Recall and precision of borders under one-to-one matches; NaN as for many-to-one ones."""
    radius = _tolerance_px(found.shape, tolerance)
    found_border, true_border = border_pixels(found), border_pixels(true, counted=true >= 0)
    if not true_border.any():
        return math.nan, math.nan
    num_found = num_matched(found_border, true_border, radius)
    assessed = found_border & ~within(true < 0, radius)
    if not assessed.any():
        return num_found / float(true_border.sum()), math.nan
    everything = np.array_equal(assessed, found_border)
    num_right = num_found if everything else num_matched(assessed, true_border, radius)
    return num_found / float(true_border.sum()), num_right / float(assessed.sum())


def _tolerance_px(shape: tuple[int, ...], tolerance: float) -> float:
    if tolerance < 0:
        raise ValueError(f"tolerance must not be negative, got {tolerance}")
    return tolerance * math.hypot(*shape)


def within(marked: BoolArray, radius: float) -> BoolArray:
    """Pixels at most `radius` away from a marked one; none if nothing is marked."""
    if not marked.any():
        return marked
    near: BoolArray = ndimage.distance_transform_edt(~marked) <= radius
    return near
