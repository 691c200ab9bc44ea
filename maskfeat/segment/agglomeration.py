"""Agglomerative clustering of adjacent regions into a binary partition tree."""

from __future__ import annotations

from typing import NamedTuple

import higra as hg
import numpy as np
import numpy.typing as npt

from maskfeat.arrays import BoolArray, Float64Array, FloatArray, Int32Array, IntArray
from maskfeat.segment.tree import PartitionTree

_BLOCK_EDGES = 8192


class Borders(NamedTuple):
    """The common borders of adjacent regions.

    Attributes:
        lengths: Pixel sides of each border, shape (E,).
        squares: Mean squared feature distance across each border, shape (E,).
    """

    lengths: npt.NDArray[np.floating]
    squares: npt.NDArray[np.floating]


def merge_nearest(
    means: npt.NDArray[np.floating],
    sizes: npt.NDArray[np.floating],
    edges: npt.NDArray[np.integer],
    size_power: float = 0.15,
    borders: Borders | None = None,
    border_weight: float = 0.0,
) -> PartitionTree:
    """Merge adjacent regions, nearest first, until one is left.

    Merging a and b costs

        ||mean_a - mean_b|| ^ (1 - w) * border_ab ^ w * (min(size_a, size_b) / total) ^ size_power

    where border_ab is the root of the mean squared distance across their border, and w is
    `border_weight`. Means and borders are updated with each merge. Ward's criterion is close to
    w = 0 and a power of 1/2, and cuts large regions to even sizes; features learned from masks may
    keep them whole (experiments/hierarchy).

    All pairs that are each other's nearest neighbor are merged at once, again and again, on
    whole arrays. For reducible costs this gives the tree of one-by-one merging. This cost is not
    quite reducible, so details may differ. Of equal costs the earlier edge counts as nearer, so
    the result is deterministic.

    Args:
        means: Mean feature of each region, shape (K, C).
        sizes: Pixels of each region, shape (K,).
        edges: Pairs of adjacent regions, shape (E, 2), no pair twice. Components of the graph that
            do not touch are joined last, at the altitude of the root.
        size_power: How much the smaller size counts: the larger, the earlier small regions are
            merged.
        borders: Needed if `border_weight` is not 0.
        border_weight: In [0, 1], how much the borders count.

    Returns:
        The tree. The altitude of a merge is its cost, or the altitude of a child if that is
        higher; merges are sorted by altitude.

    Raises:
        ValueError: If there is a border weight but no borders.

    References:
        Murtagh: A survey of recent advances in hierarchical clustering algorithms, The Computer
        Journal, 1983 (reciprocal nearest neighbors).
    """
    if border_weight and borders is None:
        raise ValueError(f"border_weight {border_weight} needs borders, got None")
    builder = TreeBuilder(len(sizes))
    means = np.array(means, np.float32)
    shares = np.asarray(sizes, np.float64) / float(np.sum(sizes))
    nodes = np.arange(len(sizes))  # tree node of each region that is left
    ends = np.asarray(edges, np.int64)
    lengths = sums = np.zeros(0)
    if borders is not None and border_weight:
        lengths = np.asarray(borders.lengths, np.float64)
        sums = lengths * np.asarray(borders.squares, np.float64)
    while len(ends):
        costs = _mean_distances(means, ends) ** (1 - border_weight)
        if border_weight:
            costs *= np.sqrt(sums / lengths) ** border_weight
        costs *= np.minimum(shares[ends[:, 0]], shares[ends[:, 1]]) ** size_power
        chosen = mutually_nearest(ends, costs, len(nodes))
        first, second = ends[chosen, 0], ends[chosen, 1]
        nodes[first] = builder.join(nodes[first], nodes[second], costs[chosen])
        total = shares[first] + shares[second]
        weight = (shares[second] / total).astype(np.float32)[:, None]
        means[first] += weight * (means[second] - means[first])
        shares[first] = total

        stays, number = joined_numbers(first, second, len(nodes))
        nodes, means, shares = nodes[stays], means[stays], shares[stays]
        ends, (lengths, sums) = simple_edges(number[ends], len(nodes), lengths, sums)
    for other in nodes[1:]:  # components that do not touch
        highest = np.array([builder.altitudes.max()])
        nodes[:1] = builder.join(nodes[:1], np.array([other]), highest)
    tree = PartitionTree.of_merges(builder.parents, builder.altitudes, sizes)
    return tree.with_altitudes(tree.altitudes)


