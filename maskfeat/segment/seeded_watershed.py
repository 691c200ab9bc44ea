"""Any number of labels in one pass: clicked superpixels -> a label for every superpixel."""

from __future__ import annotations

import higra as hg
import numpy as np
import numpy.typing as npt
from scipy import sparse
from scipy.sparse import csgraph

from maskfeat.segment.tree import PartitionTree

BoolArray = npt.NDArray[np.bool_]
IntArray = npt.NDArray[np.int64]

_NO_SEED = 2.0**53


class SeededWatershed:
    """Gives every region the label of the seed that reaches it by the smallest largest step.

    A path costs as much as the largest step on it. Each region takes the label of the seed with
    the cheapest path (minimax paths; the fuzzy connectedness of Udupa and Samarasekera, GMIP 1996,
    and the image foresting transform of Falcao, Stolfi and Lotufo, PAMI 2004, with the largest
    arc as path cost). Where two seeds are equally near, as all are beyond the step at which they
    meet, a minimum spanning forest rooted at the seeds decides (Cousty et al., Watershed cuts:
    minimum spanning forests and the drop of water principle, PAMI 2009): steps are taken from the
    smallest on, and one that would join two different labels is not taken.

    The forest is cut out of one spanning tree of the graph, which does not depend on the seeds. It
    depends on the set of seeds alone, every seed keeps its label, and each label's
    regions are connected to a seed of it.

    Args:
        num_regions: K.
        edges: Pairs of adjacent regions, integers, shape (E, 2); the graph must be connected.
        steps: What it costs to go from one region of an edge to the other, any order, (E,). Of
            equal steps the first edge is taken first.
    """

    def __init__(
        self, num_regions: int, edges: npt.NDArray[np.integer], steps: npt.NDArray[np.floating]
    ) -> None:
        self.num_regions = num_regions
        if num_regions == 1:
            self._tree, self._edges = None, np.empty((0, 2), np.int64)
            return
        order = np.argsort(steps, kind="stable")
        self._tree, _ = hg.bpt_canonical(
            (edges[:, 0], edges[:, 1], num_regions), sorted_edge_indices=order
        )
        # (K - 1, 2), smallest step first
        self._edges = edges[self._tree.mst_edge_map].astype(np.int64)

    def color(self, seeds: npt.ArrayLike, labels: npt.ArrayLike) -> IntArray:
        """The label of each region.

        Args:
            seeds: Regions that have a label, integers, shape (N,), at least one. A region may be
                named twice if its label is the same.
            labels: Their labels, integers, shape (N,).

        Returns:
            int64, shape (K,).

        Raises:
            ValueError: If there is no seed, the shapes differ, a region does not exist, or one
                region has two labels.
        """
        regions, colors = _checked_seeds(seeds, labels, self.num_regions)
        parts = self._parts(regions, colors)
        color_of_part = np.empty(int(parts.max()) + 1, np.int64)
        color_of_part[parts[regions]] = colors
        return color_of_part[parts]

    def _parts(self, regions: IntArray, colors: IntArray) -> IntArray:
        """Parts of the forest, each with seeds of one label, (K,)."""
        if self._tree is None:
            return np.zeros(1, np.int64)
        # Of the labels below each node the smallest and the largest: unlike if there are two.
        # (Finite, since the accumulators of higra know no infinity.)
        colors = np.unique(colors, return_inverse=True)[1]
        low, high = np.full(self.num_regions, _NO_SEED), np.full(self.num_regions, -1.0)
        low[regions], high[regions] = colors, colors
        below = [
            hg.accumulate_sequential(self._tree, values, how)
            for values, how in ((low, hg.Accumulators.min), (high, hg.Accumulators.max))
        ]
        is_joined = self._joins_no_two(below[0], below[1])
        kept = self._edges[is_joined]
        links = sparse.coo_matrix(
            (np.ones(len(kept), np.int8), (kept[:, 0], kept[:, 1])), (self.num_regions,) * 2
        )
        parts: IntArray = csgraph.connected_components(links, directed=False)[1].astype(np.int64)
        return parts

    def _joins_no_two(
        self, low: npt.NDArray[np.float64], high: npt.NDArray[np.float64]
    ) -> BoolArray:
        """Which steps may be taken: one side has no seed, or all seeds of both have one label.

        Within the regions below a node that holds a seed all have a label when its turn comes,
        so a step between two such nodes would join two trees of the forest.
        """
        assert self._tree is not None
        parents = np.asarray(self._tree.parents())
        children = np.argsort(parents[:-1], kind="stable").reshape(-1, 2)
        has_seed = low[children] < _NO_SEED
        merged = slice(self.num_regions, None)
        one_label: BoolArray = ~has_seed.all(axis=1) | (low[merged] == high[merged])
        return one_label


