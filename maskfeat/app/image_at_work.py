"""An image as it is shown on the page, its tree too, and as the segmenter gets it."""

from __future__ import annotations

import io
import threading
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from maskfeat.data.annotations.image_identity import ImageIdentity, identity_of
from maskfeat.data.annotations.read_as import ReadAs
from maskfeat.data.folder import MAX_MEGAPIXELS, read_image
from maskfeat.files import file_stamp
from maskfeat.segment.inputs import reduced
from maskfeat.segment.tree import PartitionTree

_SHOWN_MEGAPIXELS = 12.0  # more than a screen can show
_THUMBNAIL_MEGAPIXELS = 0.04
_DECODING = threading.Semaphore(2)  # whole images in memory, while an overview asks for many


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


def read_at_work(
    path: Path,
    max_megapixels: float,
    read_as: ReadAs = ReadAs(),  # noqa: B008 - frozen
) -> ImageAtWork:
    """Read an image, and reduce it to the size to work with.

    Raises:
        ValueError: If it cannot be read.
    """
    rgb = read_image(path, MAX_MEGAPIXELS, read_as)
    small, identity = reduced(rgb, max_megapixels), identity_of(path, rgb)
    return ImageAtWork(rgb.shape[:2], small, _jpeg(rgb, _SHOWN_MEGAPIXELS), identity)


def thumbnail(path: Path, read_as: ReadAs) -> bytes:
    """An image as a small JPEG.

    Raises:
        ValueError: If it cannot be read.
    """
    with _DECODING:
        return _thumbnail(path, file_stamp(path), read_as)


@lru_cache(maxsize=2000)  # a few kilobytes each
def _thumbnail(path: Path, stamp: tuple[int, int, int] | None, read_as: ReadAs) -> bytes:
    """Of the file of that stamp, see `file_stamp`."""
    return _jpeg(read_image(path, MAX_MEGAPIXELS, read_as), _THUMBNAIL_MEGAPIXELS)


def _jpeg(rgb: npt.NDArray[np.uint8], max_megapixels: float) -> bytes:
    file = io.BytesIO()
    shown = Image.fromarray(reduced(rgb, max_megapixels))
    shown.save(file, "JPEG", quality=92, subsampling=0)
    return file.getvalue()


def partition_bytes(superpixel_labels: npt.NDArray[np.integer], tree: PartitionTree) -> bytes:
    """The tree of superpixels, (H, W), that the page cuts at a granularity.

    Little endian: uint32 height, width, K superpixels, 0; float64 altitudes (2 K - 1); int32
    parents (2 K - 1); int32 superpixel of each pixel (height x width).
    """
    parts = [
        np.array([*superpixel_labels.shape, tree.num_leaves, 0], "<u4"),
        tree.altitudes.astype("<f8"),
        tree.parents.astype("<i4"),
        superpixel_labels.astype("<i4"),
    ]
    return b"".join(part.tobytes() for part in parts)
