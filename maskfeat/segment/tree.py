"""A binary tree of merged regions, and what can be asked of it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import higra as hg
import numpy as np
import numpy.typing as npt

from maskfeat.segment.agglomeration import Merges, numbered_by_altitude

BoolArray = npt.NDArray[np.bool_]
Float64Array = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True)
class PartitionTree:
    """A binary tree whose leaves are regions and whose other nodes are merges, in their order.

    Attributes:
        parents: Parent of each node, int64, shape (2 K - 1,); leaves come first, the root is the
            last node and its own parent.
        altitudes: How unlike the two parts of a node are, float64, shape (2 K - 1,), 0 for a leaf;
            a parent's altitude is not below its child's.
        sizes: Pixels under each node, float64, shape (2 K - 1,).
    """

    parents: IntArray
    altitudes: Float64Array
    sizes: Float64Array

    @classmethod
    def of_merges(cls, merges: Merges, leaf_sizes: npt.NDArray[np.floating]) -> PartitionTree:
        """The tree of some merges of regions of K sizes."""
        sizes = hg.accumulate_sequential(
            hg.Tree(merges.parents), leaf_sizes.astype(np.float64), hg.Accumulators.sum
        )
        return cls(merges.parents, merges.altitudes, np.asarray(sizes, np.float64))

    @cached_property
    def tree(self) -> Any:  # noqa: ANN401 - higra has no types
        """The tree as higra holds it."""
        return hg.Tree(self.parents)

    @property
    def num_leaves(self) -> int:
        """K, the regions that were merged."""
        return (len(self.parents) + 1) // 2

    @cached_property
    def children(self) -> IntArray:
        """Both children of each merge, int64, shape (K - 1, 2), the smaller number first."""
        order = np.argsort(self.parents[:-1], kind="stable")
        return order.reshape(-1, 2).astype(np.int64)

    def ancestors(self, leaf: int) -> IntArray:
        """The path from a leaf (included) to the root (included)."""
        path: IntArray = np.asarray(self.tree.ancestors(int(leaf)), dtype=np.int64)
        return path

    def meeting_nodes(self, leaf: int) -> IntArray:
        """The smallest node that holds both `leaf` and each leaf, (K,)."""
        off_path = np.ones(len(self.parents), bool)
        off_path[self.ancestors(leaf)] = False
        # A node off the path takes what its parent has: at last the path's own node.
        numbers = np.arange(len(self.parents), dtype=np.float64)
        spread = hg.propagate_sequential(self.tree, numbers, off_path)
        nodes: IntArray = spread[: self.num_leaves].astype(np.int64)
        return nodes

    def leaves_under(self, nodes: IntArray) -> BoolArray:
        """Which leaves lie under any of the nodes, bool, shape (K,)."""
        is_chosen = np.zeros(len(self.parents), bool)
        is_chosen[nodes] = True
        inherits = ~is_chosen
        inherits[-1] = False
        spread = hg.propagate_sequential(self.tree, is_chosen.astype(np.float64), inherits)
        under: BoolArray = spread[: self.num_leaves] > 0
        return under

    def sums(self, leaf_values: npt.NDArray[np.number[Any]]) -> Float64Array:
        """Sum of the leaves' values under each node, (K, ...) -> float64 (2 K - 1, ...)."""
        values = leaf_values.astype(np.float64)
        totals: Float64Array = hg.accumulate_sequential(self.tree, values, hg.Accumulators.sum)
        return totals

    def groups(self, num_groups: int) -> IntArray:
        """Undo the last merges.

        Args:
            num_groups: How many groups to be left with, 1 to K.

        Returns:
            Group of each leaf, int64, shape (K,), 0 to num_groups - 1 in order of first leaf.
        """
        return self._groups_below(self.parents >= len(self.parents) - (num_groups - 1))

    def groups_at(self, altitude: float) -> IntArray:
        """Undo the merges above an altitude; group of each leaf, as `groups` numbers them."""
        return self._groups_below(self.altitudes[self.parents] > altitude)

    def _groups_below(self, is_top: BoolArray) -> IntArray:
        """Groups of the leaves under the topmost nodes that are no longer joined."""
        inherits = ~is_top
        inherits[-1] = False
        nodes = np.arange(len(self.parents), dtype=np.float64)
        tops = hg.propagate_sequential(self.tree, nodes, inherits)[: self.num_leaves]
        _, first, inverse = np.unique(tops, return_index=True, return_inverse=True)
        groups: IntArray = np.argsort(np.argsort(first))[inverse].astype(np.int64)
        return groups


def sorted_by_altitude(
    tree: PartitionTree, altitudes: Float64Array
) -> tuple[PartitionTree, IntArray]:
    """The same tree with other altitudes, its merges numbered anew in their order.

    Args:
        tree: The tree.
        altitudes: An altitude for each of its nodes, 0 for leaves, none above its parent's.

    Returns:
        The tree, and the new number of each old node.
    """
    merges, number = numbered_by_altitude(Merges(tree.parents, altitudes))
    sizes = np.empty_like(tree.sizes)
    sizes[number] = tree.sizes
    return PartitionTree(merges.parents, merges.altitudes, sizes), number