def _mean_distances(means: FloatArray, ends: IntArray) -> Float64Array:
    squares = np.empty(len(ends))
    # Blocks stay in the cache; all edges of a large image at once would take 100 MB.
    for start in range(0, len(ends), _BLOCK_EDGES):
        block = ends[start : start + _BLOCK_EDGES]
        steps = means[block[:, 0]] - means[block[:, 1]]
        squares[start : start + _BLOCK_EDGES] = np.einsum("ec,ec->e", steps, steps)
    return np.sqrt(squares)


class TreeBuilder:
    """Parents and altitudes of a `PartitionTree` under construction."""

    def __init__(self, num_leaves: int) -> None:
        self.num_nodes = num_leaves
        self.parents = np.arange(2 * num_leaves - 1)
        self.altitudes = np.zeros(2 * num_leaves - 1)

    def join(self, first: IntArray, second: IntArray, costs: Float64Array) -> IntArray:
        """Give each pair of nodes a parent; return the new nodes, (M,)."""
        new = np.arange(self.num_nodes, self.num_nodes + len(first))
        self.num_nodes += len(first)
        self.parents[first] = self.parents[second] = new
        below = np.maximum(self.altitudes[first], self.altitudes[second])
        self.altitudes[new] = np.maximum(costs, below)
        return new


def mutually_nearest(ends: IntArray, costs: Float64Array, num_regions: int) -> IntArray:
    """The edges that are the cheapest of both their ends, at least one; of ties the first."""
    rank = np.empty(len(ends), np.int64)
    rank[np.argsort(costs, kind="stable")] = np.arange(len(ends))
    least = np.full(num_regions, len(ends))
    np.minimum.at(least, ends[:, 0], rank)
    np.minimum.at(least, ends[:, 1], rank)
    is_mutual = (rank == least[ends[:, 0]]) & (rank == least[ends[:, 1]])
    return np.flatnonzero(is_mutual)


def joined_numbers(first: IntArray, second: IntArray, count: int) -> tuple[BoolArray, IntArray]:
    """Renumber regions when pairs of them are joined.

    Args:
        first: The region of each pair that stays.
        second: The region of each pair that becomes the first.
        count: Number of regions.

    Returns:
        Which regions stay, bool, shape (count,); and the new number of each region, without gaps,
        int64, shape (count,).
    """
    target = np.arange(count)
    target[second] = first
    stays = target == np.arange(count)
    return stays, (np.cumsum(stays) - 1)[target]


def simple_edges(
    ends: IntArray, num_regions: int, *sums: Float64Array
) -> tuple[IntArray, list[Float64Array]]:
    """Make a multigraph simple.

    Args:
        ends: Pairs of regions, shape (E, 2).
        num_regions: Number of regions.
        sums: Each added up over parallel edges, shape (E,), or all of shape (0,).

    Returns:
        Each pair of different regions once, the smaller first, sorted; then the sums.
    """
    apart = ends[:, 0] != ends[:, 1]
    keys = (ends.min(axis=1) * num_regions + ends.max(axis=1))[apart]
    if not len(sums[0]):
        return np.stack(np.divmod(np.unique(keys), num_regions), axis=1), list(sums)
    keys, inverse = np.unique(keys, return_inverse=True)
    added = [np.bincount(inverse, v[apart], len(keys)).astype(np.float64) for v in sums]
    return np.stack(np.divmod(keys, num_regions), axis=1), added


def ward_tree(
    features: npt.NDArray[np.floating],
    sizes: npt.NDArray[np.floating],
    edges: Int32Array,
) -> PartitionTree:
    """Merge adjacent regions by Ward's linkage, which keeps the variance within regions low.

    Args:
        features: Mean feature of each region, shape (K, C).
        sizes: Pixels of each region, shape (K,).
        edges: Pairs of adjacent regions, shape (E, 2); the graph must be connected.

    Returns:
        The tree. The altitude of a merge is the growth of the sum of squares, or the altitude of a
        child if that is higher.

    References:
        Ward: Hierarchical grouping to optimize an objective function, JASA, 1963.
    """
    if len(sizes) == 1:
        return PartitionTree.of_merges(np.zeros(1, np.int64), np.zeros(1), sizes)
    graph = hg.UndirectedGraph(len(sizes))
    graph.add_edges(edges[:, 0], edges[:, 1])
    tree, altitudes = hg.binary_partition_tree_ward_linkage(
        graph, features.astype(np.float64), sizes.astype(np.float64), "max"
    )
    parents = np.asarray(tree.parents(), np.int64)
    return PartitionTree.of_merges(parents, np.asarray(altitudes, np.float64), sizes)
