"""Instances drawn as polygons: their corners, and the pixels in them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from maskfeat.arrays import BoolArray, Float64Array
from maskfeat.data.annotations.image import SampleError

Corners = Float64Array
_FARTHEST = 1e9
_SLACK_PX = 2.0  # so far corners may lie beyond the border by rounding


def read_polygons(segmentation: object) -> tuple[list[Corners], int]:
    """Read the polygons of one instance.

    Args:
        segmentation: Lists of x, y, x, y, ..., or one such list by itself.

    Returns:
        Corners (x, y), shape (n, 2), n of 3 or more, of each polygon; and how many polygons have
        fewer corners, which hold nothing.

    Raises:
        SampleError: "bad polygon" if it is something else.
    """
    try:
        parts = list(segmentation)  # type: ignore[call-overload]
        if parts and all(isinstance(one, int | float) for one in parts):
            parts = [parts]
        polygons = [np.array(one, np.float64).reshape(-1, 2) for one in parts]
        if not all((np.abs(polygon) < _FARTHEST).all() for polygon in polygons):
            raise ValueError("a coordinate is not finite, or beyond any image")
    except (TypeError, ValueError, OverflowError) as error:
        raise SampleError("bad polygon", f"a polygon is no list of x, y: {error}") from error
    whole = [polygon for polygon in polygons if len(polygon) >= 3]
    return whole, len(polygons) - len(whole)


def fill_polygons(polygons: Sequence[Corners], size: tuple[int, int]) -> BoolArray:
    """The pixels whose centers lie in any of some polygons.

    By `skimage.draw.polygon`; pycocotools draws outlines on a grid five times finer instead, so
    that masks differ in some pixels at borders.

    Args:
        polygons: Corners (x, y), shape (n, 2) each; the first pixel reaches from 0 to 1.
        size: Height and width of the image, pixels.

    Returns:
        bool, shape (H, W).
    """
    from skimage.draw import polygon

    mask = np.zeros(size, bool)
    for corners in polygons:
        rows, columns = polygon(  # type: ignore[no-untyped-call]
            corners[:, 1] - 0.5, corners[:, 0] - 0.5, shape=size
        )
        mask[rows, columns] = True
    return mask


def fits_only_turned(polygons: Sequence[Corners], size: tuple[int, int]) -> bool:
    """Whether polygons leave an image of a size (height, width), but not one that is turned."""
    if not polygons:
        return False
    x, y = np.concatenate(polygons).max(axis=0) - _SLACK_PX
    height, width = size
    return bool((x > width or y > height) and x <= height and y <= width)
