"""Do the borders of segments lie where true borders lie?

A border runs in the crack between two neighboring pixels of different segments. Here it is
drawn in pixels: of each such pair the left or upper pixel is marked, in the partition and in the
target alike, so that borders are about one pixel thick and the two sides are shifted alike.

Partitions and true label maps are those of `metrics.regions`; a crack beside a pixel that is not
counted, -1 in the true map, is no true border. The tolerance is the largest Euclidean distance
between matched pixel centers, in image diagonals. A ValueError says if shapes differ, are not those
of label maps, or a tolerance is negative.

A boundary pixel of one of nested partitions is right if it is matched to any of several annotators;
recall counts the boundary pixels of every annotator. Counts are added over images before precision
and recall are taken (Martin, Fowlkes, Malik, TPAMI 2004; Arbelaez et al., TPAMI 2011, section 3.1).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
import torch
from scipy import ndimage, sparse
from scipy.sparse import csgraph
from scipy.spatial import cKDTree
from torch import Tensor
from torchmetrics import Metric

from maskfeat.arrays import BoolArray, Float64Array, IntArray
from maskfeat.evaluate.metrics.overlap import LabelMap, checked_label_maps
from maskfeat.segment.superpixels import border_pixels


def boundary_recall(labels: LabelMap, target: LabelMap, tolerance: float = 0.0075) -> float:
    """Share of true border pixels with a border pixel of the partition nearby; in [0, 1].

    The tolerant, many-to-one match of the superpixel literature (Stutz et al., CVIU 2018): many or
    thick borders are rewarded, so read it together with `boundary_precision` and the number of
    segments. At the usual tolerance (4.3 px on BSDS500) it saturates near 400 segments. NaN if the
    target has no border.
    """
    found, true = checked_label_maps(labels, target)
    is_true = border_pixels(true, counted=true >= 0)
    if not is_true.any():
        return math.nan
    near = within(border_pixels(found), _tolerance_px(found.shape, tolerance))
    return float(near[is_true].mean())


def boundary_precision(labels: LabelMap, target: LabelMap, tolerance: float = 0.0075) -> float:
    """Share of the partition's border pixels with a true border pixel nearby; in [0, 1].

    Borders within the tolerance of a pixel that is not counted are not evaluated: what the truth
    has there is not known. NaN if no border of the partition can be evaluated.
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

    Borders within the tolerance of a pixel that is not counted cost no precision, but are found.

    Args:
        labels: The partition, any integers, shape (H, W).
        target: True label map, shape (H, W); -1 is not counted.
        tolerance: Largest distance of matched pixels, in image diagonals.
        match: "one to one": each border pixel answers for at most one of the other side, as many
            as can be matched at all (Martin, Fowlkes, Malik, TPAMI 2004, who also ask for the
            least total distance, which no count depends on); thick and doubled borders cost
            precision. "nearby": many to one, see `boundary_recall`.

    Returns:
        In [0, 1]; NaN if the target has no border, 0 if only the partition has none. Where none
        of its borders can be evaluated, precision counts as 1.
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
    """Largest number of pairs, one pixel of each map (H, W), no pixel twice, within a radius."""
    return len(matched(first, second, radius))


def matched(first: BoolArray, second: BoolArray, radius: float) -> IntArray:
    """Pixels (N, 2) of the first map in one of the largest sets of pairs, see `num_matched`."""
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


class BoundaryFs(NamedTuple):
    """F of boundaries over a set of images.

    Attributes:
        ods: With one threshold for all images.
        ois: With the best threshold of each image.
        best: Number of the threshold that is best for all.
    """

    ods: float
    ois: float
    best: int


