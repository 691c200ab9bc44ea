"""Hierarchical segmentation: a binary partition tree over superpixels, and its cuts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from maskfeat.arguments import checked_choice, checked_number, shown
from maskfeat.arrays import Float64Array, FloatArray, Int32Array, IntArray
from maskfeat.features.reading import Features
from maskfeat.segment.inputs import (
    GraphSource,
    checked_granularity,
    checked_num_segments,
    graph_of,
)
from maskfeat.segment.merge_classifier import (
    MergeClassifier,
    calibrated,
    default_merge_classifier,
    reagglomerated,
)
from maskfeat.segment.superpixels import RegionGraph, first_pixels
from maskfeat.segment.tree import Borders, PartitionTree, merge_nearest, ward_tree

Linkage = Literal["nearest", "average", "ward"]

# Chosen on every second image of BSDS500 val (experiments/hierarchy).
BORDER_WEIGHT = 0.45
SIZE_POWER = 0.1

# Altitude = cost / 0.01^size_power, so that it is the distance where the smaller side of a merge
# covers 1 % of the image.
_REFERENCE_SHARE = 0.01
_MAX_EXPONENT = 700  # exp of more is beyond float64


@dataclass(frozen=True)
class Hierarchy:
    """Nested partitions of one image; each is a cut through one binary partition tree.

    Attributes:
        superpixel_labels: Superpixel of each pixel, int32, shape (H, W), 0 to K - 1.
        tree: The merges of the superpixels. The altitude of a node is 1 - its merge probability,
            made monotone along the tree, see `calibrated`; so one threshold can be used for all
            images. Without a merge classifier it comes from distances, and is not calibrated.
    """

    superpixel_labels: Int32Array
    tree: PartitionTree

    @property
    def parents(self) -> IntArray:
        """Parent of each node, int64, shape (2 K - 1,); superpixels come first, the root last."""
        return self.tree.parents

    @property
    def probabilities(self) -> Float64Array:
        """Probability that a node is one segment, in [0, 1], (2 K - 1,); 1 for superpixels."""
        probabilities: Float64Array = 1 - self.tree.altitudes
        return probabilities

    def cut(self, num_segments: int | None = None, *, granularity: float | None = None) -> IntArray:
        """Cut the tree into one partition.

        Args:
            num_segments: Number of segments, at least 1; at most one per superpixel.
            granularity: In (0, 1): merges of at least this probability are kept, which falls
                towards the root (`calibrated`). A higher one gives more and smaller segments; the
                commands take 0.4 where none is given. The merge probability estimates the share of
                pixel pairs, one pixel in each region, that an annotator puts in one segment.

        Returns:
            Segment of each pixel, int64, shape (H, W), numbered from 0 in reading order of their
            first pixels; each is 4-connected.

        Raises:
            ValueError: If not exactly one of the two is given, or it is out of range.
        """
        return self.segments_of_superpixels(num_segments, granularity=granularity)[
            self.superpixel_labels
        ]

    def segments_of_superpixels(
        self, num_segments: int | None = None, *, granularity: float | None = None
    ) -> IntArray:
        """As `cut`: the segment of each superpixel, int64, shape (K,)."""
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
        firsts = np.full(int(groups.max()) + 1, self.superpixel_labels.size)
        np.minimum.at(firsts, groups, first_pixels(self.superpixel_labels, len(groups)))
        number: IntArray = np.argsort(np.argsort(firsts))
        return number[groups]

    def ucm(self) -> FloatArray:
        """The ultrametric contour map: the altitude up to which each boundary survives.

        Returns:
            float32, shape (2 H + 1, 2 W + 1), on the Khalimsky grid: pixel (y, x) lies at
            (2 y + 1, 2 x + 1), the sides and corners of pixels between and around them. A side
            between two superpixels has the altitude (1 - p) of the smallest node that contains
            both, in [0, 1]; a corner the largest value of its four sides; everything else is 0.
            Where the sides with values of at most t are removed, the connected components of the
            pixels are the segments of `cut(granularity=1 - t)`.

        References:
            Arbelaez, Maire, Fowlkes, Malik: Contour detection and hierarchical image segmentation,
            PAMI, 2011.
        """
        # As higra.graph_4_adjacency_2_khalimsky, which takes four times as long, as it needs a
        # graph of all pixels.
        labels = self.superpixel_labels.astype(np.int64)
        height, width = labels.shape
        grid = np.zeros((2 * height + 1, 2 * width + 1), np.float32)
        for sides, first, second in (
            (grid[1:-1:2, 2:-1:2], labels[:, :-1], labels[:, 1:]),
            (grid[2:-1:2, 1:-1:2], labels[:-1], labels[1:]),
        ):
            apart = first != second
            nodes = self.tree.higra_tree.lowest_common_ancestor(first[apart], second[apart])
            sides[apart] = self.tree.altitudes[nodes]
        across, along = grid[::2, 1::2], grid[1::2, ::2]  # (H + 1, W) and (H, W + 1)
        beside = (
            np.pad(across, ((0, 0), (1, 0))),
            np.pad(across, ((0, 0), (0, 1))),
            np.pad(along, ((1, 0), (0, 0))),
            np.pad(along, ((0, 1), (0, 0))),
        )
        grid[::2, ::2] = np.max(beside, axis=0)
        return grid


def hierarchy(
    features: GraphSource,
    *,
    per_megapixel: float = 26_000,
    linkage: Linkage = "nearest",
    border_weight: float = BORDER_WEIGHT,
    size_power: float = SIZE_POWER,
    merge_classifier: MergeClassifier | Literal["default"] | None = "default",
) -> Hierarchy:
    """Segment an image at all granularities: superpixels, merged into a binary partition tree.

    1. `superpixels` cuts the image into small regions.
    2. `superpixel_tree` merges neighbors two by two, those of the smallest cost first: (distance
       of mean features)^(1 - border_weight) * (distance across their border)^border_weight *
       (smaller area / area of the image)^size_power.
    3. `reagglomerated` goes back to the last 600 regions (`merge_classifier.NUM_REGIONS`), from
       which objects form, and merges them again: first those to which the merge classifier gives
       the highest probability.
    4. `calibrated` makes the altitude of each merge 1 - its probability, monotone along the tree:
       the geometric mean of the largest value below and the smallest above.

    A cut at granularity g keeps the merges of altitude 1 - g or less.

    Args:
        features: Of the image: `Features`; or any per-pixel numbers, float, shape (H, W, C);
            or the image itself, RGB, uint8, shape (H, W, 3), a PIL image or the path of an image,
            for its Lab color; or superpixels, as the `RegionGraph` of `superpixels`.
        per_megapixel: Superpixels for a million pixels (not read for superpixels), see
            `maskfeat.segment.superpixels.superpixels`.
        linkage: Of step 2, see `superpixel_tree`: "nearest" (means and borders), "average", or
            "ward" (variance within regions).
        border_weight: In [0, 1], weight of the border against the means; not for "ward".
        size_power: 0 to 10: the larger, the earlier small regions are merged; not for "ward".
        merge_classifier: For steps 3 and 4. "default" is the packaged one for `Features` and
            superpixels (that which reads boundaries, if the network predicts them), else None. None
            leaves out both steps, and derives probabilities from the costs of step 2 as the
            network's loss does from distances,
            p = 2 / (1 + exp(scale * distance^2)).

    Returns:
        The hierarchy; the same input always gives the same.

    Raises:
        ValueError: If the array has another shape or type or is not finite, or a setting is out
            of range.
    """
    is_default = isinstance(merge_classifier, str) and merge_classifier == "default"
    if not (is_default or isinstance(merge_classifier, MergeClassifier | None)):
        raise ValueError(
            'merge_classifier must be a MergeClassifier, "default" or None, '
            f"got {shown(merge_classifier)}"
        )
    graph = graph_of(features, per_megapixel)
    tree = superpixel_tree(graph, linkage, border_weight, size_power)
    if is_default and isinstance(features, Features | RegionGraph):
        merge_classifier = default_merge_classifier(graph.boundary_probabilities is not None)
    if not isinstance(merge_classifier, MergeClassifier):
        exponents = np.minimum(graph.scale * tree.altitudes**2, _MAX_EXPONENT)
        probabilities = 2 / (1 + np.exp(exponents))
        tree = PartitionTree(tree.parents, 1 - probabilities, tree.sizes)
    else:
        tree = reagglomerated(tree, graph, merge_classifier)
        tree = calibrated(tree, graph, merge_classifier)
    return Hierarchy(graph.labels, tree)


def superpixel_tree(
    graph: RegionGraph,
    linkage: Linkage = "nearest",
    border_weight: float = BORDER_WEIGHT,
    size_power: float = SIZE_POWER,
) -> PartitionTree:
    """Merge the superpixels of an image two by two until one is left.

    Args:
        graph: Superpixels of one image.
        linkage: What is merged first. "nearest": the smallest distance of mean features, mixed
            with the boundary strength, times a power of the smaller size, see `merge_nearest`.
            "average": as "nearest", but the distance across the border is that of the superpixels'
            mean features. "ward": the smallest growth of the variance within regions, see
            `ward_tree`.
        border_weight: In [0, 1], weight of the border against the means; not for "ward".
        size_power: Power of the area of the smaller side, 0 to 10: the larger, the earlier small
            regions are merged; not for "ward".

    Returns:
        The tree. Its altitudes have the unit of feature distances.

    Raises:
        ValueError: If a setting is out of range, or there is no such linkage.
    """
    size_power = checked_number("size_power", size_power, least=0, most=10)
    border_weight = checked_number("border_weight", border_weight, least=0, most=1)
    checked_choice("linkage", linkage, ("nearest", "average", "ward"))
    if linkage == "ward":
        tree = ward_tree(graph.features, graph.sizes, graph.edges)
        return PartitionTree(tree.parents, np.sqrt(tree.altitudes / tree.sizes[-1]), tree.sizes)
    squares = graph.boundary_strengths if linkage == "nearest" else graph.edge_distances()
    borders = Borders(graph.border_lengths, squares)
    tree = merge_nearest(
        graph.features, graph.sizes, graph.edges, size_power, borders, border_weight
    )
    return PartitionTree(tree.parents, tree.altitudes / _REFERENCE_SHARE**size_power, tree.sizes)
