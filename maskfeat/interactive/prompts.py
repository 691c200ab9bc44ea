"""What users give: clicks, scribbles, a box, a mask to start from."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np

from maskfeat.arrays import BoolArray, Int32Array, IntArray
from maskfeat.interactive.geometry import Box, Window, grown, whole, window_around
from maskfeat.segment.resizing import scaled

_STEPS_PER_OCTAVE = 2
_FARTHEST = 2.0**20  # pixels; no image is larger
# Pixels around a prompt that it can change: times its click radius, and at least. Chosen on objects
# of train splits (experiments/interactive).
_WINDOW_RADII, _LEAST_WINDOW_PX = 4.0, 24


@dataclass(frozen=True)
class Prompt:
    """One click or one scribble.

    A click near the outline of the shown mask corrects a detail, one far from it a large part: its
    distance to the outline limits what it can change.

    Attributes:
        pixels_yx: Its pixels, int64, shape (N, 2).
        is_object: Whether it is on the object, else on the background.
        click_radius: Distance to the outline of the mask that was shown, pixels, see
            `geometry.click_radius_of`; inf if there was no outline, 0 if the mask satisfied the
            prompt already.
    """

    pixels_yx: IntArray
    is_object: bool
    click_radius: float = np.inf

    @cached_property
    def rounded_radius(self) -> float:
        """Click radius in steps of half an octave, so that it takes few values.

        Prompts of one value are one refinement step; inf for those that can change the whole mask,
        0 for those that the shown mask satisfied.
        """
        if self.click_radius == 0 or math.isinf(self.click_radius):
            return self.click_radius
        radius = min(max(self.click_radius, 1.0), _FARTHEST)
        return float(2 ** (round(_STEPS_PER_OCTAVE * math.log2(radius)) / _STEPS_PER_OCTAVE))

    @cached_property
    def key(self) -> tuple[float, bool, bytes]:
        """Sorts prompts, largest rounded radius first; equal for equal prompts."""
        return -self.rounded_radius, self.is_object, self.pixels_yx.tobytes()

    @property
    def cannot_grow_object(self) -> bool:
        """Whether the object must not grow beyond the shown mask."""
        return self.click_radius == 0 or (not self.is_object and np.isfinite(self.click_radius))

    def scaled(self, size: tuple[int, int], to: tuple[int, int]) -> Prompt:
        """The prompt on an image of another size."""
        if size == to:
            return self
        pixels = np.unique(scaled(self.pixels_yx, size, to), axis=0)
        factor = float(np.sqrt(np.prod(to) / np.prod(size)))
        return replace(self, pixels_yx=pixels, click_radius=self.click_radius * factor)


def window_of_change(prompt: Prompt, size: tuple[int, ...]) -> Window:
    """The pixels of an image of a size that a prompt can change."""
    if math.isinf(prompt.click_radius):
        return whole(size)
    length = math.ceil(max(_WINDOW_RADII * prompt.click_radius, _LEAST_WINDOW_PX))
    return grown(window_around(prompt.pixels_yx), length, whole(size))


def pixels_of(prompts: Sequence[Prompt], is_object: bool) -> IntArray:
    """Pixels of all object prompts, or of all background prompts, (N, 2)."""
    found = [prompt.pixels_yx for prompt in prompts if prompt.is_object == is_object]
    return np.concatenate([np.empty((0, 2), np.int64), *found])


def superpixels_of(prompts: Sequence[Prompt], is_object: bool, labels: Int32Array) -> IntArray:
    """Superpixels of prompts of one label, each once, (N,).

    Args:
        prompts: Their pixels inside the image.
        is_object: Which of them.
        labels: Superpixel of each pixel, shape (H, W).
    """
    pixels = pixels_of(prompts, is_object)
    return np.unique(labels[tuple(pixels.T)]).astype(np.int64)


class PromptSet(NamedTuple):
    """All that a user gave for one object.

    Attributes:
        prompts: Clicks and scribbles; their order does not matter.
        box: Holds the whole object, or None.
        mask: A mask prompt, bool, shape (H, W), or None: what the prompts correct, or one input of
            the unary term, see `InteractiveSegmenter.predict`.
    """

    prompts: Sequence[Prompt]
    box: Box | None = None
    mask: BoolArray | None = None


@dataclass(frozen=True)
class LabeledPixels:
    """Pixels of all prompts, each once, in reading order.

    Attributes:
        pixels_yx: (row, column), int64, shape (N, 2).
        labels: Label of each, int64, shape (N,); of two labels 1 is object, 0 background.
    """

    pixels_yx: IntArray
    labels: IntArray

    def of(self, label: int) -> IntArray:
        """The pixels of one label, shape (M, 2)."""
        pixels: IntArray = self.pixels_yx[self.labels == label]
        return pixels


def in_order(
    pixels_yx: IntArray, labels: IntArray
) -> tuple[IntArray, IntArray, BoolArray, int | None]:
    """Sort pixels in reading order, those of one pixel by label.

    Args:
        pixels_yx: (row, column), shape (N, 2).
        labels: Of each, shape (N,).

    Returns:
        Pixels and labels; which of them repeat the pixel before, bool, shape (N,); and the index
        of the first that does so with another label, or None.
    """
    order = np.lexsort((labels, pixels_yx[:, 1], pixels_yx[:, 0]))
    pixels_yx, labels = pixels_yx[order], labels[order]
    repeats = np.zeros(len(labels), bool)
    repeats[1:] = (pixels_yx[1:] == pixels_yx[:-1]).all(axis=1)
    twice = np.flatnonzero(repeats & (labels != np.roll(labels, 1)))
    return pixels_yx, labels, repeats, int(twice[0]) if twice.size else None


def some_of(numbers: IntArray, most: int) -> IntArray:
    """A subset of at most `most` numbers, a function of the set; one more replaces one at most.

    Args:
        numbers: Below 2^32, each once, rising, (N,).
        most: Size of the subset.

    Returns:
        The subset, rising.
    """
    if len(numbers) <= most:
        return numbers
    # Knuth's multiplicative hash gives an order that is as good as random.
    order = np.argsort(numbers.astype(np.uint64) * np.uint64(2_654_435_761) % np.uint64(2**32))
    return np.sort(numbers[order[:most]])
