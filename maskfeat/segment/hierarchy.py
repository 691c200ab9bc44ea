"""All nested partitions of an image: a binary partition tree over superpixels, and its cuts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import higra as hg
import numpy as np
import numpy.typing as npt

from maskfeat.arguments import checked_choice, checked_number, shown
from maskfeat.deprecation import renamed_argument, warn_renamed
from maskfeat.features.reading import Features
from maskfeat.segment.agglomeration import Borders, Merges, merge_nearest
from maskfeat.segment.inputs import (
    FeatureSource,
    checked_granularity,
    checked_num_segments,
    features_of,
)
from maskfeat.segment.merge_classifier import MergeClassifier, calibrated, default_merge_classifier
from maskfeat.segment.reagglomeration import reagglomerated
from maskfeat.segment.superpixels import RegionGraph, superpixels
from maskfeat.segment.tree import BoolArray, Float64Array, IntArray, PartitionTree

Linkage = Literal["nearest", "average", "ward"]

# Chosen on every second image of BSDS500 val (experiments/hierarchy).
BORDER_WEIGHT = 0.45
SIZE_POWER = 0.1

# The share of an image at which the altitude of a merge is the distance of the features.
_USUAL_SHARE = 0.01


@dataclass(frozen=True)
class Hierarchy:
    """Nested partitions of one image: every segment of a finer one lies in one of a coarser one.

    Attributes:
        superpixel_labels: Which superpixel holds each pixel, int32, shape (H, W), 0 to K - 1.
        tree: The merges of the superpixels. The altitude of a node is 1 - p, where p is the
            probability that it is one segment and not several; one threshold means the same in all
            images.
    """

    superpixel_labels: npt.NDArray[np.int32]
    tree: PartitionTree

    @property
    def atom_labels(self) -> npt.NDArray[np.int32]:
        """The former name of `superpixel_labels`."""
        warn_renamed("atom_labels", "superpixel_labels")
        return self.superpixel_labels

    @property
    def parents(self) -> IntArray:
        """Parent of each node, int64, shape (2 K - 1,); superpixels come first, the root last."""
        return self.tree.parents

    @property
    def probabilities(self) -> Float64Array:
        """Probability that a node is one segment, in (0, 1], (2 K - 1,); 1 for superpixels."""
        probabilities: Float64Array = 1 - self.tree.altitudes
        return probabilities

    def cut(self, num_segments: int | None = None, *, granularity: float | None = None) -> IntArray:
        """One partition out of the tree.

        Args:
            num_segments: Segments to be left with, at least 1; at most one per superpixel.
            granularity: In (0, 1): a merge is kept as long as the probability that it is one
                segment is at least this. 0.01 gives few segments, 0.99 many.

        Returns:
            Segment of each pixel, int64, shape (H, W), numbered from 0 in reading order of their
            first pixels; each is 4-connected.

        Raises:
            ValueError: If not exactly one of the two is given, or it is out of range.
        """
        if (num_segments is None) == (granularity is None):
            raise ValueError(
                "give num_segments or granularity, one of the two, "
                f"got {shown(num_segments)} and {shown(granularity)}"
            )
        if granularity is not None:
            groups = self.tree.groups_at(1 - checked_granularity(granularity))
        else:
            count = checked_num_segments(num_segments)
            groups = self.tree.groups(min(count, self.tree.num_leaves))
        return in_reading_order(groups[self.superpixel_labels])

    def ucm(self) -> npt.NDArray[np.float32]:
        """The ultrametric contour map: the altitude at which each boundary disappears.

        Returns:
            float32, shape (2 H + 1, 2 W + 1): the pixel (y, x) lies at (2 y + 1, 2 x + 1), the
            sides and corners of pixels between and around them. On a side between two superpixels
            stands the altitude (1 - p) of the smallest node that holds both, in [0, 1]; at a corner
            the largest of its four sides; elsewhere 0. What is connected below a threshold t is
            a segment of `cut(granularity=1 - t)`.
        """
        height, width = self.superpixel_labels.shape
        grid = np.zeros((2 * height + 1, 2 * width + 1), np.float32)
        grid[1:-1:2, 2:-1:2] = self._side_altitudes(
            self.superpixel_labels[:, :-1], self.superpixel_labels[:, 1:]
        )
        grid[2:-1:2, 1:-1:2] = self._side_altitudes(
            self.superpixel_labels[:-1], self.superpixel_labels[1:]
        )
        across = grid[::2, 1::2]  # sides above and below pixels, (H + 1, W)
        along = grid[1::2, ::2]  # sides left and right of pixels, (H, W + 1)
        corners = np.zeros((height + 1, width + 1), np.float32)
        np.maximum(corners[:, :-1], across, out=corners[:, :-1])
        np.maximum(corners[:, 1:], across, out=corners[:, 1:])
        np.maximum(corners[:-1], along, out=corners[:-1])
        np.maximum(corners[1:], along, out=corners[1:])
        grid[::2, ::2] = corners
        return grid

    def saliency(self) -> npt.NDArray[np.float32]:
        """The former name of `ucm`."""
        warn_renamed("saliency()", "ucm()")
        return self.ucm()

    def _side_altitudes(
        self, first: npt.NDArray[np.int32], second: npt.NDArray[np.int32]
    ) -> npt.NDArray[np.float32]:
        values = np.zeros(first.shape, np.float32)
        parted = first != second
        meeting = self.tree.tree.lowest_common_ancestor(
            first[parted].astype(np.int64), second[parted].astype(np.int64)
        )
        values[parted] = self.tree.altitudes[meeting]
        return values


@renamed_argument("judge", "merge_classifier")
def hierarchy(
    features: FeatureSource,
    *,
    per_megapixel: float = 26_000,
    linkage: Linkage = "nearest",
    border_weight: float = BORDER_WEIGHT,
    size_power: float = SIZE_POWER,
    merge_classifier: MergeClassifier | Literal["default"] | None = "default",
) -> Hierarchy:
    """All nested partitions of an image.

    Args:
        features: Of the image: `Features`; or any per-pixel numbers, float, shape (H, W, C);
            or the image itself, RGB, uint8, shape (H, W, 3), a PIL image or the path of an image,
            whose Lab color is then taken.
        per_megapixel: Superpixels for a million pixels, see
            `maskfeat.segment.superpixels.superpixels`.
        linkage: See `superpixel_tree`, as the two that follow.
        border_weight: How much borders count against means.
        size_power: How much the smaller of two regions counts.
        merge_classifier: Says which of the last 600 regions are merged first, see
            `reagglomeration.reagglomerated`, and how probable it is that a merge is one segment,
            see `merge_classifier.calibrated`. "default" is the one that comes with the package,
            which knows features in calibrated units: it is asked for `Features` alone. None keeps
            the order of the linkage, and takes probabilities from its altitudes.

    Returns:
        The hierarchy; the same input always gives the same.

    Raises:
        ValueError: If the array has another shape or type or is not finite, or a setting is out
            of range.
    """
    if isinstance(merge_classifier, str) and merge_classifier == "default":
        merge_classifier = default_merge_classifier() if isinstance(features, Features) else None
    if not (merge_classifier is None or isinstance(merge_classifier, MergeClassifier)):
        raise ValueError(
            'merge_classifier must be a MergeClassifier, "default" or None, '
            f"got {shown(merge_classifier)}"
        )
    return superpixel_hierarchy(
        superpixels(features_of(features), per_megapixel),
        linkage=linkage,
        border_weight=border_weight,
        size_power=size_power,
        merge_classifier=merge_classifier,
    )


def superpixel_hierarchy(
    graph: RegionGraph,
    *,
    linkage: Linkage = "nearest",
    border_weight: float = BORDER_WEIGHT,
    size_power: float = SIZE_POWER,
    merge_classifier: MergeClassifier | None = None,
) -> Hierarchy:
    """The hierarchy of superpixels that are at hand; see `hierarchy`."""
    tree = superpixel_tree(graph, linkage, border_weight, size_power)
    if merge_classifier is not None:
        return Hierarchy(
            graph.labels,
            calibrated(reagglomerated(tree, graph, merge_classifier), graph, merge_classifier),
        )
    probabilities = 2 / (1 + np.exp(np.minimum(graph.scale * tree.altitudes**2, 700)))
    return Hierarchy(graph.labels, PartitionTree(tree.parents, 1 - probabilities, tree.sizes))


def superpixel_tree(
    graph: RegionGraph,
    linkage: Linkage = "nearest",
    border_weight: float = BORDER_WEIGHT,
    size_power: float = SIZE_POWER,
) -> PartitionTree:
    """Merge an image's superpixels into one, two by two.

    Args:
        graph: Superpixels of one image.
        linkage: "nearest" merges in the order of the distance of mean features, mixed with the
            contrast of the pixels along the border, times a power of the smaller size, see
            `merge_nearest`; "average" takes the distance of facing superpixels along the border
            instead of that of pixels; "ward" the growth of the variance within regions, see
            `ward_tree`.
        border_weight: In [0, 1], how much the border counts against the means; not for "ward".
        size_power: How much the smaller size counts, 0 to 10; not for "ward", which has sizes
            of its own.

    Returns:
        The tree. The unit of its altitudes is that of feature distances.

    Raises:
        ValueError: If a setting is out of range, or there is no such linkage.
    """
    size_power = checked_number("size_power", size_power, least=0, most=10)
    border_weight = checked_number("border_weight", border_weight, least=0, most=1)
    checked_choice("linkage", linkage, ("nearest", "average", "ward"))
    if linkage == "ward":
        tree = merge_tree(graph)
        return PartitionTree(tree.parents, np.sqrt(tree.altitudes / tree.sizes[-1]), tree.sizes)
    squares = graph.boundary_strengths if linkage == "nearest" else graph.edge_distances()
    borders = Borders(graph.border_lengths, squares)
    merges = merge_nearest(
        graph.features, graph.sizes, graph.edges, size_power, borders, border_weight
    )
    altitudes = merges.altitudes / _USUAL_SHARE**size_power
    return PartitionTree.of_merges(Merges(merges.parents, altitudes), graph.sizes)


def ward_tree(
    features: npt.NDArray[np.floating],
    sizes: npt.NDArray[np.floating],
    edges: npt.NDArray[np.int32],
) -> PartitionTree:
    """Merge adjacent regions in the order in which the variance within regions grows least.

    Ward's linkage (Hierarchical grouping to optimize an objective function, JASA 1963), between
    neighbors in a graph only, by higra. The altitude of a merge is the growth of the sum of
    squares, or its children's altitude where that is higher.

    Args:
        features: Mean feature of each region, shape (K, C).
        sizes: Pixels of each region, shape (K,).
        edges: Pairs of adjacent regions, shape (E, 2); the graph must be connected.

    Returns:
        The tree of the K - 1 merges.
    """
    if len(sizes) == 1:
        return PartitionTree.of_merges(Merges(np.zeros(1, np.int64), np.zeros(1)), sizes)
    graph = hg.UndirectedGraph(len(sizes))
    graph.add_edges(edges[:, 0], edges[:, 1])
    tree, altitudes = hg.binary_partition_tree_ward_linkage(
        graph, features.astype(np.float64), sizes.astype(np.float64), "max"
    )
    parents = np.asarray(tree.parents(), np.int64)
    return PartitionTree.of_merges(Merges(parents, np.asarray(altitudes, np.float64)), sizes)


def merge_tree(graph: RegionGraph) -> PartitionTree:
    """The Ward tree of an image's superpixels."""
    return ward_tree(graph.features, graph.sizes, graph.edges)


