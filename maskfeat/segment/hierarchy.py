"""Atoms merged two by two: the tree of all their nested groups."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import higra as hg
import numpy as np
import numpy.typing as npt

from maskfeat.segment.atoms import AtomGraph

IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class MergeTree:
    """A binary tree whose leaves are regions and whose other nodes are merges, in their order.

    Attributes:
        tree: The tree as higra holds it; leaves come first, the root last.
        parents: Parent of each node, int64, shape (2 K - 1,); the root is its own.
        levels: How unlike the two parts of a node are, float64, shape (2 K - 1,), 0 for a leaf;
            a parent's level is not below its child's.
        sizes: Pixels under each node, float64, shape (2 K - 1,).
    """

    tree: Any
    parents: IntArray
    levels: npt.NDArray[np.float64]
    sizes: npt.NDArray[np.float64]

    @property
    def num_leaves(self) -> int:
        """K, the regions that were merged."""
        return (len(self.parents) + 1) // 2

    def ancestors(self, leaf: int) -> IntArray:
        """The path from a leaf (included) to the root (included)."""
        path: IntArray = np.asarray(self.tree.ancestors(int(leaf)), dtype=np.int64)
        return path

    def meeting_levels(self, leaf: int) -> npt.NDArray[np.float64]:
        """Level of the smallest node that holds both `leaf` and each leaf, 0 for itself, (K,)."""
        off_path = np.ones(len(self.parents), bool)
        off_path[self.ancestors(leaf)] = False
        # A node off the path takes what its parent has: at last the path's own level.
        spread = hg.propagate_sequential(self.tree, self.levels, off_path)
        levels: npt.NDArray[np.float64] = spread[: self.num_leaves].astype(np.float64)
        levels[leaf] = 0
        return levels

    def leaves_under(self, nodes: IntArray) -> BoolArray:
        """Which leaves lie under any of the nodes, bool, shape (K,)."""
        is_chosen = np.zeros(len(self.parents), bool)
        is_chosen[nodes] = True
        inherits = ~is_chosen
        inherits[-1] = False
        spread = hg.propagate_sequential(self.tree, is_chosen.astype(np.float64), inherits)
        under: BoolArray = spread[: self.num_leaves] > 0
        return under

    def groups(self, num_groups: int) -> IntArray:
        """Undo the last merges.

        Args:
            num_groups: How many groups to be left with, 1 to K.

        Returns:
            Group of each leaf, int64, shape (K,), 0 to num_groups - 1 in order of first leaf.
        """
        first_undone = len(self.parents) - (num_groups - 1)
        inherits = self.parents < first_undone
        inherits[-1] = False
        nodes = np.arange(len(self.parents), dtype=np.float64)
        tops = hg.propagate_sequential(self.tree, nodes, inherits)[: self.num_leaves]
        _, first, inverse = np.unique(tops, return_index=True, return_inverse=True)
        groups: IntArray = np.argsort(np.argsort(first))[inverse].astype(np.int64)
        return groups


def ward_tree(
    features: npt.NDArray[np.floating],
    sizes: npt.NDArray[np.floating],
    edges: npt.NDArray[np.int32],
) -> MergeTree:
    """Merge adjacent regions in the order in which the variance within regions grows least.

    Ward's linkage (Hierarchical grouping to optimize an objective function, JASA 1963), between
    neighbors in a graph only, by higra. The level of a merge is the growth of the sum of squares,
    or its children's level where that is higher.

    Args:
        features: Mean feature of each region, shape (K, C).
        sizes: Pixels of each region, shape (K,).
        edges: Pairs of adjacent regions, shape (E, 2); the graph must be connected.

    Returns:
        The tree of the K - 1 merges.
    """
    graph = hg.UndirectedGraph(len(sizes))
    graph.add_edges(edges[:, 0], edges[:, 1])
    if len(sizes) == 1:
        tree, levels = hg.Tree(np.zeros(1, np.int64)), np.zeros(1)
    else:
        tree, levels = hg.binary_partition_tree_ward_linkage(
            graph, features.astype(np.float64), sizes.astype(np.float64), "max"
        )
    counts = hg.accumulate_sequential(tree, sizes.astype(np.float64), hg.Accumulators.sum)
    return MergeTree(
        tree, np.asarray(tree.parents(), np.int64), np.asarray(levels, np.float64), counts
    )


def merge_tree(graph: AtomGraph) -> MergeTree:
    """The Ward tree of an image's atoms."""
    return ward_tree(graph.features, graph.sizes, graph.edges)


def salient_node(
    tree: MergeTree,
    leaf: int,
    is_barred: BoolArray,
    min_share: float = 0.005,
    max_share: float = 0.6,
) -> int:
    """The ancestor of a leaf that stands out most from what holds it.

    Args:
        tree: Merges of the regions of one image.
        leaf: A region, e.g. that of a click.
        is_barred: Nodes that cannot be meant, with all their ancestors, e.g. since they hold a
            click on the background, bool, shape (2 K - 1,).
        min_share: Smallest object to be guessed, as a share of the image.
        max_share: Largest one.

    Returns:
        The node with the largest (parent's level / level) * share^0.1 among the ancestors that are
        neither barred nor too small nor too large. Where there is none, the largest that is
        not barred and not too large, and the leaf itself at the least.
    """
    path = tree.ancestors(leaf)
    shares = tree.sizes[path] / tree.sizes[-1]
    path = path[~is_barred[path] & (shares <= max_share)]
    if not path.size:
        return int(leaf)
    shares = tree.sizes[path] / tree.sizes[-1]
    floor = max(float(tree.levels[-1]) * 1e-12, np.finfo(np.float64).tiny)
    # A leaf has no level of its own, so its jump means nothing: the last choice.
    jumps = tree.levels[tree.parents[path]] / np.maximum(tree.levels[path], floor)
    jumps[path == leaf] = 0
    # Of two like jumps the larger region is more often meant.
    merits = np.where(shares >= min_share, jumps * shares**0.1, -1.0)
    return int(path[merits.argmax()] if (merits >= 0).any() else path[-1])