def boundary_counts(
    labels: LabelMap, targets: Sequence[LabelMap], tolerance: float = 0.0075
) -> Float64Array:
    """Count the boundary pixels of a partition that are right, and the true ones that it finds.

    Pixels are matched one to one with each annotator, as in `boundary_f`.

    Args:
        labels: The partition, any integers, shape (H, W).
        targets: Label map of each annotator, integers, shape (H, W); -1 marks pixels that are not
            counted. A crack beside one is no boundary. A boundary pixel of the partition that lies
            within the tolerance of such pixels for every annotator is not evaluated.
        tolerance: Largest distance of matched pixels, in image diagonals.

    Returns:
        float64, shape (4,): boundary pixels of the partition that are matched to any annotator,
        all of the partition that are evaluated, boundary pixels of annotators that are matched, all
        of annotators.

    Raises:
        ValueError: If there is no target, shapes differ, or tolerance is negative.
    """
    if not len(targets) or tolerance < 0:
        raise ValueError(
            f"expected a target and a tolerance of at least 0, got {len(targets)} and {tolerance}"
        )
    found_labels = checked_label_maps(labels, targets[0])[0]
    found = border_pixels(found_labels)
    radius = tolerance * math.hypot(*found.shape)
    is_right, is_evaluated = np.zeros_like(found), np.zeros_like(found)
    num_matched = num_true = 0
    for target in targets:
        true_labels = checked_label_maps(labels, target)[1]
        true = border_pixels(true_labels, counted=true_labels >= 0)
        pixels = matched(found, true, radius)
        is_right[tuple(pixels.T)] = True
        is_evaluated |= ~within(true_labels < 0, radius)
        num_matched += len(pixels)
        num_true += int(true.sum())
    num_right, num_found = (is_right & is_evaluated).sum(), (found & is_evaluated).sum()
    return np.array([num_right, num_found, num_matched, num_true], np.float64)


def boundary_fs(counts: Float64Array) -> BoundaryFs:
    """F at the best threshold for all images, and at the best of each.

    Counts are those of `boundary_counts` for each image and threshold, (N, T, 4); F is 0 where
    nothing is matched.
    """
    of_all = boundary_f_of(counts.sum(axis=0))
    best = boundary_f_of(counts).argmax(axis=1)
    chosen = counts[np.arange(len(counts)), best].sum(axis=0)
    return BoundaryFs(float(of_all.max()), float(boundary_f_of(chosen)), int(of_all.argmax()))


def boundary_f_of(counts: Float64Array) -> Float64Array:
    """Harmonic mean of precision and recall, (..., 4) -> (...); 0 where nothing is matched."""
    right, found, num_matched, true = np.moveaxis(counts, -1, 0)
    precision, recall = right / np.maximum(found, 1), num_matched / np.maximum(true, 1)
    total = precision + recall
    f: Float64Array = 2 * precision * recall / np.where(total > 0, total, 1)
    return f


class BoundaryOverScales(Metric):
    """`boundary_fs` over images.

    Args:
        num_scales: How many thresholds.
    """

    is_differentiable = False
    full_state_update = False
    totals: Tensor
    best: Tensor

    def __init__(self, num_scales: int) -> None:
        super().__init__()
        zeros = torch.zeros((num_scales, 4), dtype=torch.int64)  # counts of pixels stay exact
        self.add_state("totals", zeros, dist_reduce_fx="sum")
        self.add_state("best", zeros[0].clone(), dist_reduce_fx="sum")

    def update(self, counts: Float64Array) -> None:
        """Add one image: what `boundary_counts` gives at each threshold, shape (T, 4)."""
        added = torch.from_numpy(counts.astype(np.int64)).to(self.totals.device)
        self.totals += added
        self.best += added[int(boundary_f_of(counts).argmax())]

    def compute(self) -> dict[str, Tensor]:
        """`ods`, `ois`, float64 scalars, and `scale`, the number of the best common threshold."""
        curve = boundary_f_of(self.totals.double().cpu().numpy())
        chosen = boundary_f_of(self.best.double().cpu().numpy())
        values = {"ods": curve.max(), "ois": chosen, "scale": curve.argmax()}
        return {name: torch.as_tensor(value) for name, value in values.items()}
