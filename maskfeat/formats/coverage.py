"""Masks become polygons that share their borders; for simple formats each is one line."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import shapely
from scipy.spatial import cKDTree

from maskfeat.arrays import BoolArray, Float64Array, IntArray

# A polygon as corner points (x, y): the outline first, then its holes. With y pointing up, outlines
# run counterclockwise (so clockwise on a screen) and holes clockwise.
Rings = list[Float64Array]


def label_polygons(
    labels: npt.NDArray[np.integer], tolerance_px: float = 0.5
) -> dict[int, list[Rings]]:
    """Draw the segments of a label map as polygons whose common borders are the same lines.

    The borders between pixels of different labels form a planar graph. Its faces are simplified
    together (`shapely.coverage_simplify`, Visvalingam and Whyatt, "Line generalisation by repeated
    elimination of points", 1993), so that two neighbors keep one border between them, and lines
    never cross.

    Args:
        labels: Any integers, shape (H, W).
        tolerance_px: A corner goes if that changes areas by less than the tolerance's square. One
            step of a slanted border is half a pixel large, so that up to 0.7 every pixel stays on
            its side; 1 replaces steps by slanted lines, with two fifths of the corners.

    Returns:
        For each label, rising, its polygons: one for each connected part (over the four
        neighbors), each an outline and its holes, see `Rings`, as points (x, y), shape (n, 2),
        closed (the last point is the first), in pixels; the first pixel reaches from 0 to 1.

    Raises:
        ValueError: If `labels` is no label map, or the tolerance is negative.
    """
    if labels.ndim != 2 or not labels.size or not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(
            f"labels must be integers of shape (H, W), got {labels.dtype} of shape {labels.shape}"
        )
    faces, owners = _simplified_faces(labels, tolerance_px)
    found: dict[int, list[Rings]] = {int(label): [] for label in np.unique(labels)}
    for face, owner in zip(faces, owners, strict=True):
        found[int(owner)].append(_rings(face))
    return found


def mask_polygons(masks: Sequence[BoolArray], tolerance_px: float = 0.5) -> list[list[Rings]]:
    """Draw masks that may nest or overlap as polygons whose common borders are the same lines.

    Args:
        masks: Boolean, all of one shape (H, W). They are taken one by one, so that a sequence may
            decode them when asked.
        tolerance_px: See `label_polygons`.

    Returns:
        For each mask its polygons, as `label_polygons` gives them; none for an empty mask.

    Raises:
        ValueError: If shapes differ.
    """
    if not len(masks):
        return []
    # Pixels that the same masks hold have the same key: the exclusive or of the masks' own keys.
    # Of 64 random bits each, so that two sets of masks with one key do not happen.
    keys = np.random.default_rng(0).integers(2**63, size=len(masks), dtype=np.uint64)
    labels = np.zeros(masks[0].shape, np.uint64)
    for mask, key in zip(masks, keys, strict=True):
        if mask.shape != labels.shape:
            raise ValueError(f"masks must have the same shape, got {labels.shape} and {mask.shape}")
        labels[mask] ^= key
    _, first_pixel, numbers = np.unique(labels, return_index=True, return_inverse=True)
    faces, owners = _simplified_faces(numbers.reshape(labels.shape), tolerance_px)
    found = []
    for mask in masks:
        held = faces[mask.ravel()[first_pixel][owners]]
        parts = shapely.get_parts(shapely.orient_polygons(shapely.coverage_union_all(held)))
        found.append([_rings(part) for part in parts if not part.is_empty])
    return found


def as_one_line(parts: Sequence[Rings]) -> Float64Array:
    """Join the outlines and holes of an object, closed, by bridges of no width.

    A bridge leads from the line so far to the nearest corner of the next ring, and back after that
    ring; crossed twice, it holds no area. COCO's own polygons and Ultralytics'
    `merge_multi_segment` are written like this, too.

    Returns:
        Corners (x, y), shape (n, 2), not closed.
    """
    rings = [ring[:-1] for rings in parts for ring in rings]
    line = rings.pop(0)
    while rings:
        found = [cKDTree(line).query(ring) for ring in rings]
        nearest = int(np.argmin([distances.min() for distances, _ in found]))
        distances, places = found[nearest]
        ring = rings.pop(nearest)
        start = int(distances.argmin())
        place = int(places[start])
        around = np.concatenate([ring[start:], ring[: start + 1]])
        line = np.concatenate([line[: place + 1], around, line[place:]])
    return line


def _simplified_faces(
    labels: npt.NDArray[Any], tolerance_px: float
) -> tuple[npt.NDArray[Any], IntArray]:
    """The connected regions of a label map as shapely polygons, and the label of each."""
    if not 0 <= tolerance_px < np.inf:
        raise ValueError(f"tolerance_px must be a number of at least 0, got {tolerance_px}")
    # Lines between the corners where three regions or more meet; a corner within one is needless.
    lines = shapely.get_parts(shapely.line_merge(shapely.multilinestrings(_cracks(labels))))
    faces = shapely.get_parts(shapely.polygonize(shapely.simplify(lines, 0)))
    inside = shapely.point_on_surface(faces)
    columns, rows = (
        np.floor(value(inside)).astype(int) for value in (shapely.get_x, shapely.get_y)
    )
    owners = labels[rows, columns]
    # The image's own edge stays straight, and its corners stay.
    simple = shapely.coverage_simplify(faces, tolerance_px, simplify_boundary=False)
    return shapely.orient_polygons(simple), owners


def _cracks(labels: npt.NDArray[Any]) -> Float64Array:
    """The sides of pixels between two labels, and the image's edge, as (N, 2, 2) of x, y."""
    padded = np.pad(labels.astype(np.int64), 1, constant_values=int(labels.min()) - 1)
    rows, columns = np.nonzero(padded[1:, 1:-1] != padded[:-1, 1:-1])  # sides above pixels
    above = [[columns, rows], [columns + 1, rows]]
    rows, columns = np.nonzero(padded[1:-1, 1:] != padded[1:-1, :-1])  # sides left of them
    left = [[columns, rows], [columns, rows + 1]]
    return np.concatenate([np.array(side, np.float64).transpose(2, 0, 1) for side in (above, left)])


def _rings(polygon: Any) -> Rings:  # noqa: ANN401 - shapely gives no types
    return [shapely.get_coordinates(ring) for ring in (polygon.exterior, *polygon.interiors)]
