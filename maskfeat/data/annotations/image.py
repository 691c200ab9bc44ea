"""Images from files: JPEGs of every kind become RGB and lie as their annotations say.

The size in the annotations decides how the image lies. Where only the image turned by its
EXIF tag has that size, it is turned; where only the image as stored has it, it is left alone;
where both have it (a square, or half a turn) it is turned, as every viewer does.
"""

from __future__ import annotations

import contextlib
import io
import struct
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from maskfeat.data.annotations.counts import MAX_PIXELS
from maskfeat.data.annotations.image_files import known_formats

_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr")
_WITH_PAGES = ("TIFF", "GIF", "PNG", "WEBP", "AVIF")  # not MPO, whose others are previews
_BITS, _PLANES, _KIND = 258, 284, 254  # tags of TIFF
# An image of 16 bits that stays below this (of 255) has 14 bits or fewer in them.
_LEAST_BRIGHTEST = 64
_ORIENTATION_TAG = 0x0112
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SWAPS_SIDES = (5, 6, 7, 8)
# What Pillow raises on broken files, by its parsers of headers, EXIF and pixels.
_IMAGE_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    IndexError,
    KeyError,
    TypeError,
    OverflowError,
    RuntimeError,  # of AVIF
    struct.error,
    Image.DecompressionBombError,
    Image.DecompressionBombWarning,
)


class SampleError(ValueError):
    """A sample that cannot be read.

    Args:
        reason: One of "bad jpg", "bad json", "bad rle", "size mismatch", "no masks",
            "incomplete"; the tail of the tag data/skipped/REASON.
        detail: One sentence for the log.
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(reason, detail)  # both, so that it survives pickling
        self.reason = reason
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.reason}: {self.detail}"


@contextlib.contextmanager
def within_memory(what: str) -> Iterator[None]:
    """Take it for a fault of the sample, not of the run, where memory does not suffice.

    Args:
        what: Was attempted, for the message: "to read its masks".
    """
    try:
        yield
    except MemoryError as error:
        raise SampleError("too large", f"memory does not suffice {what}") from error


def decode_rgb(data: bytes, size: tuple[int, int], at_least: float = 1.0) -> npt.NDArray[np.uint8]:
    """Decode an image to RGB, lying as `size` says (see the head of this file).

    Args:
        data: A file of one of `maskfeat.data.annotations.image_files.FORMATS`.
        size: Height and width that the image should have, pixels.
        at_least: As in `AnnotatedImage.decode`.

    Returns:
        RGB, uint8, shape (h, w, 3).

    Raises:
        SampleError: "bad jpg" for a broken file, "size mismatch" for one of another size.
        ValueError: If `at_least` is not in (0, 1].
    """
    return np.asarray(decode_image(data, size, at_least))


@within_memory("to decode its image")
def decode_image(
    data: bytes,
    size: tuple[int, int],
    at_least: float = 1.0,
) -> Image.Image:
    """As `decode_rgb`, but an image of Pillow's, of mode RGB, decoded."""
    if not 0 < at_least <= 1:
        raise ValueError(f"at_least must lie in (0, 1], got {at_least}")
    with _open_image(data) as image:
        was_deep = is_deep(image)
        try:
            if image.format == "TIFF":
                image.load()  # by which Pillow turns it, and then says that it lies upright
            turn = _turn_to(image, size)
            shrink = next(s for s in (8, 4, 2, 1) if at_least * s <= 1)
            if shrink > 1:
                width, height = (max(1, side // shrink) for side in image.size)
                image.draft(None, (width, height))
            upright = image.transpose(turn) if turn is not None else image
            # Alpha is dropped, not blended; Pillow knows of Adobe's inverted CMYK.
            upright.load()
            rgb = upright if upright.mode == "RGB" else upright.convert("RGB")
            check_range(was_deep, rgb)
            return rgb
        except SampleError:
            raise
        except _IMAGE_ERRORS as error:
            raise SampleError("bad jpg", f"the image cannot be decoded: {error}") from error


def check_image(data: bytes, size: tuple[int, int]) -> None:
    """Check from its header alone that an image can lie as `size` (height, width) says.

    Raises:
        SampleError: "bad jpg" or "size mismatch".
    """
    with _open_image(data) as image:
        _turn_to(image, size)


def is_turned_sideways(data: bytes) -> bool:
    """Whether a viewer shows an image turned by a quarter, as its EXIF tag says.

    Raises:
        SampleError: "bad jpg".
    """
    with _open_image(data) as image:
        return _orientation(image) in _SWAPS_SIDES


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


def _open_image(data: bytes) -> Image.Image:
    try:
        image = Image.open(io.BytesIO(data), formats=known_formats())
    except _IMAGE_ERRORS as error:
        raise SampleError("bad jpg", f"the image cannot be opened: {error}") from error
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise SampleError(
            "bad jpg", f"the image is {height} x {width}, more than {MAX_PIXELS} pixels"
        )
    if image.mode not in _MODES:
        raise SampleError("bad jpg", f"the image must hold 8 bits a channel, got {image.mode}")
    try:
        check_kind(image)
    except _IMAGE_ERRORS as error:
        raise SampleError("bad jpg", f"the image cannot be read whole: {error}") from error
    return image


def _turn_to(image: Image.Image, size: tuple[int, int]) -> Image.Transpose | None:
    """The turn that makes the image lie as `size` (height, width) says."""
    orientation = _orientation(image)
    width, height = image.size
    turned = (width, height) if orientation in _SWAPS_SIDES else (height, width)
    if turned == size:
        return _TURNS.get(orientation)
    if (height, width) == size:
        return None
    raise SampleError(
        "size mismatch", f"the image is {height} x {width}, its masks {size[0]} x {size[1]}"
    )


def _orientation(image: Image.Image) -> int:
    """How a viewer turns an image, 1 to 8 of EXIF; 1 is as it is stored."""
    try:
        value = image.getexif().get(_ORIENTATION_TAG, 1)
    except _IMAGE_ERRORS as error:
        raise SampleError("bad jpg", f"the EXIF data cannot be read: {error}") from error
    return value if isinstance(value, int) else 1


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
