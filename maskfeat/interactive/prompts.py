"""What a user may prompt on an image, checked once at the door."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from maskfeat.arguments import array_of, is_whole, shown
from maskfeat.interactive.click_radius import Prompt

BoolArray = npt.NDArray[np.bool_]
IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True)
class PromptPixels:
    """Labeled pixels, each once, in reading order: what came first cannot be told any more.

    Attributes:
        pixels_yx: (row, column), int64, shape (N, 2).
        labels: Label of each, int64, shape (N,); 1 object and 0 background where there are two.
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
) -> PromptPixels:
    """Prompts for an object and its background.

    Args:
        clicks_yx: Clicked pixels (row, column), integers, shape (N, 2), inside the image.
        is_positive: True or 1 for a click on the object, False or 0 for one on the background,
            shape (N,).
        scribbles: Pixels, as clicks are, with True or 1 for the object.
        size: Height and width of the image.

    Raises:
        ValueError: If a shape or type is wrong, a pixel lies outside the image, or one is labeled
            both distances.
    """
    prompts = checked_scribbles(scribbles)
    signs = array_of("is_positive", is_positive)
    wrong = (
        [] if signs.dtype == np.bool_ else [s for s in signs.ravel().tolist() if s not in (0, 1)]
    )
    for _, sign in prompts:  # -1 would count as True
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
        [(points, int(sign)) for points, sign in prompts],
        size,
        ("background", "object"),
    )


def checked_scribbles(
    scribbles: Sequence[tuple[npt.ArrayLike, Any]] | None,
) -> list[tuple[npt.ArrayLike, Any]]:
    """Pairs of pixels and a sign or label; None is no scribble.

    Raises:
        ValueError: If they are no such pairs.
    """
    try:
        return [(points, sign) for points, sign in (() if scribbles is None else scribbles)]
    except (TypeError, ValueError, RuntimeError):
        raise ValueError(
            "scribbles must be pairs of pixels and a sign or label, [(pixels_yx, True), ...], "
            f"got {shown(scribbles)}"
        ) from None


