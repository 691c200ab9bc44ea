"""The binary partition tree: nested regions, merged two by two."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import higra as hg
import numpy as np
import numpy.typing as npt

from maskfeat.arrays import BoolArray, Float64Array, FloatArray, Int32Array, IntArray
from maskfeat.deprecation import warn_renamed

_BLOCK_EDGES = 8192


@dataclass(frozen=True)
class PartitionTree:
    """A binary tree of regions: K leaves, and K - 1 merges of two nodes each.

    Attributes:
        parents: Parent of each node, int64, shape (2 K - 1,), larger than the node's own number.
            Leaves come first. The root is the last node, and its own parent.
        altitudes: Altitude of each node, float64, shape (2 K - 1,), 0 for a leaf; a parent's
            altitude is not below its child's. The tree cut at an altitude keeps all merges up to
            it.
        sizes: Pixels under each node, float64, shape (2 K - 1,).

    References:
        Salembier, Garrido: Binary partition tree as an efficient representation for image
        processing, segmentation, and information retrieval, IEEE Trans. Image Processing, 2000.
    """

    parents: IntArray
    altitudes: Float64Array
    sizes: Float64Array

    @classmethod
    def of_merges(
        cls,
        parents: IntArray,
        altitudes: Float64Array,
        leaf_sizes: npt.NDArray[np.floating],
    ) -> PartitionTree:
        """The tree with sizes summed from those of its K leaves."""
        sizes = hg.attribute_area(hg.Tree(parents), leaf_sizes.astype(np.float64))
        return cls(parents, altitudes, np.asarray(sizes, np.float64))

    def with_altitudes(self, altitudes: Float64Array) -> PartitionTree:
        """The same merges with other altitudes, renumbered by rising altitude.

        Args:
            altitudes: Of each node, 0 for leaves, none above its parent's. Merges of equal altitude
                keep their order.
        """
        tree, sorted_altitudes, former = hg.sort_hierarchy_with_altitudes(
            self.higra_tree, altitudes
        )
        parents = np.asarray(tree.parents(), np.int64)
        return PartitionTree(parents, sorted_altitudes, self.sizes[former])

    @cached_property
    def higra_tree(self) -> Any:  # noqa: ANN401 - higra has no types
        """The `higra.Tree`."""
        return hg.Tree(self.parents)

    @property
    def tree(self) -> Any:  # noqa: ANN401
        """The former name of `higra_tree`."""
        warn_renamed("PartitionTree.tree", "higra_tree")
        return self.higra_tree

    @property
    def num_leaves(self) -> int:
        """K, the number of regions that were merged."""
        return (len(self.parents) + 1) // 2

    @cached_property
    def children(self) -> IntArray:
        """Both children of each merge, int64, shape (K - 1, 2), the smaller number first."""
        order = np.argsort(self.parents[:-1], kind="stable")
        return order.reshape(-1, 2).astype(np.int64)

    def ancestors(self, leaf: int) -> IntArray:
        """The path from a leaf to the root, both included."""
        path: IntArray = np.asarray(self.higra_tree.ancestors(int(leaf)), dtype=np.int64)
        return path

    def meeting_nodes(self, leaf: int) -> IntArray:
        """The smallest node that contains `leaf` and each leaf, int64, shape (K,)."""
        off_path = np.ones(len(self.parents), bool)
        off_path[self.ancestors(leaf)] = False
        return self._inherited(np.arange(len(self.parents)), off_path).astype(np.int64)

    def leaves_under(self, nodes: IntArray) -> BoolArray:
        """Whether each leaf lies under any of the nodes, bool, shape (K,)."""
        is_chosen = np.zeros(len(self.parents), bool)
        is_chosen[nodes] = True
        under: BoolArray = self._inherited(is_chosen, ~is_chosen) > 0
        return under

    def region_around(
        self,
        leaf: int,
        *,
        granularity: float | None = None,
        num_groups: int | None = None,
        is_excluded: BoolArray | None = None,
    ) -> BoolArray:
        """The group of a cut that holds a leaf, e.g. the region of a click, bool, shape (K,).

        Args:
            leaf: The leaf.
            granularity: In (0, 1): cut at an altitude of 1 - granularity.
            num_groups: Or cut into this many groups.
            is_excluded: Leaves that the group must not hold, besides `leaf`, (K,); the largest
                smaller node without them is taken then. None for none.
        """
        path = self.ancestors(leaf)
        if granularity is not None:
            is_joined = self.altitudes[path] <= 1 - granularity
        else:
            assert num_groups is not None
            is_joined = path <= len(self.parents) - num_groups  # nodes are in the order of merges
        if is_excluded is not None:
            others = is_excluded.copy()
            others[leaf] = False
            is_joined &= self.sums(others.astype(np.float64))[path] == 0
        node = path[is_joined][-1:]
        return self.leaves_under(node if node.size else path[:1])

    def sums(self, leaf_values: npt.NDArray[np.number[Any]]) -> Float64Array:
        """Sum of the leaves' values under each node, (K, ...) -> float64 (2 K - 1, ...)."""
        values = leaf_values.astype(np.float64)
        totals: Float64Array = hg.accumulate_sequential(
            self.higra_tree, values, hg.Accumulators.sum
        )
        return totals

    def groups(self, num_groups: int) -> IntArray:
        """Group of each leaf, int64, (K,), 0 to num_groups - 1 (at most K) in order of first leaf.

        The last merges are undone. higra's cut by a number of regions keeps or undoes all merges of
        one altitude together, so it may give another number.
        """
        return self._groups_under(self.parents >= len(self.parents) - (num_groups - 1))

    def groups_at(self, altitude: float) -> IntArray:
        """Undo the merges above an altitude; group of each leaf, numbered as in `groups`."""
        return self._groups_under(self.altitudes[self.parents] > altitude)

    def _groups_under(self, is_top: BoolArray) -> IntArray:
        return in_reading_order(self._inherited(np.arange(len(self.parents)), ~is_top))

    def _inherited(self, values: npt.NDArray[np.generic], inherits: BoolArray) -> Float64Array:
        """Values of the leaves when some nodes take that of their parent, (2 K - 1,) -> (K,)."""
        inherits[-1] = False
        found: Float64Array = hg.propagate_sequential(
            self.higra_tree, values.astype(np.float64), inherits
        )
        return found[: self.num_leaves]


