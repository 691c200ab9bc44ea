"""Masks as arrays: run-length masks painted, and arrays written as COCO counts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from maskfeat.arrays import BoolArray, Int32Array, IntArray
from maskfeat.data.annotations.counts import Counts, parse_counts, write_counts
from maskfeat.data.annotations.rle import Runs


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