def steps_of_tree(
    tree: PartitionTree, edges: npt.NDArray[np.integer], contrasts: npt.NDArray[np.floating]
) -> npt.NDArray[np.float64]:
    """Steps in the order of a hierarchy: the altitude at which two neighbors are merged.

    Args:
        tree: Merges of K regions.
        edges: Pairs of adjacent regions, shape (E, 2).
        contrasts: Decide among neighbors that are merged by the same merge, shape (E,).

    Returns:
        Ranks, from 0, float64, shape (E,): by altitude, then by contrast, then by place.
    """
    ends = edges.astype(np.int64)
    meeting = tree.tree.lowest_common_ancestor(ends[:, 0].copy(), ends[:, 1].copy())
    order = np.lexsort((contrasts, tree.altitudes[meeting]))
    ranks = np.empty(len(edges))
    ranks[order] = np.arange(len(edges))
    return ranks


def _checked_seeds(
    seeds: npt.ArrayLike, labels: npt.ArrayLike, num_regions: int
) -> tuple[IntArray, IntArray]:
    regions, colors = np.asarray(seeds), np.asarray(labels)
    if regions.ndim != 1 or regions.shape != colors.shape or not regions.size:
        raise ValueError(
            "seeds and labels must have the same shape (N,), N at least 1, "
            f"got {regions.shape} and {colors.shape}"
        )
    if not all(np.issubdtype(values.dtype, np.integer) for values in (regions, colors)):
        raise ValueError(
            f"seeds and labels must be integers, got {regions.dtype} and {colors.dtype}"
        )
    if regions.min() < 0 or regions.max() >= num_regions:
        raise ValueError(
            f"seeds must lie in 0 to {num_regions - 1}, got {regions.min()} to {regions.max()}"
        )
    pairs = np.unique(np.stack([regions, colors], axis=1).astype(np.int64), axis=0)
    twice = pairs[1:, 0][pairs[1:, 0] == pairs[:-1, 0]]
    if twice.size:
        raise ValueError(f"region {twice[0]} has two labels; split it, or take one back")
    return pairs[:, 0], pairs[:, 1]


def split_by_seeds(
    regions: npt.NDArray[np.int32], pixels_yx: IntArray, labels: IntArray
) -> tuple[npt.NDArray[np.int32], IntArray]:
    """Cut regions that hold marks of several labels: each pixel goes with the nearest mark.

    Args:
        regions: Region of each pixel, shape (H, W), 0 to K - 1.
        pixels_yx: Marked pixels, shape (N, 2).
        labels: Their labels, shape (N,).

    Returns:
        Regions with marks of one label each, int32, shape (H, W): the old ones keep their numbers
        for the smallest label, more follow; and the old region of each new one. Of marks
        equally near the one with the smaller label, then the first in reading order, counts.
    """
    marked = regions[tuple(pixels_yx.T)].astype(np.int64)
    pairs = np.unique(np.stack([marked, labels], axis=1), axis=0)
    torn = np.unique(pairs[1:, 0][pairs[1:, 0] == pairs[:-1, 0]])
    count = int(regions.max()) + 1
    parents = [np.arange(count)]
    split = regions.copy()
    for region in torn:
        seeds, seed_labels = pixels_yx[marked == region], labels[marked == region]
        places = np.argwhere(regions == region)
        order = np.lexsort((seeds[:, 1], seeds[:, 0], seed_labels))
        squares = ((places[:, None] - seeds[order]) ** 2).sum(axis=2)
        nearest = seed_labels[order][squares.argmin(axis=1)]
        for label in np.unique(seed_labels)[1:]:
            split[tuple(places[nearest == label].T)] = count
            parents.append(np.array([region]))
            count += 1
    return split, np.concatenate(parents)
