"""A picture as it is shown on the page, and as the segmenter gets it."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from maskfeat.data.folder import read_picture

MAX_MEGAPIXELS = 400.0  # of a picture at all, as in `maskfeat segment`
_SHOWN_MEGAPIXELS = 12.0  # more than a screen can show


@dataclass(frozen=True)
class PictureAtWork:
    """A picture, read.

    Attributes:
        size: Its height and width, upright, pixels.
        rgb: What the segmenter gets, uint8, shape (h, w, 3), reduced where the picture is large.
        jpeg: What the page shows.
    """

    size: tuple[int, int]
    rgb: npt.NDArray[np.uint8]
    jpeg: bytes


def read_at_work(path: Path, max_megapixels: float) -> PictureAtWork:
    """Read a picture, and reduce it to the size to work with.

    Raises:
        ValueError: If it cannot be read.
    """
    rgb = read_picture(path, MAX_MEGAPIXELS)
    file = io.BytesIO()
    shown = Image.fromarray(_reduced(rgb, _SHOWN_MEGAPIXELS))
    shown.save(file, "JPEG", quality=92, subsampling=0)
    return PictureAtWork(rgb.shape[:2], _reduced(rgb, max_megapixels), file.getvalue())


def _reduced(rgb: npt.NDArray[np.uint8], max_megapixels: float) -> npt.NDArray[np.uint8]:
    """The picture, or the means of its pixels in boxes, so many that it is not too large."""
    height, width = rgb.shape[:2]
    scale = (max_megapixels * 1e6 / (height * width)) ** 0.5
    if scale >= 1:
        return rgb
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return np.asarray(Image.fromarray(rgb).resize(size, Image.Resampling.BOX))
