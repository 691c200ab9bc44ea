"""Logits of superpixels from a box prompt, a mask prompt, or the segments of the hierarchy."""

from __future__ import annotations

from functools import cached_property
from typing import NamedTuple

import numpy as np
from scipy import ndimage

from maskfeat.arrays import BoolArray, FloatArray, IntArray
from maskfeat.interactive.geometry import Box, filled
from maskfeat.segment.superpixels import RegionGraph
from maskfeat.segment.tree import PartitionTree

# Logit of a superpixel that lies wholly inside a mask prompt: with clicks, and without.
_MASK_LOGIT, _LONE_MASK_LOGIT = 6.0, 24.0
# All chosen on objects of train splits (experiments/interactive).
GRANULARITY = 0.5
# Logit in the segments of object clicks, its negative elsewhere: while no click is on the
# background; and later; the number of clicked superpixels from which on it falls.
_FIRST_LOGIT, _LATER_LOGIT, _MOST_CLICKED = 8.0, 1.5, 4


class BoxMaskPrompt(NamedTuple):
    """Constraints and logits of superpixels from object clicks, a box and a mask.

    Attributes:
        inside: Superpixels of the object, (N,), at least one.
        logits: Logit of "object" of each superpixel, (K,), or None.
        excluded: Superpixels of the background, (M,).
    """

    inside: IntArray
    logits: FloatArray | None
    excluded: IntArray


def box_and_mask(
    graph: RegionGraph,
    tree: PartitionTree,
    object_yx: IntArray,
    box: Box | None,
    mask: BoolArray | None,
) -> BoxMaskPrompt:
    """Read a box prompt and a mask prompt.

    A box without a mask stands for the tree node of the largest IoU with the box. Without object
    clicks, the pixel of the mask furthest from its outline is clicked.

    Args:
        graph: Superpixels of an image.
        tree: Their hierarchy.
        object_yx: Object clicks, (N, 2); none only if there is a box or a mask.
        box: Holds the whole object.
        mask: A first mask, (H, W).
    """
    if mask is None and box is not None:
        mask = _best_node(graph, tree, box)
    inside: IntArray = graph.labels[tuple(object_yx.T)].astype(np.int64)
    logits = None
    if mask is not None:
        counts = np.bincount(graph.labels.ravel(), mask.ravel(), graph.num_superpixels)
        most = _MASK_LOGIT if inside.size else _LONE_MASK_LOGIT
        logits = (most * (2 * counts / graph.sizes - 1)).astype(np.float32)
        if not inside.size:
            depth = ndimage.distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1]
            deepest = np.unravel_index(int(depth.argmax()), mask.shape)
            inside = graph.labels[deepest].reshape(1).astype(np.int64)
    excluded = np.empty(0, np.int64)
    if box is not None:
        is_outside = np.ones(graph.num_superpixels, bool)
        is_outside[graph.labels[box[0] : box[2], box[1] : box[3]]] = False
        excluded = np.flatnonzero(is_outside)
    return BoxMaskPrompt(inside, logits, np.setdiff1d(excluded, inside))


def _best_node(graph: RegionGraph, tree: PartitionTree, box: Box) -> BoolArray:
    """The node of the hierarchy of the largest IoU with a box, clipped to it, (H, W)."""
    window = graph.labels[box[0] : box[2], box[1] : box[3]]
    within = tree.sums(np.bincount(window.ravel(), minlength=graph.num_superpixels))
    overlaps = within / (tree.sizes + window.size - within)
    node = np.array([int(overlaps.argmax())], np.int64)
    return tree.leaves_under(node)[graph.labels] & filled(box, graph.labels.shape)


class TreePrior:
    """Logits of superpixels from the segments of the hierarchy at one granularity.

    The segments that hold object clicks are the object. As long as no click is on the background
    this logit decides, later it is one term among others. In a segment that holds clicks of both
    kinds, only the largest nodes around object clicks that hold no background click count.

    Args:
        tree: Merges of the superpixels, with calibrated altitudes, see `merge_classifier`.
    """

    def __init__(self, tree: PartitionTree) -> None:
        self.tree = tree

    def logits(
        self,
        object_superpixels: IntArray,
        background_superpixels: IntArray,
        is_change: bool = False,
    ) -> FloatArray:
        """Logit of "object" of each superpixel; a function of the two sets.

        Args:
            object_superpixels: Superpixels of object clicks, (N,), at least one.
            background_superpixels: Superpixels of background clicks, (M,).
            is_change: Whether the clicks change a mask; the logit is the small one then.

        Returns:
            float32, shape (K,).
        """
        inside, outside = np.unique(object_superpixels), np.unique(background_superpixels)
        segments = self._segment_of_superpixels
        has_object, has_background = (np.zeros(len(segments), bool) for _ in range(2))
        has_object[segments[inside]] = True
        has_background[segments[outside]] = True
        signs = np.where(has_object, 1, -1)
        signs[has_object & has_background] = 0
        signs = signs[segments]
        mixed = inside[has_background[segments[inside]]]
        if len(mixed):
            signs[self._nodes_without(mixed, outside[has_object[segments[outside]]])] = 1
        weight = _FIRST_LOGIT
        if is_change or len(outside):
            weight = _LATER_LOGIT * min(1.0, _MOST_CLICKED / (len(inside) + len(outside)))
        return (weight * signs).astype(np.float32)

    def _nodes_without(self, inside: IntArray, outside: IntArray) -> BoolArray:
        """Superpixels of the largest nodes around some that hold none of others, (K,)."""
        is_excluded = np.zeros(len(self.tree.parents), bool)
        for superpixel in outside:
            is_excluded[self.tree.ancestors(int(superpixel))] = True
        paths = [self.tree.ancestors(int(superpixel)) for superpixel in inside]
        nodes = [path[max(1, int(np.count_nonzero(~is_excluded[path]))) - 1] for path in paths]
        return self.tree.leaves_under(np.array(nodes, np.int64))

    @cached_property
    def _segment_of_superpixels(self) -> IntArray:
        return self.tree.groups_at(1 - GRANULARITY)
