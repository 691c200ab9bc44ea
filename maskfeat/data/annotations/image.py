"""Image files of every kind become 8 bits of red, green and blue, and lie as their annotations say.

The size in the annotations decides how the image lies. Where only the image turned by its
EXIF tag has that size, it is turned; where only the image as stored has it, it is left alone;
where both have it (a square, or half a turn) it is turned, as every viewer does.
"""

from __future__ import annotations

import contextlib
import io
import logging
import struct
from collections.abc import Iterator
from functools import cache
from typing import IO, Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from maskfeat.data.annotations.limits import MAX_PIXELS
from maskfeat.data.annotations.read_as import ReadAs, rgb_of_values
from maskfeat.data.annotations.tiff_values import (
    TiffStack,
    bits_of,
    is_tiff,
    needs_stack,
    whole_frames,
)

_LOG = logging.getLogger("maskfeat")
# Pillow's names of their formats; it reads more, some of them by starting other programs.
FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "BMP", "TIFF", "GIF", "AVIF", "JPEG2000", "HEIF")
# Modes of Pillow that hold 8 bits a channel, and those that hold one number of more.
_PLAIN = ("1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBX", "RGBa", "CMYK", "YCbCr")
_DEEP = ("I;16", "I;16B", "I;16L", "I;16N", "I", "F")
_WITH_PAGES = ("TIFF", "GIF", "PNG", "WEBP", "AVIF", "HEIF")  # not MPO: its others are previews
_ORIENTATION = 0x0112
SWAPS_SIDES = (5, 6, 7, 8)  # orientations that turn by a quarter
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
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


@within_memory("to decode its image")
def decode_image(
    data: bytes,
    size: tuple[int, int],
    at_least: float = 1.0,
    read_as: ReadAs = ReadAs(),  # noqa: B008 - frozen
) -> Image.Image:
    """Decode an image to RGB, loaded, lying as `size` says (see the head of this file).

    Args:
        data: A file of one of `FORMATS`.
        size: Height and width that the image should have, pixels.
        at_least: As in `AnnotatedImage.decode`.
        read_as: What of the file is taken.

    Raises:
        SampleError: "bad jpg" for a broken file, "size mismatch" for one of another size.
        ValueError: If `at_least` is not in (0, 1].
    """
    if not 0 < at_least <= 1:
        raise ValueError(f"at_least must lie in (0, 1], got {at_least}")
    file = _open_image(data, read_as)
    is_turned = _turn_to(file.size, file.orientation, size)
    try:
        rgb = file.rgb(next(s for s in (8, 4, 2, 1) if at_least * s <= 1))
    except _IMAGE_ERRORS as error:
        raise SampleError("bad jpg", f"the image cannot be decoded: {error}") from error
    return turned(rgb, file.orientation) if is_turned else rgb  # 1 of a TIFF, turned already


def check_image(
    data: bytes,
    size: tuple[int, int],
    read_as: ReadAs = ReadAs(),  # noqa: B008 - frozen
) -> None:
    """Check from its header alone that an image can lie as `size` (height, width) says.

    Raises:
        SampleError: "bad jpg" or "size mismatch".
    """
    file = _open_image(data, read_as)
    _turn_to(file.size, file.orientation, size)


def upright_size(data: bytes) -> tuple[int, int]:
    """Height and width of an image as a viewer shows it, turned by its EXIF tag, pixels.

    Raises:
        SampleError: "bad jpg".
    """
    file = _open_image(data)
    width, height = file.size
    return (width, height) if file.orientation in SWAPS_SIDES else (height, width)


def is_turned_sideways(data: bytes) -> bool:
    """Whether a viewer shows an image turned by a quarter, as its EXIF tag says.

    Raises:
        SampleError: "bad jpg".
    """
    return _open_image(data).orientation in SWAPS_SIDES


def _open_image(data: bytes, read_as: ReadAs = ReadAs()) -> ImageFile:  # noqa: B008 - frozen
    try:
        file = ImageFile(io.BytesIO(data), read_as)
        width, height = file.size
        is_small = width * height <= MAX_PIXELS
        _ = is_small and file.orientation  # which may be broken, or decode the image
    except _IMAGE_ERRORS as error:
        raise SampleError("bad jpg", f"the image cannot be opened: {error}") from error
    if not is_small:
        raise SampleError(
            "bad jpg", f"the image is {height} x {width}, more than {MAX_PIXELS} pixels"
        )
    return file


def _turn_to(stored: tuple[int, int], orientation: int, size: tuple[int, int]) -> bool:
    """Whether an image stored as (width, height) is to be turned to lie as `size` says.

    Raises:
        SampleError: "size mismatch".
    """
    width, height = stored
    if size == ((width, height) if orientation in SWAPS_SIDES else (height, width)):
        return True
    if size == (height, width):
        return False
    raise SampleError(
        "size mismatch", f"the image is {height} x {width}, its masks {size[0]} x {size[1]}"
    )


@cache
def known_formats() -> tuple[str, ...]:
    """Those of `FORMATS` that this Pillow knows, with pillow-heif where it is installed."""
    with contextlib.suppress(ImportError):
        import pillow_heif

        pillow_heif.register_heif_opener()
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


