"""Boundaries of nested partitions against several annotators, as BSDS500 scores them.

Each cut of a hierarchy is compared with all annotators of an image at once. A boundary pixel that
is matched to any annotator is right; recall counts the boundary pixels of every annotator. Counts
are added over images before precision and recall are taken (Martin, Fowlkes, Malik, TPAMI 2004;
Arbelaez et al., TPAMI 2011, section 3.1).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torchmetrics import Metric

from maskfeat.arrays import Float64Array
from maskfeat.evaluate.metrics.boundaries import matched, within
from maskfeat.evaluate.metrics.overlap import LabelMap, checked_label_maps
from maskfeat.segment.superpixels import border_pixels


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

    Args:
        counts: What `boundary_counts` gives for each image and threshold, shape (N, T, 4).

    Returns:
        The scores; F is 0 where nothing is matched.
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
