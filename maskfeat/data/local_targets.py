"""Targets of the losses of nearby pixels: the similarity of pairs, and the map of boundaries.

No mask is decoded: each pixel has a number for the set of masks that hold it.
"""

from __future__ import annotations

import numpy as np

from maskfeat.arrays import BoolArray, FloatArray, IntArray
from maskfeat.data.annotations.rle import Runs, membership


def jaccard(first: BoolArray, second: BoolArray) -> FloatArray:
    """Similarity of mask sets, bool (M, N) and (M, N) -> float32 (N,); -1 where both are empty."""
    union = (first | second).sum(axis=0)
    shared = (first & second).sum(axis=0)
    return np.where(union > 0, shared / np.maximum(union, 1), -1).astype(np.float32)


def pair_similarity(runs: Runs, first_yx: IntArray, second_yx: IntArray) -> FloatArray:
    """Jaccard similarity of the mask sets of pairs of pixels.

    Args:
        runs: The masks.
        first_yx: One pixel of each pair, int64, shape (N, 2); may lie beyond the image.
        second_yx: The other.

    Returns:
        float32, shape (N,); -1 where no mask holds either, or one lies beyond the image.
    """
    size = np.array(runs.size)
    both = np.concatenate([first_yx, second_yx])
    is_beyond = ((both < 0) | (both >= size)).any(axis=1).reshape(2, -1).any(axis=0)
    held = membership(runs, both.clip(0, size - 1))
    similarity = jaccard(*np.split(held, 2, axis=1))
    similarity[is_beyond] = -1
    return similarity


def boundary_map(runs: Runs, rows: IntArray, columns: IntArray) -> FloatArray:
    """Where boundaries run in a crop.

    Args:
        runs: The masks of the image.
        rows: Row of the image under each row of the crop, int64, shape (H,); may lie beyond it.
        columns: Likewise, shape (W,).

    Returns:
        1 minus the Jaccard similarity of the mask sets of each pixel and its right neighbor
        (channel 0), the one below (channel 1), float32, shape (2, H, W); -1 where it is unknown:
        where no mask holds either, beyond the image, in the last column and row.
    """
    sets, members = _mask_sets(runs, rows, columns)
    num_sets = members.shape[1]
    boundary = np.full((2, *sets.shape), -1, np.float32)
    for channel, (here, there) in enumerate([(sets[:, :-1], sets[:, 1:]), (sets[:-1], sets[1:])]):
        codes, inverse = np.unique(here * num_sets + there, return_inverse=True)
        first, second = np.divmod(codes, num_sets)
        similarity = jaccard(members[:, first], members[:, second])
        values = np.where(similarity < 0, -1, 1 - similarity)[inverse.reshape(here.shape)]
        is_known = np.maximum(here, there) < num_sets - 1
        view = boundary[channel, : here.shape[0], : here.shape[1]]
        view[is_known] = values[is_known]
    return boundary


def _mask_sets(runs: Runs, rows: IntArray, columns: IntArray) -> tuple[IntArray, BoolArray]:
    """A number for the mask set of each pixel of a crop, and the masks of each set.

    Returns:
        int64, shape (H, W), 0 to K - 1, and bool, shape (M, K); the last set is that of pixels
        beyond the image, and empty.
    """
    height, width = runs.size
    keys = np.random.default_rng(0).integers(1, 2**63, runs.num_masks, dtype=np.uint64)
    # The key of a set is the exclusive or of those of its masks; runs toggle theirs.
    toggles = np.zeros(height * width + 1, np.uint64)
    np.bitwise_xor.at(toggles, runs.starts, keys[runs.mask_of_run])
    np.bitwise_xor.at(toggles, runs.stops, keys[runs.mask_of_run])
    key_of_pixel = np.bitwise_xor.accumulate(toggles[:-1]).reshape(width, height).T
    y, x = rows.clip(0, height - 1), columns.clip(0, width - 1)
    _, first, inverse = np.unique(
        key_of_pixel[np.ix_(y, x)], return_index=True, return_inverse=True
    )
    sets = inverse.reshape(len(y), len(x)).astype(np.int64)
    sets[(rows != y)[:, None] | (columns != x)[None]] = len(first)
    i, j = np.divmod(first, len(x))
    members = membership(runs, np.stack([y[i], x[j]], axis=1))
    return sets, np.pad(members, ((0, 0), (0, 1)))
