"""From features and true masks to scores; no trainer."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from maskfeat.batch import ClickTarget, HeldOutImage
from maskfeat.evaluate.metrics import (
    achievable_segmentation_accuracy,
    boundary_recall,
    covering,
    iou,
    mean_of_counted,
    noc,
    pair_auc,
)
from maskfeat.evaluate.robots import next_click
from maskfeat.features.reading import Features
from maskfeat.segment.atoms import atoms
from maskfeat.segment.partition import partition_atoms

NOC_THRESHOLDS = (0.85, 0.90)
IOU_CLICKS = (1, 3, 5, 10, 20)
# Shares of the image between which a true mask is a fair object to click.
OBJECT_SHARES = (0.005, 0.6)


class Encoder(Protocol):
    """What is evaluated: anything that gives features of an image."""

    def features(self, rgb: npt.NDArray[np.uint8]) -> Features:
        """Features of an RGB image, uint8, shape (H, W, 3)."""
        ...


class ClickSegmenter(Protocol):
    """What obeys clicks, see `maskfeat.segment.interactive.InteractiveSegmenter`."""

    def set_image(self, rgb: npt.NDArray[np.uint8]) -> object:
        """Take the image that the next clicks are for, uint8, shape (H, W, 3)."""
        ...

    def predict(
        self, clicks_yx: npt.NDArray[np.int64], is_positive: npt.NDArray[np.bool_]
    ) -> npt.NDArray[np.bool_]:
        """The mask, bool (H, W), for all clicks so far, (N, 2) and (N,)."""
        ...


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
    graph = atoms(features)
    scores: dict[str, float] = {}
    for k in num_segments:
        labels = partition_atoms(graph, k)[graph.labels].astype(np.int64)
        scores |= {f"{name}_{k}": value for name, value in score_labels(labels, image).items()}
    return scores


def score_labels(labels: npt.NDArray[np.int64], image: HeldOutImage) -> dict[str, float]:
    """Compare one partition, whoever made it, with the true ones.

    Args:
        labels: Segment of each pixel, shape (H, W).
        image: With at least one true partition; each score is the mean over them.

    Returns:
        `asa`, `boundary_recall`, `covering` and `components`, see `score_partition`.
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


def play_clicks(
    segmenter: ClickSegmenter, target: ClickTarget, max_clicks: int = 20
) -> list[float]:
    """Let the robot user click until the mask is right or clicks run out.

    Args:
        segmenter: Gives a mask for the clicks so far; its image is set here.
        target: The object to be segmented.
        max_clicks: Clicks to play, at least 1.

    Returns:
        IoU after each click, length `max_clicks`. When no wrong pixel is left to click, the
        robot stops and the last IoU is repeated.

    Raises:
        ValueError: If there is no object to click, or max_clicks is not positive.
    """
    return [iou(mask, target.target) for mask, _, _ in click_rounds(segmenter, target, max_clicks)]


def click_rounds(
    segmenter: ClickSegmenter, target: ClickTarget, max_clicks: int
) -> list[tuple[npt.NDArray[np.bool_], npt.NDArray[np.int64], npt.NDArray[np.bool_]]]:
    """The game of `play_clicks`, round by round.

    Returns:
        After each click: the mask, bool (H, W), and all clicks so far with their signs, int64
        (N, 2) and bool (N,); length `max_clicks`, the last round repeated after an early stop.

    Raises:
        ValueError: If there is no object to click, or max_clicks is not positive.
    """
    if max_clicks < 1:
        raise ValueError(f"max_clicks must be at least 1, got {max_clicks}")
    if not (target.target == 1).any():
        raise ValueError(f"target {target.key!r} has no object pixel (1) to click")
    segmenter.set_image(target.image)
    mask = np.zeros(target.target.shape, dtype=bool)
    not_clicked = np.ones_like(mask)
    clicks: list[tuple[int, int]] = []
    signs: list[bool] = []
    rounds = []
    for _ in range(max_clicks):
        is_wrong = (mask != (target.target == 1)) & (target.target >= 0)
        if not (is_wrong & not_clicked).any():
            break
        click, is_positive = next_click(mask, target.target, not_clicked)
        not_clicked[click] = False
        clicks.append(click)
        signs.append(is_positive)
        clicks_yx, is_positives = np.array(clicks, dtype=np.int64), np.array(signs, dtype=bool)
        mask = segmenter.predict(clicks_yx, is_positives)
        rounds.append((mask, clicks_yx, is_positives))
    return rounds + rounds[-1:] * (max_clicks - len(rounds))


def summarize_clicks(ious: Sequence[float]) -> dict[str, float]:
    """The figures of one target.

    Args:
        ious: IoU after each click; its length is the largest number of clicks.

    Returns:
        `noc_85` and `noc_90`, clicks to reach that IoU (see `noc`); `iou_n`, the IoU after
        n clicks, for n of 1, 3, 5, 10, 20 as far as clicks were played; `iou_mean`, the mean of
        the IoU over all clicks.
    """
    scores = {
        f"noc_{round(100 * threshold)}": float(noc(ious, threshold, len(ious)))
        for threshold in NOC_THRESHOLDS
    }
    scores |= {f"iou_{n}": float(ious[n - 1]) for n in IOU_CLICKS if n <= len(ious)}
    return scores | {"iou_mean": sum(ious) / len(ious)}


def click_score_names(max_clicks: int) -> list[str]:
    """The names `summarize_clicks` gives its figures after so many clicks."""
    return list(summarize_clicks([0.0] * max_clicks))


def pick_target(image: HeldOutImage, turn: int = 0, seed: int = 0) -> ClickTarget | None:
    """Choose a true mask of an image as the object to click, always the same one.

    Args:
        image: With its true masks.
        turn: 0 for the first choice, 1 for another mask, and so on.
        seed: Of the order in which the masks are chosen, together with the key of the image.

    Returns:
        A mask that covers between 0.5 and 60 % of the image; None if there are not so many.
    """
    shares = image.masks.mean(axis=(1, 2))
    fair = np.flatnonzero((shares >= OBJECT_SHARES[0]) & (shares <= OBJECT_SHARES[1]))
    if turn >= fair.size:
        return None
    rng = np.random.default_rng([seed, zlib.crc32(image.key.encode())])
    mask = int(rng.permutation(fair)[turn])
    return ClickTarget(f"{image.key}/{mask}", image.image, image.masks[mask].astype(np.int8))


def num_components(labels: npt.NDArray[np.int64]) -> int:
    """4-connected regions of equal label, of a label map (H, W)."""
    height, width = labels.shape
    right, below = labels[:, 1:] == labels[:, :-1], labels[1:] == labels[:-1]
    # Regions on a grid of doubled size, where a bridge joins equal neighbors.
    grid = np.zeros((2 * height - 1, 2 * width - 1), dtype=bool)
    grid[::2, ::2] = True
    grid[::2, 1::2], grid[1::2, ::2] = right, below
    return int(ndimage.label(grid)[1])
