"""What is said of an object beside its prompts: a box that holds it, a mask to start from."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from maskfeat.segment.superpixels import RegionGraph
from maskfeat.segment.tree import PartitionTree

BoolArray = npt.NDArray[np.bool_]
FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]
Box = tuple[int, int, int, int]

# What a box or an initial mask says of a superpixel, as logit: beside clicks, and without any.
_PROMPT_LOGIT, _LONE_PROMPT_LOGIT = 6.0, 24.0


class Hints(NamedTuple):
    """What is said of superpixels.

    Attributes:
        inside: Superpixels that are the object's, (N,), at least one.
        logits: logit of "object" to be added, (K,), or None.
        excluded: Superpixels that are background, (M,).
    """

    inside: IntArray
    logits: FloatArray | None
    excluded: IntArray


def hints_of(
    graph: RegionGraph,
    tree: PartitionTree,
    object_yx: IntArray,
    box: Box | None,
    prior: BoolArray | None,
) -> Hints:
    """What prompts of the object, a box and a mask to start from say of superpixels.

    Args:
        graph: Superpixels of an image.
        tree: Their hierarchy: of a box without a mask, the node that fills it best is the mask.
        object_yx: Labeled as object, (N, 2); none only if there is a box or a mask.
        box: What holds the object: (top, left, bottom, right), the last two exclusive.
        prior: What the object was before, or may be, (H, W).
    """
    if prior is None and box is not None:
        prior = _best_node(graph, tree, box)
    inside: IntArray = graph.labels[tuple(object_yx.T)].astype(np.int64)
    logits = None if prior is None else _prior_logits(graph, prior, is_alone=not inside.size)
    if not inside.size and prior is not None:
        inside = graph.labels[_deepest(prior)].reshape(1).astype(np.int64)
    excluded = np.empty(0, np.int64) if box is None else _superpixels_beyond(graph, box)
    return Hints(inside, logits, np.setdiff1d(excluded, inside))


def filled(box: Box, size: tuple[int, ...]) -> BoolArray:
    """The pixels of a box, (H, W)."""
    filled = np.zeros(size, bool)
    filled[box[0] : box[2], box[1] : box[3]] = True
    return filled


def _best_node(graph: RegionGraph, tree: PartitionTree, box: Box) -> BoolArray:
    """The node of the hierarchy that fills a box best, in pixels, (H, W)."""
    window = graph.labels[box[0] : box[2], box[1] : box[3]]
    within = tree.sums(np.bincount(window.ravel(), minlength=graph.num_superpixels))
    overlaps = within / (tree.sizes + window.size - within)
    node = np.array([int(overlaps.argmax())], np.int64)
    mask = np.zeros(graph.labels.shape, bool)
    mask[box[0] : box[2], box[1] : box[3]] = tree.leaves_under(node)[window]
    return mask


def _prior_logits(graph: RegionGraph, prior: BoolArray, is_alone: bool) -> FloatArray:
    inside = np.bincount(graph.labels.ravel(), prior.ravel(), graph.num_superpixels)
    most = _LONE_PROMPT_LOGIT if is_alone else _PROMPT_LOGIT
    return (most * (2 * inside / graph.sizes - 1)).astype(np.float32)


def _superpixels_beyond(graph: RegionGraph, box: Box) -> IntArray:
    reached = np.zeros(graph.num_superpixels, bool)
    reached[graph.labels[box[0] : box[2], box[1] : box[3]]] = True
    return np.flatnonzero(~reached)


def _deepest(mask: BoolArray) -> tuple[int, int]:
    """The pixel of a mask that lies furthest from its outline, the first in reading order."""
    depth = ndimage.distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1]
    row, column = np.unravel_index(int(depth.argmax()), mask.shape)
    return int(row), int(column)
