"""Prompts of the page in the pixels that the segmenter knows."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from scipy import ndimage

from maskfeat.app.annotation_state import OBJECT, Prompt
from maskfeat.arrays import BoolArray, IntArray
from maskfeat.interactive.prompt_checks import in_order
from maskfeat.interactive.prompts import Box, grown, whole, window_around
from maskfeat.interactive.prompts import Prompt as PixelPrompt
from maskfeat.segment.resizing import scaled_box

Size = tuple[int, int]


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
    window = grown(window_around(line), int(np.ceil(radius)), whole(small))
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
