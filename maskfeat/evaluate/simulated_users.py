"""Simulated users: functions that choose the next click.

`next_click` is the standard user. `random_click`, `realistic_click` and `border_click` correct the
same error at another place; `largest_error_click` chooses another error.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from maskfeat.arrays import BoolArray, Float64Array

Int8Array = npt.NDArray[np.int8]
Click = tuple[tuple[int, int], bool]
# Called as user(pred, target, not_clicked, rng), see `next_click`; `rng` draws what chance decides.
SimulatedUser = Callable[[BoolArray, Int8Array, BoolArray, np.random.Generator], Click]


def next_click(
    pred: BoolArray,
    target: Int8Array,
    not_clicked: BoolArray | None = None,
    rng: np.random.Generator | None = None,
) -> Click:
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
        rng: Not used: nothing is drawn.

    Returns:
        The click as (row, column), and True for "object" (a missed pixel).

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


def largest_error_click(
    pred: BoolArray, target: Int8Array, not_clicked: BoolArray, rng: np.random.Generator
) -> Click:
    """Click the deepest pixel of the error with most pixels, as the standard is often described.

    An error is a 4-connected part of all missed or of all surplus pixels that holds a pixel not
    yet clicked. Of equally large ones the surplus, then the first in reading order. Arguments,
    result and errors are those of `next_click`.
    """
    next_click(pred, target, not_clicked)  # raises its errors
    missed = _largest_part((target == 1) & ~pred, not_clicked)
    surplus = _largest_part((target == 0) & pred, not_clicked)
    is_positive = bool(missed.sum() > surplus.sum())
    return _deepest(missed if is_positive else surplus, not_clicked)[1], is_positive


def random_click(
    pred: BoolArray, target: Int8Array, not_clicked: BoolArray, rng: np.random.Generator
) -> Click:
    """Click any pixel of the error that `next_click` corrects, all pixels alike."""
    return _drawn(pred, target, not_clicked, rng, np.ones_like)


def realistic_click(
    pred: BoolArray,
    target: Int8Array,
    not_clicked: BoolArray,
    rng: np.random.Generator,
    power: float = 1.0,
) -> Click:
    """Click near the middle of an error but seldom in it: by chance in proportion to depth.

    RClicks (Antonov et al., NeurIPS 2024, arXiv:2410.11722) asked people for 475,544 clicks. Of the
    distributions compared there that were not trained on clicks, the one in proportion to the
    distance transform of the error explains them best on each of the five sets, by three of the
    five measures (by density at the clicks, on DAVIS: 12.1e-5, against 6.5e-5 for all pixels alike
    and 7.8e-5 for a model of saliency). Unlike there, one 4-connected error is clicked, not all
    errors of its kind. Depth counts to a power: 0 is `random_click`, large is `next_click`. The
    other arguments, result and errors are those of `next_click`.

    Raises:
        ValueError: Also if the power is negative.
    """
    if not power >= 0:
        raise ValueError(f"power must not be negative, got {power}")
    return _drawn(pred, target, not_clicked, rng, lambda d: (d / d.max()) ** power)


def border_click(
    pred: BoolArray, target: Int8Array, not_clicked: BoolArray, rng: np.random.Generator
) -> Click:
    """Click as an adversary: of the error that `next_click` corrects, a pixel nearest its border.

    Such clicks are correct and say least about the object. Of equally shallow pixels one is drawn.
    """
    return _drawn(pred, target, not_clicked, rng, lambda d: d == d.min())


def _drawn(
    pred: BoolArray,
    target: Int8Array,
    not_clicked: BoolArray,
    rng: np.random.Generator,
    weights: Callable[[Float64Array], npt.NDArray[np.generic]],
) -> Click:
    """Draw a pixel of the error that `next_click` corrects, by weights of the depths (N,)."""
    place, is_positive = next_click(pred, target, not_clicked)
    errors = (target == int(is_positive)) & (pred != is_positive)
    rows, columns, depth = _depths(errors)
    parts = ndimage.label(errors[rows, columns])[0]
    part = parts[place[0] - rows.start, place[1] - columns.start]
    pixels_yx = np.argwhere((parts == part) & not_clicked[rows, columns])
    weight = np.asarray(weights(depth[tuple(pixels_yx.T)]), np.float64)
    row, column = pixels_yx[rng.choice(len(pixels_yx), p=weight / weight.sum())]
    return (int(rows.start + row), int(columns.start + column)), is_positive


def _deepest(errors: BoolArray, not_clicked: BoolArray | None) -> tuple[float, tuple[int, int]]:
    """Depth and place of the deepest pixel that may be clicked; depth 0 if there is none."""
    if not errors.any():
        return 0.0, (0, 0)
    rows, columns, depth = _depths(errors)
    if not_clicked is not None:
        depth = depth * not_clicked[rows, columns]
    row, column = np.unravel_index(int(depth.argmax()), depth.shape)
    return float(depth[row, column]), (int(rows.start + row), int(columns.start + column))


def _depths(errors: BoolArray) -> tuple[slice, slice, Float64Array]:
    """The box around all errors, rows and columns, and how deep each of its pixels lies."""
    rows, columns = np.flatnonzero(errors.any(axis=1)), np.flatnonzero(errors.any(axis=0))
    box = slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)
    # The box and a ring of right pixels hold every nearest right pixel.
    depth: Float64Array = ndimage.distance_transform_edt(np.pad(errors[box], 1))[1:-1, 1:-1]
    return *box, depth


def _largest_part(errors: BoolArray, not_clicked: BoolArray) -> BoolArray:
    """Of the 4-connected parts of errors that may be clicked, the largest, (H, W)."""
    parts, num_parts = ndimage.label(errors)
    if num_parts == 0:
        return errors
    sizes = np.bincount(parts[errors], minlength=num_parts + 1)
    sizes[np.bincount(parts[errors & not_clicked], minlength=num_parts + 1) == 0] = 0
    sizes[0] = 0
    largest = int(sizes.argmax())
    part: BoolArray = parts == largest if sizes[largest] else np.zeros_like(errors)
    return part
