"""A tree of merges as the page gets it, which cuts it itself."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from maskfeat.segment.tree import PartitionTree


def partition_bytes(superpixel_labels: npt.NDArray[np.integer], tree: PartitionTree) -> bytes:
    """The tree that the page cuts at a granularity.

    Little endian: uint32 height, width, K superpixels, 0; float64 altitudes (2 K - 1); int32
        parents
    (2 K - 1); int32 superpixel of each pixel (height x width).

    Args:
        superpixel_labels: Superpixel of each pixel, shape (H, W).
        tree: Their merges.
    """
    parts = [
        np.array([*superpixel_labels.shape, tree.num_leaves, 0], "<u4"),
        tree.altitudes.astype("<f8"),
        tree.parents.astype("<i4"),
        superpixel_labels.astype("<i4"),
    ]
    return b"".join(part.tobytes() for part in parts)
