"""Prompts become masks and label maps: what the page asks of the segmenter."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache, partial

import numpy as np
from scipy import ndimage

from maskfeat.app.annotation_state import OBJECT, ChosenMask, Prompt
from maskfeat.arrays import BoolArray, IntArray
from maskfeat.data.annotations.painting import decode_annotations
from maskfeat.interactive.prompts import (
    Box,
    click_radius_of,
    full_window,
    grown,
    in_order,
    window_around,
)
from maskfeat.interactive.prompts import Prompt as PixelPrompt
from maskfeat.interactive.segmenter import InteractiveSegmenter
from maskfeat.interactive.update import StartMask, shown_mask
from maskfeat.segment.inputs import resized, scaled_box

_NUM_CANDIDATES = 4
Size = tuple[int, int]


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
        num_prompts = placed.count_among(chosen.num_prompts)
        start = StartMask(resized(found, placed.small), num_prompts)
    mask_of = partial(segmenter.mask_of, box=placed.box)
    if start is None and placed.box is not None:  # clicks correct what is in the box
        start = StartMask(mask_of(()))
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
    nums_before = itertools.accumulate((prompt.is_object for prompt in kept), initial=0)
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


class PixelPrompts:
    """Prompts in the pixels that the segmenter knows.

    Args:
        prompts: In pixels of the image.
        size: Of the image.
        small: Of what the segmenter holds.
    """

    def __init__(self, prompts: Sequence[Prompt], size: Size, small: tuple[int, ...]) -> None:
        self.small, self._size = (small[0], small[1]), size
        self._all = prompts
        self._scale = np.array(small) / np.array(size)
        self.shrinkage = float(np.sqrt(np.prod(self._scale)))
        self.segments = [prompt for prompt in prompts if prompt.kind == "segment"]
        lines = [prompt for prompt in prompts if prompt.kind in ("click", "scribble")]
        # A scribble that never touches the image says nothing.
        pixels = [(prompt, _pixels(prompt, size, self.small)) for prompt in lines]
        self._placed = [(prompt, points) for prompt, points in pixels if len(points)]
        clicks = [(prompt, points) for prompt, points in self._placed if prompt.kind == "click"]
        self.clicks_yx = np.concatenate([np.empty((0, 2), np.int64), *(p for _, p in clicks)])
        self.click_labels = np.array([prompt.label for prompt, _ in clicks], np.int64)
        self.lines = [(p, prompt.label) for prompt, p in self._placed if prompt.kind == "scribble"]
        if np.any(self._scale < 1):
            self._check_apart()

    @property
    def box(self) -> Box | None:
        """The box that was drawn last, clipped to the image; None if there is none in it."""
        drawn = [prompt for prompt in self._all if prompt.kind == "box"]
        if not drawn:
            return None
        # A box holds the pixels at both of its corners.
        corners = np.array(drawn[-1].points_yx)
        top, left = np.maximum(corners.min(axis=0), 0).tolist()
        bottom, right = np.minimum(corners.max(axis=0) + 1, self._size).tolist()
        if top >= bottom or left >= right:
            return None
        return scaled_box((top, left, bottom, right), self._size, self.small)

    def painted(self) -> tuple[BoolArray, IntArray]:
        """Which pixels were painted, and with which label last, both of shape (h, w).

        Raises:
            ValueError: If a later click or scribble contradicts all paint that it lies on.
        """
        is_painted, labels = np.zeros(self.small, bool), np.zeros(self.small, np.int64)
        pixels = {id(prompt): points for prompt, points in self._placed}
        for prompt in self._all:
            if prompt.kind == "brush":
                window, is_covered = _brushed(prompt, self._size, self.small)
                is_painted[window] |= is_covered
                labels[window][is_covered] = prompt.label
            elif id(prompt) in pixels:
                at = tuple(pixels[id(prompt)].T)
                if (is_painted[at] & (labels[at] != prompt.label)).all():
                    raise ValueError(
                        "these pixels were painted, and paint is the last word on them; paint them "
                        "anew, or take the paint back"
                    )
        return is_painted, labels

    @property
    def kept(self) -> list[PixelPrompt]:
        """Clicks and lines in the order of the prompts, click radius inf where there is none."""
        return [
            PixelPrompt(
                np.unique(points, axis=0),
                prompt.label == OBJECT,
                np.inf if prompt.click_radius is None else prompt.click_radius * self.shrinkage,
            )
            for prompt, points in self._placed
        ]

    @property
    def labels(self) -> IntArray:
        """Labels of `pixels_yx`, shape (M,)."""
        own = [np.full(len(points), label) for points, label in self.lines]
        return np.concatenate([self.click_labels, *own])

    def count_among(self, num_prompts: int) -> int:
        """How many of the first prompts are clicks or lines that touch the image."""
        first = self._all[:num_prompts]
        return sum(any(prompt is one for one in first) for prompt, _ in self._placed)

    @property
    def pixels_yx(self) -> IntArray:
        """All that clicks and scribbles prompt, shape (M, 2)."""
        return np.concatenate([self.clicks_yx, *(points for points, _ in self.lines)])

    def _check_apart(self) -> None:
        """Refuse prompts that contradict one another, in pixels that the user knows."""
        pixels, _, _, twice = in_order(self.pixels_yx, self.labels)
        if twice is not None:
            place = (pixels[twice] + 0.5) / self._scale
            raise ValueError(
                f"two prompts of different labels meet near (row, column) = "
                f"{tuple(place.astype(int).tolist())}: the image is worked on reduced, and both "
                "lie on one pixel of that; take one of the two back"
            )

    def pixel(self, prompt: Prompt) -> IntArray:
        """Where a click or a segment was labeled, shape (2,)."""
        first: IntArray = _scaled(prompt, self._size, self.small)[0]
        return first

    def pixels_with_other_label(self, label: int) -> IntArray:
        """What clicks and scribbles say of another label, shape (N, 2)."""
        others = [points for points, own in self.lines if own != label]
        return np.concatenate([self.clicks_yx[self.click_labels != label], *others])


@lru_cache(maxsize=100)  # every action asks for all painted lines again
def _brushed(prompt: Prompt, size: Size, small: Size) -> tuple[tuple[slice, slice], BoolArray]:
    """A window of the image, and which of its pixels a brush paints."""
    assert prompt.radius_px is not None
    line = _pixels(prompt, size, small)
    radius = prompt.radius_px * float(np.sqrt(np.prod(np.array(small) / np.array(size))))
    if not len(line):  # beside the image
        return (slice(0, 0), slice(0, 0)), np.zeros((0, 0), bool)
    window = grown(window_around(line), int(np.ceil(radius)), full_window(small))
    is_apart = np.ones([side.stop - side.start for side in window], bool)
    is_apart[tuple((line - [side.start for side in window]).T)] = False
    is_covered: BoolArray = ndimage.distance_transform_edt(is_apart) <= max(radius, 0.5)
    return window, is_covered


def _pixels(prompt: Prompt, size: Size, small: Size) -> IntArray:
    """The pixels of a click or line inside the image, each once, shape (M, 2)."""
    corners = _scaled(prompt, size, small)
    if prompt.kind == "click":
        return corners[:1]
    # On a canvas: a scribble may cross the image thousands of times.
    is_drawn = np.zeros(small, bool)
    for start, end in itertools.pairwise([corners[0], *corners]):
        pixels = _line_inside(start, end, small)
        is_drawn[pixels[:, 0], pixels[:, 1]] = True
    inside: IntArray = np.argwhere(is_drawn)
    return inside


def _scaled(prompt: Prompt, size: Size, small: Size) -> IntArray:
    """The points of a prompt in pixels of the small image."""
    centers = np.array(prompt.points_yx) + 0.5
    pixels: IntArray = np.floor(centers * (np.array(small) / np.array(size))).astype(np.int64)
    return pixels


def _line_inside(start: IntArray, end: IntArray, size: tuple[int, ...]) -> IntArray:
    """The pixels inside an image from one to another without gap, shape (M, 2).

    Only these are computed: the ends may lie a million pixels outside.
    """
    num_steps = max(1, int(np.abs(end - start).max()))
    slope = (end - start) / num_steps  # pixels a step, at most 1
    first, last = 0, num_steps
    for begin, rise, length in zip(start.tolist(), slope.tolist(), size, strict=True):
        if rise:  # the steps that are inside on this axis, and a pixel more on both sides
            enter, leave = sorted(((-1 - begin) / rise, (length - begin) / rise))
            first, last = max(first, int(np.floor(enter))), min(last, int(np.ceil(leave)))
    steps = np.arange(first, last + 1)[:, None]
    pixels = np.rint(steps * slope + start).astype(np.int64)
    inside: IntArray = pixels[((pixels >= 0) & (pixels < size)).all(axis=1)]
    return inside
