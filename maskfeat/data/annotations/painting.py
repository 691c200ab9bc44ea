"""Masks as arrays, arrays as COCO counts, and masks on a coarser grid."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from maskfeat.arrays import BoolArray, Int32Array, IntArray
from maskfeat.data.annotations.rle import Counts, Runs, parse_counts, write_counts


def decode(runs: Runs) -> BoolArray:
    """Decode the masks (connected components), bool, shape (M, H, W)."""
    return paint(runs.starts, runs.stops, runs.mask_of_run, runs.num_masks, runs.size)


def decode_annotations(counts: Sequence[Counts], size: tuple[int, int]) -> BoolArray:
    """Decode the annotations as they are, not parted into components.

    Args:
        counts: COCO counts of each of N annotations.
        size: Height and width of the image, pixels.

    Returns:
        bool, shape (N, H, W).

    Raises:
        ValueError: As `parse_counts`.
    """
    starts, stops, owner = parse_counts(counts, size)
    return paint(starts, stops, owner, len(counts), size)


def encode(mask: BoolArray) -> str:
    """Write a mask as compressed COCO counts.

    Args:
        mask: bool, shape (H, W), not empty.

    Returns:
        The counts, as pycocotools writes them.

    Raises:
        ValueError: If `mask` has no two dimensions or no pixels.
    """
    if mask.ndim != 2 or mask.size == 0:
        raise ValueError(f"mask must have shape (H, W) and hold pixels, got {mask.shape}")
    flat = np.asarray(mask, bool).T.ravel()
    edges = np.flatnonzero(np.diff(flat, prepend=False))
    lengths = np.diff(edges, prepend=0, append=flat.size)
    return write_counts(lengths).decode("ascii")


def paint(
    starts: IntArray,
    stops: IntArray,
    owner: Int32Array,
    num: int,
    size: tuple[int, int],
) -> BoolArray:
    """Decode runs.

    Args:
        starts: First pixel of each run as flat column-major index, int64, shape (R,).
        stops: One beyond its last pixel.
        owner: The mask of each, 0..num-1, sorted by (owner, start).
        num: Number of masks N; those without runs are empty.
        size: Height and width, pixels.

    Returns:
        bool, shape (N, H, W).
    """
    height, width = size
    masks = np.zeros((num, height, width), bool)
    bounds = np.searchsorted(owner, np.arange(num + 1))
    for index in range(num):
        mine = slice(bounds[index], bounds[index + 1])
        ends = np.stack([starts[mine], stops[mine]], 1).ravel()
        lengths = np.diff(ends, prepend=0, append=height * width)
        flat = np.repeat(np.arange(len(lengths)) % 2 == 1, lengths)
        masks[index] = flat.reshape(width, height).T
    return masks


def reduced_size(size: tuple[int, int], short_side: int) -> tuple[int, int]:
    """Height and width of an image of `size` brought down to a short side; never enlarged."""
    scale = min(1.0, short_side / min(size))
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


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
    # Which old pixel of a line holds the center of each new one in its place.
    rows, columns = (
        ((np.arange(new) + 0.5) * (old / new)).astype(np.int64)
        for old, new in ((old_height, height), (old_width, width))
    )
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
