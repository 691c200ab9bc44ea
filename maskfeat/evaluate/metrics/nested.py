"""How well the partitions of a tree fit true segments, all of them at once.

Pixels are counted once, for the leaves; what a node shares with a true segment is the sum over its
leaves. So a hundred thresholds of one tree cost little more than one.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from maskfeat.arrays import BoolArray, Float64Array, IntArray
from maskfeat.evaluate.metrics.overlap import LabelMap, Overlap, checked_label_maps, entropy
from maskfeat.segment.tree import PartitionTree

# The IoUs that average recall is the mean over (COCO).
RECALL_THRESHOLDS = np.arange(0.5, 0.96, 0.05)


class NestedOverlap:
    """Every node of a tree against every true segment of one annotator.

    Args:
        tree: N nodes, K of them leaves.
        leaf_labels: Leaf of each pixel, integers, shape (H, W), in 0 to K - 1.
        target: True label map, integers, shape (H, W); -1 marks pixels that are not counted, in
            no size either.

    Attributes:
        shared: Pixels that a node shares with a true segment, float64, shape (N, G).
        sizes: Counted pixels of each node, float64, shape (N,).
        target_sizes: Counted pixels of each true segment, float64, shape (G,).

    Raises:
        ValueError: If the shapes differ, are not those of label maps, or no pixel is counted.
    """

    def __init__(self, tree: PartitionTree, leaf_labels: LabelMap, target: LabelMap) -> None:
        leaves, true = checked_label_maps(leaf_labels, target)
        counted = true >= 0
        if not counted.any():
            raise ValueError("target has no counted pixel, all are -1; leave this one out")
        names, number = np.unique(true[counted], return_inverse=True)
        places = leaves[counted] * len(names) + number
        table = np.bincount(places, minlength=tree.num_leaves * len(names))
        self.tree = tree
        self.shared = tree.sums(table.reshape(tree.num_leaves, len(names)).astype(np.float64))
        self.sizes: Float64Array = self.shared.sum(axis=1)
        self.target_sizes: Float64Array = self.shared[-1]

    def iou(self) -> Float64Array:
        """IoU of each node and each true segment, shape (N, G)."""
        union = self.sizes[:, None] + self.target_sizes - self.shared
        iou: Float64Array = self.shared / np.maximum(union, 1)
        return iou

    def nodes_at(self, altitude: float) -> IntArray:
        """The nodes that are the segments of the cut at an altitude."""
        altitudes = self.tree.altitudes
        is_top = altitudes[self.tree.parents] > altitude
        is_top[-1] = True
        return np.flatnonzero((altitudes <= altitude) & is_top)

    def scores_at(self, altitude: float) -> dict[str, float]:
        """`covering`, `pri` and `voi` of the cut at an altitude, as in `metrics.regions`."""
        nodes = self.nodes_at(altitude)
        shared, sizes, true = self.shared[nodes], self.sizes[nodes], self.target_sizes
        total = float(true.sum())
        union = sizes[:, None] + true - shared
        best = (shared / np.maximum(union, 1)).max(axis=0)
        squares = (sizes**2).sum() + (true**2).sum() - 2 * (shared**2).sum()
        entropies = [entropy(values) for values in (shared, sizes, true)]
        return {
            "covering": float((best * true).sum() / total),
            "pri": 1 - float(squares) / (total * (total - 1)) if total > 1 else math.nan,
            "voi": max(0.0, 2 * entropies[0] - entropies[1] - entropies[2]),
        }

    def best_covering(self) -> float:
        """Covering by any nodes of the tree, each true segment with the best one for it."""
        best = self.iou().max(axis=0)
        return float((best * self.target_sizes).sum() / self.target_sizes.sum())

    def average_recall(self, max_segments: int) -> float:
        """See `average_recall`; nodes are ranked from the top of the tree down."""
        # Of equal altitudes the larger number is the upper one: the root before its children.
        order = np.argsort(self.tree.altitudes[self.tree.parents], kind="stable")[::-1]
        return average_recall(self.iou()[order], max_segments)


def best_node_ious(tree: PartitionTree, leaf_labels: LabelMap, masks: BoolArray) -> Float64Array:
    """IoU of each true mask, bool (M, H, W), none empty, with the best node of a tree for it, (M,).

    Unlike `NestedOverlap.iou`, true masks may overlap and leave pixels out, and all pixels count.
    Labels are the leaf of each pixel, (H, W), in 0 to K - 1.
    """
    areas = masks.sum(axis=(1, 2)).astype(np.float64)
    counts = [np.bincount(leaf_labels[mask], minlength=tree.num_leaves) for mask in masks]
    shared = tree.sums(np.stack(counts, axis=1).astype(np.float64))
    best: Float64Array = (shared / (tree.sizes[:, None] + areas - shared)).max(axis=0)
    return best


def average_recall(iou: npt.NDArray[np.floating], max_segments: int) -> float:
    """Share of true segments that a pool of segments finds, averaged over how well.

    AR of Hosang et al., "What makes for effective detection proposals?", TPAMI 2016, with COCO's
    thresholds 0.5, 0.55, ... 0.95 on the IoU of masks. A true segment is found if any segment of
    the pool reaches the threshold; nothing is matched one to one.

    Args:
        iou: Of each segment of the pool, best first, and each true segment, shape (S, G).
        max_segments: How many of the pool count.

    Returns:
        In [0, 1]; NaN if there is no true segment.
    """
    if iou.shape[1] == 0:
        return math.nan
    if iou.shape[0] == 0 or max_segments < 1:
        return 0.0
    best = iou[:max_segments].max(axis=0)
    # A hair of tolerance: 0.55 and its like are no exact floats.
    return float((best[:, None] >= RECALL_THRESHOLDS - 1e-9).mean())


def nestedness(partitions: Sequence[LabelMap]) -> float:
    """Share of segments that lie in one segment of the next coarser partition.

    Of label maps (H, W) from fine to coarse; in [0, 1], over the segments of all but the coarsest;
    1 for a hierarchy.

    Raises:
        ValueError: If there are fewer than two, or shapes differ.
    """
    if len(partitions) < 2:
        raise ValueError(f"nestedness needs at least two partitions, got {len(partitions)}")
    num_nested = num_segments = 0
    for fine, coarse in itertools.pairwise(partitions):
        inner, outer = checked_label_maps(fine, coarse)
        num_parents = np.bincount(Overlap(inner.ravel(), outer.ravel()).label)
        num_nested += int((num_parents == 1).sum())
        num_segments += int((num_parents > 0).sum())
    return num_nested / num_segments
