"""Examples out of shards, and batches out of examples."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset, IterableDataset

from maskfeat.batch import Batch, SkippedSample
from maskfeat.data.augment import Example
from maskfeat.data.sample import AnnotatedImage, SampleError
from maskfeat.data.schedule import sample_at
from maskfeat.data.shards import IndexedShards

# Makes an example of a photograph; all randomness comes from the generator.
MakeExample = Callable[[AnnotatedImage, np.random.Generator], Example]

# So many unreadable samples in a row mean that the set, not the sample, is broken.
_MAX_TRIES = 50


class ScheduledExamples(Dataset[Any]):
    """Training examples by their place in the endless order of `maskfeat.data.schedule`.

    An example depends on its place alone: not on the worker, the rank or what was read before.
    A sample that cannot be read is replaced by another, chosen by the place too.

    Args:
        shards: The photographs.
        indices: Which of them.
        make_example: Cuts an example out of one.
        seed: Of the order and of all augmentation.
    """

    def __init__(
        self,
        shards: IndexedShards,
        indices: Sequence[int],
        make_example: MakeExample,
        seed: int,
    ) -> None:
        self.shards = shards
        self.indices = indices
        self.make_example = make_example
        self.seed = seed

    def __getitem__(self, place: int) -> list[Example | SkippedSample]:
        """The example at one place, after the samples that were skipped on the way to it."""
        rng = np.random.default_rng([self.seed, place])
        num_images = len(self.indices)
        others = (int(rng.integers(num_images)) for _ in itertools.count())
        numbers = itertools.chain([sample_at(place, num_images, self.seed)], others)
        indices = (self.indices[number] for number in numbers)
        return _first_readable(self.shards, indices, lambda s: self.make_example(s, rng))


class HeldOutExamples(Dataset[Any]):
    """The middle crop of held-out photographs, always the same.

    Args:
        shards: The photographs.
        indices: Which of them.
        make_example: Cuts an example out of one.
    """

    def __init__(
        self, shards: IndexedShards, indices: Sequence[int], make_example: MakeExample
    ) -> None:
        self.shards = shards
        self.indices = indices
        self.make_example = make_example

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, item: int) -> list[Example | SkippedSample]:
        """The example; where a sample cannot be read, the next one that can takes its place."""
        rotated = (*self.indices[item:], *self.indices[:item])
        return _first_readable(
            self.shards,
            rotated,
            lambda s: self.make_example(s, np.random.default_rng(self.indices[item])),
        )


class StreamedBatches(IterableDataset[Any]):
    """Whole batches out of an endless stream of examples.

    Args:
        stream: Gives `Example` and `SkippedSample`; has `set_epoch`.
        batch_size: Examples in a batch.
        num_batches: Batches in an epoch, all workers of this rank together.
    """

    def __init__(self, stream: Any, batch_size: int, num_batches: int) -> None:  # noqa: ANN401
        self.stream = stream
        self.batch_size = batch_size
        self.num_batches = num_batches

    def set_epoch(self, epoch: int) -> None:
        """The next epoch reads the shards in another order."""
        self.stream.set_epoch(epoch)

    def __len__(self) -> int:
        return self.num_batches

    def __iter__(self) -> Iterator[Batch]:
        worker = torch.utils.data.get_worker_info()
        number, total = (worker.id, worker.num_workers) if worker else (0, 1)
        mine = len(range(number, self.num_batches, total))
        batch: list[Example | SkippedSample] = []
        for item in self.stream:
            if mine == 0:
                return
            batch.append(item)
            if sum(isinstance(one, Example) for one in batch) == self.batch_size:
                yield collate([batch])
                batch, mine = [], mine - 1


def collate(items: Sequence[Sequence[Example | SkippedSample]]) -> Batch:
    """Stack examples; masks are padded to the largest count of the batch.

    Images stay uint8 and unnormalized, four times lighter to hand over between processes;
    the datamodule normalizes them on the device.
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
    return Batch(
        images=torch.from_numpy(images).permute(0, 3, 1, 2),
        points_yx=torch.from_numpy(np.stack([example.points_yx for example in examples])),
        membership=membership,
        keys=[example.key for example in examples],
        skipped=skipped,
    )


def _first_readable(
    shards: IndexedShards,
    indices: Iterable[int],
    make_example: Callable[[AnnotatedImage], Example],
) -> list[Example | SkippedSample]:
    """An example of the first sample that can be read, after those that could not."""
    found: list[Example | SkippedSample] = []
    for index in itertools.islice(indices, _MAX_TRIES):
        try:
            return [*found, make_example(shards[index])]
        except SampleError as error:
            key, shard = shards.key(index), shards.shard(index)
            found.append(SkippedSample(error.reason, shard, key, str(error)))
    raise RuntimeError(
        f"{len(found)} samples in a row could not be read, the last was {found[-1]}; look at the "
        "shards"
    )
