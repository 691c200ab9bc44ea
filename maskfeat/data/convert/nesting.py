"""How deep the masks of an image lie in one another."""

from __future__ import annotations

import numpy as np
from scipy.sparse import csr_array

from maskfeat.arrays import IntArray
from maskfeat.data.annotations.image import SampleError
from maskfeat.data.annotations.rle import Runs

_MOST_NUMBERS = 2**26  # half a gigabyte in each of a few arrays


def overlaps(runs: Runs) -> IntArray:
    """How many pixels each two masks share, counted from their runs; no mask is decoded.

    All ends of all runs cut the image into segments; each mask holds a segment whole or not at
    all. The shared area is the summed length of the segments that both hold.

    Args:
        runs: The masks.

    Returns:
        int64, shape (M, M); the diagonal holds the areas.

    Raises:
        SampleError: "too large" if that would take gigabytes.
    """
    ends = np.unique(np.concatenate([runs.starts, runs.stops]))
    first, last = np.searchsorted(ends, runs.starts), np.searchsorted(ends, runs.stops)
    counts = last - first
    if max(runs.num_masks**2, int(counts.sum())) > _MOST_NUMBERS:
        raise SampleError("too large", f"its {runs.num_masks} masks share too much to be compared")
    offset = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    segment = np.repeat(first, counts) + offset
    owner = np.repeat(runs.mask_of_run, counts)
    shape = (runs.num_masks, max(len(ends) - 1, 1))
    ones = csr_array((np.ones(len(owner), np.int64), (owner, segment)), shape)
    lengths = np.diff(ends)[segment]
    weighted = csr_array((lengths, (owner, segment)), shape)
    return np.asarray((weighted @ ones.T).todense(), np.int64)


def nesting_depths(runs: Runs, min_share: float = 0.95, max_iou: float = 0.7) -> IntArray:
    """How many masks each mask lies in, along the longest chain, itself counted.

    A mask lies in another if at least `min_share` of its pixels do and their IoU is below
    `max_iou`: two outlines of the same thing (SA-1B's own measure of that) are not nested. A
    chain is a row of masks that each lie in the next.

    Args:
        runs: The masks.
        min_share: In (0.5, 1].
        max_iou: In (0, 1].

    Returns:
        int64 from 1, shape (M,); its maximum is the nesting depth of the image.
    """
    shared, areas = overlaps(runs), runs.areas
    iou = shared / np.maximum(areas[:, None] + areas[None, :] - shared, 1)
    is_inside = (shared >= min_share * areas[:, None]) & (iou < max_iou)
    is_inside &= areas[:, None] < areas[None, :]
    depths = np.ones(runs.num_masks, np.int64)
    for mask in np.argsort(-areas, kind="stable"):  # those it can lie in come before
        around = np.flatnonzero(is_inside[mask])
        if len(around):
            depths[mask] = depths[around].max() + 1
    return depths
