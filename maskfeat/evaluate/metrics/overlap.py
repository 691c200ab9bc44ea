"""Which segments of two partitions meet, and in how many pixels."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from maskfeat.arrays import IntArray

LabelMap = npt.NDArray[np.integer[Any]] | Tensor


class Overlap:
    """The contingency table of two label maps, sparse: one entry per pair that meets.

    Args:
        labels: Segment of each counted pixel, any integers, shape (N,).
        target: True segment of each counted pixel, any integers, shape (N,).

    Attributes:
        label, target: Numbers of the segments that meet, counted from 0, shape (E,).
        count: Pixels they share, shape (E,).
        label_sizes, target_sizes: Counted pixels per segment.
    """

    def __init__(self, labels: IntArray, target: IntArray) -> None:
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

    @property
    def num_pixels(self) -> int:
        """Counted pixels."""
        return int(self.count.sum())


def overlap_of(labels: LabelMap, target: LabelMap) -> Overlap:
    """The contingency table of two label maps over the pixels where the target is not -1.

    Raises:
        ValueError: If the shapes differ, or are not those of label maps.
    """
    found, true = checked_label_maps(labels, target)
    counted = true >= 0
    return Overlap(found[counted], true[counted])


def entropy(sizes: npt.NDArray[np.number[Any]]) -> float:
    """Of a choice with these weights, which need not sum to 1, bits."""
    shares = sizes[sizes > 0] / sizes.sum()
    return float(-(shares * np.log2(shares)).sum())


def checked_label_maps(labels: LabelMap, target: LabelMap) -> tuple[IntArray, IntArray]:
    """Both label maps as int64 arrays of one shape (H, W), or a ValueError."""
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


def _compact(labels: IntArray) -> tuple[IntArray, int]:
    """Numbers from 0 in place of any numbers, and how many there can be; 1-D in, 1-D out."""
    if not labels.size:
        return labels, 0
    low, high = int(labels.min()), int(labels.max())
    if high - low < labels.size:
        return labels - low, high - low + 1
    numbers, index = np.unique(labels, return_inverse=True)
    return index.reshape(-1).astype(np.int64), numbers.size
