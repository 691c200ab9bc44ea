"""Several masks for an ambiguous click: whole, part and subpart, each with a predicted IoU."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.special import expit

from maskfeat.arguments import checked_count
from maskfeat.arrays import BoolArray, Float64Array, FloatArray, IntArray
from maskfeat.interactive.prompts import Prompt, pixels_of
from maskfeat.segment.hierarchy import Hierarchy
from maskfeat.segment.inputs import resized, scaled

_MOST_ALIKE = 0.8  # IoU of two candidates


class Candidate(NamedTuple):
    """One reading of the prompts.

    Attributes:
        mask: bool, shape (H, W).
        predicted_iou: Expected IoU with what the user means, in [0, 1].
    """

    mask: BoolArray
    predicted_iou: float


def candidates(
    hierarchy: Hierarchy,
    mask: BoolArray,
    prompts: Sequence[Prompt],
    num_masks: int,
    logits: FloatArray | None = None,
) -> list[Candidate]:
    """A mask and the segments of the hierarchy that the clicks may stand for, best first.

    The predicted IoU is the soft IoU with the probabilities of a click decoder, where there is
    one. Else what the user means is taken to be the segment around the clicks at a granularity that
    is uniform in (0, 1): a node of the tree with probability p, whose parent has p', is meant with
    probability p - p', as altitudes are calibrated; the predicted IoU is the expectation over
    these nodes. Of candidates that are alike the better one is kept, as in Segment Anything
    (arXiv:2304.02643), which gives three masks for a click for the same reason.

    Args:
        hierarchy: Of the image, or of a smaller one made from it.
        mask: The mask of the clicks, (H, W); always one of the candidates.
        prompts: The clicks, at least one on the object; no segment with a click on the background
            is a candidate.
        num_masks: At most this many.
        logits: Of "object" by a click decoder, of each pixel of the image of the hierarchy.

    Raises:
        ValueError: If num_masks is not at least 1.
    """
    num_masks = checked_count("num_masks", num_masks)
    labels, tree = hierarchy.superpixel_labels, hierarchy.tree
    size, small = mask.shape, (labels.shape[0], labels.shape[1])
    inside, outside = (
        labels[tuple(scaled(pixels_of(prompts, is_object), (size[0], size[1]), small).T)].astype(
            np.int64
        )
        for is_object in (True, False)
    )
    nodes = _nodes_around(hierarchy, inside, outside)
    if not len(nodes):
        return [Candidate(mask, 0.0)]
    reduced = resized(mask, small)
    if logits is None:
        own, ious = _expected_ious(hierarchy, nodes, reduced)
    else:
        own, ious = _soft_ious(hierarchy, nodes, reduced, logits)
    found = [Candidate(mask, own)]
    for i in np.argsort(-ious, kind="stable"):
        if len(found) == num_masks:
            break
        segment = resized(tree.leaves_under(nodes[i : i + 1])[labels], (size[0], size[1]))
        if all(_iou(segment, other.mask) < _MOST_ALIKE for other in found):
            found.append(Candidate(segment, float(ious[i])))
    return sorted(found, key=lambda candidate: -candidate.predicted_iou)


def _expected_ious(
    hierarchy: Hierarchy, nodes: IntArray, mask: BoolArray
) -> tuple[float, Float64Array]:
    """Expected IoU of a mask (h, w) and of nested nodes, (N,), if one of these nodes is meant."""
    tree = hierarchy.tree
    probabilities = hierarchy.probabilities[np.append(nodes, tree.parents[nodes[-1]])]
    meant = np.maximum(-np.diff(probabilities), 0) + 1e-6
    meant /= meant.sum()
    sizes = tree.sizes[nodes]
    nested = np.minimum(sizes[:, None], sizes) / np.maximum(sizes[:, None], sizes)
    counts = np.bincount(hierarchy.superpixel_labels.ravel(), mask.ravel(), tree.num_leaves)
    within = tree.sums(counts)[nodes]
    return float(meant @ (within / (mask.sum() + sizes - within))), nested @ meant


def _soft_ious(
    hierarchy: Hierarchy, nodes: IntArray, mask: BoolArray, logits: FloatArray
) -> tuple[float, Float64Array]:
    """IoU of a mask (h, w) and of nodes (N,) with an object of a probability in each pixel."""
    probabilities = expit(logits.astype(np.float64))
    total, tree = probabilities.sum(), hierarchy.tree
    sums = np.bincount(hierarchy.superpixel_labels.ravel(), probabilities.ravel(), tree.num_leaves)
    within = tree.sums(sums)[nodes]
    own = float(probabilities[mask].sum())
    return own / float(mask.sum() + total - own), within / (tree.sizes[nodes] + total - within)


def _nodes_around(hierarchy: Hierarchy, inside: IntArray, outside: IntArray) -> IntArray:
    """The nodes that hold all of some superpixels and none of others, from small to large."""
    tree = hierarchy.tree
    holds = np.zeros((tree.num_leaves, 2))
    holds[inside, 0], holds[outside, 1] = 1, 1
    path = tree.ancestors(int(inside[0]))
    sums = tree.sums(holds)[path]
    has_all = sums[:, 0] == len(np.unique(inside))
    nodes: IntArray = path[has_all & (sums[:, 1] == 0)]
    below_root: IntArray = nodes[nodes < len(tree.parents) - 1]  # nobody means the whole image
    return below_root


def _iou(one: BoolArray, other: BoolArray) -> float:
    return float((one & other).sum() / max(1, (one | other).sum()))
