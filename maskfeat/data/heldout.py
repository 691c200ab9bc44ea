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
import numpy.typing as npt
from PIL import Image

from maskfeat.batch import ClickTarget, HeldOutImage
from maskfeat.data.annotations.image import decode_rgb
from maskfeat.data.annotations.limits import Limits
from maskfeat.data.annotations.sample import SampleError, check_held_out, to_held_out
from maskfeat.data.order.schedule import evenly_spaced
from maskfeat.data.shards.indexed import IndexedShards

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
        total = len(self._shards)
        chosen: list[int] = []
        is_tried = np.zeros(total, bool)
        for wanted in evenly_spaced(total, num_images):
            # The wanted sample, or the next one that can be read.
            for i in (*range(wanted, total), *range(wanted)):
                if is_tried[i]:
                    continue
                is_tried[i] = True
                if self._is_readable(i):
                    chosen.append(i)
                    break
        return sorted(chosen)

    def _is_readable(self, i: int) -> bool:
        try:
            sample = self._shards[i]
            check_held_out(sample, self._short_side, self._limits)
            sample.decode()
        except SampleError as error:
            _LOG.warning("skipped %s of %s: %s", self._shards.key(i), self._shards.shard(i), error)
            return False
        self.num_crowds += sample.num_crowds
        return True


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
        target = _read_target(self.folder / sample["mask"])
        image = self.folder / sample["image"]
        try:
            rgb = decode_rgb(image.read_bytes(), (target.shape[0], target.shape[1]))
        except SampleError as error:
            raise ValueError(f"'{image}' does not go with its mask: {error}") from error
        return ClickTarget(sample["id"], rgb, target)


def _read_click_index(folder: Path) -> list[dict[str, Any]]:
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


def _read_target(path: Path) -> npt.NDArray[np.int8]:
    with Image.open(io.BytesIO(path.read_bytes())) as image:
        mask = np.asarray(image)
    if mask.ndim != 2 or not np.isin(mask, (0, _IGNORE, _OBJECT)).all():
        raise ValueError(
            f"mask '{path}' must be gray with the values 0, {_IGNORE} (ignore) and {_OBJECT}, "
            f"got shape {mask.shape} and values such as {np.unique(mask)[:5].tolist()}"
        )
    return np.where(mask == _IGNORE, -1, mask == _OBJECT).astype(np.int8)
