"""How well segments fit true segments, and one mask a true mask."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

LabelMap = npt.NDArray[np.integer[Any]] | Tensor


def achievable_segmentation_accuracy(labels: LabelMap, target: LabelMap) -> float:
    """Share of pixels that are right when each segment takes its best true segment's name.

    ASA of Liu et al., "Entropy rate superpixel segmentation", CVPR 2011, Eq. 15.

    Args:
        labels: The partition to judge, any integers, shape (H, W); the numbers carry no order.
        target: True label map, integers, shape (H, W); -1 marks pixels that are not counted.

    Returns:
        In (0, 1], over the counted pixels; NaN if there is none.

    Raises:
        ValueError: If the shapes differ, or are not those of label maps.
    """
    overlap = _overlap(*checked_label_maps(labels, target))
    if not overlap.count.size:
        return math.nan
    best = np.zeros(overlap.label_sizes.size, np.int64)
    np.maximum.at(best, overlap.label, overlap.count)
    return float(best.sum() / overlap.count.sum())


def covering(labels: LabelMap, target: LabelMap) -> float:
    """Best IoU of each true segment, averaged over true segments by size.

    Segmentation covering of Arbelaez et al., "Contour detection and hierarchical image
    segmentation", TPAMI 2011, Eq. 8 (the covering of the ground truth by the partition).

    Args:
        labels: The partition to judge, any integers, shape (H, W).
        target: True label map, integers, shape (H, W); -1 marks pixels that are not counted,
            in neither the sizes of true segments nor those of segments.

    Returns:
        In (0, 1]; NaN if no pixel is counted.

    Raises:
        ValueError: If the shapes differ, or are not those of label maps.
    """
    overlap = _overlap(*checked_label_maps(labels, target))
    if not overlap.count.size:
        return math.nan
    union = (
        overlap.label_sizes[overlap.label] + overlap.target_sizes[overlap.target] - overlap.count
    )
    best = np.zeros(overlap.target_sizes.size)
    np.maximum.at(best, overlap.target, overlap.count / union)
    return float((best * overlap.target_sizes).sum() / overlap.target_sizes.sum())


def iou(pred: npt.NDArray[np.bool_], target: npt.NDArray[np.int8]) -> float:
    """Intersection over union of a mask and a true mask.

    Args:
        pred: The mask, bool, shape (H, W).
        target: 1 object, 0 background, -1 not counted, integers, shape (H, W).

    Returns:
        In [0, 1]; 1 when neither holds a counted pixel.

    Raises:
        ValueError: If the shapes differ.
    """
    pred, target = np.asarray(pred, dtype=bool), np.asarray(target)
    if pred.shape != target.shape:
        raise ValueError(
            f"pred and target must have the same shape, got {pred.shape} and {target.shape}"
        )
    is_object = target == 1
    union = np.count_nonzero((pred & (target >= 0)) | is_object)
    return np.count_nonzero(pred & is_object) / union if union else 1.0


def noc(ious: Sequence[float], threshold: float, max_clicks: int = 20) -> int:
    """Number of clicks to reach an IoU.

    The convention of RITM (Sofiiuk et al., arXiv:2102.06583): a target that never gets there
    counts `max_clicks`, as does one that gets there with the last click.

    Args:
        ious: IoU after each click, first click first. What follows `max_clicks` is not read.
        threshold: The IoU to reach, e.g. 0.85; reaching it exactly counts.
        max_clicks: What a target that never gets there counts.

    Returns:
        From 1 to `max_clicks`.
    """
    for click, value in enumerate(ious[:max_clicks], start=1):
        if value >= threshold:
            return click
    return max_clicks


def checked_label_maps(
    labels: LabelMap, target: LabelMap
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Both label maps as int64 arrays of one shape (H, W), or a ValueError that says why not."""
    arrays = []
    for name, value in (("labels", labels), ("target", target)):
        array = value.detach().cpu().numpy() if isinstance(value, Tensor) else np.asarray(value)
        if array.ndim != 2 or not np.issubdtype(array.dtype, np.integer):
            raise ValueError(
                f"{name} must be an integer label map of shape (H, W), "
                f"got {array.dtype} {array.shape}"
            )
        arrays.append(array.astype(np.int64, copy=False))
    if arrays[0].shape != arrays[1].shape:
        raise ValueError(
            "labels and target must have the same shape, "
            f"got {arrays[0].shape} and {arrays[1].shape}"
        )
    return arrays[0], arrays[1]


class _Overlap:
    """The contingency table of two label maps, sparse: one entry per pair that meets.

    Attributes:
        label, target: Numbers of the segments that meet, counted from 0, shape (E,).
        count: Pixels they share, shape (E,).
        label_sizes, target_sizes: Counted pixels per segment.
    """

    def __init__(self, labels: npt.NDArray[np.int64], target: npt.NDArray[np.int64]) -> None:
        (labels, num_labels), (target, num_targets) = _compact(labels), _compact(target)
        pairs, num_pairs = labels * num_targets + target, num_labels * num_targets
        if num_pairs <= 8 * pairs.size:  # counting beats sorting where the table is small
            table = np.bincount(pairs, minlength=num_pairs)
            numbers = np.flatnonzero(table)
            self.count = table[numbers]
        else:
            numbers, self.count = np.unique(pairs, return_counts=True)
        self.label, self.target = np.divmod(numbers, max(num_targets, 1))
        self.label_sizes = np.bincount(self.label, self.count, num_labels)
        self.target_sizes = np.bincount(self.target, self.count, num_targets)


def _compact(labels: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.int64], int]:
    """Numbers from 0 in place of any numbers, and how many there can be; 1-D in, 1-D out."""
    if not labels.size:
        return labels, 0
    low, high = int(labels.min()), int(labels.max())
    if high - low < labels.size:
        return labels - low, high - low + 1
    numbers, index = np.unique(labels, return_inverse=True)
    return index.reshape(-1).astype(np.int64), numbers.size


def _overlap(labels: npt.NDArray[np.int64], target: npt.NDArray[np.int64]) -> _Overlap:
    counted = target >= 0
    return _Overlap(labels[counted], target[counted])
