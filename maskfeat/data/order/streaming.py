"""Streaming mode: virtual readers of shards, batches out of what they read, and their loader."""

from __future__ import annotations

import functools
import logging
import sys
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from torch.utils.data import DataLoader, IterableDataset

from maskfeat.batch import Batch, Example, SkippedSample, collate
from maskfeat.data.annotations.image import SampleError
from maskfeat.data.annotations.limits import Limits
from maskfeat.data.annotations.sample import AnnotatedImage, as_marked, read_sample
from maskfeat.data.order.loaders import (
    MAX_TRIES,
    EpochSampler,
    MakeExample,
    ResumableLoader,
    too_many,
)
from maskfeat.data.order.plan import Cursor, ReaderState, StreamPlan
from maskfeat.data.order.run_order import RunOrder, SetOrder
from maskfeat.data.order.schedule import (
    Mixture,
    Part,
    batches_of_worker,
    block_order,
    parts_of,
    slice_of,
)
from maskfeat.data.shards.count import CountedShard
from maskfeat.data.shards.stream import RawSample, raw_samples

_LOG = logging.getLogger("maskfeat")
T = TypeVar("T")
Raw = RawSample | SkippedSample
# A sample, and the pass over its set.
Passed = tuple[Raw, int]


class StreamReader:
    """Gives the samples of one reader (of those of its rank) in one epoch, from any state on.

    Its slice of the endless order is, in each set, a list of parts of shards. It reads them one
    after another, a block of samples at a time, and gives each block shuffled. To go on from
    (part, start of the block, samples given) it reads one block again and skips the front of one
    shard. At the end of the slice it begins again, until the samples that could not be read are
    replaced and all batches are full.

    Attributes:
        set_number: The set that the last sample came from.
    """

    def __init__(self, plan: StreamPlan, number: int, epoch: int, state: ReaderState) -> None:
        self.plan = plan
        self.reader_state = state
        self.set_number = 0
        order, ranks = plan.order, (plan.rank, plan.world_size, plan.batch_size)
        self._slice = slice_of(epoch, order.epoch_images, *ranks, number, plan.num_readers)
        self._mixture = Mixture(order.weights, order.seed)
        self._orders = order.orders
        first, last = map(self._mixture.draws_before, (self._slice.start, self._slice.stop))
        self._streams = [
            self._read_set(which, first[which] + order.shift, last[which] + order.shift, cursor)
            for which, (cursor, order) in enumerate(zip(state.cursors, self._orders, strict=True))
        ]

    def __iter__(self) -> Iterator[tuple[Raw, tuple[int, ...]]]:
        """Give samples without end, unless the slice is empty; `reader_state` is that after each.

        Yields:
            The files of a sample, or why there are none, and its seeds: (seed of its set, pass over
            the set, pass over the slice).

        Raises:
            ValueError: If the shards hold fewer samples than was counted.
        """
        while self._slice:
            num_items, cursors = self.reader_state
            which, _ = self._mixture.at(self._slice[num_items % len(self._slice)])
            (raw, pass_number), cursor = next(self._streams[which])
            self.reader_state = ReaderState(
                num_items + 1, (*cursors[:which], cursor, *cursors[which + 1 :])
            )
            self.set_number = which
            yield raw, (self._orders[which].seed, pass_number, cursor.slice_pass)

    def _read_set(
        self, which: int, first: int, last: int, cursor: Cursor
    ) -> Iterator[tuple[Passed, Cursor]]:
        """Samples of one set, from draw `first` up to `last`, each with the cursor after it."""
        seed, shards = self._orders[which].seed, self.plan.sets[which]
        parts = parts_of([shard.num_samples for shard in shards], seed, first, last)
        while True:
            slice_pass, _, _, num_given = cursor
            is_empty = True
            for begin, block in self._blocks(shards, parts, cursor.part, cursor.start):
                is_empty = False
                order = block_order(len(block), seed, first, slice_pass, *begin)
                size, rest = len(block), [block[i] for i in reversed(order)]
                block.clear()  # so that a sample that was given is freed
                while rest:
                    passed = rest.pop()
                    if size - len(rest) > num_given:
                        yield passed, Cursor(slice_pass, *begin, size - len(rest))
                num_given = 0
            if is_empty:
                names = sorted({shards[part.shard].url for part in parts})
                raise ValueError(
                    f"shard '{names[0]}' holds fewer samples than its index says; make the index "
                    "anew (maskfeat shards verify compares them)"
                )
            cursor = Cursor(slice_pass + 1)

    def _blocks(
        self, shards: Sequence[CountedShard], parts: Sequence[Part], first: int, start: int
    ) -> Iterator[tuple[tuple[int, int], list[Passed]]]:
        """Fill the buffer again and again; with part and number of the first sample in it."""
        begin, block, num_bytes = (first, start), list[Passed](), 0
        for number in range(first, len(parts)):
            part = parts[number]
            url, num_samples = shards[part.shard]
            # Where the part ends with the shard, read on: there may be more than was counted.
            stop = part.stop if part.stop < num_samples else sys.maxsize
            wanted = range(max(part.start, start if number == first else 0), stop)
            index = wanted.start - 1
            for index, raw in raw_samples(url, self.plan.source, wanted):
                if index >= part.stop:
                    _warn_of_count(url, num_samples, "more", "the others are not read")
                    break
                size = len(raw.jpg) + len(raw.json) if isinstance(raw, RawSample) else 0
                is_full = num_bytes + size > self.plan.max_bytes
                if block and (is_full or len(block) == self.plan.max_samples):
                    yield begin, block
                    block, num_bytes = [], 0
                if not block:
                    begin = (number, index)
                block.append((raw, part.pass_number))
                num_bytes += size
            if index + 1 < part.stop:
                _warn_of_count(url, num_samples, "fewer", "others come again instead")
        if block:
            yield begin, block


