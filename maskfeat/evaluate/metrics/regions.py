"""How well segments fit true segments, and one mask a true mask.

All compare `labels`, the partition to evaluate, any integers, shape (H, W), whose numbers carry no
order, with `target`, the true label map, integers, shape (H, W); -1 marks pixels that are not
counted. They give NaN where nothing is counted, and raise a ValueError if the shapes differ, or are
not those of label maps.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from maskfeat.arrays import BoolArray
from maskfeat.evaluate.metrics.overlap import LabelMap, checked_label_maps, entropy, overlap_of


def achievable_segmentation_accuracy(labels: LabelMap, target: LabelMap) -> float:
    """Share of pixels that are right when each segment takes its best true segment's name.

    In (0, 1]. ASA of Liu et al., "Entropy rate superpixel segmentation", CVPR 2011, Eq. 15.
    """
    overlap = overlap_of(labels, target)
    if not overlap.count.size:
        return math.nan
    best = np.zeros(overlap.label_sizes.size, np.int64)
    np.maximum.at(best, overlap.label, overlap.count)
    return float(best.sum() / overlap.count.sum())


def covering(labels: LabelMap, target: LabelMap) -> float:
    """Best IoU of each true segment, averaged over true segments by size; in (0, 1].

    Pixels that are not counted are in no size. Segmentation covering of Arbelaez et al., "Contour
    detection and hierarchical image segmentation", TPAMI 2011, Eq. 8 (the covering of the ground
    truth by the partition).
    """
    overlap = overlap_of(labels, target)
    if not overlap.count.size:
        return math.nan
    union = (
        overlap.label_sizes[overlap.label] + overlap.target_sizes[overlap.target] - overlap.count
    )
    best = np.zeros(overlap.target_sizes.size)
    np.maximum.at(best, overlap.target, overlap.count / union)
    return float((best * overlap.target_sizes).sum() / overlap.target_sizes.sum())


def undersegmentation_error(labels: LabelMap, target: LabelMap) -> float:
    """How far segments leak over true borders; not negative, 0 is perfect.

    Neubert and Protzel, "Superpixel benchmark and comparison", Forum Bildverarbeitung 2012: where a
    segment and a true segment meet, the smaller of the part inside and the part outside counts as
    leak; the sum is divided by the number of pixels.
    """
    overlap = overlap_of(labels, target)
    if not overlap.count.size:
        return math.nan
    outside = overlap.label_sizes[overlap.label] - overlap.count
    return float(np.minimum(overlap.count, outside).sum() / overlap.num_pixels)


def probabilistic_rand_index(labels: LabelMap, target: LabelMap) -> float:
    """Share of pixel pairs that both partitions hold together or both part; in [0, 1].

    The Rand index against one annotator; its mean over annotators is the probabilistic Rand index
    of Unnikrishnan, Pantofaru, Hebert, TPAMI 2007. NaN if fewer than two pixels are counted.
    """
    overlap = overlap_of(labels, target)
    num_pairs = overlap.num_pixels * (overlap.num_pixels - 1) / 2
    if not num_pairs:
        return math.nan
    squares = [
        float((sizes.astype(np.float64) ** 2).sum())
        for sizes in (overlap.label_sizes, overlap.target_sizes, overlap.count)
    ]
    return 1 - (squares[0] + squares[1] - 2 * squares[2]) / 2 / num_pairs


def variation_of_information(labels: LabelMap, target: LabelMap) -> float:
    """What one does not know of one partition, knowing the other, both ways; 0 for equal ones.

    H(labels | target) + H(target | labels) of Meila, "Comparing clusterings", COLT 2003, in bits;
    with bits the agreement of humans on BSDS500 comes out as published (about 1.17).
    """
    overlap = overlap_of(labels, target)
    if not overlap.count.size:
        return math.nan
    label, target_, both = (
        entropy(sizes) for sizes in (overlap.label_sizes, overlap.target_sizes, overlap.count)
    )
    return max(0.0, 2 * both - label - target_)


def compactness(labels: LabelMap) -> float:
    """How round segments are: 4 pi area / perimeter^2, averaged by area; in (0, 0.785].

    Schick, Fischer, Stiefelhagen, "Measuring and evaluating the compactness of superpixels", ICPR
    2012. The perimeter counts pixel sides, those on the rim of the image too, so a square has pi /
    4 = 0.785 and nothing more.
    """
    numbers, _ = checked_label_maps(labels, labels)
    _, index = np.unique(numbers, return_inverse=True)
    index = index.reshape(numbers.shape)
    framed = np.pad(index, 1, constant_values=-1)
    sides = sum(
        (framed[1:-1, 1:-1] != other).astype(np.int64)
        for other in (framed[:-2, 1:-1], framed[2:, 1:-1], framed[1:-1, :-2], framed[1:-1, 2:])
    )
    areas = np.bincount(index.ravel())
    perimeters = np.bincount(index.ravel(), np.ravel(sides))
    return float((areas * 4 * math.pi * areas / perimeters**2).sum() / numbers.size)


def explained_variation(labels: LabelMap, image: npt.NDArray[np.generic]) -> float:
    """Share of the variance of an image that the means of its segments keep.

    Moore et al., "Superpixel lattices", CVPR 2008.

    Args:
        labels: The partition, any integers, shape (H, W).
        image: Any numbers, shape (H, W, C); Lab or RGB are usual.

    Returns:
        In [0, 1]; NaN for an image of one color.

    Raises:
        ValueError: If the shapes do not go together.
    """
    numbers, _ = checked_label_maps(labels, labels)
    if image.ndim != 3 or image.shape[:2] != numbers.shape:
        raise ValueError(
            f"image must have shape {numbers.shape} + (C,), as the labels, got {image.shape}"
        )
    values = image.reshape(numbers.size, -1).astype(np.float64)
    if (values == values[:1]).all():  # asked before the mean, which rounds
        return math.nan
    values = values - values.mean(axis=0)
    total = float((values**2).sum())
    _, index = np.unique(numbers, return_inverse=True)
    areas = np.bincount(index.ravel())
    sums = [np.bincount(index.ravel(), column) for column in values.T]
    return min(1.0, float(sum((column**2 / areas).sum() for column in sums) / total))


def iou(pred: BoolArray, target: npt.NDArray[np.int8]) -> float:
    """Intersection over union of a mask and a true mask.

    Args:
        pred: The mask, bool, shape (H, W).
        target: 1 object, 0 background, -1 not counted, integers, shape (H, W).

    Returns:
        In [0, 1]; 1 when neither holds a counted pixel.

    Raises:
        ValueError: If the shapes differ.
    """
    pred, target = np.asarray(pred, dtype=bool), np.asarray(target)
    if pred.shape != target.shape:
        raise ValueError(
            f"pred and target must have the same shape, got {pred.shape} and {target.shape}"
        )
    is_object = target == 1
    union = np.count_nonzero((pred & (target >= 0)) | is_object)
    return np.count_nonzero(pred & is_object) / union if union else 1.0


def noc(ious: Sequence[float], threshold: float, max_clicks: int = 20) -> int:
    """Number of clicks to reach an IoU.

    The convention of RITM (Sofiiuk et al., arXiv:2102.06583): a target that never gets there
    counts `max_clicks`, as does one that gets there with the last click.

    Args:
        ious: IoU after each click, first click first. What follows `max_clicks` is not read.
        threshold: The IoU to reach, e.g. 0.85; reaching it exactly counts.
        max_clicks: What a target that never gets there counts.

    Returns:
        From 1 to `max_clicks`.
    """
    for click, value in enumerate(ious[:max_clicks], start=1):
        if value >= threshold:
            return click
    return max_clicks
