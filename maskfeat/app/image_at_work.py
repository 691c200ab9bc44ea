"""An image as it is shown on the page, and as the segmenter gets it."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from maskfeat.data.annotations.image_identity import ImageIdentity, identity_of
from maskfeat.data.folder import read_image
from maskfeat.segment.resizing import reduced

MAX_MEGAPIXELS = 400.0  # of an image at all, as in `maskfeat segment`
_SHOWN_MEGAPIXELS = 12.0  # more than a screen can show


@dataclass(frozen=True)
class ImageAtWork:
    """An image, read.

    Attributes:
        size: Its height and width, upright, pixels.
        rgb: What the segmenter gets, uint8, shape (h, w, 3), reduced where the image is large.
        jpeg: What the page shows.
        identity: Of the file.
    """

    size: tuple[int, int]
    rgb: npt.NDArray[np.uint8]
    jpeg: bytes
    identity: ImageIdentity


def read_at_work(path: Path, max_megapixels: float) -> ImageAtWork:
    """Read an image, and reduce it to the size to work with.

    Raises:
        ValueError: If it cannot be read.
    """
    rgb = read_image(path, MAX_MEGAPIXELS)
    file = io.BytesIO()
    shown = Image.fromarray(reduced(rgb, _SHOWN_MEGAPIXELS))
    shown.save(file, "JPEG", quality=92, subsampling=0)
    small, identity = reduced(rgb, max_megapixels), identity_of(path, rgb)
    return ImageAtWork(rgb.shape[:2], small, file.getvalue(), identity)
