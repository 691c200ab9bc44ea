"""Strokes as a user makes them, one after another, and the mask that they stand for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from maskfeat.interactive.click_radius import reach_to_change

BoolArray = npt.NDArray[np.bool_]
IntArray = npt.NDArray[np.int64]


class KeptStroke(NamedTuple):
    """A stroke that is remembered: its pixels (row, column), sign and reach."""

    points_yx: IntArray
    is_positive: bool
    reach: float

    @property
    def adds_nothing(self) -> bool:
        """Whether nothing may grow for it beyond the mask that it was made on."""
        return self.reach == 0 or (not self.is_positive and np.isfinite(self.reach))


class Predict(Protocol):
    """The mask of some strokes, see `InteractiveSegmenter.predict`."""

    def __call__(
        self,
        clicks_yx: npt.ArrayLike,
        is_positive: npt.ArrayLike,
        *,
        scribbles: Sequence[tuple[npt.ArrayLike, bool]],
        reach_px: npt.ArrayLike | None,
        within: npt.ArrayLike | None,
    ) -> BoolArray:
        """The mask, bool, (H, W)."""
        ...


class StrokeHistory:
    """Strokes that were made one after another.

    Each stroke carries its reach: how far it was made from the outline of the mask shown then, 0
    if it says what that mask says, and then nothing changes. A stroke on the background takes away
    from the mask that it was made on: nothing grows beyond that until a stroke adds to the object.

    Args:
        predict: Gives the mask of some strokes, at least one of them on the object.
    """

    def __init__(self, predict: Predict) -> None:
        self._predict = predict
        self._strokes: list[KeptStroke] = []
        self._shown: BoolArray | None = None

    def add(self, points_yx: IntArray, is_positive: bool) -> BoolArray:
        """The mask with one more stroke, which is kept unless this raises.

        Args:
            points_yx: Pixels, shape (N, 2), at least one.
            is_positive: True for a stroke on the object.
        """
        shown = self._shown
        reach = np.inf if shown is None else reach_to_change(shown, points_yx, is_positive)
        strokes = [*self._strokes, KeptStroke(points_yx, is_positive, reach)]
        mask = _mask_of(self._predict, strokes, shown)
        self._strokes, self._shown = strokes, mask
        return mask.copy()

    def undo(self) -> BoolArray | None:
        """Forget the last stroke; the mask of the rest, None if none of it is on the object.

        Raises:
            ValueError: If there is nothing to take back.
        """
        if not self._strokes:
            raise ValueError("there is no click to take back")
        strokes = self._strokes[:-1]
        shown = shown_mask(self._predict, strokes)
        self._strokes, self._shown = strokes, shown
        return None if shown is None else shown.copy()


def shown_mask(predict: Predict, strokes: Sequence[KeptStroke]) -> BoolArray | None:
    """The mask that was shown after some strokes, in the order that they were made in.

    Args:
        predict: See `StrokeHistory`.
        strokes: Each with the reach that it had on the mask before it.

    Returns:
        bool, shape (H, W); None if no stroke is on the object.
    """
    if not any(stroke.is_positive for stroke in strokes):
        return None
    first = len(strokes)
    while first > 1 and strokes[first - 1].adds_nothing:
        first -= 1
    mask = None
    for count in range(first, len(strokes) + 1):
        mask = _mask_of(predict, strokes[:count], mask)
    return mask


def _mask_of(predict: Predict, strokes: Sequence[KeptStroke], shown: BoolArray | None) -> BoolArray:
    """The mask of some strokes, of which the last was made on the mask that was shown."""
    if strokes[-1].reach == 0 and shown is not None:
        return shown
    within = None
    if strokes[-1].adds_nothing and shown is not None:
        within = shown.copy()
        # What says what was shown may stand where only a segment that was taken whole made it so.
        for stroke in strokes:
            within[tuple(stroke.points_yx.T)] |= stroke.is_positive
    scribbles = [(stroke.points_yx, stroke.is_positive) for stroke in strokes]
    reach_px = [stroke.reach for stroke in strokes]
    return predict((), (), scribbles=scribbles, reach_px=reach_px, within=within)
