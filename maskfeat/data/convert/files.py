"""What the sources made of single files share: images, label maps and lists of samples."""

from __future__ import annotations

import errno
import hashlib
import io
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from maskfeat.arrays import IntArray
from maskfeat.data.annotations.image import SampleError, is_deep
from maskfeat.data.annotations.limits import MAX_PIXELS
from maskfeat.data.folder import without_alpha

MASK_ENDINGS = (".png", ".tif", ".tiff", ".bmp", ".gif")  # of formats without loss
MASK_FORMATS = ("PNG", "TIFF", "BMP", "GIF")
_VOC_VOID = 255
_VOC_COLORS = [(0, 0, 0), (128, 0, 0), (0, 128, 0), (224, 224, 192)]  # of 0, 1, 2 and void


def read_file(path: str, what: str) -> bytes:
    """Read a file whole; `what` is its part in the sample, for the report.

    Raises:
        SampleError: "incomplete" if it is not there or may not be read.
        OSError: If the disk or the network fails: then the run stops, and goes on another time.
    """
    with _named_faults(path, what):
        return Path(path).read_bytes()


def file_size(path: str, what: str) -> int:
    """How many bytes a file has; arguments and errors as of `read_file`."""
    with _named_faults(path, what):
        return Path(path).stat().st_size


@contextmanager
def _named_faults(path: str, what: str) -> Iterator[None]:
    """Take it for a fault of the sample where a file is not there, see `read_file`."""
    try:
        yield
    except ValueError as error:  # a zero byte or half a character in the name
        raise SampleError("incomplete", f"no file can have the name {path!r}") from error
    except OSError as error:
        if isinstance(error, FileNotFoundError | IsADirectoryError | NotADirectoryError):
            raise SampleError("incomplete", f"the {what} '{path}' is not there") from error
        if error.errno in (errno.ENAMETOOLONG, errno.ELOOP, errno.EACCES, errno.EPERM):
            raise SampleError("incomplete", f"the {what} cannot be read: {error}") from error
        raise


def read_png(path: str, what: str) -> npt.NDArray[Any]:
    """Read an image of numbers, as they are: no color is looked up in a palette.

    Returns:
        Integers, shape (H, W), or uint8, shape (H, W, 3). Alpha is dropped, but where it alone
        varies it is what is read.

    Raises:
        SampleError: "incomplete" if it is not there, "bad mask" if it cannot be read so.
    """
    return _read_numbers(path, what)[0]


def read_labels(path: str, void_label: str) -> tuple[IntArray, bool]:
    """Read a label map; for `void_label` see `maskfeat.data.convert.sample.Settings`.

    Returns:
        One number a pixel, int64, shape (H, W), 0 where there is no label; and whether some pixels
        are void, which become 0.

    Raises:
        SampleError: As `read_png`.
    """
    values, has_voc_palette = _read_numbers(path, "label map")
    labels = one_number(values)
    if void_label == "none" or (void_label == "auto" and not has_voc_palette):
        return labels, False
    is_void = labels == (_VOC_VOID if void_label == "auto" else int(void_label))
    labels[is_void] = 0
    return labels, bool(is_void.any())


def _read_numbers(path: str, what: str) -> tuple[npt.NDArray[Any], bool]:
    """Numbers as in `read_png`, and whether they have the palette of PASCAL VOC."""
    data = read_file(path, what)
    try:
        with Image.open(io.BytesIO(data), formats=MASK_FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise ValueError(f"it has more than {MAX_PIXELS} pixels")
            if getattr(image, "n_frames", 1) > 1:
                raise ValueError("it holds several pages; save each mask as a file of its own")
            if image.mode in ("RGB", "LA", "RGBA") and is_deep(image):
                raise ValueError("in color it must hold 8 bits a channel, got 16")
            if image.mode[0] not in "1LPIF" and image.mode not in ("RGB", "RGBA"):
                raise ValueError(f"it must be gray, RGB or have a palette, got {image.mode}")
            palette = (image.getpalette("RGB") or []) if image.mode == "P" else []
            colors = [tuple(palette[3 * n : 3 * n + 3]) for n in (0, 1, 2, _VOC_VOID)]
            values = np.asarray(image)
        if values.ndim == 3 and values.shape[2] in (2, 4):
            values = without_alpha(values)
    except Exception as error:  # Pillow's parsers raise OSError, SyntaxError, struct.error, ...
        raise SampleError("bad mask", f"'{path}' cannot be read: {error}") from error
    if values.dtype.kind not in "uib":
        raise SampleError("bad mask", f"'{path}' must hold whole numbers, got {values.dtype}")
    numbers = values.astype(np.uint8) if values.dtype.kind == "b" else values
    return numbers, colors == _VOC_COLORS


def one_number(values: npt.NDArray[Any]) -> IntArray:
    """Labels as one number a pixel, int64, (H, W): gray as it is, colors as R + 256 G + 65536 B."""
    if values.ndim == 2:
        return values.astype(np.int64)
    red, green, blue = (values[..., channel].astype(np.int64) for channel in range(3))
    return red + 256 * green + 65536 * blue


def digest(data: bytes) -> str:
    """16 characters that stand for some bytes."""
    return hashlib.sha256(data).hexdigest()[:16]


def keys_of(names: Sequence[str]) -> list[str]:
    """Names of images: without ending, but where two would have one name."""
    stems = [str(Path(name).with_suffix("")) for name in names]
    count_of = Counter(stems)
    return [stem if count_of[stem] == 1 else name for stem, name in zip(stems, names, strict=True)]
