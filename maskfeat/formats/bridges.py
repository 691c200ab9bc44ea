"""Polygons with holes or in several parts as one line, for formats that know nothing else."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.spatial import cKDTree

from maskfeat.arrays import Float64Array
from maskfeat.formats.coverage import Rings


def as_one_line(parts: Sequence[Rings]) -> Float64Array:
    """Join the outlines and holes of an object, closed, see `coverage`, by bridges of no width.

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