def in_reading_order(labels: npt.NDArray[np.integer]) -> IntArray:
    """The same segments, numbered from 0 in reading order of their first pixels."""
    _, first, inverse = np.unique(labels, return_index=True, return_inverse=True)
    number = np.argsort(np.argsort(first))
    ordered: IntArray = number[inverse.reshape(labels.shape)].astype(np.int64)
    return ordered


class SalientPath(NamedTuple):
    """The ancestors of a leaf that may be an object, from small to large, and their merits.

    Attributes:
        nodes: The leaf and those of its ancestors that are not too large, (N,), N at least 1.
        merits: (parent's altitude / altitude) * share^0.1, how much each stands out from what holds
            it; -1 for those that are too small, shape (N,).
    """

    nodes: IntArray
    merits: npt.NDArray[np.float64]

    def best(self, is_barred: BoolArray) -> int:
        """The node that stands out most.

        Args:
            is_barred: Nodes that cannot be meant, with all their ancestors, e.g. since they hold a
                click on the background, bool, shape (2 K - 1,).

        Returns:
            The node with the largest merit of those that are not barred. Where all of these are
            too small, the largest of them, and the leaf itself at the least.
        """
        count = max(1, int(np.count_nonzero(~is_barred[self.nodes])))
        best = int(self.merits[:count].argmax())
        return int(self.nodes[best if self.merits[best] >= 0 else count - 1])


