"""Prompts on an image state -> masks: everywhere, or around the prompts alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from maskfeat.interactive.box_and_mask import filled
from maskfeat.interactive.click_radius import Prompt
from maskfeat.interactive.image import ImageCut, ImageState
from maskfeat.interactive.mask_change import RefinementStep
from maskfeat.interactive.windows import Window

BoolArray = npt.NDArray[np.bool_]
IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True)
class PromptCutter:
    """Masks from prompts, with a box or a mask to start from."""

    image_state: ImageState
    box: tuple[int, int, int, int] | None
    prior: BoolArray | None

    def whole(self, inside: IntArray, outside: IntArray) -> BoolArray:
        """The mask, (H, W)."""
        return self.image_state.object_mask(inside, outside, self.box, self.prior)

    def within(
        self, inside: IntArray, outside: IntArray, step: RefinementStep, windows: Sequence[Window]
    ) -> ImageCut:
        """The mask in some windows, the rest held as it is."""
        return self.image_state.cut_within(inside, outside, step, windows, self.box, self.prior)

    def narrow_band_change(
        self, prompt: Prompt, below: BoolArray, inside: IntArray, outside: IntArray
    ) -> tuple[Window, BoolArray]:
        """What a prompt near the outline means."""
        window, change = self.image_state.narrow_band.narrow_band_change(
            prompt, below, (outside, inside)
        )
        if self.box is not None and prompt.is_object:
            change = change & filled(self.box, below.shape)[window]
        return window, change