def in_reading_order(labels: npt.NDArray[np.generic]) -> IntArray:
    """The same groups numbered from 0 in order of their first elements, int64, same shape."""
    _, first, inverse = np.unique(labels, return_index=True, return_inverse=True)
    number = np.argsort(np.argsort(first))
    ordered: IntArray = number[inverse.reshape(labels.shape)].astype(np.int64)
    return ordered


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
    one, other = ends[:, 0], ends[:, 1]
    least = np.full(num_regions, np.inf)
    np.minimum.at(least, one, costs)
    np.minimum.at(least, other, costs)
    # Of edges that cost an end as little as its cheapest one, the first is its choice.
    choice = np.full(num_regions, len(ends))
    for end in (one, other):
        cheapest = np.flatnonzero(costs == least[end])
        np.minimum.at(choice, end[cheapest], cheapest)
    chosen = choice[one] == choice[other]
    return np.flatnonzero(chosen & (choice[one] == np.arange(len(ends))))


def joined_numbers(first: IntArray, second: IntArray, count: int) -> tuple[BoolArray, IntArray]:
    """Renumber regions when the second of each pair becomes the first.

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
        ends: The regions of each edge, shape (E, 2).
        num_regions: More than any of their numbers.
        sums: At least one; added up over parallel edges, each shape (E,), or all empty.

    Returns:
        Each pair of different regions once, the smaller first, sorted; then the sums.
    """
    one, other = ends[:, 0], ends[:, 1]
    apart = one != other
    keys = (np.minimum(one, other) * num_regions + np.maximum(one, other))[apart]
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

    Of features (K, C), sizes (K,) and edges (E, 2) of a connected graph. The altitude of a merge is
    the growth of the sum of squares, or the altitude of a child if that is higher.

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
