"""The one door for image files: every kind becomes 8 bits of red, green and blue."""

from __future__ import annotations

import logging
from typing import IO, Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from maskfeat.data.annotations.image_files import known_formats
from maskfeat.data.annotations.read_as import ReadAs, rgb_of_values
from maskfeat.data.annotations.tiff_values import TiffStack, is_tiff

_LOG = logging.getLogger("maskfeat")
# Modes of Pillow that hold 8 bits a channel, and those that hold one number of more.
_PLAIN = ("1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBX", "RGBa", "CMYK", "YCbCr")
_DEEP = ("I;16", "I;16B", "I;16L", "I;16N", "I", "F")
_WITH_PAGES = ("TIFF", "GIF", "PNG", "WEBP", "AVIF", "HEIF")  # not MPO: its others are previews
_BITS, _SAMPLES, _TEXT, _KIND, _EXTRA = 258, 277, 270, 254, 338  # tags of TIFF
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
        places = self._places_of_pages()
        if self._image.format == "TIFF" and (_takes_stack(self._image) or read_as.channels):
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
        """Decode it.

        Args:
            shrink: A JPEG may be decoded smaller by 1, 2, 4 or 8, which is quicker.

        Returns:
            Mode RGB. A TIFF lies upright, and `orientation` is 1 from now on; others lie as stored.
        """
        if self._stack is not None:
            found = self._stack.read(self._page)
            rgb = self._scaled(found.values, found.is_color)
            self._orientation = 1
            return _turned(rgb, found.orientation)
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

    def _places_of_pages(self) -> list[int]:
        """Frames of Pillow that are pages; a TIFF's thumbnails and masks are none."""
        image: Any = self._image
        if image.format not in _WITH_PAGES:
            return [0]
        places = list(range(int(getattr(image, "n_frames", 1))))
        if image.format == "TIFF" and len(places) > 1:
            places = [place for place in places if not _kind_at(image, place) & 0b101] or [0]
            image.seek(places[0])
        return places

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
        return max(image.tag_v2.get(_BITS, (8,))) > 8  # type: ignore[attr-defined, no-any-return]
    return image.format == "PNG" and ";16" in str(getattr(image, "tile", [])[:1])


def turn_of(orientation: int) -> Image.Transpose | None:
    """What turns an image upright, by its EXIF tag; None if nothing has to."""
    return _TURNS.get(orientation)


def _turned(image: Image.Image, orientation: int) -> Image.Image:
    turn = _TURNS.get(orientation)
    return image if turn is None else image.transpose(turn)


def _kind_at(image: Any, place: int) -> int:  # noqa: ANN401 - Pillow's TIFF
    image.seek(place)
    return int(image.tag_v2.get(_KIND, 0))


def _takes_stack(image: Any) -> bool:  # noqa: ANN401 - Pillow's TIFF
    """Whether a TIFF is more than Pillow reads right."""
    tags = image.tag_v2
    num = int(tags.get(_SAMPLES, 1))
    extra = tags.get(_EXTRA, ())
    extra = extra if isinstance(extra, tuple) else (extra,)
    text = str(tags.get(_TEXT, ""))
    has_channel_pages = "channels=" in text or "<OME" in text
    return (num > 1 and is_deep(image)) or num == 2 or 0 in extra or has_channel_pages


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
