"""A folder of annotated images becomes shards to train on, and others to hold out."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from maskfeat.data.annotations.image import SampleError
from maskfeat.data.annotations.sample import is_crowd
from maskfeat.data.convert import Settings, convert_inputs
from maskfeat.data.convert.files import digest
from maskfeat.data.convert.sample import Record
from maskfeat.data.convert.sources import Input
from maskfeat.data.shards.indexed import IndexedShards

# Short side, pixels: about that of a megapixel, which `annotate` works with.
_SIZE = 864
_LOG = logging.getLogger("maskfeat")


@dataclass(frozen=True)
class OwnSamples:
    """The samples of some inputs, split.

    Attributes:
        train: Inputs of those to train on.
        held_out: Inputs of the others.
        digest: Differs where a file or the split does.
    """

    train: list[Input]
    held_out: list[Input]
    digest: str


def split_samples(inputs: Sequence[Input], held_out_share: float, seed: int) -> OwnSamples:
    """Hold out a random share of all annotated images, at least one.

    What has no masks, or cannot be read, is no sample. An image that several samples show (of two
    folders of masks, say) is held out with all of them, or with none.

    Raises:
        ValueError: If there are fewer than two images.
    """
    of_image: dict[str, list[tuple[int, Record]]] = {}  # with the number of the input, by digest
    left_out: dict[str, list[SampleError]] = {}
    for number, one in enumerate(inputs):
        for record in one.list_records():
            try:
                sample = record.read()
                if all(map(is_crowd, sample.entries)):
                    raise SampleError("no masks", f"{record.key} has none")
            except SampleError as error:
                left_out.setdefault(error.reason, []).append(error)
            else:
                of_image.setdefault(digest(sample.encoded), []).append((number, record))
    for errors in left_out.values():
        _LOG.warning("left out of the images: %d, e.g. %s", len(errors), errors[0])
    images = list(of_image.values())
    if len(images) < 2:
        raise ValueError(
            f"at least 2 annotated images are needed, as some are held out, got {len(images)}; "
            "annotate more (maskfeat annotate)"
        )
    order = np.random.default_rng(seed).permutation(len(images))
    num_held_out = max(1, min(len(images) - 1, round(held_out_share * len(images))))
    held_out, train = (
        _of_kind(inputs, kind, [sample for i in sorted(some) for sample in images[i]])
        for kind, some in zip(("val", "train"), np.split(order, [num_held_out]), strict=True)
    )
    described = [(one.name, one.measure) for one in (*held_out, *train)]
    return OwnSamples(train, held_out, hashlib.sha256(repr(described).encode()).hexdigest())


def _of_kind(
    inputs: Sequence[Input], kind: str, samples: Sequence[tuple[int, Record]]
) -> list[Input]:
    """Inputs of some of the samples, each with the number of its input."""
    found = []
    for number, one in enumerate(inputs):
        records = [record for n, record in samples if n == number]
        if records:
            keys = " ".join(record.key for record in records)
            measure = f"{one.measure} {hashlib.sha256(keys.encode()).hexdigest()[:16]}"
            name = f"{kind}-{number:03d}"
            found.append(
                replace(one, name=name, measure=measure, list_records=partial(list, records))
            )
    return found


def write_shards(samples: OwnSamples, folder: Path) -> tuple[int, list[str]]:
    """Write `train-*.tar` and `val-*.tar`.

    Returns:
        How many images there are to train on, and the names of those held out.

    Raises:
        ValueError: If no image of either kind can be read.
    """
    inputs = [*samples.train, *samples.held_out]
    convert_inputs(inputs, folder, Settings(size=_SIZE), num_workers=0)
    for kind, purpose in (("train", "train on"), ("val", "hold out")):
        if not any(folder.glob(f"{kind}-*.tar")):
            raise ValueError(
                f"none of the images to {purpose} in '{inputs[0].source}' has masks that can be "
                "read; the log says why"
            )
    train, held_out = (IndexedShards(str(folder / f"{kind}-*.tar")) for kind in ("train", "val"))
    return len(train), [held_out.key(i) for i in range(len(held_out))]
