"""Seeded watershed: seeds on some regions become a label for every region."""

from __future__ import annotations

import higra as hg
import numpy as np
import numpy.typing as npt

from maskfeat.arrays import Float64Array, Int32Array, IntArray
from maskfeat.segment.tree import PartitionTree


class SeededWatershed:
    """Labels regions by the nearest seed, where a path is as long as its largest step.

    Steps are taken from the smallest on, unless they would join two labels: a minimum spanning
    forest rooted at the seeds, by higra. Every seed keeps its label, each label's regions are
    connected to one of its seeds, and the result depends on the set of seeds alone.

    Args:
        num_regions: K.
        edges: Pairs of adjacent regions, integers, shape (E, 2); the graph must be connected.
        steps: Cost of going from one region of an edge to the other, shape (E,). Of equal steps
            the first edge is taken first.

    References:
        Cousty, Bertrand, Najman, Couprie: Watershed cuts: minimum spanning forests and the drop of
        water principle, PAMI, 2009.
        Falcao, Stolfi, Lotufo: The image foresting transform, PAMI, 2004 (with the largest arc as
        path cost).
    """

    def __init__(
        self, num_regions: int, edges: npt.NDArray[np.integer], steps: npt.NDArray[np.floating]
    ) -> None:
        self.num_regions = num_regions
        self._graph = hg.UndirectedGraph(num_regions)
        self._graph.add_edges(edges[:, 0], edges[:, 1])
        self._steps = steps

    def labels(self, seeds: IntArray, labels: IntArray) -> IntArray:
        """The label of each region, from that of some.

        Args:
            seeds: Regions, 0 to K - 1, int64, shape (N,), at least one.
            labels: Their labels, int64, shape (N,).

        Returns:
            int64, shape (K,).

        Raises:
            ValueError: If there is no seed, one is no region, or a region has two labels.
        """
        if not len(seeds) or len(seeds) != len(labels):
            raise ValueError(
                f"as many labels as seeds, at least one, are needed, got {len(labels)} and "
                f"{len(seeds)}"
            )
        seeds = np.asarray(seeds)
        least, most = int(seeds.min()), int(seeds.max())
        if least < 0 or most >= self.num_regions:
            raise ValueError(
                f"seeds must lie in 0 to {self.num_regions - 1}, got {least} to {most}"
            )
        names, numbers = np.unique(labels, return_inverse=True)
        seeded = np.zeros(self.num_regions, np.int64)  # 0 means no seed
        seeded[seeds] = numbers + 1
        is_other = seeded[seeds] != numbers + 1
        if is_other.any():
            raise ValueError(
                f"region {seeds[is_other][0]} has two labels; split it, or take one back"
            )
        found = hg.labelisation_seeded_watershed(self._graph, self._steps, seeded)
        found_labels: IntArray = names[np.asarray(found, np.int64) - 1]
        return found_labels


def steps_of_tree(
    tree: PartitionTree, edges: npt.NDArray[np.integer], strengths: npt.NDArray[np.floating]
) -> Float64Array:
    """Steps in the order of a hierarchy: the altitude at which two neighbors are merged.

    Ranks, from 0, float64, shape (E,): by altitude, then by boundary strength, then by index.
    """
    ends = edges.astype(np.int64)
    nodes = tree.higra_tree.lowest_common_ancestor(ends[:, 0].copy(), ends[:, 1].copy())
    order = np.lexsort((strengths, tree.altitudes[nodes]))
    ranks = np.empty(len(edges))
    ranks[order] = np.arange(len(edges))
    return ranks


def split_by_seeds(
    regions: Int32Array, pixels_yx: IntArray, labels: IntArray
) -> tuple[Int32Array, IntArray]:
    """Split regions (H, W) with seeds of several labels: each pixel goes with the nearest seed.

    Seed pixels are (N, 2), their labels (N,). Gives regions with seeds of one label each, int32,
    shape (H, W), and the former region of each. The part with the smallest label keeps the number
    of its region, the others get numbers from K on. Of equally near seeds the one with the smaller
    label counts.
    """
    seeded = regions[tuple(pixels_yx.T)].astype(np.int64)
    pairs = np.unique(np.stack([seeded, labels], axis=1), axis=0)
    conflicting = np.unique(pairs[1:, 0][pairs[1:, 0] == pairs[:-1, 0]])
    count = int(regions.max()) + 1
    parents = [np.arange(count)]
    split = regions.copy()
    for region in conflicting:
        seeds, seed_labels = pixels_yx[seeded == region], labels[seeded == region]
        pixels = np.argwhere(regions == region)
        order = np.lexsort((seeds[:, 1], seeds[:, 0], seed_labels))
        squares = ((pixels[:, None] - seeds[order]) ** 2).sum(axis=2)
        nearest = seed_labels[order][squares.argmin(axis=1)]
        for label in np.unique(seed_labels)[1:]:
            split[tuple(pixels[nearest == label].T)] = count
            parents.append(np.array([region]))
            count += 1
    return split, np.concatenate(parents)
