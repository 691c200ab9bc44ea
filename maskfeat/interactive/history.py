"""Prompts as a user makes them, one after another, and the mask that they stand for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from maskfeat.interactive.click_radius import click_radius_of

BoolArray = npt.NDArray[np.bool_]
IntArray = npt.NDArray[np.int64]


class KeptPrompt(NamedTuple):
    """A prompt that is remembered: its pixels (row, column), sign and reach."""

    points_yx: IntArray
    is_positive: bool
    click_radius: float

    @property
    def adds_nothing(self) -> bool:
        """Whether nothing may grow for it beyond the mask that it was made on."""
        return self.click_radius == 0 or (not self.is_positive and np.isfinite(self.click_radius))


class Predict(Protocol):
    """The mask of some prompts, see `InteractiveSegmenter.predict`."""

    def __call__(
        self,
        clicks_yx: npt.ArrayLike,
        is_positive: npt.ArrayLike,
        *,
        scribbles: Sequence[tuple[npt.ArrayLike, bool]],
        click_radius_px: npt.ArrayLike | None,
        within: npt.ArrayLike | None,
    ) -> BoolArray:
        """The mask, bool, (H, W)."""
        ...


class PromptHistory:
    """Prompts that were made one after another.

    Each prompt carries its click radius: how far it was made from the outline of the mask shown
        then, 0
    if it says what that mask says, and then nothing changes. A prompt on the background takes away
    from the mask that it was made on: nothing grows beyond that until a prompt adds to the object.

    Args:
        predict: Gives the mask of some prompts, at least one of them on the object.
    """

    def __init__(self, predict: Predict) -> None:
        self._predict = predict
        self._prompts: list[KeptPrompt] = []
        self._shown: BoolArray | None = None

    def add(self, points_yx: IntArray, is_positive: bool) -> BoolArray:
        """The mask with one more prompt, which is kept unless this raises.

        Args:
            points_yx: Pixels, shape (N, 2), at least one.
            is_positive: True for a prompt on the object.
        """
        shown = self._shown
        click_radius = np.inf if shown is None else click_radius_of(shown, points_yx, is_positive)
        prompts = [*self._prompts, KeptPrompt(points_yx, is_positive, click_radius)]
        mask = _mask_of(self._predict, prompts, shown)
        self._prompts, self._shown = prompts, mask
        return mask.copy()

    def undo(self) -> BoolArray | None:
        """Forget the last prompt; the mask of the rest, None if none of it is on the object.

        Raises:
            ValueError: If there is nothing to take back.
        """
        if not self._prompts:
            raise ValueError("there is no click to take back")
        prompts = self._prompts[:-1]
        shown = shown_mask(self._predict, prompts)
        self._prompts, self._shown = prompts, shown
        return None if shown is None else shown.copy()


def shown_mask(predict: Predict, prompts: Sequence[KeptPrompt]) -> BoolArray | None:
    """The mask that was shown after some prompts, in the order that they were made in.

    Args:
        predict: See `PromptHistory`.
        prompts: Each with the click radius that it had on the mask before it.

    Returns:
        bool, shape (H, W); None if no prompt is on the object.
    """
    if not any(prompt.is_positive for prompt in prompts):
        return None
    first = len(prompts)
    while first > 1 and prompts[first - 1].adds_nothing:
        first -= 1
    mask = None
    for count in range(first, len(prompts) + 1):
        mask = _mask_of(predict, prompts[:count], mask)
    return mask


def _mask_of(predict: Predict, prompts: Sequence[KeptPrompt], shown: BoolArray | None) -> BoolArray:
    """The mask of some prompts, of which the last was made on the mask that was shown."""
    if prompts[-1].click_radius == 0 and shown is not None:
        return shown
    within = None
    if prompts[-1].adds_nothing and shown is not None:
        within = shown.copy()
        # What says what was shown may stand where only a segment that was taken whole made it so.
        for prompt in prompts:
            within[tuple(prompt.points_yx.T)] |= prompt.is_positive
    scribbles = [(prompt.points_yx, prompt.is_positive) for prompt in prompts]
    click_radius_px = [prompt.click_radius for prompt in prompts]
    return predict((), (), scribbles=scribbles, click_radius_px=click_radius_px, within=within)
