"""Images in folders: which files are taken, how they are read, what is passed over. No torch."""

from __future__ import annotations

import io
import logging
import os
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from maskfeat.data.annotations.image import ImageFile, is_deep, known_formats, turned
from maskfeat.data.annotations.read_as import ReadAs

# By these a file in a folder counts as an image.
ENDINGS = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".webp", ".bmp"),
    *(".tif", ".tiff", ".gif", ".avif", ".jp2", ".heic", ".heif"),
)
# What reads the formats that not every Pillow reads.
_READERS = {
    ".heic": "pip install 'maskfeat[images]'",
    ".heif": "pip install 'maskfeat[images]'",
    ".avif": "Pillow 11.3 or later",
    ".webp": "a Pillow with WebP",
    ".jp2": "a Pillow with OpenJPEG",
}
# Of an image that a command reads: above, a broken header is likelier than a camera.
MAX_MEGAPIXELS = 400.0
_NAMED = 5
_LOG = logging.getLogger("maskfeat")


def read_image(
    path: str | Path,
    max_megapixels: float = 180.0,
    read_as: ReadAs = ReadAs(),  # noqa: B008 - frozen
) -> npt.NDArray[np.uint8]:
    """Read an image of any kind, turn it upright, as 8 bits of red, green and blue.

    Args:
        path: A file in any format that Pillow or tifffile reads: also of 16 bits or floats, with
            several pages, or of many channels. The log says what was decided.
        max_megapixels: A larger image, millions of pixels, is refused before it is decoded; up
            to it Pillow's own limit, against files that claim to be huge, does not count.
        read_as: Which page and channels are taken, and which values become 0 and 255.

    Returns:
        uint8, shape (H, W, 3).

    Raises:
        ValueError: If the file is no whole image, is too large, or is of a kind that is not read.
    """
    path = Path(path)
    try:
        with path.open("rb") as opened:
            return _upright(opened, str(path), max_megapixels, read_as)
    except Exception as error:  # Pillow's parsers raise OSError, SyntaxError, struct.error, ...
        hint = say_reader(path)
        raise ValueError(f"'{path}' cannot be read as an image: {error}{hint}") from error


def read_image_bytes(content: bytes, max_megapixels: float = 180.0) -> npt.NDArray[np.uint8]:
    """Read an image that came over a network, as `read_image` reads a file."""
    try:
        return _upright(io.BytesIO(content), "image", max_megapixels, ReadAs())
    except Exception as error:  # as above
        raise ValueError(f"{len(content)} bytes cannot be read as an image: {error}") from error


def _upright(
    opened: BinaryIO, name: str, max_megapixels: float, read_as: ReadAs
) -> npt.NDArray[np.uint8]:
    """The image of an open file, see `read_image`."""
    before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
        file = ImageFile(opened, read_as, name, is_any=True)
        width, height = file.size
        if width * height > max_megapixels * 1e6:
            raise ValueError(f"it is {width} x {height}, above {max_megapixels:g} megapixels")
        rgb = file.rgb()
        return np.array(turned(rgb, file.orientation))
    finally:
        Image.MAX_IMAGE_PIXELS = before


def rgb_of_image(image: Image.Image) -> npt.NDArray[np.uint8]:
    """An image of Pillow's, turned upright, as RGB.

    Raises:
        ValueError: If it holds more than 8 bits a channel: `read_image` scales those of a file.
    """
    if image.mode[0] in "IF" or is_deep(image):
        raise ValueError(
            f"it must hold 8 bits a channel, got {image.mode}; maskfeat.read_image(path) scales it"
        )
    return np.array(ImageOps.exif_transpose(image).convert("RGB"))


def find_images(
    place: str | None, is_recursive: bool = False, left_out: Path | None = None
) -> list[Path]:
    """The images of a folder, sorted, or the one image named.

    What else lies in the folder, files of other endings and folders, is counted and named in the
    log, hidden ones aside.

    Args:
        place: A file or a folder.
        is_recursive: Whether images of the folders in it count, too, at any depth; hidden folders
            do not.
        left_out: A folder that may lie in it, for results, whose images do not count.

    Raises:
        FileNotFoundError: If there is none.
    """
    if place is None:
        raise FileNotFoundError(
            "nothing to predict on: set data.predict to an image or a folder of images"
        )
    path = Path(place)
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise FileNotFoundError(f"no image or folder '{place}'; name one that is there")
    folders = [path]
    if is_recursive:  # hidden ones, and that of results, aside
        without = None if left_out is None else left_out.resolve()
        folders = []
        for folder, inside, _ in os.walk(path):
            folders.append(Path(folder))
            visible = (name for name in inside if not name.startswith("."))
            inside[:] = [name for name in visible if Path(folder, name).resolve() != without]
    entries = [
        one for folder in folders for one in folder.iterdir() if not one.name.startswith(".")
    ]
    found = sorted(p for p in entries if p.suffix.lower() in ENDINGS and not p.is_dir())
    others = set(entries) - set(found) - set(folders)
    if left_out is not None:
        others = {one for one in others if one.resolve() != left_out.resolve()}
    if not found:
        listed = listed_entries(others)
        raise FileNotFoundError(
            f"no image ({', '.join(ENDINGS)}) in '{place}'{f' but {listed}' if listed else ''}; "
            "name an image or a folder of images"
            f"{'' if is_recursive else ', or give --recursive'}"
        )
    say_passed_over(path, others)
    return found


def say_reader(path: Path) -> str:
    """What it takes to read a file that could not be read, by its ending; empty if nothing more."""
    ending = path.suffix.lower()
    formats = {".heic": "HEIF", ".heif": "HEIF", ".avif": "AVIF", ".webp": "WEBP"}
    name = formats.get(ending, "JPEG2000" if ending == ".jp2" else "")
    if not name or name in known_formats():
        return ""
    return f"; reading {ending} takes {_READERS[ending]}"


def without_alpha(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The numbers of a mask with an alpha channel, (H, W, 2) or (H, W, 4), as (H, W) or (H, W, 3).

    That is alpha where it varies and the color does not; else the color.

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
