"""Marks that carry their reach: one made near the outline changes little, one far from it much.

A cut that hears of one more click may change its mind anywhere, and a user who corrects a sliver
does not want that. Where a click was made, seen from the outline of the mask of that moment, says
how much it is about. So a mark is not a place and a sign alone, but a place, a sign and a reach;
and the mask is a function of the set of them, in which no order is left.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy import ndimage
from scipy.spatial import cKDTree

BoolArray = npt.NDArray[np.bool_]
IntArray = npt.NDArray[np.int64]
# Marked pixels of the object and of the background, (N, 2) and (M, 2) -> a mask, (H, W).
Cut = Callable[[IntArray, IntArray], BoolArray]

# A change is at most so many times as thick, from rim to middle, as the mark's reach. Of 1.5, 2
# and 3, and of steps of 1/2 and 1 octave, chosen on 22 objects of the train splits.
_THICKNESS = 1.5
_LEVELS_PER_OCTAVE = 2
_ANYWHERE = 10**6  # the level of marks that were made on no outline
_FINE = 8.0  # pixels of thickness that are measured exactly; more on a coarser grid
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

    @property
    def level(self) -> int:
        """Strokes of one level count as made at once: half octaves of their reach."""
        if np.isinf(self.reach):
            return _ANYWHERE
        return max(0, round(_LEVELS_PER_OCTAVE * float(np.log2(max(self.reach, 1.0)))))

    @cached_property
    def key(self) -> tuple[int, bool, bytes]:
        """What tells it from others."""
        return -self.level, self.is_object, self.pixels_yx.tobytes()


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
    own = mask[tuple(pixels.T)]
    borders = _bordering(mask)
    reach = 0.0
    for value in (False, True):
        others = np.argwhere(borders & (mask != value))
        if not (own == value).any():
            continue
        if not len(others):
            return float(np.inf)
        reach = max(reach, float(cKDTree(others).query(pixels[own == value])[0].max()))
    return reach


class LayeredMasks:
    """Masks made up of layers: strokes that reach furthest first, then finer and finer ones.

    With x_0 the mask without strokes, and the levels l of reach falling,

        x_l = x_(l-1), changed to the sign of each stroke of level l where
              c_l = cut(all strokes of level l or more) says so, the change is connected to the
              stroke, and it is nowhere thicker than 1.5 times its reach, or else near it.

    Strokes that were made on no outline may change everything. So all of it is a function of the
    set of strokes, and a stroke of little reach leaves what lies elsewhere as it is, bit for bit.
    """

    def __init__(self) -> None:
        self._kept: OrderedDict[Hashable, BoolArray] = OrderedDict()

    def mask(
        self,
        strokes: Sequence[Stroke],
        cut: Cut,
        start: BoolArray,
        keep_all: bool = False,
        context: Hashable = None,
    ) -> BoolArray:
        """The mask that strokes stand for, all of them obeyed.

        Args:
            strokes: In any order; their pixels inside the image.
            cut: Called with the pixels of some of them, at least one on the object unless none
                is. Its answer may only depend on them and on `context`.
            start: The mask without strokes, bool, shape (H, W).
            keep_all: Keep parts that hold no mark, too.
            context: Whatever else the answers of `cut`, `start` and `keep_all` depend on.

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
                self._kept[key] = _with_layer(mask, layer, so_far, cut, keep_all)
            self._kept.move_to_end(key)
            mask = self._kept[key]
        while len(self._kept) > _KEPT_MASKS:
            self._kept.popitem(last=False)
        return mask


def _with_layer(
    below: BoolArray, layer: Sequence[Stroke], so_far: Sequence[Stroke], cut: Cut, keep_all: bool
) -> BoolArray:
    """The mask with the strokes of one level, on the mask of those that reach further."""
    inside, outside = pixels_of(so_far, True), pixels_of(so_far, False)
    if not len(inside) and not below.any():
        return below
    whole = cut(inside, outside)
    if layer[0].level == _ANYWHERE:
        return obeying(whole.copy(), inside, outside, keep_all)
    limit = _THICKNESS * 2 ** (layer[0].level / _LEVELS_PER_OCTAVE) + 1
    mask = below.copy()
    for is_object in (False, True):
        seeds = pixels_of(layer, is_object)
        seeds = seeds[below[tuple(seeds.T)] != is_object]
        if len(seeds):
            change = (whole == is_object) & (below != is_object)
            window, is_changed = _change_around(seeds, change, limit)
            mask[window][is_changed] = is_object
    return obeying(mask, inside, outside, keep_all)


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


def _change_around(
    seeds: IntArray, change: BoolArray, limit: float
) -> tuple[tuple[slice, slice], BoolArray]:
    """What of a change is connected to seeds, and thin or near them: a window, and which of it."""
    change[tuple(seeds.T)] = True
    parts, count = ndimage.label(change)
    change = _parts_with(parts, count, seeds)
    window = _window_of(change)
    change, seeds = change[window], seeds - [side.start for side in window]
    thick = _thick(change, limit)
    if not thick.any():
        return window, change
    is_far = np.ones(change.shape, bool)
    is_far[tuple(seeds.T)] = False
    change &= ~thick | (ndimage.distance_transform_edt(is_far) <= limit)
    parts, count = ndimage.label(change)
    return window, _parts_with(parts, count, seeds)


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


def _window_of(mask: BoolArray) -> tuple[slice, slice]:
    """The rows and columns that a mask needs; of an empty one none."""
    rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    if not len(rows):
        return slice(0, 0), slice(0, 0)
    return slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)


def _bordering(mask: BoolArray) -> BoolArray:
    """Pixels with a pixel of the other label above, below, left or right."""
    borders = np.zeros_like(mask)
    down, right = mask[1:] != mask[:-1], mask[:, 1:] != mask[:, :-1]
    borders[1:] |= down
    borders[:-1] |= down
    borders[:, 1:] |= right
    borders[:, :-1] |= right
    return borders
