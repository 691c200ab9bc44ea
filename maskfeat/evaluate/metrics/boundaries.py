"""Do the borders of segments lie where true borders lie?

A border runs in the crack between two neighboring pixels of different segments. Here it is
drawn in pixels: of each such pair the left or upper pixel is marked, in the partition and in the
target alike, so that borders are about one pixel thick and the two sides are shifted alike.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from maskfeat.evaluate.metrics.regions import LabelMap, checked_label_maps


def boundary_recall(labels: LabelMap, target: LabelMap, tolerance: float = 0.0075) -> float:
    """Share of true border pixels with a border pixel of the partition nearby.

    The tolerant, many-to-one match of the superpixel literature (Stutz et al., CVIU 2018): many
    or thick borders are rewarded, so read it together with `boundary_precision` and the number
    of segments. At the usual tolerance (4.3 px on BSDS500) it saturates near 400 segments.

    Args:
        labels: The partition to judge, any integers, shape (H, W).
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
    near = _within(border_pixels(found), _tolerance_px(found.shape, tolerance))
    return float(near[is_true].mean())


def boundary_precision(labels: LabelMap, target: LabelMap, tolerance: float = 0.0075) -> float:
    """Share of the partition's border pixels with a true border pixel nearby.

    Args:
        labels: The partition to judge, any integers, shape (H, W).
        target: True label map, integers, shape (H, W); -1 marks pixels that are not counted.
            Borders within the tolerance of such a pixel are not judged: what the truth has
            there is not known.
        tolerance: Largest Euclidean distance between pixel centers, in image diagonals.

    Returns:
        In [0, 1]; NaN if the partition has no border that can be judged.

    Raises:
        ValueError: If the shapes differ, are not those of label maps, or tolerance is negative.
    """
    found, true = checked_label_maps(labels, target)
    radius = _tolerance_px(found.shape, tolerance)
    judged = border_pixels(found) & ~_within(true < 0, radius)
    if not judged.any():
        return math.nan
    near = _within(border_pixels(true, counted=true >= 0), radius)
    return float(near[judged].mean())


def border_pixels(
    labels: npt.NDArray[np.int64], counted: npt.NDArray[np.bool_] | None = None
) -> npt.NDArray[np.bool_]:
    """Mark the left or upper pixel of every two neighbors that lie in different segments.

    Args:
        labels: Label map, int64, shape (H, W).
        counted: Where given, both neighbors must be True here, bool, shape (H, W).

    Returns:
        bool, shape (H, W).
    """
    right, below = labels[:, 1:] != labels[:, :-1], labels[1:] != labels[:-1]
    if counted is not None:
        right &= counted[:, 1:] & counted[:, :-1]
        below &= counted[1:] & counted[:-1]
    border = np.zeros(labels.shape, dtype=bool)
    border[:, :-1] |= right
    border[:-1] |= below
    return border


def _tolerance_px(shape: tuple[int, ...], tolerance: float) -> float:
    if tolerance < 0:
        raise ValueError(f"tolerance must not be negative, got {tolerance}")
    return tolerance * math.hypot(*shape)


def _within(marked: npt.NDArray[np.bool_], radius: float) -> npt.NDArray[np.bool_]:
    """Pixels at most `radius` away from a marked one; none if nothing is marked."""
    if not marked.any():
        return marked
    near: npt.NDArray[np.bool_] = ndimage.distance_transform_edt(~marked) <= radius
    return near
