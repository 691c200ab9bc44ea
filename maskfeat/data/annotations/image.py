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

from PIL import Image

from maskfeat.data.annotations.counts import MAX_PIXELS
from maskfeat.data.annotations.image_file import SWAPS_SIDES, ImageFile, turn_of
from maskfeat.data.annotations.read_as import ReadAs

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
    """Decode an image to RGB, lying as `size` says (see the head of this file).

    Args:
        data: A file of one of `maskfeat.data.annotations.image_files.FORMATS`.
        size: Height and width that the image should have, pixels.
        at_least: As in `AnnotatedImage.decode`.
        read_as: What of the file is taken.

    Returns:
        An image of Pillow's, of mode RGB, loaded.

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
    turn = turn_of(file.orientation) if is_turned else None  # a TIFF is turned already
    return rgb if turn is None else rgb.transpose(turn)


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
    """Whether an image is to be turned by its EXIF tag to lie as `size` (height, width) says.

    Args:
        stored: Its width and height as stored.
        orientation: Its EXIF tag.
        size: That of its masks.

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
