"""Image files in folders: which endings are taken, what is passed over, what of them is read."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

import numpy.typing as npt
from PIL import Image

# By these a file in a folder counts as an image.
ENDINGS = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".webp", ".bmp"),
    *(".tif", ".tiff", ".gif", ".avif", ".jp2", ".heic", ".heif"),
)
# Pillow's names of their formats; it reads more, some of them by starting other programs.
FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "BMP", "TIFF", "GIF", "AVIF", "JPEG2000", "HEIF")
# What reads the formats that not every Pillow reads.
_READERS = {
    ".heic": "pip install 'maskfeat[images]'",
    ".heif": "pip install 'maskfeat[images]'",
    ".avif": "Pillow 11.3 or later",
    ".webp": "a Pillow with WebP",
    ".jp2": "a Pillow with OpenJPEG",
}
_NAMED = 5
_LOG = logging.getLogger("maskfeat")


@cache
def known_formats() -> tuple[str, ...]:
    """Those of `FORMATS` that this Pillow knows, with pillow-heif where it is installed."""
    with contextlib.suppress(ImportError):
        import pillow_heif

        pillow_heif.register_heif_opener()
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def say_reader(path: Path) -> str:
    """What it takes to read a file that could not be read, by its ending; empty if nothing more."""
    ending = path.suffix.lower()
    formats = {".heic": "HEIF", ".heif": "HEIF", ".avif": "AVIF", ".webp": "WEBP"}
    name = formats.get(ending, "JPEG2000" if ending == ".jp2" else "")
    if not name or name in known_formats():
        return ""
    return f"; reading {ending} takes {_READERS[ending]}"


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
