"""Merge neighboring regions, the nearest first, until one is left."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Float32Array = npt.NDArray[np.float32]
Float64Array = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

_BLOCK_EDGES = 8192


class Merges(NamedTuple):
    """A binary tree over K regions: nodes 0 to K - 1 are the regions, the root is the last node.

    Attributes:
        parents: Parent of each node, int64, shape (2 K - 1,), larger than the node's own number;
            the root is its own.
        altitudes: Cost of each merge, float64, shape (2 K - 1,), 0 for a region. Merges are
            numbered in the order of their altitudes, and a parent's altitude is not below its
            child's.
    """

    parents: IntArray
    altitudes: Float64Array


class Borders(NamedTuple):
    """What lies between adjacent regions, beside their means.

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
) -> Merges:
    """Merge neighbors, nearest first, with means that follow.

    Merging a and b costs

        ||mean_a - mean_b|| ^ (1 - w) * border_ab ^ w * (min(size_a, size_b) / total) ^ size_power

    where border_ab is the root of the mean squared distance across their border, and w is
    `border_weight`. Ward's criterion is close to w = 0 and a power of 1/2, and cuts large regions
    to even sizes; features learned from masks may keep them whole (experiments/hierarchy).

    All pairs that are each other's nearest neighbor are merged at once, round after round, on
    whole arrays. For reducible costs that gives the tree of one-by-one merging (Murtagh, A survey
    of recent advances in hierarchical clustering algorithms, The Computer Journal, 1983); this
    cost is not quite reducible, so trees may differ in details. Of equal costs the earlier edge
    counts as nearer, so the result is deterministic.

    Args:
        means: Mean feature of each region, shape (K, C).
        sizes: Pixels of each region, shape (K,).
        edges: Pairs of adjacent regions, shape (E, 2), no pair twice. Parts of the graph that do
            not touch are joined last, at the altitude of the root.
        size_power: How much the smaller size counts.
        borders: Needed where `border_weight` is not 0.
        border_weight: In [0, 1], how much the borders count.

    Returns:
        The tree of the K - 1 merges.

    Raises:
        ValueError: If there is a border weight but no borders.
    """
    if border_weight and borders is None:
        raise ValueError(f"border_weight {border_weight} needs borders, got None")
    builder = TreeBuilder(len(sizes))
    means = np.array(means, np.float32)
    shares = np.asarray(sizes, np.float64) / float(np.sum(sizes))
    nodes = np.arange(len(sizes))  # tree node of each region that is left
    ends = np.asarray(edges, np.int64)
    lengths, sums = _border_sums(borders if border_weight else None, len(ends))
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

        stays, number = numbers_when_joined(first, second, len(nodes))
        nodes, means, shares = nodes[stays], means[stays], shares[stays]
        ends, lengths, sums = simple_edges(number[ends], len(nodes), lengths, sums)
    for other in nodes[1:]:  # parts that do not touch
        altitude = np.array([builder.altitudes.max()])
        nodes[:1] = builder.join(nodes[:1], np.array([other]), altitude)
    return numbered_by_altitude(Merges(builder.parents, builder.altitudes))[0]


def numbers_when_joined(
    first: IntArray, second: IntArray, count: int
) -> tuple[npt.NDArray[np.bool_], IntArray]:
    """Which of some regions stay, and all their new numbers, when pairs of them become one.

    Args:
        first: What stays of each pair.
        second: What becomes the first.
        count: How many regions there are.

    Returns:
        bool, shape (count,); and the new number of each region, without gaps, shape (count,).
    """
    target = np.arange(count)
    target[second] = first
    stays = target == np.arange(count)
    return stays, (np.cumsum(stays) - 1)[target]


class TreeBuilder:
    """Nodes of a binary tree in the making; see `Merges`."""

    def __init__(self, num_leaves: int) -> None:
        self.num_nodes = num_leaves
        self.parents = np.arange(2 * num_leaves - 1)
        self.altitudes = np.zeros(2 * num_leaves - 1)

    def join(self, first: IntArray, second: IntArray, costs: Float64Array) -> IntArray:
        """Give each pair of nodes a parent; the new nodes, in the order of the pairs."""
        new = np.arange(self.num_nodes, self.num_nodes + len(first))
        self.num_nodes += len(first)
        self.parents[first] = self.parents[second] = new
        self.altitudes[new] = np.maximum(
            costs, np.maximum(self.altitudes[first], self.altitudes[second])
        )
        return new


def numbered_by_altitude(merges: Merges) -> tuple[Merges, IntArray]:
    """The same tree with merges numbered by altitude, and each node's new number.

    Regions keep their numbers; of equal altitudes the earlier merge stays first, so children come
    before their parents.
    """
    count = (len(merges.parents) + 1) // 2
    number = np.arange(len(merges.parents))
    order = np.argsort(merges.altitudes[count:], kind="stable") + count
    number[order] = np.arange(count, len(number))
    parents, altitudes = np.empty_like(merges.parents), np.empty_like(merges.altitudes)
    parents[number], altitudes[number] = number[merges.parents], merges.altitudes
    return Merges(parents, altitudes), number


def _border_sums(borders: Borders | None, num_edges: int) -> tuple[Float64Array, Float64Array]:
    """Length and summed squares of each border; empty where borders do not count."""
    if borders is None:
        return np.zeros(0), np.zeros(0)
    lengths = np.asarray(borders.lengths, np.float64)
    return lengths, lengths * np.asarray(borders.squares, np.float64)


def _mean_distances(means: Float32Array, ends: IntArray) -> Float64Array:
    squares = np.empty(len(ends))
    # In blocks that stay in the cache; of a large image the edges would take 100 MB at once.
    for start in range(0, len(ends), _BLOCK_EDGES):
        block = ends[start : start + _BLOCK_EDGES]
        steps = means[block[:, 0]] - means[block[:, 1]]
        squares[start : start + _BLOCK_EDGES] = np.einsum("ec,ec->e", steps, steps)
    return np.sqrt(squares)


def mutually_nearest(ends: IntArray, costs: Float64Array, num_regions: int) -> IntArray:
    """The edges that are the cheapest of both their ends; at least the cheapest of all is one."""
    rank = np.empty(len(ends), np.int64)
    rank[np.argsort(costs, kind="stable")] = np.arange(len(ends))
    least = np.full(num_regions, len(ends))
    np.minimum.at(least, ends[:, 0], rank)
    np.minimum.at(least, ends[:, 1], rank)
    is_mutual = (rank == least[ends[:, 0]]) & (rank == least[ends[:, 1]])
    return np.flatnonzero(is_mutual)


def simple_edges(
    ends: IntArray, num_regions: int, lengths: Float64Array, sums: Float64Array
) -> tuple[IntArray, Float64Array, Float64Array]:
    """Each pair of different regions once, the smaller first, sorted; borders are added up."""
    apart = ends[:, 0] != ends[:, 1]
    keys = (ends.min(axis=1) * num_regions + ends.max(axis=1))[apart]
    if not len(lengths):
        keys = np.unique(keys)
    else:
        keys, inverse = np.unique(keys, return_inverse=True)
        lengths = np.bincount(inverse, lengths[apart], len(keys)).astype(np.float64)
        sums = np.bincount(inverse, sums[apart], len(keys)).astype(np.float64)
    return np.stack(np.divmod(keys, num_regions), axis=1), lengths, sums
