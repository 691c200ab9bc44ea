"""Pictures in a folder, to be predicted on or segmented. Torch is not needed here."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

_ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")


def read_picture(path: Path, max_megapixels: float = 180.0) -> npt.NDArray[np.uint8]:
    """Read a picture, turn it upright, as RGB.

    Args:
        path: A file in any format that Pillow reads. Alpha is dropped, not blended.
        max_megapixels: A larger picture, millions of pixels, is refused before it is decoded; up
            to it Pillow's own limit, against files that claim to be huge, does not count.

    Returns:
        uint8, shape (H, W, 3).

    Raises:
        ValueError: If the file is no whole picture, is too large, or holds numbers of more than 8
            bits in one channel, which Pillow would clip to white.
    """
    try:
        with _without_pillows_limit(), Image.open(path) as picture:
            _check_kind(picture, max_megapixels)
            return np.array(ImageOps.exif_transpose(picture).convert("RGB"))
    except Exception as error:  # Pillow's parsers raise OSError, SyntaxError, struct.error, ...
        raise ValueError(f"'{path}' cannot be read as a picture: {error}") from error


def find_pictures(place: str | None) -> list[Path]:
    """The pictures of a folder, sorted, or the one picture named.

    Args:
        place: A file or a folder.

    Raises:
        FileNotFoundError: If there is none.
    """
    if place is None:
        raise FileNotFoundError(
            "nothing to predict on: set data.predict to a picture or a folder of pictures"
        )
    path = Path(place)
    if path.is_file():
        return [path]
    found = sorted(p for p in path.glob("*") if p.suffix.lower() in _ENDINGS)
    if not found:
        raise FileNotFoundError(
            f"no picture ({', '.join(_ENDINGS)}) in '{place}'; name a picture or a folder of "
            "pictures"
            if path.is_dir()
            else f"no picture or folder '{place}'; name one that is there"
        )
    return found


@contextlib.contextmanager
def _without_pillows_limit() -> Iterator[None]:
    before = Image.MAX_IMAGE_PIXELS
    Image.MAX_IMAGE_PIXELS = None
    try:
        yield
    finally:
        Image.MAX_IMAGE_PIXELS = before


def _check_kind(picture: Image.Image, max_megapixels: float) -> None:
    width, height = picture.size
    if width * height > max_megapixels * 1e6:
        raise ValueError(f"it is {width} x {height}, above {max_megapixels:g} megapixels")
    if picture.mode[0] in "IF":  # I;16 and its kin, I, F
        raise ValueError(f"it must hold 8 bits a channel, got {picture.mode}; convert it")
