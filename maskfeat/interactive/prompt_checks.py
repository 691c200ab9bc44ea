"""Checks of what users give, at the door of `InteractiveSegmenter`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from maskfeat.arguments import array_of, is_whole, shown
from maskfeat.arrays import BoolArray, IntArray
from maskfeat.interactive.prompts import Box, Prompt, apart


def check_former(method: object, networks: object) -> None:
    """Refuse what arguments of former releases could be.

    Raises:
        ValueError: If the method is not "cut", or networks are given.
    """
    if not isinstance(method, str) or method != "cut":
        raise ValueError(
            f"method must be 'cut', got {shown(method)}; 'pixelcut' and 'coloring' are gone, "
            "and predict_labels gives a seeded watershed of any number of labels"
        )
    if networks is not None:
        raise ValueError(
            f"networks must be None, got {shown(networks)}; networks of clicks are gone, give a "
            "click decoder in their place"
        )


def prompts_of(
    clicks_yx: npt.ArrayLike,
    is_positive: npt.ArrayLike,
    scribbles: Sequence[tuple[npt.ArrayLike, bool]] | None,
    click_radius_px: npt.ArrayLike | None,
    size: tuple[int, int],
) -> list[Prompt]:
    """One prompt for each click and scribble of `InteractiveSegmenter.predict`, each checked.

    A scribble without pixels is left out. `click_radius_px` is None, which is inf for all, or one
    number for each click, then for each scribble.

    Raises:
        ValueError: If a shape or type is wrong, a pixel lies outside the image, or a radius is
            negative or NaN.
    """
    pairs, signs = _checked_scribbles(scribbles), array_of("is_positive", is_positive)
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
    clicks = _clicks(clicks_yx, signs, size)
    groups = [(pixel[None], bool(sign)) for pixel, sign in zip(clicks, signs, strict=True)]
    groups += [(np.unique(_pixels(p, size), axis=0), bool(sign)) for p, sign in pairs]
    radii = np.full(len(groups), np.inf)
    if click_radius_px is not None:
        radii = array_of("click_radius_px", click_radius_px).astype(np.float64)
    if radii.shape != (len(groups),) or not (radii >= 0).all():
        raise ValueError(
            "click_radius_px must be one number of pixels, not negative, for each click and "
            f"scribble ({len(groups)}), got {shown(click_radius_px)}"
        )
    return [
        Prompt(pixels, is_object, radius)
        for (pixels, is_object), radius in zip(groups, radii.tolist(), strict=True)
        if len(pixels)
    ]


def labeled_pixels(
    clicks_yx: npt.ArrayLike,
    labels: npt.ArrayLike,
    scribbles: Sequence[tuple[npt.ArrayLike, int]] | None,
    size: tuple[int, int],
) -> tuple[IntArray, IntArray]:
    """Pixels with any labels, given as `InteractiveSegmenter.predict_labels` has them.

    Returns:
        All pixels, each once, in reading order, int64, shape (M, 2), and their labels, (M,).

    Raises:
        ValueError: If a shape or type is wrong, a label is negative, a pixel lies outside the
            image, or a pixel has two labels.
    """
    numbers = array_of("labels", labels)
    clicks = _clicks(clicks_yx, numbers, size)
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
    return apart(pixels, all_labels)


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


def _clicks(clicks_yx: npt.ArrayLike, labels: npt.NDArray[Any], size: tuple[int, int]) -> IntArray:
    """Clicked pixels, with one label or sign for each."""
    clicks = _pixels(clicks_yx, size)
    if labels.shape != clicks.shape[:1]:
        raise ValueError(
            "there must be one label or sign for each click, "
            f"got {labels.shape} for clicks of shape {clicks.shape}"
        )
    return clicks


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
