"""Maps of clicks from the hierarchy: the segments that hold a click and a superpixel."""

from __future__ import annotations

from collections.abc import Iterable

import higra as hg
import numpy as np

from maskfeat.arrays import BoolArray, FloatArray, IntArray
from maskfeat.segment.tree import PartitionTree


class TreeMaps:
    """Maps of clicks over the superpixels of an image, read off the binary partition tree.

    For a superpixel and a set of clicks, the *meeting node* is the smallest node of the tree that
    holds the superpixel and a click. As altitudes rise toward the root, it is also the most
    probable one. One pass over the tree finds it for all superpixels.

    Args:
        tree: Merges of the superpixels; altitudes are 1 - p, see `Hierarchy`.
    """

    CHANNELS = 6

    def __init__(self, tree: PartitionTree) -> None:
        self._tree = tree
        self._probabilities = (1 - tree.altitudes).astype(np.float32)
        # Between about -0.5 (one superpixel) and 1 (the image).
        self._log_sizes = (np.log2(tree.sizes / tree.sizes[-1]) / 8 + 1).astype(np.float32)

    def maps(self, inside: IntArray, outside: IntArray) -> FloatArray:
        """Six values for each superpixel; a function of the two sets.

        Args:
            inside: Superpixels of object clicks, (N,).
            outside: Superpixels of background clicks, (M,).

        Returns:
            float32, shape (6, K); 0 where there is no click of the sign:
            0, 1: probability and log size of the meeting node with the object clicks;
            2: probability of that child of it that holds the click;
            3, 4: as 0 and 1, for the background clicks;
            5: 1 in the largest nodes around object clicks that hold no background click.
        """
        found = np.zeros((self.CHANNELS, self._tree.num_leaves), np.float32)
        with_inside, with_outside = self._holding(inside), self._holding(outside)
        if len(inside):
            nodes = self._first_ancestor(with_inside)
            found[0] = self._probabilities[nodes]
            found[1] = self._log_sizes[nodes]
            found[2] = self._probabilities[self._clicked_child(nodes, with_inside)]
            found[5] = self._tree.leaves_under(np.flatnonzero(with_inside & ~with_outside))
            found[5, inside] = 1
        if len(outside):
            nodes = self._first_ancestor(with_outside)
            found[3] = self._probabilities[nodes]
            found[4] = self._log_sizes[nodes]
        return found

    def _holding(self, superpixels: Iterable[int]) -> BoolArray:
        """Whether each node holds one of some superpixels, (2 K - 1,)."""
        holds = np.zeros(len(self._tree.parents), bool)
        for superpixel in set(superpixels):
            holds[self._tree.ancestors(superpixel)] = True
        return holds

    def _first_ancestor(self, has_click: BoolArray) -> IntArray:
        """The smallest node with a click above each leaf, (K,); the root must have one."""
        numbers = np.arange(len(has_click), dtype=np.float64)
        inherits = ~has_click
        inherits[-1] = False
        found = hg.propagate_sequential(self._tree.higra_tree, numbers, inherits)
        first: IntArray = found[: self._tree.num_leaves].astype(np.int64)
        return first

    def _clicked_child(self, nodes: IntArray, has_click: BoolArray) -> IntArray:
        """The child with a click of each node, the likelier of two; a leaf is its own child."""
        num_leaves = self._tree.num_leaves
        is_merge = nodes >= num_leaves
        pairs = self._tree.children[np.where(is_merge, nodes - num_leaves, 0)]
        likeliness = np.where(has_click[pairs], self._probabilities[pairs], -1.0)
        chosen = pairs[np.arange(len(pairs)), likeliness.argmax(axis=1)]
        return np.where(is_merge, chosen, nodes)
