"""TIFFs beyond what Pillow reads: many channels, deep color, floats, channels page by page."""

from __future__ import annotations

from typing import IO, Any, NamedTuple

import numpy as np
import numpy.typing as npt

_NOT_WHOLE = 0b101  # bits of the kind of a page: a thumbnail, a mask
_BITS, _SAMPLES, _TEXT, _KIND, _EXTRA = 258, 277, 270, 254, 338  # tags
_HEADS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


class TiffValues(NamedTuple):
    """A page of a TIFF.

    Attributes:
        values: As they are stored, shape (H, W, C), not turned, without alpha.
        is_color: Whether the file calls the first three channels red, green and blue.
        orientation: How a viewer turns it, 1 to 8 of EXIF.
    """

    values: npt.NDArray[Any]
    is_color: bool
    orientation: int


class TiffStack:
    """A TIFF, open, whose headers are read.

    Pages that metadata of ImageJ or OME call channels are channels of one page here.

    Attributes:
        num_pages: How many there are, thumbnails aside.

    Raises:
        ValueError: If it holds no page, or volumes.
    """

    def __init__(self, file: IO[bytes]) -> None:
        import tifffile

        file.seek(0)
        try:
            self._tiff = tifffile.TiffFile(file)
            pages: list[Any] = list(self._tiff.pages)
        except tifffile.TiffFileError as error:  # a ValueError in newer versions alone
            raise ValueError(str(error)) from error
        self._pages = [page for page in pages if not page.subfiletype & _NOT_WHOLE]
        if not self._pages:
            raise ValueError("it holds no page that is an image")
        # Numbers of pages in the file, shape (pages, channels that are pages).
        numbers = np.arange(len(self._pages))
        series = self._tiff.series[0]
        lead = series.shape[: len(series.shape) - self._pages[0].ndim]
        axes = series.axes[: len(lead)]
        self._index = numbers[:, None]
        if "C" in axes and int(np.prod(lead)) == len(numbers):
            apart = np.moveaxis(numbers.reshape(lead), axes.index("C"), -1)
            self._index = apart.reshape(-1, apart.shape[-1])
        self.num_pages = len(self._index)

    def header(self, page: int) -> tuple[tuple[int, int], int]:
        """Width and height of a page, counted from 0, as it is stored; and its orientation."""
        first = self._pages[self._index[page][0]]
        return (int(first.imagewidth), int(first.imagelength)), _orientation(first)

    def read(self, page: int) -> TiffValues:
        """Decode a page, counted from 0.

        Raises:
            ValueError: If it cannot be decoded.
        """
        pages = [self._pages[number] for number in self._index[page]]
        values = [_channels_last(one) for one in pages]
        if len({one.shape[:2] for one in values}) != 1:
            raise ValueError("the pages that are its channels differ in size")
        is_color = pages[0].photometric == 2 and values[0].shape[2] >= 3 and len(pages) == 1
        return TiffValues(np.concatenate(values, axis=2), is_color, _orientation(pages[0]))


def is_tiff(file: IO[bytes]) -> bool:
    """Whether a file, open, begins as a TIFF; it is read from its beginning afterwards."""
    file.seek(0)
    head = file.read(4)
    file.seek(0)
    return head in _HEADS


def bits_of(image: Any) -> int:  # noqa: ANN401 - Pillow's TIFF
    """Most bits of a channel."""
    return int(max(image.tag_v2.get(_BITS, (8,))))


def whole_frames(image: Any) -> list[int]:  # noqa: ANN401 - Pillow's TIFF
    """Numbers of the frames that are pages, no thumbnails or masks; it stands at another then."""
    found = []
    for number in range(image.n_frames):
        image.seek(number)
        if not int(image.tag_v2.get(_KIND, 0)) & _NOT_WHOLE:
            found.append(number)
    return found


def needs_stack(image: Any) -> bool:  # noqa: ANN401 - Pillow's TIFF
    """Whether a TIFF is more than Pillow reads right."""
    tags = image.tag_v2
    num = int(tags.get(_SAMPLES, 1))
    extra = tags.get(_EXTRA, ())
    extra = extra if isinstance(extra, tuple) else (extra,)
    text = str(tags.get(_TEXT, ""))
    has_channel_pages = "channels=" in text or "<OME" in text
    return (num > 1 and bits_of(image) > 8) or num == 2 or 0 in extra or has_channel_pages


def _channels_last(page: Any) -> npt.NDArray[Any]:  # noqa: ANN401 - tifffile's page
    try:
        values: npt.NDArray[Any] = page.asarray()
    except Exception as error:  # of decoders: zlib.error, struct.error, ...
        hint = "; pip install 'maskfeat[images]'" if "imagecodecs" in str(error) else ""
        raise ValueError(f"{error}{hint}") from error
    if values.dtype.kind not in "buif":
        raise ValueError(f"it must hold real numbers, got {values.dtype}")
    if page.axes == "YX":
        return values[..., None]
    if page.axes not in ("YXS", "SYX"):
        raise ValueError(f"a page must be an image, got the axes {page.axes}")
    values = values if page.axes == "YXS" else np.moveaxis(values, 0, 2)
    extra = tuple(page.extrasamples)
    first = values.shape[2] - len(extra)
    return values[..., [n for n in range(values.shape[2]) if n < first or extra[n - first] == 0]]


def _orientation(page: Any) -> int:  # noqa: ANN401
    tag = page.tags.get(274)
    return int(tag.value) if tag is not None else 1
