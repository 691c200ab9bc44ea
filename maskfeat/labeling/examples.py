"""Clicks become labeled superpixels, and labeled superpixels become examples to learn from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from maskfeat.arrays import BoolArray, Float64Array, FloatArray, IntArray
from maskfeat.labeling.click_log import IGNORED, Click
from maskfeat.labeling.image_store import PreparedImage

# How sure a click is of a superpixel: the probability that both are one segment, to this power.
# With 1 more clicks are needed on one of two sets (experiments/labeling).
_POWER = 2


class LabeledSuperpixels(NamedTuple):
    """What clicks say of the superpixels of an image.

    Attributes:
        is_fixed: Which superpixels lie in the region of a click, bool, shape (K,).
        classes: Their classes, int64, shape (K,), `IGNORED` in ignored regions, 0 elsewhere.
        regions: The superpixels of each region, one for each superpixel that was clicked, N.
        region_classes: Their classes, int64, shape (N,).
        credence: How sure each of these clicks is of each superpixel, beyond its region as well:
            the probability that the tree gives to their being one segment, squared. (N, K).
    """

    is_fixed: BoolArray
    classes: IntArray
    regions: list[IntArray]
    region_classes: IntArray
    credence: Float64Array

    @property
    def is_ignored(self) -> BoolArray:
        """Which superpixels lie in an ignored region, bool, shape (K,)."""
        is_ignored: BoolArray = self.classes == IGNORED
        return is_ignored


class Examples(NamedTuple):
    """Superpixels to learn from.

    Attributes:
        descriptors: float16, shape (N, D).
        classes: int64, shape (N,).
        weights: float32, shape (N,).
    """

    descriptors: npt.NDArray[np.float16]
    classes: IntArray
    weights: FloatArray


def labeled_superpixels(image: PreparedImage, clicks: Sequence[Click]) -> LabeledSuperpixels:
    """The regions of all clicks of an image.

    A click means the segment around it, cut as its granularity or number says, or as much of its
    branch of the tree as holds no click of another class. So two regions of different classes
    never overlap, and the order of clicks is nothing, but that of two of one superpixel the later
    counts.
    """
    superpixels = [superpixel_at(image, click.row, click.column) for click in clicks]
    last = dict(zip(superpixels, clicks, strict=True))
    is_fixed = np.zeros(image.graph.num_superpixels, bool)
    classes = np.zeros(image.graph.num_superpixels, np.int64)
    credence = np.zeros((len(last), len(is_fixed)))
    regions = []
    for place, (superpixel, click) in enumerate(last.items()):
        number = click.class_number
        excluded = np.zeros(len(is_fixed), bool)
        excluded[[other for other, theirs in last.items() if theirs.class_number != number]] = True
        region = image.tree.region_around(
            superpixel,
            granularity=click.granularity,
            num_groups=click.num_segments,
            is_excluded=excluded,
        )
        is_fixed |= region
        classes[region] = number
        regions.append(np.flatnonzero(region))
        credence[place] = (1 - image.tree.altitudes[image.tree.meeting_nodes(superpixel)]) ** _POWER
    numbers = np.array([click.class_number for click in last.values()], np.int64)
    return LabeledSuperpixels(is_fixed, classes, regions, numbers, credence)


def with_clicks(chances: npt.NDArray[np.floating], labeled: LabeledSuperpixels) -> Float64Array:
    """Probabilities of the classes, by the classifier and by the clicks around, float64, (K, L).

    A click is seldom about its region alone, nor about all of the object around it. With r_c the
    credence of the surest click of class c on a superpixel, and s_c the classifier's probability,

        p_c = (1 - max r) s_c  +  max r * o_c / sum o,    o_c = r_c / (1 - r_c):

    where one class is near, its click counts as far as it is sure, and the classifier for the rest;
    where several are, r / (1 - r) decides. An ignored region says nothing of what is around it.
    """
    surest = np.zeros(chances.shape)
    for number, credence in zip(labeled.region_classes, labeled.credence, strict=True):
        if number != IGNORED:
            np.maximum(surest[:, number], credence, out=surest[:, number])
    most = surest.max(axis=1, keepdims=True)
    ratios = surest / np.maximum(1 - surest, 1e-3)
    shares = ratios / np.maximum(ratios.sum(axis=1, keepdims=True), 1e-12)
    found: Float64Array = (1 - most) * chances + most * shares
    return found


def superpixel_at(image: PreparedImage, row: int, column: int) -> int:
    """The superpixel at a pixel of the image."""
    height, width = image.graph.labels.shape
    y, x = row * height // image.size[0], column * width // image.size[1]
    return int(image.graph.labels[y, x])


def examples_of(
    image: PreparedImage, labeled: LabeledSuperpixels, most_per_region: int
) -> Examples:
    """Some superpixels of each region; together they weigh as the root of the region's superpixels.

    Not as all of them, or a click on the sky would count for a hundred on a pole; and not all
    alike, or a narrow strip would count as much as a house. Ignored regions teach nothing.
    """
    chosen, weights = [np.zeros(0, np.int64)], [np.zeros(0)]
    for region, number in zip(labeled.regions, labeled.region_classes, strict=True):
        if number == IGNORED:
            continue
        count = min(len(region), most_per_region)
        chosen.append(region[evenly(len(region), count)])  # in reading order: no dice
        weights.append(np.full(count, np.sqrt(len(region)) / count))
    superpixels = np.concatenate(chosen)
    return Examples(
        image.descriptors[superpixels],
        labeled.classes[superpixels],
        np.concatenate(weights).astype(np.float32),
    )


def evenly(total: int, count: int) -> IntArray:
    """Places of `count` out of `total` things, the first and the last among them, rising."""
    places: IntArray = np.linspace(0, total - 1, count).round().astype(np.int64)
    return places
