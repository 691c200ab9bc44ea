"""Reduced images: to a working size, and pixels, boxes, masks and labels back again."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from maskfeat.arrays import BoolArray, IntArray


def reduced(rgb: npt.NDArray[np.uint8], max_megapixels: float) -> npt.NDArray[np.uint8]:
    """The image, reduced by box averages to at most `max_megapixels` if it is larger.

    Other inputs than uint8 (H, W, 3) are returned unchanged; the caller validates.
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
    """The pixels of a resized image that contain the pixels of an image of `size`, (N, 2)."""
    return pixels_yx if size == to else pixels_yx * np.array(to) // np.array(size)


def scaled_box(
    box: tuple[int, int, int, int] | None, size: tuple[int, int], to: tuple[int, int]
) -> tuple[int, int, int, int] | None:
    """The smallest box of a resized image that contains a box of an image of `size`."""
    if box is None or size == to:
        return box
    corners = scaled(np.array([box[:2], (box[2] - 1, box[3] - 1)]), size, to)
    (top, left), (bottom, right) = corners.tolist()
    return top, left, bottom + 1, right + 1


def resized(mask: BoolArray, size: tuple[int, int]) -> BoolArray:
    """The mask at another size, with a smooth outline."""
    if mask.shape == size:
        return mask
    image = Image.fromarray(mask.astype(np.uint8) * 255)
    resized: BoolArray = np.asarray(image.resize(size[::-1], Image.Resampling.BILINEAR)) > 127
    return resized


def enlarged_labels(labels: IntArray, size: tuple[int, int]) -> IntArray:
    """The labels at another size, by the nearest pixel."""
    if labels.shape == size:
        return labels
    rows, columns = (np.arange(n) * m // n for n, m in zip(size, labels.shape, strict=True))
    return labels[np.ix_(rows, columns)]


def nearest_cells(num_cells: int, num_pixels: int) -> IntArray:
    """Which of some cells in a row holds the center of each of some pixels as long in all.

    `cells[nearest_cells(len(cells), n)]` enlarges cells to n pixels. Where these are no fewer,
    every cell is met.
    """
    return ((np.arange(num_pixels) + 0.5) * (num_cells / num_pixels)).astype(np.int64)


def enlarged(values: npt.NDArray[Any], size: tuple[int, ...]) -> npt.NDArray[Any]:
    """Values (h, w) at another size (H, W): each pixel takes that of the cell at its center."""
    if values.shape == size:
        return values
    rows, columns = (nearest_cells(n, m) for n, m in zip(values.shape, size, strict=True))
    return values[np.ix_(rows, columns)]
