"""Prompts that carry their click radius -> a mask, step by step, in which no order is left."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Hashable, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from maskfeat.interactive.click_radius import (
    AGREED,
    ANYWHERE,
    Prompt,
    distance_to_outline,
    pixels_of,
    radius_of_octave,
)
from maskfeat.interactive.image import ImageCut
from maskfeat.interactive.mask_change import RefinementStep
from maskfeat.interactive.narrow_band import is_in_narrow_band
from maskfeat.interactive.prompt_cutter import PromptCutter
from maskfeat.interactive.windows import (
    Window,
    grown,
    joined,
    moved,
    whole,
    window_around,
    window_of,
)

BoolArray = npt.NDArray[np.bool_]
IntArray = npt.NDArray[np.int64]

# The window of a change goes beyond its prompt by so many times 1.5 click radius + 1, and at least
# so many pixels.
_LENGTH, _LEAST_LENGTH = 5.5, 24
_MARGIN = 16  # pixels by which a refined outline may leave that of the superpixels
_KEPT_MASKS = 48  # 300 kB each for 640 x 480 pixels


class ProgressiveMerge:
    """Masks made up of steps: prompts that reach furthest first, then finer and finer ones.

    With x_0 the mask without prompts, and the octaves l of click radius falling,

        x_l = x_(l-1), changed to the sign of each prompt of octave l where the cut by all prompts
              of octave l or more, which weighs what click radius they have, says so and the change
              is connected to the prompt.

    This cut is made around the prompts of octave l alone, the rest held as x_(l-1) has it. Prompts
    that were made within some pixels of the outline are not cut for: each changes the narrow-band
        change that
    it means by itself, see `narrow_band`. Prompts that were made on no outline may change
    everything. So all of it is a function of the set of prompts, and one of little click radius
    leaves what prompts of more click radius made of other places as it is, bit for bit, but for
    parts that it cuts off from all prompts.

    Prompts that the mask they were made on satisfied already change nothing as long as the others
    agree with them; those that they contradict then count as made on the mask of these.
    """

    def __init__(self) -> None:
        self._kept: OrderedDict[Hashable, BoolArray] = OrderedDict()

    def mask(
        self,
        prompts: Sequence[Prompt],
        cutter: PromptCutter,
        start: BoolArray,
        keep_all: bool = False,
        context: Hashable = None,
    ) -> BoolArray:
        """The mask that prompts stand for, all of them satisfied.

        Args:
            prompts: In any order; their pixels inside the image.
            cutter: Asked with some of the prompts, at least one of them on the object unless
                `start` holds something.
            start: The mask without prompts, bool, shape (H, W).
            keep_all: Keep parts that hold no prompt, too.
            context: Whatever the answers of `cutter`, `start` and `keep_all` depend on besides.

        Returns:
            bool, shape (H, W), not to be changed.
        """
        different = {prompt.key: prompt for prompt in prompts}  # said twice is said once
        prompts = [different[key] for key in sorted(different)]
        agreed = [prompt for prompt in prompts if prompt.octave == AGREED]
        made = prompts[: len(prompts) - len(agreed)]
        mask = self._with_prompts(start, [], made, cutter, keep_all, context)
        wrong = [prompt for prompt in agreed if _is_wrong(mask, prompt)]
        if wrong:
            again = [
                replace(prompt, click_radius=distance_to_outline(mask, prompt.pixels_yx))
                for prompt in wrong
            ]
            again.sort(key=lambda prompt: prompt.key)
            context = context, tuple(prompt.key for prompt in made)
            mask = self._with_prompts(mask, made, again, cutter, keep_all, context)
            inside, outside = (pixels_of(prompts, is_object) for is_object in (True, False))
            mask = enforce_hard_constraints(mask.copy(), inside, outside, keep_all)
        while len(self._kept) > _KEPT_MASKS:
            self._kept.popitem(last=False)
        return mask

    def _with_prompts(
        self,
        mask: BoolArray,
        known: list[Prompt],
        prompts: list[Prompt],
        cutter: PromptCutter,
        keep_all: bool,
        context: Hashable,
    ) -> BoolArray:
        """A mask that stands for known prompts, with the steps of others on it, sorted by key."""
        for octave in sorted({prompt.octave for prompt in prompts}, reverse=True):
            so_far = [prompt for prompt in prompts if prompt.octave >= octave]
            key = context, tuple(prompt.key for prompt in so_far)
            if key not in self._kept:
                step = [prompt for prompt in so_far if prompt.octave == octave]
                self._kept[key] = _with_step(mask, step, known + so_far, cutter, keep_all)
            self._kept.move_to_end(key)
            mask = self._kept[key]
        return mask


def _with_step(
    below: BoolArray,
    step: Sequence[Prompt],
    so_far: Sequence[Prompt],
    cutter: PromptCutter,
    keep_all: bool,
) -> BoolArray:
    """The mask with the prompts of one octave, on the mask of those that reach further."""
    inside, outside = pixels_of(so_far, True), pixels_of(so_far, False)
    if not len(inside) and not below.any():
        return below
    if step[0].octave == ANYWHERE:
        return enforce_hard_constraints(
            cutter.whole(inside, outside).copy(), inside, outside, keep_all
        )
    mask = below.copy()
    limit = 1.5 * radius_of_octave(step[0].octave) + 1
    wrong = [prompt for prompt in step if _is_wrong(below, prompt)]
    for prompt in filter(is_in_narrow_band, wrong):
        window, change = cutter.narrow_band_change(prompt, below, inside, outside)
        seeds = _seeds_in(window, prompt.pixels_yx)
        mask[window][_parts_around(seeds, change.copy())] = prompt.is_object
    broad = [prompt for prompt in wrong if not is_in_narrow_band(prompt)]
    windows = joined([_window_around(prompt, limit, below.shape) for prompt in broad])
    if windows:
        local = cutter.within(inside, outside, RefinementStep(below, broad, len(so_far)), windows)
        for window in windows:
            for is_object in (False, True):
                seeds = _seeds_in(window, pixels_of(broad, is_object))
                _change(mask, below, local, window, seeds, is_object)
    # What is added holds a prompt; parts without one appear where something was taken away.
    only_added = all(prompt.is_object for prompt in wrong)
    had_prompts = any(prompt.is_object for prompt in so_far if prompt.octave > step[0].octave)
    return enforce_hard_constraints(mask, inside, outside, keep_all or (only_added and had_prompts))


def _change(
    mask: BoolArray,
    below: BoolArray,
    local: ImageCut,
    window: Window,
    seeds: IntArray,
    is_object: bool,
) -> None:
    """Change a mask, in place, to one label around seeds in a window, see `ProgressiveMerge`."""
    seeds = seeds[below[window][tuple(seeds.T)] != is_object]
    if not len(seeds):
        return
    change = (local.rough[window] == is_object) & (below[window] != is_object)
    part = window_of(_parts_around(seeds, change))
    part = grown(moved(part, window), _MARGIN, window)
    seeds = seeds + [w.start - p.start for w, p in zip(window, part, strict=True)]
    change = (local.refined(part) == is_object) & (below[part] != is_object)
    mask[part][_parts_around(seeds, change)] = is_object


def _is_wrong(mask: BoolArray, prompt: Prompt) -> bool:
    """Whether a mask does not obey a prompt."""
    return bool((mask[tuple(prompt.pixels_yx.T)] != prompt.is_object).any())


def _window_around(prompt: Prompt, limit: float, size: tuple[int, ...]) -> Window:
    """What a prompt may change at most."""
    length = max(_LEAST_LENGTH, math.ceil(_LENGTH * limit))
    return grown(window_around(prompt.pixels_yx), length, whole(size))


def _seeds_in(window: Window, pixels: IntArray) -> IntArray:
    """The pixels that a window holds, counted from its corner."""
    low, high = np.array([(side.start, side.stop) for side in window]).T
    within: IntArray = pixels[((pixels >= low) & (pixels < high)).all(axis=1)] - low
    return within


def enforce_hard_constraints(
    mask: BoolArray, inside: IntArray, outside: IntArray, keep_all: bool
) -> BoolArray:
    """The mask with every prompt satisfied, in place, reduced to the parts that are labeled."""
    mask[tuple(outside.T)] = False
    mask[tuple(inside.T)] = True
    if keep_all or not len(inside):
        return mask
    window = window_of(mask)
    parts, count = ndimage.label(mask[window])
    mask[window] = _parts_with(parts, count, inside - [side.start for side in window])
    return mask


def _parts_around(seeds: IntArray, change: BoolArray) -> BoolArray:
    """The parts of a change that seeds are in, these taken in, (h, w)."""
    change[tuple(seeds.T)] = True
    parts, count = ndimage.label(change)
    return _parts_with(parts, count, seeds)


def _parts_with(parts: npt.NDArray[np.int32], count: int, pixels: IntArray) -> BoolArray:
    """The parts that hold one of some pixels, (H, W); part 0 is none."""
    is_kept = np.zeros(count + 1, bool)
    is_kept[parts[tuple(pixels.T)]] = True
    is_kept[0] = False
    kept: BoolArray = is_kept[parts]
    return kept
