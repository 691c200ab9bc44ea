"""Clicks, scribbles, boxes and masks as users give them: types and checks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from maskfeat.arguments import array_of, is_whole, shown
from maskfeat.arrays import BoolArray, IntArray
from maskfeat.interactive.geometry import Box
from maskfeat.segment.resizing import scaled

ANYWHERE = 10**6  # octave of prompts that can change the whole mask
SATISFIED = -1  # octave of prompts that their mask satisfied already
_STEPS_PER_OCTAVE = 2
_FARTHEST = 2.0**20  # pixels; no image is larger


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
    def octave(self) -> int:
        """Click radius in half octaves; prompts of one octave are one refinement step."""
        if math.isinf(self.click_radius):
            return ANYWHERE
        if self.click_radius == 0:
            return SATISFIED
        return round(_STEPS_PER_OCTAVE * math.log2(min(max(self.click_radius, 1.0), _FARTHEST)))

    @cached_property
    def key(self) -> tuple[int, bool, bytes]:
        """Sorts prompts, largest click radius first; equal for equal prompts."""
        return -self.octave, self.is_object, self.pixels_yx.tobytes()

    @property
    def adds_nothing(self) -> bool:
        """Whether the object must not grow beyond the shown mask."""
        return self.click_radius == 0 or (not self.is_object and np.isfinite(self.click_radius))

    def scaled(self, size: tuple[int, int], to: tuple[int, int]) -> Prompt:
        """The prompt on an image of another size."""
        if size == to:
            return self
        pixels = np.unique(scaled(self.pixels_yx, size, to), axis=0)
        factor = float(np.sqrt(np.prod(to) / np.prod(size)))
        return replace(self, pixels_yx=pixels, click_radius=self.click_radius * factor)


def radius_of_octave(octave: int) -> float:
    """The click radius that stands for all prompts of an octave, pixels."""
    return float(2 ** (octave / _STEPS_PER_OCTAVE))


def pixels_of(prompts: Sequence[Prompt], is_object: bool) -> IntArray:
    """Pixels of all object prompts, or of all background prompts, (N, 2)."""
    found = [prompt.pixels_yx for prompt in prompts if prompt.is_object == is_object]
    return np.concatenate([np.empty((0, 2), np.int64), *found])


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


def clicks_and_scribbles(
    clicks_yx: npt.ArrayLike,
    is_positive: npt.ArrayLike,
    scribbles: Sequence[tuple[npt.ArrayLike, bool]] | None,
    size: tuple[int, int],
) -> LabeledPixels:
    """Pixels of an object and its background.

    Args:
        clicks_yx: Clicked pixels (row, column), integers, shape (N, 2), inside the image.
        is_positive: True or 1 for a click on the object, False or 0 for one on the background,
            shape (N,).
        scribbles: Pixels as in clicks_yx, each with True or 1 for the object.
        size: Height and width of the image.

    Raises:
        ValueError: If a shape or type is wrong, a pixel lies outside the image, or a pixel is both
            object and background.
    """
    pairs = _checked_scribbles(scribbles)
    signs = array_of("is_positive", is_positive)
    wrong = (
        [] if signs.dtype == np.bool_ else [s for s in signs.ravel().tolist() if s not in (0, 1)]
    )
    for _, sign in pairs:  # -1 would count as True
        is_sign = isinstance(sign, bool | np.bool_) or (is_whole(sign) and sign in (0, 1))
        wrong += [] if is_sign else [sign]
    if wrong:
        raise ValueError(
            "is_positive must be True or 1 for the object, False or 0 for the background, "
            f"got {shown(wrong[0])}; compare with 0"
        )
    return labeled_pixels(
        clicks_yx,
        signs.astype(np.int64),
        [(points, int(sign)) for points, sign in pairs],
        size,
        ("background", "object"),
    )


def labeled_pixels(
    clicks_yx: npt.ArrayLike,
    labels: npt.ArrayLike,
    scribbles: Sequence[tuple[npt.ArrayLike, int]] | None,
    size: tuple[int, int],
    names: Sequence[str] = (),
) -> LabeledPixels:
    """Pixels with any labels.

    Args:
        clicks_yx: Clicked pixels (row, column), integers, shape (N, 2), inside the image.
        labels: Label of each click, integers, not negative, shape (N,).
        scribbles: Pixels as in clicks_yx, each with a label.
        size: Height and width of the image.
        names: Names of the labels in error messages.

    Raises:
        ValueError: If a shape or type is wrong, a label is negative, a pixel lies outside the
            image, or a pixel has two labels.
    """
    clicks, numbers = _pixels(clicks_yx, size), array_of("labels", labels)
    if numbers.shape != clicks.shape[:1]:
        raise ValueError(
            "there must be one label or sign for each click, "
            f"got {numbers.shape} for clicks of shape {clicks.shape}"
        )
    if numbers.size and not np.issubdtype(numbers.dtype, np.integer):
        raise ValueError(f"labels must be integers, got {numbers.dtype}")
    pairs = [(_pixels(points, size), label) for points, label in _checked_scribbles(scribbles)]
    unfit = [label for _, label in pairs if not is_whole(label)]
    if unfit:
        raise ValueError(f"labels must be integers, got {shown(unfit[0])}")
    pixels = np.concatenate([clicks, *(points for points, _ in pairs)])
    all_labels = np.concatenate(
        [numbers.astype(np.int64), *(np.full(len(points), label) for points, label in pairs)]
    )
    if (all_labels < 0).any():
        raise ValueError(f"labels must not be negative, got {all_labels.min()}")
    pixels, all_labels, repeats, twice = in_order(pixels, all_labels)
    if twice is not None:
        both = [names[n] if names else str(n) for n in all_labels[twice - 1 : twice + 1]]
        raise ValueError(
            f"the pixel (row, column) = {tuple(pixels[twice].tolist())} is labeled as {both[0]} "
            f"and as {both[1]}; take one of the two back"
        )
    return LabeledPixels(pixels[~repeats], all_labels[~repeats])


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


def prompts_with_radius(
    clicks_yx: npt.ArrayLike,
    scribbles: Sequence[tuple[npt.ArrayLike, bool]] | None,
    is_positive: npt.ArrayLike,
    click_radius_px: npt.ArrayLike | None,
    size: tuple[int, int],
) -> list[Prompt]:
    """One prompt for each click and scribble that `clicks_and_scribbles` has checked.

    Args:
        clicks_yx: See there.
        scribbles: See there.
        is_positive: See there.
        click_radius_px: One for each click, then one for each scribble, pixels, not negative,
            shape (N + M,); None is inf for all.
        size: Height and width of the image.

    Raises:
        ValueError: If click_radius_px has another shape, or one is negative or NaN.
    """
    clicks = _pixels(clicks_yx, size)
    signs = [bool(sign) for sign in array_of("is_positive", is_positive)]
    groups = [*zip(clicks[:, None], signs, strict=True)]
    groups += [(_pixels(points, size), bool(s)) for points, s in _checked_scribbles(scribbles)]
    groups = [(np.unique(p, axis=0) if len(p) > 1 else p, sign) for p, sign in groups]
    radii = np.full(len(groups), np.inf)
    if click_radius_px is not None:
        radii = array_of("click_radius_px", click_radius_px).astype(np.float64)
    if radii.shape != (len(groups),) or not (radii >= 0).all():
        raise ValueError(
            "click_radius_px must be one number of pixels, not negative, for each click and "
            f"scribble ({len(groups)}), got {shown(click_radius_px)}"
        )
    return [
        Prompt(pixels, sign, float(radius))
        for (pixels, sign), radius in zip(groups, radii, strict=True)
        if len(pixels)
    ]


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


def checked_box(box_yxyx: npt.ArrayLike, size: tuple[int, int]) -> Box:
    """A box (top, left, bottom, right), the last two exclusive, clipped to the image.

    Raises:
        ValueError: If it is not four finite numbers, or holds no pixel of the image.
    """
    box = array_of("box_yxyx", box_yxyx).astype(np.float64)
    if box.shape != (4,) or not np.isfinite(box).all():
        raise ValueError(
            f"box_yxyx must be four numbers (top, left, bottom, right), got {shown(box_yxyx)}"
        )
    top, left = np.floor(np.maximum(box[:2], 0)).astype(int).tolist()
    bottom, right = np.ceil(np.minimum(box[2:], size)).astype(int).tolist()
    if top >= bottom or left >= right:
        raise ValueError(
            f"box_yxyx must hold a pixel of the image of {size[0]} x {size[1]} pixels (height x "
            f"width), got {shown(box_yxyx)}"
        )
    return top, left, bottom, right


def checked_mask(mask: npt.ArrayLike, size: tuple[int, int], name: str = "mask") -> BoolArray:
    """A mask of the size of the image.

    Raises:
        ValueError: If it is not bool, or has another size.
    """
    values = array_of(name, mask)
    if values.shape != size or values.dtype != np.bool_:
        raise ValueError(
            f"{name} must be bool, of the size of the image {size}, "
            f"got {values.dtype} {values.shape}"
        )
    return values


def check_object(
    inside: IntArray, box: Box | None, mask: BoolArray | None, within: BoolArray | None
) -> None:
    """Check that prompts give an object, and that it can hold all object prompts.

    Args:
        inside: Pixels of object prompts, (N, 2).
        box: Holds the whole object.
        mask: A first mask, (H, W).
        within: What the object can cover at most, (H, W).

    Raises:
        ValueError: If there is no object prompt, no box and no mask with a pixel, or an object
            prompt lies outside the box or `within`.
    """
    if not len(inside) and box is None and (mask is None or not mask.any()):
        raise ValueError(
            "at least one click must be positive, got none; click the object first, or give a box "
            "or a mask that is not empty"
        )
    if box is not None:
        beyond = inside[((inside < box[:2]) | (inside >= box[2:])).any(axis=1)]
        if len(beyond):
            raise ValueError(
                f"the positive click (row, column) = {tuple(beyond[0].tolist())} lies outside "
                f"the box {box}; enlarge the box, or take the click back"
            )
    if within is not None:
        beyond = inside[~within[tuple(inside.T)]]
        if len(beyond):
            raise ValueError(
                f"the positive click (row, column) = {tuple(beyond[0].tolist())} lies outside "
                "`within`; leave `within` out, or take the click back"
            )


def _checked_scribbles(
    scribbles: Sequence[tuple[npt.ArrayLike, Any]] | None,
) -> list[tuple[npt.ArrayLike, Any]]:
    """Pairs of pixels and a sign or label."""
    try:
        return [(points, sign) for points, sign in (() if scribbles is None else scribbles)]
    except (TypeError, ValueError, RuntimeError):
        raise ValueError(
            "scribbles must be pairs of pixels and a sign or label, [(pixels_yx, True), ...], "
            f"got {shown(scribbles)}"
        ) from None


def _pixels(points_yx: npt.ArrayLike, size: tuple[int, int]) -> IntArray:
    points = array_of("clicks and scribbles", points_yx)
    if points.size == 0:
        return np.empty((0, 2), np.int64)
    if points.ndim != 2 or points.shape[1] != 2:
        raise ValueError(f"clicks and scribbles must have shape (N, 2), got {points.shape}")
    if not np.issubdtype(points.dtype, np.integer):
        raise ValueError(
            f"clicks and scribbles must be integers (whole pixels), got {points.dtype}; round them"
        )
    outside = ((points < 0) | (points >= size)).any(axis=1)
    if outside.any():
        raise ValueError(
            f"clicks must lie inside the image of {size[0]} x {size[1]} pixels (height x width), "
            f"got (row, column) = {tuple(points[outside][0].tolist())}"
        )
    return points.astype(np.int64)
