"""Prompts on a scene -> masks: everywhere, or around the prompts alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from maskfeat.interactive.box_and_mask import filled
from maskfeat.interactive.click_radius import Prompt
from maskfeat.interactive.image import Scene, SceneCut
from maskfeat.interactive.mask_change import Layer
from maskfeat.interactive.windows import Window

BoolArray = npt.NDArray[np.bool_]
IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True)
class PromptCutter:
    """Masks from prompts, with a box or a mask to start from."""

    scene: Scene
    box: tuple[int, int, int, int] | None
    prior: BoolArray | None

    def whole(self, inside: IntArray, outside: IntArray) -> BoolArray:
        """The mask, (H, W)."""
        return self.scene.object_mask(inside, outside, self.box, self.prior)

    def within(
        self, inside: IntArray, outside: IntArray, layer: Layer, windows: Sequence[Window]
    ) -> SceneCut:
        """The mask in some windows, the rest held as it is."""
        return self.scene.cut_within(inside, outside, layer, windows, self.box, self.prior)

    def sliver(
        self, prompt: Prompt, below: BoolArray, inside: IntArray, outside: IntArray
    ) -> tuple[Window, BoolArray]:
        """What a prompt near the outline means."""
        window, change = self.scene.slivers.sliver(prompt, below, (outside, inside))
        if self.box is not None and prompt.is_object:
            change = change & filled(self.box, below.shape)[window]
        return window, change
