"""Marks on a scene -> masks by one of the methods: everywhere, or around the marks alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from maskfeat.interactive.box_and_mask import filled
from maskfeat.interactive.click_radius import Stroke
from maskfeat.interactive.image import Scene
from maskfeat.interactive.mask_change import Layer
from maskfeat.interactive.update import LocalCut
from maskfeat.interactive.windows import Window

BoolArray = npt.NDArray[np.bool_]
IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True)
class MarkCutter:
    """Masks from marks by one method, with a box or a mask to start from, see `layers.Cutter`."""

    scene: Scene
    method: str
    box: tuple[int, int, int, int] | None
    prior: BoolArray | None

    def whole(self, inside: IntArray, outside: IntArray) -> BoolArray:
        """The mask, (H, W)."""
        if self.method == "coloring" and self.box is None and self.prior is None:
            return _two_colors(self.scene, inside, outside)
        on_pixels = self.method == "pixelcut"
        return self.scene.object_mask(inside, outside, self.box, self.prior, on_pixels)

    def within(
        self, inside: IntArray, outside: IntArray, layer: Layer, windows: Sequence[Window]
    ) -> LocalCut:
        """The mask in some windows, the rest held as it is if the method can do that."""
        if self.method != "cut":
            return _WholeCut(self.whole(inside, outside))
        return self.scene.cut_within(inside, outside, layer, windows, self.box, self.prior)

    def sliver(
        self, stroke: Stroke, below: BoolArray, inside: IntArray, outside: IntArray
    ) -> tuple[Window, BoolArray]:
        """What a stroke near the outline means, by any method alike."""
        window, change = self.scene.slivers.sliver(stroke, below, (outside, inside))
        if self.box is not None and stroke.is_object:
            change = change & filled(self.box, below.shape)[window]
        return window, change


@dataclass(frozen=True)
class _WholeCut:
    """A mask that was made everywhere, see `layers.LocalCut`."""

    rough: BoolArray
    weighs_reach: ClassVar[bool] = False

    def refined(self, window: Window) -> BoolArray:
        """The mask in a window."""
        return self.rough[window]


def _two_colors(scene: Scene, inside: IntArray, outside: IntArray) -> BoolArray:
    """Coloring with two labels; without background the salient nodes are the object."""
    if not len(outside):
        return scene.salient_mask(inside)
    signs = np.repeat([1, 0], [len(inside), len(outside)])
    mask: BoolArray = scene.color(np.concatenate([inside, outside]), signs) == 1
    return mask
