"""Held-out images as the evaluation takes them: whole, with their masks, or with one object."""

from __future__ import annotations

import dataclasses
import io
import json
import logging
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from maskfeat.arrays import IntArray
from maskfeat.batch import ClickTarget, HeldOutImage
from maskfeat.data.annotations.image import SampleError, decode_image, within_memory
from maskfeat.data.annotations.limits import Limits
from maskfeat.data.annotations.painting import paint, reduce_runs, reduced_size
from maskfeat.data.annotations.sample import AnnotatedImage
from maskfeat.data.order.schedule import evenly_spaced
from maskfeat.data.shards.indexed import IndexedShards

_LEVELS = {"object": 0, "region": 0, "part": 1, "subpart": 2}
_LOG = logging.getLogger("maskfeat")
_IGNORE, _OBJECT = 128, 255  # in the masks of a click folder


class ShardImages(Sequence[HeldOutImage]):
    """Held-out images of shards, decoded when asked for.

    Samples that cannot be read are found when this is made (each is decoded once for it), logged
    and left out.

    Args:
        shards: As in `maskfeat.data.shards.names.expand_shards`; local files.
        num_images: Most images, evenly spaced over the set; None takes all.
        index_dir: Where indexes are kept, see `maskfeat.data.shards.index.index_shard`.
        short_side: Larger images are reduced to this short side, pixels, masks with them.
        keep_crowds: As in `maskfeat.data.annotations.sample.read_sample`.
        limits: What a sample may ask for; those that ask for more are left out likewise.

    Attributes:
        keys: Names of the images, each once.
        num_crowds: Masks that were left out as crowds; the log has their number.

    Raises:
        FileNotFoundError: If no shard matches.
        ValueError: If no sample can be read, or a shard has none.
    """

    def __init__(
        self,
        shards: str | Sequence[str],
        num_images: int | None = None,
        index_dir: str | Path | None = None,
        short_side: int | None = None,
        keep_crowds: bool = False,
        limits: Limits = Limits(),  # noqa: B008 - frozen
    ) -> None:
        self._shards = IndexedShards(shards, index_dir, keep_crowds, limits)
        self._limits = limits
        self._short_side = short_side
        self.num_crowds = 0
        self._numbers = self._choose(num_images)
        if not self._numbers:
            raise ValueError(
                f"none of the {len(self._shards)} samples of {shards} can be read; look at the log"
            )
        if self.num_crowds:
            _LOG.info("%d masks of held-out images are crowds and left out", self.num_crowds)
        # Keys are unique within a shard; where two shards share one, the shard is named, too.
        count = Counter(self._shards.key(i) for i in self._numbers)
        self.keys = [
            key if count[key] == 1 else f"{Path(self._shards.shard(i)).stem}/{key}"
            for i, key in ((i, self._shards.key(i)) for i in self._numbers)
        ]

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, i: int) -> HeldOutImage:  # type: ignore[override]
        image = to_held_out(self._shards[self._numbers[i]], self._short_side, self._limits)
        return dataclasses.replace(image, key=self.keys[i])

    def _choose(self, num_images: int | None) -> list[int]:
        """The wanted samples; in place of one that cannot be read, the next one that can be."""
        total = len(self._shards)
        chosen: list[int] = []
        is_tried = np.zeros(total, bool)
        for wanted in evenly_spaced(total, num_images):
            for i in (*range(wanted, total), *range(wanted)):
                if is_tried[i]:
                    continue
                is_tried[i] = True
                try:
                    sample = self._shards[i]
                    _check_held_out(sample, self._short_side, self._limits)
                    sample.decode()
                except SampleError as error:
                    key, shard = self._shards.key(i), self._shards.shard(i)
                    _LOG.warning("skipped %s of %s: %s", key, shard, error)
                    continue
                self.num_crowds += sample.num_crowds
                chosen.append(i)
                break
        return sorted(chosen)


@within_memory("to decode its masks")
def to_held_out(
    sample: AnnotatedImage,
    short_side: int | None = None,
    limits: Limits = Limits(),  # noqa: B008 - frozen
) -> HeldOutImage:
    """Decode a sample whole: image, masks and true partitions.

    A partition is painted mask over mask, larger first, so a pixel carries the smallest mask that
    holds it; numbers are 0, 1, ... without gaps. With annotators there is one partition for each,
    by rising number; else with levels, one per level (objects, then parts on top, then subparts;
    what has no or another level counts as object); else one of all masks.

    Args:
        sample: The sample.
        short_side: Larger images are reduced to this short side, pixels, and masks with them (a
            pixel belongs to what held its center; a mask left without pixels is dropped).
        limits: What it may ask for.

    Raises:
        SampleError: If the image cannot be decoded ("bad jpg"), or its masks take more memory than
            the limits say, or there is ("too large").
    """
    _check_held_out(sample, short_side, limits)
    size, runs = sample.runs.size, sample.runs
    new_size = reduced_size(size, short_side) if short_side else size
    image = sample.decode(at_least=min(1.0, short_side / min(size)) if short_side else 1.0)
    if new_size != size:
        reduced = Image.fromarray(image).resize(new_size[::-1], Image.Resampling.BOX)
        image = np.asarray(reduced)
    # Straight from the runs: decoded in full, the masks would take many times the memory.
    masks = paint(*reduce_runs(runs, new_size), runs.num_masks, new_size)
    partitions = []
    for order in _painting_orders(sample):
        labels = np.full(new_size, -1, np.int64)
        for number in order:
            labels[masks[number]] = number
        is_visible = np.bincount(labels.ravel() + 1, minlength=len(masks) + 1) > 0
        is_visible[0] = False  # of -1, where nothing is painted
        new_number = np.where(is_visible, np.cumsum(is_visible) - 1, -1)
        partitions.append(new_number[labels + 1].astype(np.int64))
    is_left = masks.any(axis=(1, 2))
    masks = masks if is_left.all() else masks[is_left]
    return HeldOutImage(sample.key, image, masks, tuple(partitions))