def salient_path(
    tree: PartitionTree, leaf: int, min_share: float = 0.005, max_share: float = 0.6
) -> SalientPath:
    """What a click on a leaf may mean.

    Args:
        tree: Merges of the regions of one image.
        leaf: A region, e.g. that of a click.
        min_share: Smallest object to be guessed, as a share of the image.
        max_share: Largest one.
    """
    nodes = tree.ancestors(leaf)
    shares = tree.sizes[nodes] / tree.sizes[-1]
    count = max(1, int(np.count_nonzero(shares <= max_share)))
    nodes, shares = nodes[:count], shares[:count]
    floor = max(float(tree.altitudes[-1]) * 1e-12, np.finfo(np.float64).tiny)
    # A leaf has no altitude of its own, so its jump means nothing: the last choice.
    jumps = tree.altitudes[tree.parents[nodes]] / np.maximum(tree.altitudes[nodes], floor)
    jumps[0] = 0
    # Of two like jumps the larger region is more often meant.
    return SalientPath(nodes, np.where(shares >= min_share, jumps * shares**0.1, -1.0))


def salient_node(tree: PartitionTree, leaf: int, is_barred: BoolArray) -> int:
    """The ancestor of a leaf that stands out most from what holds it, see `SalientPath.best`."""
    return salient_path(tree, leaf).best(is_barred)
