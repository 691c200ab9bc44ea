"""Images worked on reduced, and marks and masks that go there and back."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from PIL import Image

BoolArray = npt.NDArray[np.bool_]
IntArray = npt.NDArray[np.int64]


def reduced(rgb: npt.NDArray[np.uint8], max_megapixels: float) -> npt.NDArray[np.uint8]:
    """The image, or means of its pixels over boxes, so many that it is not too large.

    What is no image, uint8 (H, W, 3), comes back as it is: whoever reads it complains.
    """
    if not isinstance(rgb, np.ndarray) or rgb.ndim != 3 or not rgb.size:
        return rgb
    height, width = rgb.shape[:2]
    scale = (max_megapixels * 1e6 / (height * width)) ** 0.5
    if scale >= 1:
        return rgb
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return np.asarray(Image.fromarray(rgb).resize(size, Image.Resampling.BOX))


def scaled(pixels_yx: IntArray, size: tuple[int, int], to: tuple[int, int]) -> IntArray:
    """The pixels of a reduced image that hold pixels of the image."""
    return pixels_yx if size == to else pixels_yx * np.array(to) // np.array(size)


def scaled_box(
    box: tuple[int, int, int, int] | None, size: tuple[int, int], to: tuple[int, int]
) -> tuple[int, int, int, int] | None:
    """The smallest box of a reduced image that holds all of a box of the image."""
    if box is None or size == to:
        return box
    corners = scaled(np.array([box[:2], (box[2] - 1, box[3] - 1)]), size, to)
    (top, left), (bottom, right) = corners.tolist()
    return top, left, bottom + 1, right + 1


def resized(mask: BoolArray, size: tuple[int, int]) -> BoolArray:
    """The mask at another size, its outline smooth."""
    if mask.shape == size:
        return mask
    image = Image.fromarray(mask.astype(np.uint8) * 255)
    resized: BoolArray = np.asarray(image.resize(size[::-1], Image.Resampling.BILINEAR)) > 127
    return resized


def enlarged_labels(labels: IntArray, size: tuple[int, int]) -> IntArray:
    """The label of the nearest pixel, at another size."""
    if labels.shape == size:
        return labels
    rows, columns = (np.arange(n) * m // n for n, m in zip(size, labels.shape, strict=True))
    return labels[np.ix_(rows, columns)]