def _check_held_out(sample: AnnotatedImage, short_side: int | None, limits: Limits) -> None:
    """Raise `SampleError` if the masks of a sample, decoded, will take more than the limits say."""
    size, num_masks = sample.runs.size, sample.runs.num_masks
    height, width = reduced_size(size, short_side) if short_side else size
    num_partitions = len(_painting_orders(sample))
    num_gb = (num_masks + 8 * num_partitions) * height * width / 1e9
    if num_gb > limits.held_out_gb:
        raise SampleError(
            "too large",
            f"{num_masks} masks and {num_partitions} partitions of {height} x {width} take "
            f"{num_gb:.3g} GB, more than {limits.held_out_gb:g} (limits.held_out_gb)",
        )


def _painting_orders(sample: AnnotatedImage) -> list[IntArray]:
    """For each partition the masks to paint, first to last."""
    runs = sample.runs
    larger_first = np.argsort(-runs.areas, kind="stable")
    owner = runs.annotation[larger_first]
    present = [sample.annotators[i] for i in owner]
    annotators = sorted({one for one in present if one is not None})
    if annotators:
        who = np.array([-1 if one is None else annotators.index(one) for one in present])
        return [larger_first[who == number] for number in range(len(annotators))]
    words = [sample.levels[i] for i in owner]
    if any(word is not None for word in words):
        depth = np.array([_LEVELS.get(word or "object", 0) for word in words])
        coarse_first = np.argsort(depth, kind="stable")
        return [
            larger_first[coarse_first][depth[coarse_first] <= level] for level in np.unique(depth)
        ]
    return [larger_first]


class ClickFolder(Sequence[ClickTarget]):
    """Images with one object each, out of a folder with an `index.json`.

    The index is {"samples": [{"id", "image", "mask", ...}]} with paths relative to the folder;
    masks are 8-bit gray: 0 background, 255 object, 128 counted by no score.

    Args:
        folder: The folder.
        num_targets: Most images, evenly spaced over the index; None takes all.

    Raises:
        FileNotFoundError: If the folder, its index, or a file the index names is missing.
        ValueError: If the index is malformed or empty.
    """

    def __init__(self, folder: str | Path, num_targets: int | None = None) -> None:
        self.folder = Path(folder)
        samples = _read_click_index(self.folder)
        self._samples = [samples[i] for i in evenly_spaced(len(samples), num_targets)]
        for sample in self._samples:
            for path in (self.folder / sample["image"], self.folder / sample["mask"]):
                if not path.is_file():
                    raise FileNotFoundError(
                        f"the index of '{self.folder}' names '{path}', which is not there"
                    )

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, i: int) -> ClickTarget:  # type: ignore[override]
        sample = self._samples[i]
        path, image = self.folder / sample["mask"], self.folder / sample["image"]
        mask = np.asarray(Image.open(io.BytesIO(path.read_bytes())))
        if mask.ndim != 2 or not np.isin(mask, (0, _IGNORE, _OBJECT)).all():
            raise ValueError(
                f"mask '{path}' must be gray with the values 0, {_IGNORE} (ignore) and {_OBJECT}, "
                f"got shape {mask.shape} and values such as {np.unique(mask)[:5].tolist()}"
            )
        target = np.where(mask == _IGNORE, -1, mask == _OBJECT).astype(np.int8)
        try:
            rgb = np.asarray(decode_image(image.read_bytes(), (target.shape[0], target.shape[1])))
        except SampleError as error:
            raise ValueError(f"'{image}' does not go with its mask: {error}") from error
        return ClickTarget(sample["id"], rgb, target)


def _read_click_index(folder: Path) -> list[dict[str, Any]]:
    """The samples of index.json, each with id, image and mask; errors as `ClickFolder`."""
    path = folder / "index.json"
    if not path.is_file():
        raise FileNotFoundError(f"no index at '{path}'; give a folder with index.json and masks")
    try:
        content = json.loads(path.read_bytes())
    except (ValueError, RecursionError, MemoryError) as error:
        raise ValueError(f"'{path}' is no json that can be read: {error}") from error
    samples = content.get("samples") if isinstance(content, dict) else None
    if not isinstance(samples, list) or not samples:
        raise ValueError(f"'{path}' must be an object with a list \"samples\" that is not empty")
    for number, sample in enumerate(samples):
        if not isinstance(sample, dict) or not all(
            isinstance(sample.get(name), str) for name in ("id", "image", "mask")
        ):
            raise ValueError(f"sample {number} of '{path}' must have id, image and mask, as text")
    return samples
