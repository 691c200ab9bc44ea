"""A folder of annotated images becomes shards to train on, and others to hold out."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from maskfeat.data.convert import Settings, convert_inputs
from maskfeat.data.convert.sample import Record
from maskfeat.data.convert.sources import Input
from maskfeat.data.shards.indexed import IndexedShards

# Short side, pixels: about that of a megapixel, which `annotate` works with.
_SIZE = 864


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
    """Hold out a random share of all samples, at least one.

    Raises:
        ValueError: If there are fewer than two.
    """
    samples = [(number, r) for number, one in enumerate(inputs) for r in one.list_records()]
    if len(samples) < 2:
        raise ValueError(
            f"at least 2 annotated images are needed, as some are held out, got {len(samples)}; "
            "annotate more (maskfeat annotate)"
        )
    order = np.random.default_rng(seed).permutation(len(samples))
    num_held_out = max(1, min(len(samples) - 1, round(held_out_share * len(samples))))
    chosen = [[samples[i] for i in sorted(some)] for some in np.split(order, [num_held_out])]
    held_out, train = (
        _of_kind(inputs, kind, some) for kind, some in zip(("val", "train"), chosen, strict=True)
    )
    names = [one.measure for one in inputs] + [
        r.key for one in held_out for r in one.list_records()
    ]
    return OwnSamples(train, held_out, hashlib.sha256(repr(names).encode()).hexdigest())


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
