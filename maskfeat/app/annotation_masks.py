"""Prompts become masks and label maps: what the page asks of the segmenter."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from itertools import accumulate

import numpy as np

from maskfeat.app.annotation_state import OBJECT, ChosenMask, Prompt
from maskfeat.app.pixel_prompts import PixelPrompts, Size
from maskfeat.arrays import BoolArray, IntArray
from maskfeat.data.annotations.painting import decode_annotations
from maskfeat.interactive.click_by_click import shown_mask
from maskfeat.interactive.prompts import Prompt as PixelPrompt
from maskfeat.interactive.prompts import click_radius_of
from maskfeat.interactive.segmenter import InteractiveSegmenter
from maskfeat.segment.resizing import resized

_NUM_CANDIDATES = 4


def object_mask(
    segmenter: InteractiveSegmenter,
    prompts: Sequence[Prompt],
    size: Size,
    chosen: ChosenMask | None = None,
) -> BoolArray:
    """Cut out the object that some prompts stand for.

    Clicks and scribbles are cut first, those of little click radius changing little, and nothing
    growing for prompts on the background that come after the last on the object. Then each segment
    is added or taken away whole, in the order of the prompts, so that one sees beforehand what one
    gets; but for the superpixels in which a click or scribble says the opposite. Paint comes last:
    a painted pixel has the label that it was painted with last.

    Args:
        segmenter: Holds the image, or a smaller one made from it, h x w pixels.
        prompts: With labels 1 (object) and 0 (background).
        size: Height and width of the image, pixels.
        chosen: The candidate that was chosen for the first of them; the others correct it.

    Returns:
        bool, shape (h, w); empty as long as nothing is labeled as object.

    Raises:
        ValueError: If the prompts contradict one another.
    """
    placed = PixelPrompts(prompts, size, segmenter.graph.labels.shape)
    start = None
    if chosen is not None:
        found = decode_annotations([chosen.mask.counts], chosen.mask.size)[0]
        start = resized(found, placed.small), placed.count_among(chosen.num_prompts)
    mask_of = partial(segmenter.mask_of, box=placed.box)
    if start is None and placed.box is not None:  # clicks correct what is in the box
        start = mask_of(()), 0
    kept = _without_radii_on_paint(placed.kept) if start is None else placed.kept
    cut = shown_mask(mask_of, kept, start)
    mask = np.zeros(placed.small, bool) if cut is None else cut.copy()
    for segment in placed.segments:
        mask[_decided_by(segmenter, segment, placed)] = segment.label == OBJECT
    is_painted, labels = placed.painted()
    mask[is_painted] = labels[is_painted] == OBJECT
    return mask


def _without_radii_on_paint(kept: Sequence[PixelPrompt]) -> list[PixelPrompt]:
    """The prompts, as made on nothing up to the first one on the object.

    What was shown to these was paint and segments, and the cut has no such mask to correct.
    """
    nums_before = accumulate((prompt.is_object for prompt in kept), initial=0)
    return [
        prompt if num_before else replace(prompt, click_radius=np.inf)
        for prompt, num_before in zip(kept, nums_before, strict=False)
    ]


def candidate_masks(
    segmenter: InteractiveSegmenter, prompts: Sequence[Prompt], size: Size
) -> list[BoolArray]:
    """Masks that clicks and scribbles may stand for, that which is shown without a choice first.

    Args:
        segmenter: See `object_mask`.
        prompts: At least one on the object; clicks and scribbles alone.
        size: Height and width of the image, pixels.

    Returns:
        Each bool, shape (h, w).

    Raises:
        ValueError: If the prompts contradict one another, or others are among them.
    """
    placed = PixelPrompts(prompts, size, segmenter.graph.labels.shape)
    if any(prompt.kind not in ("click", "scribble") for prompt in prompts):
        raise ValueError(
            "clicks and scribbles have other masks; segments taken whole, boxes and paint have none"
        )
    shown = object_mask(segmenter, prompts, size)
    found = segmenter.predict_candidates(
        placed.pixels_yx, placed.labels == OBJECT, num_masks=_NUM_CANDIDATES, mask=shown
    )
    return [shown, *(one.mask for one in found if not np.array_equal(one.mask, shown))]


def click_radius_on(mask: BoolArray, prompt: Prompt, size: Size) -> float | None:
    """How far from the outline of a mask a click or scribble is made, see `Prompt`.

    Args:
        mask: What is shown when the prompt is made, see `object_mask`, shape (h, w).
        prompt: Of a scribble, what lies inside the image counts.
        size: Height and width of the image, pixels.

    Returns:
        Pixels of the image, 0 where the mask obeys the prompt already; None for a segment, for a
        scribble that never touches the image, and for a mask without outline.
    """
    placed = PixelPrompts([prompt], size, mask.shape)
    if not len(placed.pixels_yx):
        return None
    click_radius = click_radius_of(mask, placed.pixels_yx, prompt.label == OBJECT)
    return None if np.isinf(click_radius) else click_radius / placed.shrinkage


def label_map(segmenter: InteractiveSegmenter, prompts: Sequence[Prompt], size: Size) -> IntArray:
    """Give every pixel one of the labels that were labeled; see `object_mask`.

    Returns:
        int64, shape (h, w): labels of 1 to 9; 0 where segments alone were labeled, and not here.

    Raises:
        ValueError: If the prompts contradict one another.
    """
    placed = PixelPrompts(prompts, size, segmenter.graph.labels.shape)
    labels = np.zeros(placed.small, np.int64)
    if len(placed.clicks_yx) or placed.lines:
        labels = segmenter.predict_labels(
            placed.clicks_yx, placed.click_labels, scribbles=placed.lines
        )
    for segment in placed.segments:
        labels[_decided_by(segmenter, segment, placed)] = segment.label
    is_painted, own = placed.painted()
    labels[is_painted] = own[is_painted]
    return labels


def _decided_by(
    segmenter: InteractiveSegmenter, segment: Prompt, placed: PixelPrompts
) -> BoolArray:
    """The pixels that a segment decides, shape (h, w)."""
    assert segment.granularity is not None
    hierarchy = segmenter.hierarchy
    superpixels, tree = hierarchy.superpixel_labels, hierarchy.tree
    y, x = placed.pixel(segment)
    is_taken = tree.region_around(int(superpixels[y, x]), granularity=segment.granularity)
    against = placed.pixels_with_other_label(segment.label)
    is_taken[superpixels[against[:, 0], against[:, 1]]] = False
    decided: BoolArray = is_taken[superpixels]
    return decided
