"""The binary partition tree: nested regions, merged two by two."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import higra as hg
import numpy as np
import numpy.typing as npt

from maskfeat.arrays import BoolArray, Float64Array, IntArray
from maskfeat.deprecation import warn_renamed


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
        """Undo the last merges.

        higra's cut by a number of regions keeps or undoes all merges of one altitude together, so
        it may give another number.

        Args:
            num_groups: Groups to be left with, 1 to K.

        Returns:
            Group of each leaf, int64, shape (K,), 0 to num_groups - 1 in order of first leaf.
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
