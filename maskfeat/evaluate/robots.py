"""Simulated users: where the next click goes."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import ndimage

BoolArray = npt.NDArray[np.bool_]


def next_click(
    pred: BoolArray,
    target: npt.NDArray[np.int8],
    not_clicked: BoolArray | None = None,
) -> tuple[tuple[int, int], bool]:
    """Click the wrong pixel that lies deepest inside an error.

    The rule of RITM (Sofiiuk et al., arXiv:2102.06583, and f-BRS before it): of all missed and
    all surplus pixels, the one with the largest Euclidean distance to the nearest pixel that is
    not an error of its kind. That is the deepest error, not the largest by area, as is often
    written. The image's edge and pixels that are not counted bound an error as right pixels do.
    Of equal depths the first in reading order is clicked; where a missed and a surplus pixel
    are equally deep, the surplus one.

    Args:
        pred: The mask so far, bool, shape (H, W).
        target: 1 object, 0 background, -1 not counted (never an error), int8, shape (H, W).
        not_clicked: False at pixels that were clicked before, which are not clicked again, bool,
            shape (H, W). They still belong to their error when depths are measured.

    Returns:
        The click as (row, column), and True if it says "object" (a missed pixel).

    Raises:
        ValueError: If the shapes differ, or no wrong pixel is left to click.
    """
    shapes = {pred.shape, target.shape, pred.shape if not_clicked is None else not_clicked.shape}
    if len(shapes) != 1:
        raise ValueError(
            f"pred, target and not_clicked must have the same shape, got {sorted(shapes)}"
        )
    missed = _deepest((target == 1) & ~pred, not_clicked)
    surplus = _deepest((target == 0) & pred, not_clicked)
    is_positive = missed[0] > surplus[0]
    depth, place = missed if is_positive else surplus
    if depth == 0:
        raise ValueError("no wrong pixel is left to click; stop clicking when the mask is right")
    return place, is_positive


def _deepest(errors: BoolArray, not_clicked: BoolArray | None) -> tuple[float, tuple[int, int]]:
    """Depth and place of the deepest pixel that may be clicked; depth 0 if there is none."""
    rows, columns = np.flatnonzero(errors.any(axis=1)), np.flatnonzero(errors.any(axis=0))
    if not rows.size:
        return 0.0, (0, 0)
    # The box around all errors and a ring of right pixels hold every nearest right pixel.
    box = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    depth = ndimage.distance_transform_edt(np.pad(errors[box], 1))[1:-1, 1:-1]
    if not_clicked is not None:
        depth = depth * not_clicked[box]
    row, column = np.unravel_index(int(depth.argmax()), depth.shape)
    return float(depth[row, column]), (int(rows[0] + row), int(columns[0] + column))
