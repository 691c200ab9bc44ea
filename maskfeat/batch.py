"""What one room gives to another: every name, shape, dtype and range.

Coordinates are (row, column) in pixels; integer coordinates are pixel centers, so a map of
stride ``s`` holds the pixel (y, x) at ((y + 0.5) / s - 0.5, (x + 0.5) / s - 0.5).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypedDict

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from typing_extensions import NotRequired

# The statistics that timm backbones were trained with (ImageNet), for RGB in (0, 1).
RGB_MEAN = (0.485, 0.456, 0.406)
RGB_STD = (0.229, 0.224, 0.225)


class SkippedSample(NamedTuple):
    """A sample that could not be read."""

    reason: str  # one of a few words, e.g. "bad jpg"; the tail of the tag data/skipped/REASON
    shard: str
    key: str
    detail: str  # one sentence for the log


class LeftOutCrowds(NamedTuple):
    """Masks of a sample that hold many objects at once (`iscrowd` of COCO) and are not read."""

    num: int
    shard: str
    key: str


class _OptionalOfBatch(TypedDict, total=False):
    crowds: list[LeftOutCrowds]


class Batch(_OptionalOfBatch):
    """What a training or validation batch holds.

    Attributes:
        images: RGB, normalized by `normalize_images`, float32, shape (B, 3, H, W).
        points_yx: Sampled pixels of each image, int64, shape (B, P, 2), inside the image.
        membership: Which masks hold which points, bool, shape (B, M, P). A mask here is one
            connected component. M is the largest count of the batch; an unused slot is all False.
        keys: Name of each sample, length B.
        skipped: Samples that had to be replaced to fill this batch; may be empty.
        pairs_yx: Pairs of nearby pixels, int64, shape (B, 2, N, 2); only where they are asked for,
            as the next two.
        pair_similarity: Jaccard similarity of the mask sets of each pair, float32, shape (B, N);
            -1 where no mask holds either, or one lies beyond the image.
        boundary: 1 minus this similarity for each pixel and its right neighbor (channel 0), the
            one below (channel 1), float32, shape (B, 2, H, W); -1 as above, and at the rim.
        crowds: Masks of its samples that were left out as crowds; may be absent.
    """

    images: Tensor
    points_yx: Tensor
    membership: Tensor
    keys: list[str]
    skipped: list[SkippedSample]
    pairs_yx: NotRequired[Tensor]
    pair_similarity: NotRequired[Tensor]
    boundary: NotRequired[Tensor]


class Example(NamedTuple):
    """One training example.

    Attributes:
        key: Name of the sample.
        image: RGB, uint8, shape (S, S, 3).
        points_yx: Sampled pixels of the crop, int64, shape (P, 2).
        membership: Which masks hold which points, bool, shape (M, P); masks that hold none of
            them are left out, so M varies and may be 0.
        local: Pairs of nearby pixels and boundaries, by the names of `Batch`; only
            what is asked for.
        shard: The tar that the sample lies in.
        num_crowds: Masks of the sample that were left out as crowds.
    """

    key: str
    image: npt.NDArray[np.uint8]
    points_yx: npt.NDArray[np.int64]
    membership: npt.NDArray[np.bool_]
    local: dict[str, npt.NDArray[Any]] = {}  # noqa: RUF012 - never written to
    shard: str = ""
    num_crowds: int = 0


@dataclass(frozen=True)
class HeldOutImage:
    """A whole image with its true masks, as the evaluation callbacks take it.

    Attributes:
        key: Name of the sample, unique in its set.
        image: RGB, uint8, shape (H, W, 3).
        masks: True masks, one connected component each, bool, shape (M, H, W). They may overlap.
        partitions: True label maps, int64, shape (H, W) each; -1 marks pixels that no mask
            holds, which no score counts. One per annotator (BSDS500), one per level from
            coarse to fine (drawn scenes), else one with the smallest mask on top.
    """

    key: str
    image: npt.NDArray[np.uint8]
    masks: npt.NDArray[np.bool_]
    partitions: tuple[npt.NDArray[np.int64], ...]


@dataclass(frozen=True)
class ClickTarget:
    """One object to be segmented by clicks.

    Attributes:
        key: Name, unique in its set.
        image: RGB, uint8, shape (H, W, 3).
        target: int8, shape (H, W): 1 object, 0 background, -1 counted by no score.
    """

    key: str
    image: npt.NDArray[np.uint8]
    target: npt.NDArray[np.int8]


def normalize_images(images: Tensor) -> Tensor:
    """Bring RGB in 0..255, any dtype, (..., 3, H, W), to the mean and std that backbones expect.

    Returns:
        float32, same shape: (rgb / 255 - RGB_MEAN) / RGB_STD.
    """
    mean = torch.tensor(RGB_MEAN, device=images.device).view(3, 1, 1)
    std = torch.tensor(RGB_STD, device=images.device).view(3, 1, 1)
    return (images.float() / 255 - mean) / std


def collate(items: Sequence[Sequence[Example | SkippedSample]]) -> Batch:
    """Stack examples; masks are padded to the largest count of the batch.

    Images stay uint8 and unnormalized, a quarter of the bytes to send between processes; the
    datamodule normalizes them on the device.

    Raises:
        RuntimeError: If there is no example.
    """
    flat = [one for item in items for one in item]
    examples = [one for one in flat if isinstance(one, Example)]
    skipped = [one for one in flat if isinstance(one, SkippedSample)]
    if not examples:
        raise RuntimeError(f"no sample of a batch could be read, e.g. {skipped[0]}")
    num_masks = max(1, *(len(example.membership) for example in examples), 1)
    num_points = len(examples[0].points_yx)
    membership = torch.zeros((len(examples), num_masks, num_points), dtype=torch.bool)
    for row, example in zip(membership, examples, strict=True):
        row[: len(example.membership)] = torch.from_numpy(example.membership)
    images = np.stack([example.image for example in examples])
    batch = Batch(
        images=torch.from_numpy(images).permute(0, 3, 1, 2),
        points_yx=torch.from_numpy(np.stack([example.points_yx for example in examples])),
        membership=membership,
        keys=[example.key for example in examples],
        skipped=skipped,
        crowds=[LeftOutCrowds(e.num_crowds, e.shard, e.key) for e in examples if e.num_crowds],
    )
    for name in examples[0].local:
        stacked = torch.from_numpy(np.stack([example.local[name] for example in examples]))
        batch[name] = stacked  # type: ignore[literal-required]
    return batch