@functools.cache
def _warn_of_count(url: str, num_samples: int, what: str, therefore: str) -> None:
    """Log, once in a process, that a shard does not hold what was counted."""
    _LOG.warning(
        "shard %s holds %s than the %d samples that its index tells; %s, so make the index anew",
        url,
        what,
        num_samples,
        therefore,
    )


class StreamedBatches(IterableDataset[Any]):
    """Whole batches out of streams, made by the virtual readers of one rank one after another.

    Attributes:
        epoch: The epoch whose batches are given.
        start: Number of the next batch of it.
        reader_states: The state of each reader before that batch.
    """

    def __init__(self, plan: StreamPlan, make_example: MakeExample) -> None:
        self.plan = plan
        self.make_example = make_example
        self.epoch = self.start = 0
        self.reader_states = [plan.start()] * plan.num_readers

    @property
    def order(self) -> RunOrder:
        """Determines the order of its images."""
        return self.plan.order

    def take_orders(self, orders: tuple[SetOrder, ...]) -> None:
        """Let each set go on in the order of another run."""
        self.plan = replace(self.plan, order=replace(self.order, orders=orders))

    def __iter__(self) -> Iterator[ReadBatch | Exception | None]:
        """Give the batches of this worker, see `maskfeat.data.order.schedule.batches_of_worker`.

        Errors that a user can fix are given, not raised: a loader would wrap them in a traceback.
        """
        worker = torch.utils.data.get_worker_info()
        number, num_workers = (worker.id, worker.num_workers) if worker else (0, 1)
        plan, readers = self.plan, dict[int, StreamReader]()
        for batch_number in batches_of_worker(
            number, num_workers, plan.num_readers, self.start, plan.order.num_steps
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
        unmarked = self.plan.unmarked or ("unknown",) * len(self.plan.sets)
        donor: AnnotatedImage | None = None  # the image before it, of the same batch
        for raw, seeds in reader:

            def make(sample: AnnotatedImage, rng: np.random.Generator) -> Example:
                nonlocal donor
                last, donor = donor, sample
                sample = as_marked(sample, unmarked[reader.set_number])
                example: Example = self.make_example(sample, rng, lambda _: last)
                return example

            settings = self.plan.keep_crowds, self.plan.source.limits
            found.append(finish(raw, seeds, make, *settings))
            num_missed = 0 if isinstance(found[-1], Example) else num_missed + 1
            num_examples += isinstance(found[-1], Example)
            if num_examples == reader.plan.batch_size:
                break
            if num_missed == MAX_TRIES:
                raise RuntimeError(too_many(num_missed, found[-1]))
        return collate([found])


class ReadBatch(NamedTuple):
    """A batch, and the state of its reader after it."""

    reader: int
    reader_state: ReaderState
    batch: Batch


def finish(
    raw: Raw,
    seeds: Sequence[int],
    transform: Callable[[AnnotatedImage, np.random.Generator], T],
    keep_crowds: bool = False,
    limits: Limits = Limits(),  # noqa: B008 - frozen
) -> T | SkippedSample:
    """Read a sample and transform it, or say why there is none.

    The generator that `transform` gets depends on the key and the seeds alone, which `StreamReader`
    gives; it may raise `SampleError`.
    """
    if isinstance(raw, SkippedSample):
        return raw
    rng = np.random.default_rng([*seeds, zlib.crc32(raw.key.encode())])
    try:
        sample = read_sample(raw.key, raw.url, raw.jpg, raw.json, keep_crowds, limits)
        return transform(sample, rng)
    except SampleError as error:
        return SkippedSample(error.reason, raw.url, raw.key, error.detail)


def as_it_is(item: Any) -> Any:  # noqa: ANN401
    """Leave an item as it is; for `collate_fn` where a dataset gives whole batches."""
    return item


class StreamLoader(ResumableLoader):
    """Batches of streaming mode; it keeps the states of the readers.

    It takes settings of a DataLoader, but for persistent workers: each epoch starts them anew from
    the states of the readers.

    Attributes:
        reader_states: The state of each reader after the batches of this epoch so far; None
            before there are any, and after a checkpoint without them.
    """

    def __init__(self, dataset: StreamedBatches, **settings: Any) -> None:  # noqa: ANN401
        self.schedule = _Requests()
        super().__init__(dataset, batch_size=None, **{**settings, "collate_fn": as_it_is})
        self.reader_states: list[ReaderState] | None = None
        self._before_last: list[ReaderState] | None = None

    @property
    def plan(self) -> StreamPlan:
        """What is streamed."""
        plan: StreamPlan = self.dataset.plan  # type: ignore[attr-defined]
        return plan

    def __len__(self) -> int:
        return self.order.num_steps

    @property
    def sampler(self) -> Any:  # noqa: ANN401 - DataLoader's
        """Lightning sets the epoch on it; DataLoader would not take it for a stream."""
        return self.schedule

    @sampler.setter
    def sampler(self, value: object) -> None:
        """DataLoader sets one of its own, which gives the same."""

    def reader_states_after(self, num_batches: int) -> list[ReaderState] | None:
        """The states after the last batch of this epoch, or after the one before it."""
        is_before_last = num_batches == self.progress.num_batches - 1
        return self._before_last if is_before_last else self.reader_states

    def _batches(self, num_done: int) -> Iterator[Batch]:
        data: Any = self.dataset
        if self.reader_states is None or num_done == 0:
            self.reader_states = [self.plan.start()] * self.plan.num_readers
        data.epoch, data.start = 0 if self.is_repeating else self.epoch, num_done
        data.reader_states = list(self.reader_states)
        for item in DataLoader.__iter__(self):
            if isinstance(item, Exception):
                raise item
            if item is not None:
                self._before_last, self.reader_states = self.reader_states, list(self.reader_states)
                self.reader_states[item.reader] = item.reader_state
                yield item.batch


class _Requests(EpochSampler):
    """Asks workers for one batch after another, without a number, and keeps the epoch."""

    def __init__(self) -> None:
        super().__init__(0, 1, 0, 1)

    def __iter__(self) -> Iterator[None]:  # type: ignore[override]
        while True:
            yield None
