"""Build a mask from prompts, largest click radius first; the result ignores prompt order."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from maskfeat.arrays import BoolArray, FloatArray, IntArray
from maskfeat.interactive.cut import BAND_PX
from maskfeat.interactive.decoder_unary import CELLS
from maskfeat.interactive.image import ImageState
from maskfeat.interactive.prompts import (
    Box,
    Prompt,
    PromptSet,
    Window,
    click_radius_of,
    distance_to_outline,
    filled,
    full_window,
    grown,
    lies_in,
    parts_with,
    pixels_of,
    superpixels_of,
    window_of,
    window_of_change,
)
from maskfeat.recent import Recent

# Prompts whose click radius is at least this share of the square root of the mask's area are read
# together. Of 0.2 and 0.4 on 27 objects of train splits, IoU after 5 clicks: .882 and .855 by
# features, .876 and .857 by a decoder.
BROAD_SHARE = 0.2
# Chosen on objects of train splits (experiments/interactive).
_MOST_PIXELS_SIDE = 80  # windows up to this side are cut as pixels, larger ones as superpixels
_CERTAIN = 1e3  # logit of a pixel of a prompt
_KEPT_MASKS = 48  # 300 kB each for 640 x 480 pixels

MaskOf = Callable[..., BoolArray]  # of prompts, as `InteractiveSegmenter.mask_of`


class StartMask(NamedTuple):
    """A mask that prompts correct.

    Attributes:
        mask: bool, shape (H, W).
        num_prompts: The number of the first prompts that it was chosen for, as a candidate; 0 for
            one to begin with.
    """

    mask: BoolArray
    num_prompts: int = 0


def shown_mask(
    mask_of: MaskOf, prompts: Sequence[Prompt], start: StartMask | None = None
) -> BoolArray | None:
    """The mask that was shown after some prompts.

    Args:
        mask_of: Gives the mask of some prompts, see `InteractiveSegmenter.mask_of`.
        prompts: As they were made, one after another, each with its click radius.
        start: A mask that the prompts after its first `num_prompts` correct; those of click radius
            inf, made before it could be shown, are measured on what it has become by then.

    Returns:
        bool, shape (H, W); None without a start if no prompt is on the object.
    """
    prompts = list(prompts)
    if start is None and not any(prompt.is_object for prompt in prompts):
        return None
    known = 0 if start is None else start.num_prompts
    # The masks before the last prompt that could add to the object do not matter.
    first, least = len(prompts), 1 if start is None else known
    is_unknown = start is not None and any(np.isinf(one.click_radius) for one in prompts[known:])
    while first > least and (is_unknown or prompts[first - 1].cannot_grow_object):
        first -= 1
    mask = start.mask if start is not None and first == known else None
    for count in range(max(first, known + 1), len(prompts) + 1):
        last = prompts[count - 1]
        if is_unknown and mask is not None and np.isinf(last.click_radius):
            prompts[count - 1] = made_on(mask, last)
        mask = next_mask(mask_of, prompts[:count], mask, start)
    return mask


def made_on(shown: BoolArray | None, prompt: Prompt) -> Prompt:
    """A prompt with the click radius that it has on the mask shown when it was made."""
    if shown is None:
        return prompt
    radius = click_radius_of(shown, prompt.pixels_yx, prompt.is_object)
    return replace(prompt, click_radius=radius)


def next_mask(
    mask_of: MaskOf,
    prompts: Sequence[Prompt],
    shown: BoolArray | None,
    start: StartMask | None = None,
) -> BoolArray:
    """The mask of some prompts, the last of them made on the shown mask.

    A prompt that the shown mask satisfies changes nothing. After one on the background the object
    does not grow beyond the shown mask.

    Args:
        mask_of: See `shown_mask`.
        prompts: As they were made, the last one new.
        shown: The mask before it, bool, shape (H, W), or None.
        start: See `shown_mask`.

    Returns:
        bool, shape (H, W); the shown mask itself if nothing changes.
    """
    if prompts[-1].click_radius == 0 and shown is not None:
        return shown
    within = None
    if prompts[-1].cannot_grow_object and shown is not None:
        within = shown.copy()
        # On the page, a segment taken whole can cover an earlier object prompt.
        for prompt in prompts:
            within[tuple(prompt.pixels_yx.T)] |= prompt.is_object
    if start is None:
        return mask_of(prompts, within=within)
    known = start.num_prompts
    # The mask satisfies the prompts that it was chosen for.
    corrections = [replace(one, click_radius=0.0) for one in prompts[:known]] + [*prompts[known:]]
    mask = mask_of(corrections, mask=start.mask, keep_all=True, within=within)
    return enforce_hard_constraints(mask, prompts, keep_all=not known)


class ProgressiveMerge:
    """Builds a mask in refinement steps, from the largest click radius to the smallest.

    A global cut can change far from a new click, so each prompt has a click radius.

    1. Broad prompts, those of a large click radius or none, are read together: a cut of the whole
       image, see `PromptedMasks.whole`.
    2. The other prompts correct this mask, those of the same rounded radius in one step. Each
       changes pixels to its label, in a window around it and connected to it, see
       `PromptedMasks.change`.
    3. Prompts that their mask satisfied already (radius 0) change nothing, unless other prompts
       contradict them. Then their radius is measured again, on the mask of the others.

    The mask is a function of the set of prompts. A prompt of small radius leaves the mask far from
    it unchanged, except for parts that it cuts off from all object prompts.

    References:
        Chen et al., FocalClick, CVPR 2022 (progressive merge); Sofiiuk et al., Reviving iterative
        training with mask guidance, ICIP 2022 (conditioning on the previous mask).
    """

    def __init__(self) -> None:
        self._kept: Recent[BoolArray] = Recent(_KEPT_MASKS)

    def mask(
        self,
        prompts: Sequence[Prompt],
        masks: PromptedMasks,
        start: BoolArray,
        keep_all: bool = False,
        context: Hashable = None,
    ) -> BoolArray:
        """The mask of some prompts, which satisfies all of them.

        Args:
            prompts: In any order; their pixels inside the image.
            masks: Gives masks for some of the prompts.
            start: The mask without prompts, bool, shape (H, W).
            keep_all: Keep parts that hold no object prompt.
            context: Key of `masks`, `start` and `keep_all`; masks are cached under it.

        Returns:
            bool, shape (H, W), not to be changed.
        """
        by_radius = sorted(prompts, key=lambda prompt: prompt.click_radius)
        unique = {prompt.key: prompt for prompt in by_radius}  # of equal keys the widest counts
        prompts = [unique[key] for key in sorted(unique)]
        satisfied = [prompt for prompt in prompts if prompt.rounded_radius == 0]
        others = prompts[: len(prompts) - len(satisfied)]
        mask, broad = self._of_broad(start, others, masks, keep_all, context)
        context = context, _keys(broad)
        mask = self._corrected(mask, broad, others[len(broad) :], masks, keep_all, context)
        wrong = [prompt for prompt in satisfied if _is_wrong(mask, prompt)]
        if wrong:
            again = [
                replace(prompt, click_radius=distance_to_outline(mask, prompt.pixels_yx))
                for prompt in wrong
            ]
            again.sort(key=lambda prompt: prompt.key)
            context = context, _keys(others)
            mask = self._corrected(mask, others, again, masks, keep_all, context)
            mask = enforce_hard_constraints(mask.copy(), prompts, keep_all)
        return mask

    def _of_broad(
        self,
        start: BoolArray,
        prompts: list[Prompt],
        masks: PromptedMasks,
        keep_all: bool,
        context: Hashable,
    ) -> tuple[BoolArray, list[Prompt]]:
        """The mask of the broad ones of some prompts, sorted by key, and these.

        Whether a prompt is broad depends on the size of the mask of broader ones.
        """
        mask, count = start, 0
        while True:
            area = np.count_nonzero(mask)
            least = BROAD_SHARE * math.sqrt(area) if area else math.inf
            broad = [prompt for prompt in prompts if prompt.click_radius >= least]
            if len(broad) <= count:
                return mask, prompts[:count]
            count = len(broad)

            def cut(broad: list[Prompt] = broad) -> BoolArray:
                return enforce_hard_constraints(masks.whole(broad), broad, keep_all)

            mask = self._kept.get((context, _keys(broad)), cut)

    def _corrected(
        self,
        mask: BoolArray,
        known: list[Prompt],
        prompts: list[Prompt],
        masks: PromptedMasks,
        keep_all: bool,
        context: Hashable,
    ) -> BoolArray:
        """A mask of known prompts, corrected by others, sorted by key."""
        for radius in sorted({prompt.rounded_radius for prompt in prompts}, reverse=True):
            so_far = [prompt for prompt in prompts if prompt.rounded_radius >= radius]

            def step(
                below: BoolArray = mask, radius: float = radius, so_far: list[Prompt] = so_far
            ) -> BoolArray:
                before = [*known, *(one for one in so_far if one.rounded_radius > radius)]
                every = known + so_far
                if not below.any() and not any(prompt.is_object for prompt in every):
                    return below
                mask = below.copy()
                wrong = [prompt for prompt in every[len(before) :] if _is_wrong(below, prompt)]
                for prompt in wrong:
                    window, change = masks.change(prompt, below, every)
                    mask[window][change] = prompt.is_object
                # A step that only adds makes no parts without an object prompt.
                only_adds = all(prompt.is_object for prompt in wrong)
                had_object = any(prompt.is_object for prompt in before)
                return enforce_hard_constraints(mask, every, keep_all or (only_adds and had_object))

            mask = self._kept.get((context, "corrected", _keys(so_far)), step)
        return mask


def enforce_hard_constraints(
    mask: BoolArray, prompts: Sequence[Prompt], keep_all: bool = False
) -> BoolArray:
    """Give all prompts their label in a mask, bool, shape (H, W), in place; the same array.

    Only 4-connected parts that hold an object prompt are kept, unless `keep_all`, or there is no
    such prompt.
    """
    inside = pixels_of(prompts, True)
    mask[tuple(pixels_of(prompts, False).T)] = False
    mask[tuple(inside.T)] = True
    if keep_all or not len(inside):
        return mask
    window = window_of(mask)
    mask[window] = parts_with(mask[window], inside - [side.start for side in window])
    return mask


def _is_wrong(mask: BoolArray, prompt: Prompt) -> bool:
    return bool((mask[tuple(prompt.pixels_yx.T)] != prompt.is_object).any())


def _keys(prompts: Sequence[Prompt]) -> tuple[Hashable, ...]:
    return tuple((prompt.key, prompt.click_radius) for prompt in prompts)


class PromptedMasks:
    """Masks of one image, with a box prompt and a mask prompt.

    All are functions of the set of prompts. Clicks can still be unsatisfied, see
    `enforce_hard_constraints`.

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
        logits = state.cutter.means(unary)
        inside, outside = (superpixels_of(prompts, side, labels) for side in (True, False))
        if not len(inside):  # a box or a mask holds an object
            inside = np.array([int(logits.argmax())], np.int64)
        is_object = state.cutter.cut(logits, inside, outside, self._excluded())
        mask: BoolArray = is_object[labels]
        window = grown(window_of(mask), BAND_PX + 1, full_window(mask.shape))
        certain = _with_certain(unary[window], prompts, window)
        mask[window] = state.outline.refined(mask[window], certain, window)
        return mask if self._box is None else mask & filled(self._box, mask.shape)

    def change(
        self, prompt: Prompt, mask: BoolArray, prompts: Sequence[Prompt]
    ) -> tuple[Window, BoolArray]:
        """What one prompt that the mask does not satisfy changes in it, connected to the prompt.

        Args:
            prompt: The mask does not satisfy it.
            mask: The mask before, bool, shape (H, W).
            prompts: All prompts so far; those near this one are read.

        Returns:
            A window around the prompt, and its pixels that get the label of the prompt, bool,
            (h, w).
        """
        window = window_of_change(prompt, mask.shape)
        near = [other for other in prompts if other.meets(window)]
        # The look of the decoder reads the mask beyond the window: some of its cells on each side.
        margin = 9 * max(1, math.ceil(max(mask[window].shape) / CELLS)) + 1
        read = mask[grown(window, margin, full_window(mask.shape))]
        key = (*_keys([prompt]), self._box, read.tobytes(), *_keys(near))
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
        logits = state.cutter.means(unary, window)
        before = mask.ravel()[state.cutter.first_pixels]
        own = superpixels_of([prompt], prompt.is_object, labels)
        is_free = np.zeros(len(before), bool)
        is_free[labels[window]] = True
        is_free &= before != prompt.is_object
        is_free[own] = True
        inside, outside = (superpixels_of(near, side, labels) for side in (True, False))
        # Of a superpixel with both, this prompt counts.
        if prompt.is_object:
            outside = np.setdiff1d(outside, own)
        else:
            inside = np.setdiff1d(inside, own)
        after = state.cutter.cut_within(is_free, before, logits, inside, outside, self._excluded())
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
