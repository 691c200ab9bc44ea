"""Held-out images as the evaluation takes them: whole, with their masks, or with one object."""

from __future__ import annotations

import dataclasses
import io
import json
import logging
import zlib
from collections import Counter
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from maskfeat.batch import ClickTarget, HeldOutImage
from maskfeat.data.picture import decode_rgb
from maskfeat.data.sample import SampleError, to_held_out
from maskfeat.data.shards import IndexedShards

_LOG = logging.getLogger("maskfeat")
_IGNORE, _OBJECT = 128, 255  # in the masks of a click folder


class ShardImages(Sequence[HeldOutImage]):
    """Held-out images of shards, decoded when asked for.

    Samples that cannot be read are found when this is made (each is decoded once for it), logged
    and left out.

    Args:
        shards: As in `maskfeat.data.shards.expand_shards`; local files.
        num_images: At most so many, spread evenly over the set; None takes all.
        index_dir: Where indexes are kept, see `maskfeat.data.index.index_shard`.

    Raises:
        FileNotFoundError: If no shard matches.
        ValueError: If no sample can be read, or a shard has none.
    """

    def __init__(
        self,
        shards: str | Sequence[str],
        num_images: int | None = None,
        index_dir: str | Path | None = None,
    ) -> None:
        self._shards = IndexedShards(shards, index_dir)
        self._numbers = self._choose(num_images)
        if not self._numbers:
            raise ValueError(
                f"none of the {len(self._shards)} samples of {shards} can be read; look at the log"
            )
        # Keys are unique within a shard; where two shards share one, the shard is told, too.
        count = Counter(self._shards.key(i) for i in self._numbers)
        self.keys = [
            key if count[key] == 1 else f"{Path(self._shards.shard(i)).stem}/{key}"
            for i, key in ((i, self._shards.key(i)) for i in self._numbers)
        ]

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, i: int) -> HeldOutImage:  # type: ignore[override]
        return dataclasses.replace(to_held_out(self._shards[self._numbers[i]]), key=self.keys[i])

    def _choose(self, num_images: int | None) -> list[int]:
        total = len(self._shards)
        chosen: list[int] = []
        is_tried = np.zeros(total, bool)
        for wanted in _spread(total, num_images):
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
            self._shards[i].decode()
        except SampleError as error:
            _LOG.warning("skipped %s of %s: %s", self._shards.key(i), self._shards.shard(i), error)
            return False
        return True


class ClickFolder(Sequence[ClickTarget]):
    """Images with one object each, out of a folder with an `index.json`.

    The index is {"samples": [{"id", "image", "mask", ...}]} with paths relative to the folder;
    masks are 8-bit gray: 0 background, 255 object, 128 counted by no score.

    Args:
        folder: The folder.
        num_targets: At most so many, spread evenly over the index; None takes all.

    Raises:
        FileNotFoundError: If the folder, its index, or a file the index names is missing.
        ValueError: If the index is malformed or empty.
    """

    def __init__(self, folder: str | Path, num_targets: int | None = None) -> None:
        self.folder = Path(folder)
        samples = _read_click_index(self.folder)
        self._samples = [samples[i] for i in _spread(len(samples), num_targets)]
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


def click_targets(
    images: Sequence[HeldOutImage],
    per_image: int = 1,
    min_share: float = 0.01,
    max_share: float = 0.5,
    seed: int = 0,
) -> Sequence[ClickTarget]:
    """Choose true masks as objects to be clicked.

    Args:
        images: Held-out images.
        per_image: At most so many masks of each image; fewer where fewer have the right size.
        min_share: Smallest area, as a share of the image.
        max_share: Largest.
        seed: With the key of the image, it decides which masks are chosen.

    Returns:
        The targets, by image. Images are read when a target is asked for; the first use, `len`
        included, reads every image once to see what it holds.

    Raises:
        ValueError: If the shares are not 0 <= min_share <= max_share <= 1.
    """
    if not 0 <= min_share <= max_share <= 1 or per_image < 1:
        raise ValueError(
            "expected 0 <= min_share <= max_share <= 1 and per_image of at least 1, got "
            f"min_share {min_share}, max_share {max_share}, per_image {per_image}"
        )
    return _MaskTargets(images, per_image, min_share, max_share, seed)


class _MaskTargets(Sequence[ClickTarget]):
    def __init__(
        self,
        images: Sequence[HeldOutImage],
        per_image: int,
        min_share: float,
        max_share: float,
        seed: int,
    ) -> None:
        self.images = images
        self.per_image = per_image
        self.min_share = min_share
        self.max_share = max_share
        self.seed = seed
        self._last: tuple[int, HeldOutImage] | None = None

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, i: int) -> ClickTarget:  # type: ignore[override]
        number, mask = self._places[i]
        if self._last is None or self._last[0] != number:  # targets of one image follow each other
            self._last = (number, self.images[number])
        image = self._last[1]
        return ClickTarget(f"{image.key}#{mask}", image.image, image.masks[mask].astype(np.int8))

    @cached_property
    def _places(self) -> list[tuple[int, int]]:
        """Image and mask of each target."""
        places: list[tuple[int, int]] = []
        for number in range(len(self.images)):
            image = self.images[number]
            shares = image.masks.mean(axis=(1, 2))
            fitting = np.flatnonzero((shares >= self.min_share) & (shares <= self.max_share))
            rng = np.random.default_rng([self.seed, zlib.crc32(image.key.encode())])
            chosen = rng.permutation(fitting)[: self.per_image]
            places.extend((number, int(mask)) for mask in chosen)
        return places


def _spread(total: int, num: int | None) -> list[int]:
    """At most `num` of 0..total-1, evenly spread."""
    if num is None or num >= total:
        return list(range(total))
    if num < 1:
        raise ValueError(f"expected at least one image, got num {num}; take None for all")
    return [(2 * i + 1) * total // (2 * num) for i in range(num)]


def _read_click_index(folder: Path) -> list[dict[str, Any]]:
    path = folder / "index.json"
    if not path.is_file():
        raise FileNotFoundError(f"no index at '{path}'; give a folder with index.json and masks")
    try:
        content = json.loads(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"'{path}' is no json: {error}") from error
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
    with Image.open(io.BytesIO(path.read_bytes())) as picture:
        mask = np.asarray(picture)
    if mask.ndim != 2 or not np.isin(mask, (0, _IGNORE, _OBJECT)).all():
        raise ValueError(
            f"mask '{path}' must be gray with the values 0, {_IGNORE} (ignore) and {_OBJECT}, "
            f"got shape {mask.shape} and values such as {np.unique(mask)[:5].tolist()}"
        )
    return np.where(mask == _IGNORE, -1, mask == _OBJECT).astype(np.int8)
