"""Examples out of shards, and batches out of examples."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import Dataset, IterableDataset

from maskfeat.batch import Batch, LeftOutCrowds, SkippedSample
from maskfeat.data.annotations.background import with_background, without_masks
from maskfeat.data.annotations.sample import AnnotatedImage, SampleError
from maskfeat.data.augment import Example
from maskfeat.data.order.readers import ReaderState, StreamPlan, StreamReader, finish
from maskfeat.data.order.run_order import first_orders
from maskfeat.data.order.schedule import Mixture, batches_of_worker, sample_at
from maskfeat.data.shards.indexed import IndexedShards

# Makes an example of an image: an `Example`, or what the loader's own `collate_fn` takes. All
# randomness comes from the generator. One whose `takes_donor` is true takes a third argument: what
# gives the image that objects are pasted from, or None.
MakeExample = Callable[..., Any]

# This number of unreadable samples in a row means that the set, not the sample, is broken.
_MAX_TRIES = 50


class ScheduledExamples(Dataset[Any]):
    """Training examples by their index in the endless order of `maskfeat.data.order.schedule`.

    An example depends on its index alone, not on the worker, the rank or earlier reads. With
    several sets, `maskfeat.data.order.schedule` says which set each index draws from; each set has
    its own endless order. A sample that cannot be read is replaced by another of its set, chosen
    by the index too.

    Args:
        sets: The images of each set.
        indices: Which images of each set.
        weights: The share of each set; only their proportions count.
        make_example: Cuts an example out of one.
        seed: Of the order and of all augmentation.
        unmarked: What unmarked pixels of each set are, see `WeightedSet`; empty is "unknown".

    Attributes:
        orders: The endless order of each set.
    """

    def __init__(
        self,
        sets: Sequence[IndexedShards],
        indices: Sequence[Sequence[int]],
        weights: Sequence[float],
        make_example: MakeExample,
        seed: int,
        unmarked: Sequence[str] = (),
    ) -> None:
        self.sets = sets
        self.indices = indices
        self.mixture = Mixture(weights, seed)
        self.make_example = make_example
        self.seed = seed
        self.unmarked = unmarked or ["unknown"] * len(sets)
        self.orders = first_orders(seed, len(sets))

    def __getitem__(self, index: int) -> list[Example | SkippedSample]:
        """The example at one index, after the samples that could not be read in its place."""
        rng = np.random.default_rng([self.seed, index])
        which, draw = self.mixture.at(index)
        indices, order = self.indices[which], self.orders[which]
        first = sample_at(draw + order.shift, len(indices), order.seed)
        others = (int(rng.integers(len(indices))) for _ in itertools.count())
        numbers = itertools.chain([first], others)
        return _first_readable(
            self.sets[which],
            (indices[number] for number in numbers),
            lambda s: _make(self.make_example, s, rng, self.unmarked[which], self._donor),
        )

    def _donor(self, rng: np.random.Generator) -> AnnotatedImage | None:
        """Any image of the mixture; None where it cannot be read."""
        which, _ = self.mixture.at(int(rng.integers(2**31)))
        index = self.indices[which][int(rng.integers(len(self.indices[which])))]
        try:
            return self.sets[which][index]
        except SampleError:
            return None


class HeldOutExamples(Dataset[Any]):
    """The middle crop of held-out images, always the same.

    Args:
        shards: The images.
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
        """The example; where it cannot be read, the next one that can be."""
        rotated = itertools.chain(self.indices[item:], self.indices[:item])
        return _first_readable(
            self.shards,
            rotated,
            lambda s: self.make_example(s, np.random.default_rng(self.indices[item])),
        )


class StreamedBatches(IterableDataset[Any]):
    """Whole batches out of streams, made by the virtual readers of one rank one after another.

    Args:
        plan: What is streamed.
        make_example: Cuts an example out of an image.
        unmarked: As for `ScheduledExamples`.

    Attributes:
        epoch: The epoch whose batches are given.
        start: Number of the next batch of it.
        reader_states: The state of each reader before that batch.
    """

    def __init__(
        self, plan: StreamPlan, make_example: MakeExample, unmarked: Sequence[str] = ()
    ) -> None:
        self.plan = plan
        self.make_example = make_example
        self.unmarked = unmarked or ["unknown"] * len(plan.sets)
        self.epoch = self.start = 0
        self.reader_states = [plan.start()] * plan.num_readers

    def __iter__(self) -> Iterator[ReadBatch | Exception | None]:
        """Give the batches of this worker, see `maskfeat.data.order.schedule.batches_of_worker`.

        Errors that a user can fix are given, not raised: a loader would wrap them in a traceback.
        """
        worker = torch.utils.data.get_worker_info()
        number, num_workers = (worker.id, worker.num_workers) if worker else (0, 1)
        plan, readers = self.plan, dict[int, StreamReader]()
        for batch_number in batches_of_worker(
            number, num_workers, plan.num_readers, self.start, plan.num_batches
        ):
            if batch_number is None:
                yield None
                continue
            name = batch_number % plan.num_readers
            if name not in readers:
                readers[name] = StreamReader(plan, name, self.epoch, self.reader_states[name])
            try:
                batch = self._read(readers[name])
            except (ValueError, OSError) as error:
                yield error
                return
            yield ReadBatch(name, readers[name].reader_state, batch)

    def _read(self, reader: StreamReader) -> Batch:
        found: list[Example | SkippedSample] = []
        num_examples = num_missed = 0
        donor: AnnotatedImage | None = None  # the image before it, of the same batch
        for raw, seeds in reader:

            def make(sample: AnnotatedImage, rng: np.random.Generator) -> Example:
                nonlocal donor
                last, donor = donor, sample
                unmarked = self.unmarked[reader.set_number]
                return _make(self.make_example, sample, rng, unmarked, lambda _: last)

            settings = self.plan.keep_crowds, self.plan.source.limits
            found.append(finish(raw, seeds, make, *settings))
            num_missed = 0 if isinstance(found[-1], Example) else num_missed + 1
            num_examples += isinstance(found[-1], Example)
            if num_examples == self.plan.batch_size:
                break
            if num_missed == _MAX_TRIES:
                raise RuntimeError(_too_many(num_missed, found[-1]))
        return collate([found])


class ReadBatch(NamedTuple):
    """A batch, and the state of its reader after it."""

    reader: int
    reader_state: ReaderState
    batch: Batch


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


def _make(
    make_example: MakeExample,
    sample: AnnotatedImage,
    rng: np.random.Generator,
    unmarked: str,
    donor: Callable[[np.random.Generator], AnnotatedImage | None],
) -> Example:
    """An example of an image of a set whose unmarked pixels are unknown or background."""
    if unmarked == "background":
        sample = with_background(sample)
    elif unmarked == "everything":
        sample = without_masks(sample)
    more = [donor] if getattr(make_example, "takes_donor", False) else []
    example: Example = make_example(sample, rng, *more)
    return example


def as_it_is(item: Any) -> Any:  # noqa: ANN401
    """Leave an item as it is; for `collate_fn` where a dataset gives whole batches."""
    return item


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
    raise RuntimeError(_too_many(len(found), found[-1]))


def _too_many(number: int, last: Example | SkippedSample) -> str:
    return f"{number} samples in a row could not be read, the last was {last}; look at the shards"
