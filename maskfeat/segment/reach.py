"""Marks that carry their reach: one made near the outline changes little, one far from it much.

A cut that hears of one more click may change its mind anywhere, and a user who corrects a sliver
does not want that. Where a click was made, seen from the outline of the mask of that moment, says
how much it is about. So a mark is not a place and a sign alone, but a place, a sign and a reach;
and the mask is a function of the set of them, in which no order is left.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy import ndimage
from scipy.spatial import cKDTree

BoolArray = npt.NDArray[np.bool_]
IntArray = npt.NDArray[np.int64]
Window = tuple[slice, slice]  # rows and columns, both with start and stop

# A change is at most so many times as thick, from rim to middle, as the mark's reach. Of 1.5, 2
# and 3, and of steps of 1/2 and 1 octave, chosen on 22 objects of the train splits.
_THICKNESS = 1.5
_LEVELS_PER_OCTAVE = 2
_ANYWHERE = 10**6  # the level of marks that were made on no outline
# Nothing is looked at that is further from a mark than so many times that thickness, pixels.
_LENGTH, _LEAST_LENGTH = 5.5, 24
_MARGIN = 16  # pixels by which a refined outline may leave that of the atoms
_FINE = 8.0  # pixels of thickness that are measured exactly; more on a coarser grid
_FEW = 8  # pixels whose reach is looked for one by one
_FARTHEST = 2.0**20  # pixels; no image is larger
_KEPT_MASKS = 48  # 300 kB each for 640 x 480 pixels


@dataclass(frozen=True)
class Stroke:
    """Pixels that were marked at once.

    Attributes:
        pixels_yx: Each once, in reading order, int64, shape (N, 2).
        is_object: Marked as object, else as background.
        reach: Pixels from the outline of the mask that it was made on, see `reach_of`; inf if
            there was none.
    """

    pixels_yx: IntArray
    is_object: bool
    reach: float = np.inf

    @cached_property
    def level(self) -> int:
        """Strokes of one level count as made at once: half octaves of their reach."""
        if math.isinf(self.reach):
            return _ANYWHERE
        return round(_LEVELS_PER_OCTAVE * math.log2(min(max(self.reach, 1.0), _FARTHEST)))

    @cached_property
    def key(self) -> tuple[int, bool, bytes]:
        """What tells it from others."""
        return -self.level, self.is_object, self.pixels_yx.tobytes()


class Cutter(Protocol):
    """Masks from marks: pixels of the object and of the background, (N, 2) and (M, 2).

    Answers depend on the marks as sets.
    """

    def whole(self, inside: IntArray, outside: IntArray) -> BoolArray:
        """The mask, (H, W); marks may still be wrong."""
        ...

    def within(
        self, inside: IntArray, outside: IntArray, below: BoolArray, windows: Sequence[Window]
    ) -> LocalCut:
        """The mask in some windows, while all else is held as it is in `below`, (H, W)."""
        ...


class LocalCut(Protocol):
    """A mask in some windows."""

    @property
    def rough(self) -> BoolArray:
        """The mask of whole atoms, (H, W); of no meaning outside the windows."""
        ...

    def refined(self, window: Window) -> BoolArray:
        """The mask in pixels in a part of one of the windows; marks may still be wrong."""
        ...


def reach_of(mask: BoolArray, pixels_yx: npt.ArrayLike) -> float:
    """How far a stroke lies from the outline of a mask.

    Args:
        mask: What was shown when the stroke was made, shape (H, W).
        pixels_yx: Of the stroke, integers, shape (N, 2), inside the mask.

    Returns:
        From the deepest of its pixels to the nearest pixel of the other label, pixels; inf if all
        of the mask has one label.
    """
    pixels = np.asarray(pixels_yx, np.int64).reshape(-1, 2)
    if len(pixels) <= _FEW:
        return max(_to_other_label(mask, row, column) for row, column in pixels.tolist())
    own, borders = mask[tuple(pixels.T)], _bordering(mask)
    reaches = [0.0]
    for value in np.unique(own):
        others = np.argwhere(borders & (mask != value))
        if not len(others):
            return math.inf
        reaches.append(float(cKDTree(others).query(pixels[own == value])[0].max()))
    return max(reaches)


def _bordering(mask: BoolArray) -> BoolArray:
    """Pixels with a pixel of the other label above, below, left or right."""
    borders = np.zeros_like(mask)
    down, right = mask[1:] != mask[:-1], mask[:, 1:] != mask[:, :-1]
    borders[1:] |= down
    borders[:-1] |= down
    borders[:, 1:] |= right
    borders[:, :-1] |= right
    return borders


def _to_other_label(mask: BoolArray, row: int, column: int) -> float:
    """From a pixel to the nearest one of the other label; inf if there is none."""
    half = 16
    while True:
        top, left = max(0, row - half), max(0, column - half)
        window = mask[top : row + half + 1, left : column + half + 1]
        rows, columns = np.nonzero(window != mask[row, column])
        if len(rows):
            squares = (rows + (top - row)) ** 2 + (columns + (left - column)) ** 2
            nearest = math.sqrt(squares.min())
            if nearest <= half:  # beyond, the corners of the window may mislead
                return nearest
        if window.shape == mask.shape:
            return nearest if len(rows) else math.inf
        half *= 4


class LayeredMasks:
    """Masks made up of layers: strokes that reach furthest first, then finer and finer ones.

    With x_0 the mask without strokes, and the levels l of reach falling,

        x_l = x_(l-1), changed to the sign of each stroke of level l where the cut by all strokes
              of level l or more says so, the change is connected to the stroke, and it is nowhere
              thicker than 1.5 times its reach, or else near it.

    This cut is made around the strokes of level l alone, the rest held as x_(l-1) has it. Strokes
    that were made on no outline may change everything. So all of it is a function of the set of
    strokes, and one of little reach leaves what strokes of more reach made of other places as it
    is, bit for bit, but for parts that it cuts off from all marks.
    """

    def __init__(self) -> None:
        self._kept: OrderedDict[Hashable, BoolArray] = OrderedDict()

    def mask(
        self,
        strokes: Sequence[Stroke],
        cutter: Cutter,
        start: BoolArray,
        keep_all: bool = False,
        context: Hashable = None,
    ) -> BoolArray:
        """The mask that strokes stand for, all of them obeyed.

        Args:
            strokes: In any order; their pixels inside the image.
            cutter: Asked with some of the strokes, at least one of them on the object unless
                `start` holds something.
            start: The mask without strokes, bool, shape (H, W).
            keep_all: Keep parts that hold no mark, too.
            context: Whatever the answers of `cutter`, `start` and `keep_all` depend on besides.

        Returns:
            bool, shape (H, W), not to be changed.
        """
        strokes = sorted(strokes, key=lambda stroke: stroke.key)
        mask = start
        for level in sorted({stroke.level for stroke in strokes}, reverse=True):
            so_far = [stroke for stroke in strokes if stroke.level >= level]
            key = context, tuple(stroke.key for stroke in so_far)
            if key not in self._kept:
                layer = [stroke for stroke in so_far if stroke.level == level]
                self._kept[key] = _with_layer(mask, layer, so_far, cutter, keep_all)
            self._kept.move_to_end(key)
            mask = self._kept[key]
        while len(self._kept) > _KEPT_MASKS:
            self._kept.popitem(last=False)
        return mask


def _with_layer(
    below: BoolArray,
    layer: Sequence[Stroke],
    so_far: Sequence[Stroke],
    cutter: Cutter,
    keep_all: bool,
) -> BoolArray:
    """The mask with the strokes of one level, on the mask of those that reach further."""
    inside, outside = pixels_of(so_far, True), pixels_of(so_far, False)
    if not len(inside) and not below.any():
        return below
    if layer[0].level == _ANYWHERE:
        return obeying(cutter.whole(inside, outside).copy(), inside, outside, keep_all)
    mask = below.copy()
    limit = _THICKNESS * 2 ** (layer[0].level / _LEVELS_PER_OCTAVE) + 1
    wrong = [stroke for stroke in layer if _is_wrong(below, stroke)]
    windows = _joined([_window_around(stroke, limit, below.shape) for stroke in wrong])
    if windows:
        local = cutter.within(inside, outside, below, windows)
        for window in windows:
            for is_object in (False, True):
                seeds = _seeds_in(window, pixels_of(wrong, is_object))
                _change(mask, below, local, window, seeds, is_object, limit)
    # What is added holds a mark; parts without one appear where something was taken away.
    is_whole = not any(not stroke.is_object for stroke in wrong)
    had_marks = any(stroke.is_object for stroke in so_far if stroke.level > layer[0].level)
    return obeying(mask, inside, outside, keep_all or (is_whole and had_marks))


def _change(
    mask: BoolArray,
    below: BoolArray,
    local: LocalCut,
    window: Window,
    seeds: IntArray,
    is_object: bool,
    limit: float,
) -> None:
    """Change a mask, in place, to one label around seeds in a window, see `LayeredMasks`."""
    seeds = seeds[below[window][tuple(seeds.T)] != is_object]
    if not len(seeds):
        return
    change = (local.rough[window] == is_object) & (below[window] != is_object)
    part = _window_of(_parts_around(seeds, change))
    part = _grown(_moved(part, window), _MARGIN, window)
    seeds = seeds + [w.start - p.start for w, p in zip(window, part, strict=True)]
    change = (local.refined(part) == is_object) & (below[part] != is_object)
    mask[part][_change_around(seeds, change, limit)] = is_object


def _is_wrong(mask: BoolArray, stroke: Stroke) -> bool:
    """Whether a mask does not obey a stroke."""
    return bool((mask[tuple(stroke.pixels_yx.T)] != stroke.is_object).any())


def _window_around(stroke: Stroke, limit: float, size: tuple[int, ...]) -> Window:
    """What a stroke may change at most."""
    length = max(_LEAST_LENGTH, math.ceil(_LENGTH * limit))
    first = np.maximum(stroke.pixels_yx.min(axis=0) - length, 0).tolist()
    last = np.minimum(stroke.pixels_yx.max(axis=0) + length + 1, size).tolist()
    return slice(first[0], last[0]), slice(first[1], last[1])


def _joined(windows: Sequence[Window]) -> list[Window]:
    """Windows that overlap become one that holds them."""
    joined: list[Window] = []
    for window in windows:
        apart = [other for other in joined if not _overlap(window, other)]
        while len(apart) < len(joined):
            for other in joined:
                if _overlap(window, other):
                    window = _hull(window, other)
            joined = apart
            apart = [other for other in joined if not _overlap(window, other)]
        joined = [*apart, window]
    return joined


def _overlap(one: Window, other: Window) -> bool:
    return all(a.start < b.stop and b.start < a.stop for a, b in zip(one, other, strict=True))


def _hull(one: Window, other: Window) -> Window:
    rows, columns = (
        slice(min(a.start, b.start), max(a.stop, b.stop)) for a, b in zip(one, other, strict=True)
    )
    return rows, columns


def _seeds_in(window: Window, pixels: IntArray) -> IntArray:
    """The pixels that a window holds, counted from its corner."""
    low, high = np.array([(side.start, side.stop) for side in window]).T
    within: IntArray = pixels[((pixels >= low) & (pixels < high)).all(axis=1)] - low
    return within


def pixels_of(strokes: Sequence[Stroke], is_object: bool) -> IntArray:
    """All pixels marked one way, (N, 2)."""
    found = [stroke.pixels_yx for stroke in strokes if stroke.is_object == is_object]
    return np.concatenate([np.empty((0, 2), np.int64), *found])


def obeying(mask: BoolArray, inside: IntArray, outside: IntArray, keep_all: bool) -> BoolArray:
    """The mask with every mark obeyed, in place, reduced to the parts that are marked."""
    mask[tuple(outside.T)] = False
    mask[tuple(inside.T)] = True
    if keep_all or not len(inside):
        return mask
    window = _window_of(mask)
    parts, count = ndimage.label(mask[window])
    mask[window] = _parts_with(parts, count, inside - [side.start for side in window])
    return mask


def _moved(window: Window, into: Window) -> Window:
    """A window that was counted from the corner of another one."""
    rows, columns = (
        slice(side.start + base.start, side.stop + base.start)
        for side, base in zip(window, into, strict=True)
    )
    return rows, columns


def _grown(window: Window, margin: int, within: Window) -> Window:
    """A window with a margin, as far as another one goes."""
    rows, columns = (
        slice(max(base.start, side.start - margin), min(base.stop, side.stop + margin))
        for side, base in zip(window, within, strict=True)
    )
    return rows, columns


def _parts_around(seeds: IntArray, change: BoolArray) -> BoolArray:
    """The parts of a change that seeds are in, these taken in, (h, w)."""
    change[tuple(seeds.T)] = True
    parts, count = ndimage.label(change)
    return _parts_with(parts, count, seeds)


def _change_around(seeds: IntArray, change: BoolArray, limit: float) -> BoolArray:
    """What of a change is connected to seeds, and thin or near them, (h, w)."""
    change = _parts_around(seeds, change)
    window = _window_of(change)
    part, seeds = change[window], seeds - [side.start for side in window]
    thick = _thick(part, limit)
    if thick.any():
        is_far = np.ones(part.shape, bool)
        is_far[tuple(seeds.T)] = False
        part &= ~thick | (ndimage.distance_transform_edt(is_far) <= limit)
        part[:] = _parts_around(seeds, part)
    return change


def _thick(mask: BoolArray, limit: float) -> BoolArray:
    """Where a disc of a larger radius than the limit fits in, about: an opening."""
    if min(mask.shape) <= 2 * limit:
        return np.zeros_like(mask)
    step = max(1, int(limit / _FINE))
    picture = Image.fromarray(mask.astype(np.uint8) * 255)
    coarse = np.asarray(picture.reduce(step)) > 127
    core = ndimage.distance_transform_edt(np.pad(coarse, 1))[1:-1, 1:-1] > limit / step
    if not core.any():
        return np.zeros_like(mask)
    distances = Image.fromarray(ndimage.distance_transform_edt(~core).astype(np.float32))
    if step > 1:
        box = (0, 0, mask.shape[1] / step, mask.shape[0] / step)
        distances = distances.resize(mask.shape[::-1], Image.Resampling.BILINEAR, box=box)
    thick: BoolArray = mask & (np.asarray(distances) <= limit / step)
    return thick


def _parts_with(parts: npt.NDArray[np.int32], count: int, pixels: IntArray) -> BoolArray:
    """The parts that hold one of some pixels, (H, W); part 0 is none."""
    is_kept = np.zeros(count + 1, bool)
    is_kept[parts[tuple(pixels.T)]] = True
    is_kept[0] = False
    kept: BoolArray = is_kept[parts]
    return kept


def _window_of(mask: BoolArray) -> Window:
    """The rows and columns that a mask needs; of an empty one none."""
    rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    if not len(rows):
        return slice(0, 0), slice(0, 0)
    return slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