class ImageFile:
    """An image file whose header is read; its pixels are decoded when asked for.

    Args:
        file: The file, open; it must stay so.
        read_as: What of it is taken.
        name: For the log, which says what was decided; None is quiet.
        is_any: Whether any format that Pillow reads will do; else those of `FORMATS`.

    Attributes:
        size: Width and height as it is stored, pixels.

    Raises:
        ValueError: If it has no such page, or is of a kind that is not read.
        OSError: If it is no image; and whatever else Pillow's parsers raise.
    """

    def __init__(
        self,
        file: IO[bytes],
        read_as: ReadAs = ReadAs(),  # noqa: B008 - frozen
        name: str | None = None,
        is_any: bool = False,
    ) -> None:
        self._file, self._read_as, self._name = file, read_as, name
        self._stack: TiffStack | None = None
        self._orientation: int | None = None
        formats = known_formats()
        try:
            self._image = Image.open(file, formats=None if is_any else formats)
        except UnidentifiedImageError:
            if not is_tiff(file):
                raise
            self._open_stack()
            return
        image: Any = self._image
        is_stack = image.format in _WITH_PAGES
        places = list(range(int(getattr(image, "n_frames", 1)))) if is_stack else [0]
        if image.format == "TIFF" and len(places) > 1:  # thumbnails and masks are no pages
            places = whole_frames(image) or [0]
            image.seek(places[0])
        if self._image.format == "TIFF" and (needs_stack(self._image) or read_as.channels):
            self._open_stack()
            return
        self._num_pages = len(places)
        self._image.seek(places[self._page]) if len(places) > 1 else None
        if self._image.mode not in (*_PLAIN, *_DEEP):
            raise ValueError(f"it must be gray or RGB, got {self._image.mode}; convert it")
        self.size = self._image.size
        # Before anything loads a PNG, as the look for its EXIF tag does.
        self._deep_tile = _deep_tile(self._image)

    def rgb(self, shrink: int = 1) -> Image.Image:
        """Decode it to mode RGB; a JPEG may be decoded smaller by 1, 2, 4 or 8, which is quicker.

        A TIFF lies upright, and `orientation` is 1 from now on; others lie as stored.
        """
        if self._stack is not None:
            found = self._stack.read(self._page)
            rgb = self._scaled(found.values, found.is_color)
            self._orientation = 1
            return turned(rgb, found.orientation)
        image = self._image
        if shrink > 1:
            width, height = (max(1, side // shrink) for side in image.size)
            image.draft(None, (width, height))
        if image.mode in _DEEP:
            rgb = self._scaled(np.asarray(image)[..., None], False)
        elif self._deep_tile is not None:
            rgb = self._scaled(_deep_png(image, self._deep_tile, self._file), True)
        elif self._read_as.channels or self._read_as.value_range:
            plain = image.convert("RGBA" if "A" in image.mode or image.mode == "P" else "RGB")
            rgb = self._scaled(np.asarray(plain), True)
        else:
            image.load()
            self._say([])
            # Alpha is dropped, not blended; Pillow knows of Adobe's inverted CMYK.
            rgb = image if image.mode == "RGB" else image.convert("RGB")
        if image.format == "TIFF":
            self._orientation = 1  # Pillow has turned it
        return rgb

    @property
    def orientation(self) -> int:
        """How a viewer turns it, 1 to 8 of EXIF; 1 is as it is stored. A PNG is decoded for it."""
        if self._orientation is None:
            value = self._image.getexif().get(_ORIENTATION, 1)
            self._orientation = value if isinstance(value, int) else 1
        return self._orientation

    @property
    def _page(self) -> int:
        page = 1 if self._read_as.page is None else self._read_as.page
        if page > self._num_pages:
            raise ValueError(f"it holds {self._num_pages} pages or frames, so there is no {page}")
        return page - 1

    def _open_stack(self) -> None:
        self._stack = TiffStack(self._file)
        self._num_pages = self._stack.num_pages
        self.size, self._orientation = self._stack.header(self._page)

    def _scaled(self, values: Any, is_color: bool) -> Image.Image:  # noqa: ANN401 - an array
        rgb, notes = rgb_of_values(values, is_color, self._read_as)
        self._say(notes)
        return Image.fromarray(rgb)

    def _say(self, notes: list[str]) -> None:
        if self._num_pages > 1 and self._read_as.page is None:
            notes = [f"of its {self._num_pages} pages the first is taken (--page)", *notes]
        if notes and self._name is not None:
            _LOG.warning("'%s': %s", self._name, "; ".join(notes))


def is_deep(image: Image.Image) -> bool:
    """Whether an open file that is not decoded yet holds more than 8 bits a channel."""
    if image.format == "TIFF":
        return bits_of(image) > 8
    return image.format == "PNG" and ";16" in str(getattr(image, "tile", [])[:1])


def turned(image: Image.Image, orientation: int) -> Image.Image:
    """An image turned upright, by its EXIF tag."""
    turn = _TURNS.get(orientation)
    return image if turn is None else image.transpose(turn)


def _deep_tile(image: Any) -> Any:  # noqa: ANN401 - a tile of Pillow's
    """How a color PNG of 16 bits that is not loaded yet is laid out; None for all others.

    Raises:
        ValueError: If it is gray with alpha: Pillow gives the high bytes alone.
    """
    if image.format != "PNG" or image.mode in _DEEP or not is_deep(image):
        return None
    if "LA" in str(image.tile[0][3]):
        raise ValueError("a gray PNG of 16 bits with alpha is not read; save it without alpha")
    return image.tile[0]


def _deep_png(image: Image.Image, tile: Any, file: IO[bytes]) -> Any:  # noqa: ANN401 - an array
    """All 16 bits of a color PNG: Pillow gives the high bytes, and asked otherwise the low ones."""
    high = np.asarray(image).astype(np.uint16)
    file.seek(0)
    codec, extents, offset, layout = tile
    with Image.open(file) as again:
        low: Any = (codec, extents, offset, str(layout).replace("16B", "16L"))
        vars(again)["tile"] = [low]
        return (high << 8 | np.asarray(again))[..., :3]
