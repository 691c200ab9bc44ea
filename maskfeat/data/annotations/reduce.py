"""Masks and sizes on a coarser grid."""

from __future__ import annotations

import numpy as np

from maskfeat.arrays import Int32Array, IntArray
from maskfeat.data.annotations.rle import Runs


def reduced_size(size: tuple[int, int], short_side: int) -> tuple[int, int]:
    """Height and width of an image of `size` brought down to a short side; never enlarged."""
    scale = min(1.0, short_side / min(size))
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def sampled_places(num_old: int, num_new: int) -> IntArray:
    """Which of `num_old` pixels in a line holds the center of each of `num_new` in its place."""
    return ((np.arange(num_new) + 0.5) * (num_old / num_new)).astype(np.int64)


def reduce_runs(runs: Runs, size: tuple[int, int]) -> tuple[IntArray, IntArray, Int32Array]:
    """Bring masks to a coarser grid: a new pixel belongs to what holds its center.

    So masks that nest still nest, and masks that part the image still part it, which would not be
    so if each were smoothed by itself. No mask is decoded.

    Args:
        runs: The masks; no run leaves its column.
        size: New height and width, pixels, neither above the old.

    Returns:
        The runs on the new grid, the third being the mask of `runs`. Masks may lose all their
        pixels, or fall apart.
    """
    old_height, old_width = runs.size
    height, width = size
    rows, columns = sampled_places(old_height, height), sampled_places(old_width, width)
    new_column = np.full(old_width, -1, np.int64)
    new_column[columns] = np.arange(width)
    target = new_column[runs.starts // old_height]
    kept = np.flatnonzero(target >= 0)
    base = runs.starts[kept] // old_height * old_height
    first = np.searchsorted(rows, runs.starts[kept] - base)
    last = np.searchsorted(rows, runs.stops[kept] - base)
    is_left = last > first
    shift = (target[kept] * height)[is_left]
    return first[is_left] + shift, last[is_left] + shift, runs.mask_of_run[kept][is_left]
