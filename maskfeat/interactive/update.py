"""Build a mask from prompts, largest click radius first; the result ignores prompt order."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Hashable, Sequence
from dataclasses import replace

import numpy as np
from scipy import ndimage

from maskfeat.arrays import BoolArray, IntArray
from maskfeat.interactive.geometry import (
    Window,
    distance_to_outline,
    grown,
    joined,
    moved,
    whole,
    window_around,
    window_of,
)
from maskfeat.interactive.image import LocalCut, PromptCutter
from maskfeat.interactive.mask_change import RefinementStep
from maskfeat.interactive.narrow_band import is_in_narrow_band
from maskfeat.interactive.prompts import (
    ANYWHERE,
    SATISFIED,
    Prompt,
    pixels_of,
    radius_of_octave,
)

# Margin of the window around a prompt that it can change: times 1.5 radius + 1, and at least.
_LENGTH, _LEAST_LENGTH = 5.5, 24
_MARGIN = 16  # pixels by which a refined outline can leave that of the superpixels
# A decoder reads prompts whose click radius is at least this share of the square root of the mask's
# area. 0.15 and 0.4 were compared on val splits of coco_mini and animals: NoC@90 4.86 and 4.50.
BROAD_SHARE = 0.4
_KEPT_MASKS = 48  # 300 kB each for 640 x 480 pixels


class ProgressiveMerge:
    """Builds a mask in refinement steps, from the largest click radius to the smallest.

    A global cut can change far from a new click, so each prompt has a click radius. Prompts of the
    same half octave of the radius are one step. With x_0 the mask without prompts, step l gives

        x_l = x_(l-1), changed to the label of each prompt of step l
              where a cut by the prompts of steps 1 to l has that label
              and the change is connected to the prompt.

    - Prompts without an outline (infinite radius) come first and replace the whole mask by the cut.
    - For the others only a window around them is cut, conditioned on the mask x_(l-1), see
      `mask_change`.
    - A prompt within some pixels of the outline changes a narrow band, see `narrow_band`.
    - Prompts that their mask satisfied already (radius 0) change nothing, unless other prompts
      contradict them. Then their radius is measured again, on the mask of the others.

    With a click decoder, prompts of a large radius are read together, as those without an outline
    are: the decoder knows the click radius.

    The mask is a function of the set of prompts. A prompt of small radius leaves the mask far from
    it unchanged, except for parts that it cuts off from all object prompts.

    References:
        Chen et al., FocalClick, CVPR 2022 (progressive merge); Sofiiuk et al., Reviving iterative
        training with mask guidance, ICIP 2022 (conditioning on the previous mask).
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
        """The mask of some prompts, which satisfies all of them.

        Args:
            prompts: In any order; their pixels inside the image.
            cutter: Cuts the image by some of the prompts.
            start: The mask without prompts, bool, shape (H, W).
            keep_all: Keep parts that hold no object prompt.
            context: Key of `cutter`, `start` and `keep_all`; masks are cached under it.

        Returns:
            bool, shape (H, W), not to be changed.
        """
        unique = {prompt.key: prompt for prompt in prompts}
        prompts = [unique[key] for key in sorted(unique)]
        satisfied = [prompt for prompt in prompts if prompt.octave == SATISFIED]
        others = prompts[: len(prompts) - len(satisfied)]
        known: list[Prompt] = []
        if cutter.has_decoder:
            start, known = self._broad(start, others, cutter, keep_all, context)
            context = context, tuple(prompt.key for prompt in known)
        mask = self._in_steps(start, known, others[len(known) :], cutter, keep_all, context)
        wrong = [prompt for prompt in satisfied if _is_wrong(mask, prompt)]
        if wrong:
            again = [
                replace(prompt, click_radius=distance_to_outline(mask, prompt.pixels_yx))
                for prompt in wrong
            ]
            again.sort(key=lambda prompt: prompt.key)
            context = context, tuple(prompt.key for prompt in others)
            mask = self._in_steps(mask, others, again, cutter, keep_all, context)
            inside, outside = (pixels_of(prompts, is_object) for is_object in (True, False))
            mask = enforce_hard_constraints(mask.copy(), inside, outside, keep_all)
        while len(self._kept) > _KEPT_MASKS:
            self._kept.popitem(last=False)
        return mask

    def _broad(
        self,
        start: BoolArray,
        prompts: list[Prompt],
        cutter: PromptCutter,
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
            key = context, "broad", tuple(prompt.key for prompt in broad)
            if key not in self._kept:
                inside, outside = pixels_of(broad, True), pixels_of(broad, False)
                mask = cutter.whole(broad).copy()
                self._kept[key] = enforce_hard_constraints(mask, inside, outside, keep_all)
            self._kept.move_to_end(key)
            mask = self._kept[key]

    def _in_steps(
        self,
        mask: BoolArray,
        known: list[Prompt],
        prompts: list[Prompt],
        cutter: PromptCutter,
        keep_all: bool,
        context: Hashable,
    ) -> BoolArray:
        """A mask of known prompts, changed by the steps of others, sorted by key."""
        for octave in sorted({prompt.octave for prompt in prompts}, reverse=True):
            so_far = [prompt for prompt in prompts if prompt.octave >= octave]
            key = context, tuple(prompt.key for prompt in so_far)
            if key not in self._kept:
                new = [prompt for prompt in so_far if prompt.octave == octave]
                self._kept[key] = _refined(mask, new, known + so_far, cutter, keep_all)
            self._kept.move_to_end(key)
            mask = self._kept[key]
        return mask


def enforce_hard_constraints(
    mask: BoolArray, inside: IntArray, outside: IntArray, keep_all: bool
) -> BoolArray:
    """Give all prompts their label, in place, and keep only parts that hold object prompts.

    Args:
        mask: bool, shape (H, W).
        inside: Pixels of object prompts, (N, 2).
        outside: Pixels of background prompts, (M, 2).
        keep_all: Keep the other parts, too.
    """
    mask[tuple(outside.T)] = False
    mask[tuple(inside.T)] = True
    if keep_all or not len(inside):
        return mask
    window = window_of(mask)
    mask[window] = _parts_with(mask[window], inside - [side.start for side in window])
    return mask


def _refined(
    below: BoolArray,
    new: Sequence[Prompt],
    so_far: Sequence[Prompt],
    cutter: PromptCutter,
    keep_all: bool,
) -> BoolArray:
    """One refinement step.

    Args:
        below: The mask of the steps before, (H, W).
        new: The prompts of this step, of one octave.
        so_far: The prompts of this step and those before.
        cutter: See `ProgressiveMerge.mask`.
        keep_all: See there.
    """
    inside, outside = pixels_of(so_far, True), pixels_of(so_far, False)
    if not len(inside) and not below.any():
        return below
    octave = new[0].octave
    if octave == ANYWHERE:
        mask = cutter.whole(so_far).copy()
        return enforce_hard_constraints(mask, inside, outside, keep_all)
    mask = below.copy()
    wrong = [prompt for prompt in new if _is_wrong(below, prompt)]
    for prompt in filter(is_in_narrow_band, wrong):
        window, change = cutter.narrow_band_change(prompt, below, inside, outside)
        seeds = _seeds_in(window, prompt.pixels_yx)
        mask[window][_parts_around(seeds, change.copy())] = prompt.is_object
    broad = [prompt for prompt in wrong if not is_in_narrow_band(prompt)]
    length = max(_LEAST_LENGTH, math.ceil(_LENGTH * (1.5 * radius_of_octave(octave) + 1)))
    image = whole(below.shape)
    windows = joined([grown(window_around(p.pixels_yx), length, image) for p in broad])
    if windows:
        local = cutter.within(inside, outside, RefinementStep(below, broad, len(so_far)), windows)
        for window in windows:
            for is_object in (False, True):
                seeds = _seeds_in(window, pixels_of(broad, is_object))
                _change(mask, below, local, window, seeds, is_object)
    # A step that only adds makes no parts without an object prompt.
    only_adds = all(prompt.is_object for prompt in wrong)
    had_object = any(prompt.is_object for prompt in so_far if prompt.octave > octave)
    return enforce_hard_constraints(mask, inside, outside, keep_all or (only_adds and had_object))


def _change(
    mask: BoolArray,
    below: BoolArray,
    local: LocalCut,
    window: Window,
    seeds: IntArray,
    is_object: bool,
) -> None:
    """Change a mask to one label where a cut says so, in place, connected to seeds in a window."""
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
    return bool((mask[tuple(prompt.pixels_yx.T)] != prompt.is_object).any())


def _seeds_in(window: Window, pixels: IntArray) -> IntArray:
    """The pixels inside a window, in its coordinates."""
    low, high = np.array([(side.start, side.stop) for side in window]).T
    within: IntArray = pixels[((pixels >= low) & (pixels < high)).all(axis=1)] - low
    return within


def _parts_around(seeds: IntArray, change: BoolArray) -> BoolArray:
    """The connected parts of a change and its seeds that hold seeds, (h, w)."""
    change[tuple(seeds.T)] = True
    return _parts_with(change, seeds)


def _parts_with(mask: BoolArray, pixels: IntArray) -> BoolArray:
    """The connected parts of a mask that hold some pixels, (h, w)."""
    parts, count = ndimage.label(mask)
    is_kept = np.zeros(count + 1, bool)
    is_kept[parts[tuple(pixels.T)]] = True
    is_kept[0] = False
    kept: BoolArray = is_kept[parts]
    return kept
