"""What people pass for counts, numbers, arrays and images: the right value, or one sentence."""

from __future__ import annotations

import math
import os
import reprlib
from collections.abc import Sequence
from numbers import Integral, Real
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from maskfeat.data.folder import read_image, rgb_of_image

ImageLike = npt.NDArray[np.uint8] | Image.Image | str | os.PathLike[str]


def is_whole(value: object) -> bool:
    """Whether it is an integer, of Python or numpy; True and False are none."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def checked_count(name: str, value: object, least: int = 1, most: int | None = None) -> int:
    """A whole number from `least` to `most`, as one of Python, which does not overflow.

    Raises:
        ValueError: If it is none, or out of range; the sentence begins with `name`.
    """
    if isinstance(value, Integral) and is_whole(value):
        found = int(value)
        if found >= least and (most is None or found <= most):
            return found
    span = f"of at least {least}" if most is None else f"of {least} to {most}"
    raise ValueError(f"{name} must be a whole number {span}, got {shown(value)}")


def checked_number(
    name: str,
    value: object,
    *,
    least: float | None = None,
    above: float | None = None,
    most: float | None = None,
    below: float | None = None,
) -> float:
    """A finite real number, as one of Python; a boolean or a word is none.

    Args:
        name: What it is called in the error.
        value: What was passed.
        least: The smallest that is allowed.
        above: What it must be larger than.
        most: The largest that is allowed.
        below: What it must be smaller than.

    Raises:
        ValueError: If it is none, or out of range.
    """
    try:
        is_real = isinstance(value, Real) and not isinstance(value, bool)
        found = float(value) if is_real else math.nan  # type: ignore[arg-type]
    except OverflowError:  # an integer of hundreds of digits
        found = math.inf
    if (
        math.isfinite(found)
        and (least is None or found >= least)
        and (above is None or found > above)
        and (most is None or found <= most)
        and (below is None or found < below)
    ):
        return found
    limits = {"of at least": least, "above": above, "at most": most, "below": below}
    bounds = [f"{words} {limit:,.12g}" for words, limit in limits.items() if limit is not None]
    wanted = " ".join(["a finite number", " and ".join(bounds)]).strip()
    raise ValueError(f"{name} must be {wanted}, got {shown(value)}")


def checked_choice(name: str, value: object, choices: Sequence[str]) -> None:
    """Refuse what is none of some words.

    Raises:
        ValueError: If it is none.
    """
    if not (isinstance(value, str) and value in choices):
        wanted = f"{', '.join(choices[:-1])} or {choices[-1]}"
        raise ValueError(f"{name} must be {wanted}, got {shown(value)}")


def checked_flag(name: str, value: object) -> bool:
    """True or False, or 1 or 0.

    Raises:
        ValueError: If it is none of these.
    """
    if isinstance(value, bool | np.bool_) or (is_whole(value) and value in (0, 1)):
        return bool(value)
    raise ValueError(f"{name} must be true or false, got {shown(value)}")


def array_of(name: str, values: Any) -> npt.NDArray[Any]:  # noqa: ANN401 - whatever was passed
    """Real numbers as an array: of any device and precision, with a gradient or without.

    Args:
        name: What they are called in the error.
        values: An array, a tensor, or nested sequences of numbers.

    Returns:
        A bool, integer or float array, of any shape; half-precision tensors become float32.

    Raises:
        ValueError: If they are no real numbers, or rows differ in length.
    """
    if isinstance(values, Tensor):
        values = values.detach().cpu()
        values = values.float() if values.dtype == torch.bfloat16 else values
    try:
        array = np.asarray(values)
    except ValueError:
        raise ValueError(f"{name} must be an array, got rows of different lengths") from None
    except (TypeError, RuntimeError) as error:  # e.g. a list of tensors with gradients
        raise ValueError(f"{name} must be an array, got {shown(values)}") from error
    if array.size and array.dtype.kind not in "biuf":
        got = shown(array if array.shape else values)
        raise ValueError(f"{name} must be real numbers, got {got}")
    return array


def rgb_of(image: Any) -> npt.NDArray[np.uint8]:  # noqa: ANN401 - whatever was passed
    """An image as the library works on it, uint8, shape (H, W, 3).

    Such an array stays as it is. A PIL image, or that at a path, is turned upright, as viewers show
    it, and converted to RGB.

    Raises:
        ValueError: If it is something else, or a file that is no image.
    """
    if isinstance(image, str | os.PathLike):
        return read_image(Path(image))
    rgb: Any = image
    hint = ""
    if isinstance(image, Image.Image):
        try:
            rgb = rgb_of_image(image)
        except (ValueError, OSError) as error:  # OSError: a file that is read only now
            raise ValueError(f"the PIL image cannot be taken: {error}") from error
    if isinstance(image, Tensor):
        rgb = array_of("rgb", image)
        if rgb.ndim == 3 and rgb.shape[0] == 3:
            hint = "; image.permute(1, 2, 0) has its channels last"
    if (
        not isinstance(rgb, np.ndarray)
        or rgb.dtype != np.uint8
        or rgb.ndim != 3
        or rgb.shape[2] != 3
        or not rgb.size
    ):
        got = shown(rgb) if isinstance(rgb, np.ndarray) else type(rgb).__name__
        raise ValueError(
            "rgb must be a uint8 array of shape (H, W, 3), a PIL image or the path of an image, "
            f"got {got}{hint}"
        )
    return rgb


def shown(value: object) -> str:
    """What was passed, short and in one line: texts in quotation marks, arrays by their shape."""
    if isinstance(value, np.ndarray | Tensor):
        return f"{value.dtype} {tuple(value.shape)}"
    text = str(value) if isinstance(value, Real) else reprlib.repr(value)
    return " ".join(text.split())[:200]