def labeled_pixels(
    clicks_yx: npt.ArrayLike,
    labels: npt.ArrayLike,
    scribbles: Sequence[tuple[npt.ArrayLike, int]] | None,
    size: tuple[int, int],
    names: Sequence[str] = (),
) -> PromptPixels:
    """Prompts with any labels.

    Args:
        clicks_yx: Clicked pixels (row, column), integers, shape (N, 2), inside the image.
        labels: Label of each click, integers, not negative, shape (N,).
        scribbles: Pixels, as clicks are, with a label.
        size: Height and width of the image.
        names: What labels are called in complaints.

    Raises:
        ValueError: If a shape or type is wrong, a label is negative, a pixel lies outside the
            image, or one has two labels.
    """
    clicks, numbers = _pixels(clicks_yx, size), array_of("labels", labels)
    if numbers.shape != clicks.shape[:1]:
        raise ValueError(
            "there must be one label or sign for each click, "
            f"got {numbers.shape} for clicks of shape {clicks.shape}"
        )
    if numbers.size and not np.issubdtype(numbers.dtype, np.integer):
        raise ValueError(f"labels must be integers, got {numbers.dtype}")
    prompts = [(_pixels(points, size), label) for points, label in checked_scribbles(scribbles)]
    unfit = [label for _, label in prompts if not is_whole(label)]
    if unfit:
        raise ValueError(f"labels must be integers, got {shown(unfit[0])}")
    pixels = np.concatenate([clicks, *(points for points, _ in prompts)])
    all_labels = np.concatenate(
        [numbers.astype(np.int64), *(np.full(len(points), label) for points, label in prompts)]
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
    return PromptPixels(pixels[~repeats], all_labels[~repeats])


def in_order(
    pixels_yx: IntArray, labels: IntArray
) -> tuple[IntArray, IntArray, BoolArray, int | None]:
    """Labeled pixels in reading order, those of one pixel by label.

    Args:
        pixels_yx: (row, column), shape (N, 2).
        labels: Of each, shape (N,).

    Returns:
        Pixels and labels; which of them repeat the pixel before, bool, shape (N,); and the place of
        the first that does so with another label, or None.
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
    """Each click and each scribble by itself, with its click radius.

    Args:
        clicks_yx: As `clicks_and_scribbles` has checked them, likewise the next two.
        scribbles: See there.
        is_positive: See there.
        click_radius_px: One for each click, then one for each scribble, pixels, not negative, inf
            for one that was made on no outline, shape (N + M,); None is inf for all.
        size: Height and width of the image.

    Raises:
        ValueError: If there are more or fewer, or one is negative or no number.
    """
    clicks = _pixels(clicks_yx, size)
    signs = [bool(sign) for sign in array_of("is_positive", is_positive)]
    groups = [*zip(clicks[:, None], signs, strict=True)]
    groups += [(_pixels(points, size), bool(sign)) for points, sign in checked_scribbles(scribbles)]
    groups = [(np.unique(p, axis=0) if len(p) > 1 else p, sign) for p, sign in groups]
    no_radius = np.full(len(groups), np.inf)
    click_radii = (
        no_radius
        if click_radius_px is None
        else array_of("click_radius_px", click_radius_px).astype(np.float64)
    )
    if click_radii.shape != (len(groups),) or not (click_radii >= 0).all():
        raise ValueError(
            "click_radius_px must be one number of pixels, not negative, for each click and "
            f"scribble ({len(groups)}), got {shown(click_radius_px)}"
        )
    return [
        Prompt(pixels, sign, float(click_radius))
        for (pixels, sign), click_radius in zip(groups, click_radii, strict=True)
        if len(pixels)
    ]


def some_of(numbers: IntArray, most: int) -> IntArray:
    """At most so many of some superpixels or pixels, spread; one more replaces one at most.

    Args:
        numbers: Below 2^32, each once, rising, (N,).
        most: How many.

    Returns:
        Some of them, rising; a function of the set.
    """
    if len(numbers) <= most:
        return numbers
    # Multiplied as in Knuth's hashing, numbers lie in an order that is as good as random.
    order = np.argsort(numbers.astype(np.uint64) * np.uint64(2_654_435_761) % np.uint64(2**32))
    return np.sort(numbers[order[:most]])


def checked_box(box_yxyx: npt.ArrayLike, size: tuple[int, int]) -> tuple[int, int, int, int]:
    """A box (top, left, bottom, right), the last two exclusive, cut to the image.

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
        ValueError: If it is not bool, or has another size; `name` is what the sentence calls it.
    """
    values = array_of("mask", mask)
    if values.shape != size or values.dtype != np.bool_:
        raise ValueError(
            f"{name} must be bool, of the size of the image {size}, "
            f"got {values.dtype} {values.shape}"
        )
    return values


def checked_bound(within: npt.ArrayLike, prompts: PromptPixels, size: tuple[int, int]) -> BoolArray:
    """What an object may cover at most, bool, (H, W).

    Args:
        within: As the user gave it.
        prompts: Of the object and its background.
        size: Height and width of the image.

    Raises:
        ValueError: If it is not bool, has another size, or a positive prompt lies outside it.
    """
    bound = checked_mask(within, size, "within")
    inside = prompts.of(1)
    beyond = ~bound[tuple(inside.T)]
    if beyond.any():
        raise ValueError(
            f"the positive click (row, column) = {tuple(inside[beyond][0].tolist())} lies outside "
            "`within`; leave `within` out, or take the click back"
        )
    return bound


def check_place(
    prompts: PromptPixels, box: tuple[int, int, int, int] | None, prior: BoolArray | None
) -> None:
    """Refuse prompts that do not say where the object is, or contradict its box.

    Args:
        prompts: Of an object and its background.
        box: What holds all of the object: (top, left, bottom, right), the last two exclusive.
        prior: What the object was before, or may be, (H, W).

    Raises:
        ValueError: If nothing is positive and there is no box and no mask with a pixel, or a
            positive prompt lies outside the box.
    """
    inside = prompts.of(1)
    if not len(inside) and box is None and (prior is None or not prior.any()):
        raise ValueError(
            "at least one click must be positive, got none; click the object first, or give a box "
            "or a mask that is not empty"
        )
    if box is None:
        return
    beyond = ((inside < box[:2]) | (inside >= box[2:])).any(axis=1)
    if beyond.any():
        raise ValueError(
            f"the positive click (row, column) = {tuple(inside[beyond][0].tolist())} lies outside "
            f"the box {box}; enlarge the box, or take the click back"
        )


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
