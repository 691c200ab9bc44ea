"""Image files: which endings are taken, which kinds are read whole, what is passed over."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

# By these a file in a folder counts as an image.
ENDINGS = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".webp", ".bmp"),
    *(".tif", ".tiff", ".gif", ".avif", ".jp2"),
)
# Pillow's names of their formats; it reads more, some of them by starting other programs.
FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "BMP", "TIFF", "GIF", "AVIF", "JPEG2000")
_WITH_PAGES = ("TIFF", "GIF", "PNG", "WEBP", "AVIF")  # not MPO, whose others are previews
_BITS, _PLANES, _KIND, _MORE_CHANNELS = 258, 284, 254, 338  # tags of TIFF
# An image of 16 bits that stays below this (of 255) has 14 bits or fewer in them.
_LEAST_BRIGHTEST = 64
_NAMED = 5
_LOG = logging.getLogger("maskfeat")


def known_formats() -> tuple[str, ...]:
    """Those of `FORMATS` that this Pillow knows."""
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def check_kind(image: Image.Image) -> None:
    """Refuse what cannot be read whole as 8 bits of red, green and blue; decodes nothing.

    Raises:
        ValueError: If it has more than 8 bits a channel, gray or plane by plane, or several pages
            or frames.
    """
    if image.mode[0] in "IF":  # I;16 and its kin, I, F
        raise ValueError(f"it must hold 8 bits a channel, got {image.mode}; convert it")
    if image.format not in _WITH_PAGES:
        return
    num_pages = _num_pages(image)
    if num_pages > 1:
        raise ValueError(
            f"it holds {num_pages} pages or frames; save the one you mean as an image of its own"
        )
    if image.format == "TIFF":
        tags: Any = image.tag_v2  # type: ignore[attr-defined]
        if is_deep(image) and tags.get(_PLANES, 1) == 2:
            raise ValueError("it must hold 8 bits a channel, got 16, plane by plane; convert it")


def check_range(was_deep: bool, rgb: Image.Image | npt.NDArray[np.uint8]) -> None:
    """Refuse an image of 16 bits that uses so few of them that it comes out nearly black.

    Args:
        was_deep: Result of `is_deep` for the file.
        rgb: The high bytes.

    Raises:
        ValueError: If its brightest value says that it has 14 bits or fewer.
    """
    if not was_deep:
        return
    brightest = int(np.max(np.asarray(rgb)))
    if brightest < _LEAST_BRIGHTEST:
        raise ValueError(
            f"it holds 16 bits a channel but no value above {brightest * 256 + 255} of 65535, as "
            "cameras of 14 bits or fewer give; stretch it to 8 bits a channel"
        )


def is_deep(image: Image.Image) -> bool:
    """Whether an open file that is not decoded yet holds more than 8 bits a channel."""
    if image.format == "TIFF":
        return max(image.tag_v2.get(_BITS, (8,))) > 8  # type: ignore[attr-defined, no-any-return]
    return image.format == "PNG" and ";16" in str(getattr(image, "tile", [])[:1])


def warn_of_channels(image: Image.Image, path: Path) -> None:
    """Say that a TIFF has channels beside red, green, blue and alpha; they are not read."""
    if image.format != "TIFF":
        return
    more = image.tag_v2.get(_MORE_CHANNELS, ())  # type: ignore[attr-defined]
    num = sum(kind == 0 for kind in (more if isinstance(more, tuple) else (more,)))
    if num:
        _LOG.warning("'%s' has channels beside its colors that are not read: %d", path, num)


def without_alpha(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The numbers of a mask with an alpha channel: those of the color, or alpha where it says all.

    Args:
        values: Gray or color with alpha, shape (H, W, 2) or (H, W, 4).

    Returns:
        Shape (H, W) or (H, W, 3): alpha where it varies and the color does not; else the color.

    Raises:
        ValueError: If both vary, and what is transparent is not black.
    """
    color, alpha = values[..., :-1], values[..., -1]
    flat = color[..., 0] if color.shape[-1] == 1 else color
    if (alpha == alpha.flat[0]).all():
        return flat
    if (color == color[:1, :1]).all():
        return alpha
    if not color[alpha == 0].any():
        return flat
    raise ValueError("its color and its alpha tell different masks; save the mask without alpha")


def say_passed_over(folder: Path, entries: Iterable[Path]) -> None:
    """Name in the log, once, what is not read of a folder.

    Args:
        folder: The folder.
        entries: Files and folders in it.
    """
    listed = listed_entries(entries)
    if listed:
        place = str(folder).encode(errors="backslashreplace").decode()
        _say_once(f"passed over in '{place}', as no images by their endings: {listed}")


def listed_entries(entries: Iterable[Path]) -> str:
    """Count entries of a folder and name some, hidden ones aside; empty if there are none."""
    visible = sorted(path for path in entries if not path.name.startswith("."))
    folders = [f"{path.name}/" for path in visible if path.is_dir()]
    files = [path.name for path in visible if not path.is_dir()]
    kinds = [(len(files), "file"), (len(folders), "folder")]
    counts = " and ".join(f"{num} {kind}{'s' * (num > 1)}" for num, kind in kinds if num)
    # Names that are not UTF-8 could not be printed.
    names = [name.encode(errors="backslashreplace").decode() for name in (*files, *folders)]
    dots = ", ..." if len(names) > _NAMED else ""
    return f"{counts} ({', '.join(names[:_NAMED])}{dots})" if names else ""


@cache
def _say_once(message: str) -> None:
    _LOG.warning(message)


def _num_pages(image: Image.Image) -> int:
    """Pages or frames; a TIFF's thumbnails and masks do not count."""
    num = int(getattr(image, "n_frames", 1))
    if num == 1 or image.format != "TIFF":
        return num
    num_whole = 0
    for page in range(num):
        image.seek(page)
        num_whole += not image.tag_v2.get(_KIND, 0) & 0b101  # type: ignore[attr-defined]
    image.seek(0)
    return num_whole
