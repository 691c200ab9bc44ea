"""Which node of a tree a click may stand for: the one that stands out most from its parent."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from maskfeat.arrays import BoolArray, Float64Array, IntArray
from maskfeat.segment.tree import PartitionTree


class SalientPath(NamedTuple):
    """The ancestors of a clicked leaf that may be the object, from small to large.

    Attributes:
        nodes: The leaf and its ancestors up to the largest allowed size, (N,), N at least 1.
        merits: How much each stands out from its parent, (parent's altitude / altitude) *
            share^0.1; -1 for nodes that are too small, shape (N,).
    """

    nodes: IntArray
    merits: Float64Array

    def best(self, is_excluded: BoolArray) -> int:
        """The node that stands out most.

        Args:
            is_excluded: Nodes that cannot be the object, with all their ancestors, e.g. as they
                contain a click on the background, bool, shape (2 K - 1,).

        Returns:
            The node with the largest merit that is not excluded. If all of these are too small, the
            largest of them; if all are excluded, the leaf.
        """
        count = max(1, int(np.count_nonzero(~is_excluded[self.nodes])))
        best = int(self.merits[:count].argmax())
        return int(self.nodes[best if self.merits[best] >= 0 else count - 1])


def salient_path(
    tree: PartitionTree, leaf: int, min_share: float = 0.005, max_share: float = 0.6
) -> SalientPath:
    """The nodes that a click on a leaf may stand for.

    Args:
        tree: Merges of the regions of one image.
        leaf: The clicked region.
        min_share: Smallest object to be guessed, as a share of the image.
        max_share: Largest object, likewise.
    """
    nodes = tree.ancestors(leaf)
    shares = tree.sizes[nodes] / tree.sizes[-1]
    count = max(1, int(np.count_nonzero(shares <= max_share)))
    nodes, shares = nodes[:count], shares[:count]
    floor = max(float(tree.altitudes[-1]) * 1e-12, np.finfo(np.float64).tiny)
    jumps = tree.altitudes[tree.parents[nodes]] / np.maximum(tree.altitudes[nodes], floor)
    jumps[0] = 0  # a leaf has altitude 0, so its jump means nothing: it is the last choice
    # Of two nodes with similar jumps the larger one is more often the object.
    return SalientPath(nodes, np.where(shares >= min_share, jumps * shares**0.1, -1.0))
