"""Windows of an image: rows and columns, as slices that both have start and stop."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

import numpy as np
import numpy.typing as npt

BoolArray = npt.NDArray[np.bool_]
Window = tuple[slice, slice]


def whole(size: tuple[int, ...]) -> Window:
    """The window that is all of an image of some height and width."""
    return slice(0, size[0]), slice(0, size[1])


def window_of(mask: BoolArray) -> Window:
    """The rows and columns that a mask needs; of an empty one none."""
    rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    if not len(rows):
        return slice(0, 0), slice(0, 0)
    return slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)


def window_around(pixels_yx: npt.NDArray[np.int64]) -> Window:
    """The rows and columns that some pixels need, (N, 2), at least one."""
    first, last = pixels_yx.min(axis=0).tolist(), pixels_yx.max(axis=0).tolist()
    return slice(first[0], last[0] + 1), slice(first[1], last[1] + 1)


def moved(window: Window, into: Window) -> Window:
    """A window that was counted from the corner of another one."""
    rows, columns = (
        slice(side.start + base.start, side.stop + base.start)
        for side, base in zip(window, into, strict=True)
    )
    return rows, columns


def grown(window: Window, margin: int, within: Window) -> Window:
    """A window with a margin of so many pixels, as far as another one goes."""
    rows, columns = (
        slice(max(base.start, side.start - margin), min(base.stop, side.stop + margin))
        for side, base in zip(window, within, strict=True)
    )
    return rows, columns


def joined(windows: Sequence[Window]) -> list[Window]:
    """Windows that overlap become one that holds them."""
    found: list[Window] = []
    for window in windows:
        apart = [other for other in found if not _overlap(window, other)]
        while len(apart) < len(found):
            for other in found:
                if _overlap(window, other):
                    window = _hull(window, other)
            found = apart
            apart = [other for other in found if not _overlap(window, other)]
        found = [*apart, window]
    return found


def hull(windows: Sequence[Window]) -> Window:
    """The smallest window that holds some others, at least one."""
    return reduce(_hull, windows)


def _overlap(one: Window, other: Window) -> bool:
    return all(a.start < b.stop and b.start < a.stop for a, b in zip(one, other, strict=True))


def _hull(one: Window, other: Window) -> Window:
    rows, columns = (
        slice(min(a.start, b.start), max(a.stop, b.stop)) for a, b in zip(one, other, strict=True)
    )
    return rows, columns
