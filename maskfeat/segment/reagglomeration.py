"""The upper part of a tree, merged anew in the order that a merge classifier says."""

from __future__ import annotations

import higra as hg
import numpy as np

from maskfeat.segment.agglomeration import TreeBuilder, mutually_nearest, numbers_when_joined
from maskfeat.segment.merge_classifier import MergeClassifier
from maskfeat.segment.regions import Regions
from maskfeat.segment.superpixels import RegionGraph
from maskfeat.segment.tree import Float64Array, IntArray, PartitionTree

# So many regions are left to the merge classifier. Below, one cost is as good as another, and
# faster.
NUM_REGIONS = 600


def reagglomerated(
    tree: PartitionTree,
    graph: RegionGraph,
    merge_classifier: MergeClassifier,
    num_regions: int = NUM_REGIONS,
) -> PartitionTree:
    """Undo the last merges of a tree, and do them again in the order that a merge classifier says.

    Merged first is what the merge classifier holds most probable to be one segment, given what both
    regions are at that moment. Pairs that are each other's most probable partners are merged at
    once, round after round, as in `merging.merge_nearest`; only pairs that a merge has changed are
    judged again. That is the learned agglomeration of Nunez-Iglesias et al. (Machine learning of
    hierarchical clustering to segment 2D and 3D images, PLOS ONE, 2013); unlike there, small
    regions come from a fixed cost.

    Args:
        tree: The merges of the superpixels.
        graph: The superpixels.
        merge_classifier: Gives the probabilities.
        num_regions: How many regions to go back to.

    Returns:
        The tree. Only the order of its altitudes means something; see
        `merge_classifier.calibrated`.
    """
    count = min(num_regions, tree.num_leaves)
    groups = tree.groups(count)
    parents = merge_by_classifier(Regions.of_superpixels(graph).grouped(groups), merge_classifier)
    return _grafted(tree, groups, parents)


def merge_by_classifier(regions: Regions, merge_classifier: MergeClassifier) -> IntArray:
    """Parents of the nodes of the tree of R connected regions, int64, shape (2 R - 1,)."""
    builder = TreeBuilder(len(regions.sums.sizes))
    nodes = np.arange(len(regions.sums.sizes))
    doubts = 1 - merge_classifier(regions.measures(np.arange(len(regions.pairs))))
    while len(regions.pairs):
        count = len(regions.sums.sizes)
        chosen = mutually_nearest(regions.pairs, doubts, count)
        first, second = regions.pairs[chosen].T
        nodes[first] = builder.join(nodes[first], nodes[second], doubts[chosen])

        stays, number = numbers_when_joined(first, second, count)
        is_new = np.zeros(int(stays.sum()), bool)
        is_new[number[first]] = True
        nodes, before, regions = nodes[stays], number[regions.pairs], regions.grouped(number)
        doubts = _carried(before, doubts, regions.pairs)
        changed = np.flatnonzero(is_new[regions.pairs].any(axis=1))
        doubts[changed] = 1 - merge_classifier(regions.measures(changed))
    return builder.parents


def _carried(before: IntArray, doubts: Float64Array, pairs: IntArray) -> Float64Array:
    """Doubts of pairs that were there before; anything for pairs that have changed."""
    is_apart = before[:, 0] != before[:, 1]
    base = int(before.max()) + 1
    keys = (before.min(axis=1) * base + before.max(axis=1))[is_apart]
    kept = np.empty(len(pairs))
    kept[np.searchsorted(pairs @ (base, 1), keys)] = doubts[is_apart]
    return kept


def _grafted(tree: PartitionTree, groups: IntArray, parents: IntArray) -> PartitionTree:
    """The lower part of a tree, with another upper part.

    Args:
        tree: The tree of K leaves.
        groups: Its leaves in R groups, as it gives them.
        parents: Of the nodes of a tree of these groups, shape (2 R - 1,).
    """
    num_groups = int(groups.max()) + 1
    num_kept = len(tree.parents) - (num_groups - 1)
    if num_groups == 1:
        return tree
    tops = np.flatnonzero(tree.parents[:num_kept] >= num_kept)
    group_of_node = hg.accumulate_sequential(
        tree.tree, groups.astype(np.float64), hg.Accumulators.min
    )
    shift = num_kept - num_groups
    grafted = np.concatenate([tree.parents[:num_kept], parents[num_groups:] + shift])
    grafted[tops] = parents[group_of_node[tops].astype(np.int64)] + shift
    lowest = tree.altitudes[num_kept - 1]
    altitudes = np.concatenate([tree.altitudes[:num_kept], lowest + np.arange(1, num_groups)])
    sizes = hg.accumulate_sequential(
        hg.Tree(grafted), tree.sizes[: tree.num_leaves], hg.Accumulators.sum
    )
    return PartitionTree(grafted, altitudes, np.asarray(sizes, np.float64))
