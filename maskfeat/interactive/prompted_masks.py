"""Masks of one image for sets of prompts: a cut of the whole image, a change around one prompt."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from maskfeat.arrays import BoolArray, FloatArray, IntArray
from maskfeat.interactive.geometry import (
    Box,
    Window,
    filled,
    grown,
    lies_in,
    parts_with,
    whole,
    window_of,
)
from maskfeat.interactive.image import ImageState
from maskfeat.interactive.outline_cut import BAND_PX
from maskfeat.interactive.prompts import Prompt, PromptSet, superpixels_of, window_of_change

# Chosen on objects of train splits (experiments/interactive).
_MOST_PIXELS_SIDE = 80  # windows up to this side are cut as pixels, larger ones as superpixels
_CERTAIN = 1e3  # logit of a pixel of a prompt


class PromptedMasks:
    """Masks of one image, with a box prompt and a mask prompt.

    All are functions of the set of prompts. Clicks can still be unsatisfied, see
    `update.enforce_hard_constraints`.

    Args:
        state: The image.
        box: Holds the whole object, or None.
        mask: A mask to start from, bool, shape (H, W), or None.
    """

    def __init__(self, state: ImageState, box: Box | None, mask: BoolArray | None) -> None:
        self._state = state
        self._box = box
        self._mask = mask

    def whole(self, prompts: Sequence[Prompt]) -> BoolArray:
        """The mask of the minimum cut of the whole image, (H, W)."""
        state, labels = self._state, self._state.graph.labels
        unary = state.unary.whole(PromptSet(prompts, self._box, self._mask))
        logits = state.superpixel_means(unary)
        inside, outside = (superpixels_of(prompts, kind, labels) for kind in (True, False))
        if not len(inside):  # a box or a mask holds an object
            inside = np.array([int(logits.argmax())], np.int64)
        is_object = state.cutter.cut(logits, inside, outside, self._excluded())
        mask: BoolArray = is_object[labels]
        window = grown(window_of(mask), BAND_PX + 1, whole(mask.shape))
        certain = _with_certain(unary[window], prompts, window)
        mask[window] = state.outline.refined(mask[window], certain, window)
        return mask if self._box is None else mask & filled(self._box, mask.shape)

    def change(
        self, prompt: Prompt, mask: BoolArray, prompts: Sequence[Prompt]
    ) -> tuple[Window, BoolArray]:
        """What one prompt changes in a mask: a part around it, connected to it.

        Args:
            prompt: The mask does not satisfy it.
            mask: The mask before, bool, shape (H, W).
            prompts: All prompts so far; those near this one are read.

        Returns:
            A window around the prompt, and its pixels that get the label of the prompt, bool,
            (h, w).
        """
        window = window_of_change(prompt, mask.shape)
        near = [other for other in prompts if lies_in(other.pixels_yx, window).any()]
        before = mask[window]
        key = (
            prompt.key,
            prompt.click_radius,
            self._box,
            before.tobytes(),
            *((p.key, p.click_radius) for p in near),
        )
        changes = self._state.changes
        return window, changes.get(key, lambda: self._changed(prompt, mask, near, window))

    def _changed(
        self, prompt: Prompt, mask: BoolArray, near: Sequence[Prompt], window: Window
    ) -> BoolArray:
        """Cut a window; pixels that have the label of the prompt keep it, (h, w)."""
        unary = self._state.unary.around(prompt, PromptSet(near, self._box, mask), window)
        before, outline = mask[window], self._state.outline
        certain = _with_certain(unary, near, window)
        if max(before.shape) <= _MOST_PIXELS_SIDE:
            after = outline.cut(before, certain, before != prompt.is_object, window)
        else:
            after = self._cut_superpixels(prompt, mask, near, unary, window)
            after = outline.refined(after, certain, window)
        change = (after == prompt.is_object) & (before != prompt.is_object)
        if self._box is not None and prompt.is_object:
            change &= filled(self._box, mask.shape)[window]
        seeds = prompt.pixels_yx - [side.start for side in window]
        change[tuple(seeds.T)] = True
        return parts_with(change, seeds)

    def _cut_superpixels(
        self,
        prompt: Prompt,
        mask: BoolArray,
        near: Sequence[Prompt],
        unary: FloatArray,
        window: Window,
    ) -> BoolArray:
        """The window cut superpixel by superpixel, (h, w)."""
        state, labels = self._state, self._state.graph.labels
        logits = state.superpixel_means(unary, window)
        before = mask.ravel()[state.first_pixels]
        own = superpixels_of([prompt], prompt.is_object, labels)
        is_free = np.zeros(len(before), bool)
        is_free[labels[window]] = True
        is_free &= before != prompt.is_object
        is_free[own] = True
        clicked = {kind: superpixels_of(near, kind, labels) for kind in (True, False)}
        other = not prompt.is_object
        clicked[other] = np.setdiff1d(clicked[other], own)  # of both kinds: this prompt counts
        after = state.cutter.cut_within(
            is_free, before, logits, clicked[True], clicked[False], self._excluded()
        )
        is_changed = after[labels[window]] == prompt.is_object
        return np.where(is_changed, prompt.is_object, mask[window])

    def _excluded(self) -> IntArray:
        """Superpixels outside the box, (N,)."""
        if self._box is None:
            return np.empty(0, np.int64)
        graph = self._state.graph
        is_outside = np.ones(graph.num_superpixels, bool)
        is_outside[graph.labels[self._box[0] : self._box[2], self._box[1] : self._box[3]]] = False
        return np.flatnonzero(is_outside)


def _with_certain(unary: FloatArray, prompts: Sequence[Prompt], window: Window) -> FloatArray:
    """Logits of a window, those of pixels of prompts as good as hard constraints, (h, w)."""
    unary = unary.copy()
    for prompt in prompts:
        inside = prompt.pixels_yx[lies_in(prompt.pixels_yx, window)]
        inside = inside - [side.start for side in window]
        unary[tuple(inside.T)] = _CERTAIN if prompt.is_object else -_CERTAIN
    return unary
