"""Windows of an image, boxes, and distances to the outline of a mask."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
from scipy import ndimage
from scipy.spatial import cKDTree

from maskfeat.arrays import BoolArray, FloatArray, IntArray

Box = tuple[int, int, int, int]  # top, left, bottom, right; the last two exclusive
Window = tuple[slice, slice]  # rows and columns, both with start and stop

_FEW = 8  # pixels whose distance to the outline is found one by one


def filled(box: Box, size: tuple[int, ...]) -> BoolArray:
    """The pixels of a box, (H, W)."""
    filled = np.zeros(size, bool)
    filled[box[0] : box[2], box[1] : box[3]] = True
    return filled


def whole(size: tuple[int, ...]) -> Window:
    """The window of a whole image of this height and width."""
    return slice(0, size[0]), slice(0, size[1])


def window_of(mask: BoolArray) -> Window:
    """The smallest window that holds a mask; an empty one for an empty mask."""
    rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    if not len(rows):
        return slice(0, 0), slice(0, 0)
    return slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)


def window_around(pixels_yx: IntArray) -> Window:
    """The smallest window that holds some pixels, (N, 2), at least one."""
    first, last = pixels_yx.min(axis=0).tolist(), pixels_yx.max(axis=0).tolist()
    return slice(first[0], last[0] + 1), slice(first[1], last[1] + 1)


def grown(window: Window, margin: int, within: Window) -> Window:
    """A window with a margin of some pixels, clipped to another one."""
    rows, columns = (
        slice(max(base.start, side.start - margin), min(base.stop, side.stop + margin))
        for side, base in zip(window, within, strict=True)
    )
    return rows, columns


def lies_in(pixels_yx: IntArray, window: Window) -> BoolArray:
    """Which pixels (N, 2) lie in a window, (N,)."""
    low, high = np.array([(side.start, side.stop) for side in window]).T
    is_inside: BoolArray = ((pixels_yx >= low) & (pixels_yx < high)).all(axis=1)
    return is_inside


def click_radius_of(mask: BoolArray, pixels_yx: npt.ArrayLike, is_object: bool) -> float:
    """The click radius of a prompt made on a mask.

    Args:
        mask: The mask that the user saw, shape (H, W).
        pixels_yx: Pixels of the prompt, integers, shape (N, 2), inside the mask.
        is_object: Whether the prompt is on the object.

    Returns:
        0 if the mask satisfies the prompt already, else `distance_to_outline`.
    """
    pixels = np.asarray(pixels_yx, np.int64).reshape(-1, 2)
    is_satisfied = bool((mask[tuple(pixels.T)] == is_object).all())
    return 0.0 if is_satisfied else distance_to_outline(mask, pixels)


def distance_to_outline(mask: BoolArray, pixels_yx: npt.ArrayLike) -> float:
    """The largest distance of some pixels to the nearest pixel of the other label.

    Args:
        mask: Shape (H, W).
        pixels_yx: Integers, shape (N, 2), inside the mask.

    Returns:
        Pixels; inf if the mask has one label only.
    """
    pixels = np.asarray(pixels_yx, np.int64).reshape(-1, 2)
    if len(pixels) <= _FEW:  # a search around each is faster than a tree of the whole outline
        return max(_to_other_label(mask, row, column) for row, column in pixels.tolist())
    own, distances = mask[tuple(pixels.T)], [0.0]
    borders = np.zeros_like(mask)
    down, right = mask[1:] != mask[:-1], mask[:, 1:] != mask[:, :-1]
    borders[1:] |= down
    borders[:-1] |= down
    borders[:, 1:] |= right
    borders[:, :-1] |= right
    for value in np.unique(own):
        others = np.argwhere(borders & (mask != value))
        if not len(others):
            return math.inf
        distances.append(float(cKDTree(others).query(pixels[own == value])[0].max()))
    return max(distances)


def _to_other_label(mask: BoolArray, row: int, column: int) -> float:
    """Distance of a pixel to the nearest one of the other label; inf if there is none."""
    half = 16
    while True:
        top, left = max(0, row - half), max(0, column - half)
        window = mask[top : row + half + 1, left : column + half + 1]
        rows, columns = np.nonzero(window != mask[row, column])
        if len(rows):
            squares = (rows + (top - row)) ** 2 + (columns + (left - column)) ** 2
            nearest = math.sqrt(squares.min())
            if nearest <= half:  # a nearer one could lie beyond the sides of the window
                return nearest
        if window.shape == mask.shape:
            return nearest if len(rows) else math.inf
        half *= 4


def distances_in_radii(pixels_yx: IntArray, radius: float, window: Window) -> FloatArray:
    """Distance of each pixel of a window to some pixels in it (N, 2), by a radius, (h, w)."""
    rows, columns = window
    if len(pixels_yx) == 1:  # a click; in a hundredth of the time
        y, x = pixels_yx[0].tolist()
        down, right = (
            np.arange(rows.start - y, rows.stop - y),
            np.arange(columns.start - x, columns.stop - x),
        )
        distances = np.sqrt((down * down)[:, None] + right * right)
    else:
        is_apart = np.ones((rows.stop - rows.start, columns.stop - columns.start), bool)
        is_apart[tuple((pixels_yx - [rows.start, columns.start]).T)] = False
        distances = ndimage.distance_transform_edt(is_apart)
    in_radii: FloatArray = (distances / max(radius, 1.0)).astype(np.float32)
    return in_radii


def parts_with(mask: BoolArray, pixels: IntArray) -> BoolArray:
    """The connected parts of a mask that hold some pixels, (h, w)."""
    parts, count = ndimage.label(mask)
    is_kept = np.zeros(count + 1, bool)
    is_kept[parts[tuple(pixels.T)]] = True
    is_kept[0] = False
    kept: BoolArray = is_kept[parts]
    return kept
