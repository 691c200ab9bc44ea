"""Prompts with a click radius: one near the outline changes little, one far from it much.

A cut that hears of one more click may change its mind anywhere, and a user who corrects a
narrow-band change does not want that. Where a click was made, seen from the outline of the mask of
that moment, says how much it is about. So a prompt is not a place and a sign alone, but a place, a
sign and a click radius; and the mask is a function of the set of them, in which no order is left,
see `steps`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt
from scipy.spatial import cKDTree

from maskfeat.segment.resizing import scaled

BoolArray = npt.NDArray[np.bool_]
IntArray = npt.NDArray[np.int64]

_STEPS_PER_OCTAVE = 2
ANYWHERE = 10**6  # the octave of prompts that were made on no outline
AGREED = -1  # the octave of prompts that the mask they were made on satisfied already
_FEW = 8  # pixels whose click radius is looked for one by one
_FARTHEST = 2.0**20  # pixels; no image is larger


@dataclass(frozen=True)
class Prompt:
    """Pixels that were labeled at once.

    Attributes:
        pixels_yx: Each once, in reading order, int64, shape (N, 2).
        is_object: Labeled as object, else as background.
        click_radius: Pixels from the outline of the mask that it was made on, see
            `click_radius_of`; inf if there was none, 0 if that mask satisfied it already.
    """

    pixels_yx: IntArray
    is_object: bool
    click_radius: float = np.inf

    @cached_property
    def octave(self) -> int:
        """Prompts of one octave count as made at once: half octaves of their click radius."""
        if math.isinf(self.click_radius):
            return ANYWHERE
        if self.click_radius == 0:
            return AGREED
        return round(_STEPS_PER_OCTAVE * math.log2(min(max(self.click_radius, 1.0), _FARTHEST)))

    @cached_property
    def key(self) -> tuple[int, bool, bytes]:
        """What tells it from others."""
        return -self.octave, self.is_object, self.pixels_yx.tobytes()


def radius_of_octave(octave: int) -> float:
    """The click radius that prompts of a octave count as having, pixels; see `Prompt.octave`."""
    return float(2 ** (octave / _STEPS_PER_OCTAVE))


def pixels_of(prompts: Sequence[Prompt], is_object: bool) -> IntArray:
    """All pixels labeled one way, (N, 2)."""
    found = [prompt.pixels_yx for prompt in prompts if prompt.is_object == is_object]
    return np.concatenate([np.empty((0, 2), np.int64), *found])


def scaled_prompt(prompt: Prompt, size: tuple[int, int], to: tuple[int, int]) -> Prompt:
    """A prompt on a reduced image, its click radius in pixels of that."""
    if size == to:
        return prompt
    pixels = np.unique(scaled(prompt.pixels_yx, size, to), axis=0)
    factor = float(np.sqrt(np.prod(to) / np.prod(size)))
    return replace(prompt, pixels_yx=pixels, click_radius=prompt.click_radius * factor)


def click_radius_of(mask: BoolArray, pixels_yx: npt.ArrayLike, is_object: bool) -> float:
    """How much a prompt is to change of the mask that was shown when it was made.

    Args:
        mask: What was shown, shape (H, W).
        pixels_yx: Of the prompt, integers, shape (N, 2), inside the mask.
        is_object: Labeled as object, else as background.

    Returns:
        0 if the mask obeys the prompt already, for then it changes nothing; else
        `distance_to_outline`.
    """
    pixels = np.asarray(pixels_yx, np.int64).reshape(-1, 2)
    is_satisfied = bool((mask[tuple(pixels.T)] == is_object).all())
    return 0.0 if is_satisfied else distance_to_outline(mask, pixels)


def distance_to_outline(mask: BoolArray, pixels_yx: npt.ArrayLike) -> float:
    """How far a prompt lies from the outline of a mask.

    Args:
        mask: What was shown when the prompt was made, shape (H, W).
        pixels_yx: Of the prompt, integers, shape (N, 2), inside the mask.

    Returns:
        From the deepest of its pixels to the nearest pixel of the other label, pixels; inf if all
        of the mask has one label.
    """
    pixels = np.asarray(pixels_yx, np.int64).reshape(-1, 2)
    if len(pixels) <= _FEW:
        return max(_to_other_label(mask, row, column) for row, column in pixels.tolist())
    own, borders = mask[tuple(pixels.T)], _bordering(mask)
    click_radii = [0.0]
    for value in np.unique(own):
        others = np.argwhere(borders & (mask != value))
        if not len(others):
            return math.inf
        click_radii.append(float(cKDTree(others).query(pixels[own == value])[0].max()))
    return max(click_radii)


def _bordering(mask: BoolArray) -> BoolArray:
    """Pixels with a pixel of the other label above, below, left or right."""
    borders = np.zeros_like(mask)
    down, right = mask[1:] != mask[:-1], mask[:, 1:] != mask[:, :-1]
    borders[1:] |= down
    borders[:-1] |= down
    borders[:, 1:] |= right
    borders[:, :-1] |= right
    return borders


def _to_other_label(mask: BoolArray, row: int, column: int) -> float:
    """From a pixel to the nearest one of the other label; inf if there is none."""
    half = 16
    while True:
        top, left = max(0, row - half), max(0, column - half)
        window = mask[top : row + half + 1, left : column + half + 1]
        rows, columns = np.nonzero(window != mask[row, column])
        if len(rows):
            squares = (rows + (top - row)) ** 2 + (columns + (left - column)) ** 2
            nearest = math.sqrt(squares.min())
            if nearest <= half:  # beyond, the corners of the window may mislead
                return nearest
        if window.shape == mask.shape:
            return nearest if len(rows) else math.inf
        half *= 4
