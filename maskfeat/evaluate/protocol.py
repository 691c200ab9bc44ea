"""From features and true masks to scores; no trainer."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Literal

import numpy as np
from skimage.measure import label

from maskfeat.arrays import IntArray
from maskfeat.batch import HeldOutImage
from maskfeat.evaluate.metrics import (
    achievable_segmentation_accuracy,
    boundary_recall,
    covering,
    mean_of_counted,
    pair_auc,
)
from maskfeat.features.reading import Features
from maskfeat.segment.partition import partition_superpixels
from maskfeat.segment.superpixels import superpixels


def score_partition(
    features: Features, image: HeldOutImage, num_segments: Sequence[int]
) -> dict[str, float]:
    """Cut features into segments, as many as asked, and compare these with the true ones.

    Args:
        features: Features of `image`.
        image: With at least one true partition; each score is the mean over them.
        num_segments: Segments to ask for, e.g. [25, 100, 400].

    Returns:
        For each k of `num_segments`: `asa_k`, `boundary_recall_k` and `covering_k`, in [0, 1], and
        `components_k`, the number of 4-connected regions that the scores were bought with.
        A score is NaN where it does not exist (nothing counted, no true border).

    Raises:
        ValueError: If the image has no partition, or another size than the features.
    """
    if not image.partitions:
        raise ValueError(f"image {image.key!r} has no true partition to compare with")
    if features.size != image.image.shape[:2]:
        raise ValueError(
            f"features and image must have the same size, got {features.size} and "
            f"{image.image.shape[:2]} for {image.key!r}"
        )
    graph = superpixels(features)
    scores: dict[str, float] = {}
    for k in num_segments:
        labels = partition_superpixels(graph, k)[graph.labels].astype(np.int64)
        scores |= {f"{name}_{k}": value for name, value in score_labels(labels, image).items()}
    return scores


def score_labels(labels: IntArray, image: HeldOutImage) -> dict[str, float]:
    """Compare one partition (H, W) with the true ones, at least one.

    `asa`, `boundary_recall`, `covering` and `components`, means over these, see `score_partition`.
    """
    scores = {
        name: mean_of_counted([metric(labels, target) for target in image.partitions])
        for name, metric in (
            ("asa", achievable_segmentation_accuracy),
            ("boundary_recall", boundary_recall),
            ("covering", covering),
        )
    }
    return scores | {"components": float(num_components(labels))}


def partition_score_names(num_segments: Sequence[int]) -> list[str]:
    """The names `score_partition` gives its scores."""
    kinds = ("asa", "boundary_recall", "covering", "components")
    return [f"{kind}_{k}" for k in num_segments for kind in kinds]


def score_pairs(
    features: Features,
    image: HeldOutImage,
    num_pairs: int = 20_000,
    radius: float = 32,
    seed: int = 0,
) -> dict[str, float]:
    """Tell pairs of nearby pixels of one segment from pairs of two, see `pair_auc`.

    Args:
        features: Features of `image`.
        image: With its true masks.
        num_pairs: Pairs to draw.
        radius: Largest distance within a pair, pixels.
        seed: Of the pairs, together with the key of the image: the pairs of an image do not
            depend on which images come before it.

    Returns:
        `auc` over the pairs that all masks agree on, and `auc_votes` over all pairs, each mask
        voting; in [0, 1], NaN if the masks part no pair or hold none together.
    """
    seeds = [seed, zlib.crc32(image.key.encode())]

    def auc(disputed: Literal["leave out", "vote"]) -> float:
        rng = np.random.default_rng(seeds)  # the same pairs for both
        return pair_auc(features, image.masks, num_pairs, radius, disputed, rng=rng)

    return {"auc": auc("leave out"), "auc_votes": auc("vote")}


def num_components(labels: IntArray) -> int:
    """4-connected regions of equal label, of a label map (H, W)."""
    labels = np.asarray(labels, np.int64)
    background = int(labels.min()) - 1  # none is left out
    found = label(labels, background=background, return_num=True, connectivity=1)  # type: ignore[no-untyped-call]
    return int(found[1])
