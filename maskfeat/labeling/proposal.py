"""What a `Labeler` answers, and how it gets from superpixels to pixels and back."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from maskfeat.arrays import FloatArray, IntArray
from maskfeat.labeling.prepared import PreparedImage
from maskfeat.segment.resizing import enlarged_labels


class Proposal(NamedTuple):
    """What an image may be.

    Attributes:
        labels: Class of each pixel, int64, shape (H, W), 0 to L - 1; -1 where ignored.
        confidence: Probability of that class by the classifier, float32, shape (H, W); 1 in the
            regions of clicks.
        energy: Of the cut, nats for each pixel: the higher, the less classifier, borders and
            clicks agree.
        is_done: Whether the image was called done: then these are the labels it was left with.
    """

    labels: IntArray
    confidence: FloatArray
    energy: float
    is_done: bool


class Progress(NamedTuple):
    """How far it is."""

    num_images: int
    num_prepared: int
    num_done: int
    num_clicks: int
    num_failed: int


def on_pixels(image: PreparedImage, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Values of superpixels, (K,), at the size of the image, (H, W)."""
    superpixels: IntArray = enlarged_labels(image.graph.labels.astype(np.int64), image.size)
    return values[superpixels]


def on_superpixels(image: PreparedImage, labels: IntArray) -> IntArray:
    """Labels of the pixels of the image, (H, W), at the first pixel of each superpixel, (K,)."""
    small = image.graph.labels.shape
    _, first = np.unique(image.graph.labels, return_index=True)
    places = zip(np.unravel_index(first, small), labels.shape, small, strict=True)
    y, x = ((2 * place + 1) * large // (2 * little) for place, large, little in places)
    found: IntArray = labels[y, x]
    return found
