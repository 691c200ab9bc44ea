"""What users give: clicks, scribbles, a box, a mask to start from; their places in an image."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import ndimage
from scipy.spatial import cKDTree

from maskfeat.arrays import BoolArray, FloatArray, Int32Array, IntArray
from maskfeat.segment.inputs import scaled

Box = tuple[int, int, int, int]  # top, left, bottom, right; the last two exclusive
Window = tuple[slice, slice]  # rows and columns, both with start and stop

_FEW = 8  # pixels whose distance to the outline is found one by one
_STEPS_PER_OCTAVE = 2
_FARTHEST = 2.0**20  # pixels; no image is larger
# Pixels around a prompt that it can change: times its click radius, and at least. Chosen on objects
# of train splits (experiments/interactive).
_WINDOW_RADII, _LEAST_WINDOW_PX = 4.0, 19


@dataclass(frozen=True)
class Prompt:
    """One click or one scribble.

    A click near the outline of the shown mask corrects a detail, one far from it a large part: its
    distance to the outline limits what it can change.

    Attributes:
        pixels_yx: Its pixels, int64, shape (N, 2).
        is_object: Whether it is on the object, else on the background.
        click_radius: Distance to the outline of the mask that was shown, pixels, see
            `click_radius_of`; inf if there was no outline, 0 if the mask satisfied the
            prompt already.
    """

    pixels_yx: IntArray
    is_object: bool
    click_radius: float = np.inf

    @cached_property
    def rounded_radius(self) -> float:
        """Click radius in steps of half an octave, so that it takes few values.

        Prompts of one value are one refinement step; inf for those that can change the whole mask,
        0 for those that the shown mask satisfied.
        """
        if self.click_radius == 0 or math.isinf(self.click_radius):
            return self.click_radius
        radius = min(max(self.click_radius, 1.0), _FARTHEST)
        return float(2 ** (round(_STEPS_PER_OCTAVE * math.log2(radius)) / _STEPS_PER_OCTAVE))

    @cached_property
    def key(self) -> tuple[float, bool, bytes]:
        """Sorts prompts, largest rounded radius first; equal for equal prompts."""
        return -self.rounded_radius, self.is_object, self.pixels_yx.tobytes()

    @cached_property
    def extent(self) -> Window:
        """The smallest window that holds it."""
        return window_around(self.pixels_yx)

    def meets(self, window: Window) -> bool:
        """Whether one of its pixels lies in a window."""
        beside = (
            a.start >= b.stop or a.stop <= b.start for a, b in zip(self.extent, window, strict=True)
        )
        return not any(beside) and (
            len(self.pixels_yx) == 1 or bool(lies_in(self.pixels_yx, window).any())
        )

    @property
    def cannot_grow_object(self) -> bool:
        """Whether the object must not grow beyond the shown mask."""
        return self.click_radius == 0 or (not self.is_object and np.isfinite(self.click_radius))

    def scaled(self, size: tuple[int, int], to: tuple[int, int]) -> Prompt:
        """The prompt on an image of another size."""
        if size == to:
            return self
        pixels = np.unique(scaled(self.pixels_yx, size, to), axis=0)
        factor = float(np.sqrt(np.prod(to) / np.prod(size)))
        return replace(self, pixels_yx=pixels, click_radius=self.click_radius * factor)


def window_of_change(prompt: Prompt, size: tuple[int, ...]) -> Window:
    """The pixels of an image of a size that a prompt can change."""
    if math.isinf(prompt.click_radius):
        return full_window(size)
    # One less than a multiple of 4: the window of a click fills a look at pixels, see `look_at`.
    length = math.ceil(max(_WINDOW_RADII * prompt.click_radius, _LEAST_WINDOW_PX))
    length += -(length + 1) % 4 if length < 32 else 0
    return grown(window_around(prompt.pixels_yx), length, full_window(size))


def pixels_of(prompts: Sequence[Prompt], is_object: bool) -> IntArray:
    """Pixels of all object prompts, or of all background prompts, (N, 2)."""
    found = [prompt.pixels_yx for prompt in prompts if prompt.is_object == is_object]
    return np.concatenate([np.empty((0, 2), np.int64), *found])


def superpixels_of(prompts: Sequence[Prompt], is_object: bool, labels: Int32Array) -> IntArray:
    """Superpixels of prompts of one label, each once, (N,); labels: of each pixel, (H, W)."""
    pixels = pixels_of(prompts, is_object)
    return np.unique(labels[tuple(pixels.T)]).astype(np.int64)


class PromptSet(NamedTuple):
    """All that a user gave for one object.

    Attributes:
        prompts: Clicks and scribbles; their order does not matter.
        box: Holds the whole object, or None.
        mask: A mask prompt, bool, shape (H, W), or None: what the prompts correct, or one input of
            the unary term, see `InteractiveSegmenter.predict`.
    """

    prompts: Sequence[Prompt]
    box: Box | None = None
    mask: BoolArray | None = None


def check_together(
    prompts: Sequence[Prompt], box: Box | None, mask: BoolArray | None, within: BoolArray | None
) -> None:
    """Check that prompts do not contradict one another, and that there can be an object.

    Raises:
        ValueError: If a pixel is both object and background; there is no object prompt, no box and
            no mask with a pixel; or an object prompt lies outside the box or `within`, (H, W).
    """
    inside, outside = pixels_of(prompts, True), pixels_of(prompts, False)
    is_object = np.repeat([1, 0], [len(inside), len(outside)])
    apart(np.concatenate([inside, outside]), is_object, ("background", "object"))
    if not len(inside) and box is None and (mask is None or not mask.any()):
        raise ValueError(
            "at least one click must be positive, got none; click the object first, or give a box "
            "or a mask that is not empty"
        )
    if box is not None:
        beyond = inside[((inside < box[:2]) | (inside >= box[2:])).any(axis=1)]
        if len(beyond):
            raise ValueError(
                f"the positive click (row, column) = {tuple(beyond[0].tolist())} lies outside "
                f"the box {box}; enlarge the box, or take the click back"
            )
    if within is not None:
        beyond = inside[~within[tuple(inside.T)]]
        if len(beyond):
            raise ValueError(
                f"the positive click (row, column) = {tuple(beyond[0].tolist())} lies outside "
                "`within`; leave `within` out, or take the click back"
            )


def apart(
    pixels: IntArray, labels: IntArray, names: Sequence[str] = ()
) -> tuple[IntArray, IntArray]:
    """Pixels (N, 2) and labels (N,), each pixel once, in reading order.

    Raises:
        ValueError: If a pixel has two labels; it says their names, if there are any.
    """
    pixels, labels, repeats, twice = in_order(pixels, labels)
    if twice is not None:
        both = [names[n] if names else str(n) for n in labels[twice - 1 : twice + 1]]
        raise ValueError(
            f"the pixel (row, column) = {tuple(pixels[twice].tolist())} is labeled as {both[0]} "
            f"and as {both[1]}; take one of the two back"
        )
    return pixels[~repeats], labels[~repeats]


def in_order(
    pixels_yx: IntArray, labels: IntArray
) -> tuple[IntArray, IntArray, BoolArray, int | None]:
    """Sort pixels (N, 2) in reading order, those of one pixel by label, (N,).

    Returns:
        Pixels and labels; which of them repeat the pixel before, bool, shape (N,); and the index
        of the first that does so with another label, or None.
    """
    order = np.lexsort((labels, pixels_yx[:, 1], pixels_yx[:, 0]))
    pixels_yx, labels = pixels_yx[order], labels[order]
    repeats = np.zeros(len(labels), bool)
    repeats[1:] = (pixels_yx[1:] == pixels_yx[:-1]).all(axis=1)
    twice = np.flatnonzero(repeats & (labels != np.roll(labels, 1)))
    return pixels_yx, labels, repeats, int(twice[0]) if twice.size else None


def filled(box: Box, size: tuple[int, ...]) -> BoolArray:
    """The pixels of a box, (H, W)."""
    filled = np.zeros(size, bool)
    filled[box[0] : box[2], box[1] : box[3]] = True
    return filled


def full_window(size: tuple[int, ...]) -> Window:
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
    """The click radius of a prompt made on a mask (H, W) that the user saw.

    0 if the mask satisfies the prompt already, else `distance_to_outline`.
    """
    pixels = np.asarray(pixels_yx, np.int64).reshape(-1, 2)
    is_satisfied = bool((mask[tuple(pixels.T)] == is_object).all())
    return 0.0 if is_satisfied else distance_to_outline(mask, pixels)


def distance_to_outline(mask: BoolArray, pixels_yx: npt.ArrayLike) -> float:
    """The largest distance of some pixels to the nearest pixel of the other label.

    Args:
        mask: bool, shape (H, W).
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
