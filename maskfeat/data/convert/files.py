"""What the sources made of single files share: pictures, label maps and lists of samples."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from maskfeat.data.counts import MAX_PIXELS
from maskfeat.data.picture import SampleError


def read_file(path: str, what: str) -> bytes:
    """Read a file whole.

    Args:
        path: The file.
        what: Its part in the sample, for the report.

    Raises:
        SampleError: "incomplete" if it is not there.
    """
    try:
        return Path(path).read_bytes()
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
        raise SampleError("incomplete", f"the {what} '{path}' is not there") from error


def read_png(path: str, what: str) -> npt.NDArray[Any]:
    """Read a picture of numbers, as they are: no color is looked up in a palette.

    Args:
        path: A file that Pillow reads without loss.
        what: Its part in the sample, for the report.

    Returns:
        Integers, shape (H, W), or uint8, shape (H, W, 3); alpha is dropped.

    Raises:
        SampleError: "incomplete" if it is not there, "bad mask" if it cannot be read so.
    """
    data = read_file(path, what)
    try:
        with Image.open(io.BytesIO(data), formats=("PNG", "TIFF", "BMP", "GIF")) as picture:
            if picture.width * picture.height > MAX_PIXELS:
                raise SampleError("bad mask", f"'{path}' has more than {MAX_PIXELS} pixels")
            values = np.asarray(picture)
    except SampleError:
        raise
    except Exception as error:  # Pillow's parsers raise OSError, SyntaxError, struct.error, ...
        raise SampleError("bad mask", f"'{path}' cannot be read: {error}") from error
    if values.ndim == 3:
        values = values[..., 0] if values.shape[2] == 2 else values[..., :3]
    if values.dtype.kind not in "uib":
        raise SampleError("bad mask", f"'{path}' must hold whole numbers, got {values.dtype}")
    return values.astype(np.uint8) if values.dtype.kind == "b" else values


def one_number(values: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """Labels as one number a pixel: gray values as they are, colors as R + 256 G + 65536 B.

    Args:
        values: Integers, shape (H, W) or (H, W, 3).

    Returns:
        int64, shape (H, W).
    """
    if values.ndim == 2:
        return values.astype(np.int64)
    red, green, blue = (values[..., channel].astype(np.int64) for channel in range(3))
    return red + 256 * green + 65536 * blue
