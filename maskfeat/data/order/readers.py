"""Virtual readers of streaming mode: the samples of one reader, and its state."""

from __future__ import annotations

import functools
import logging
import sys
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, TypeVar

from maskfeat.batch import SkippedSample
from maskfeat.data.order.run_order import RunOrder
from maskfeat.data.order.schedule import Mixture, Part, block_order, parts_of, slice_of
from maskfeat.data.shards.count import CountedShard
from maskfeat.data.shards.remote import ShardSource
from maskfeat.data.shards.stream import RawSample, raw_samples

_LOG = logging.getLogger("maskfeat")
T = TypeVar("T")
Raw = RawSample | SkippedSample
# A sample, and the pass over its set.
Passed = tuple[Raw, int]


class Cursor(NamedTuple):
    """The position of a reader in its slice of one set.

    Attributes:
        slice_pass: Complete passes over the slice in this epoch: 0, or more where samples that
            could not be read were replaced by others.
        part: Parts of shards that are done.
        start: Number in its shard of the first sample of the current block.
        num_given: Samples of that block that were given.
    """

    slice_pass: int = 0
    part: int = 0
    start: int = 0
    num_given: int = 0


class ReaderState(NamedTuple):
    """The state of a reader in an epoch: samples given in all, and its position in each set."""

    num_items: int
    cursors: tuple[Cursor, ...]


@dataclass(frozen=True)
class StreamPlan:
    """What is streamed, and which rank and reader reads what; workers receive it by pickle.

    Args:
        sets: The shards of each set.
        order: Determines the order of the images, whoever reads them.
        rank: This process.
        world_size: Number of processes.
        num_readers: Virtual readers of each rank.
        max_samples: Most samples in a shuffle buffer, for each reader and set.
        max_bytes: Most bytes in it, or one sample.
        source: Opens the shards.
        keep_crowds: As in `maskfeat.data.annotations.sample.read_sample`.
        unmarked: What unmarked pixels of each set are, see
            `maskfeat.data.training_set.WeightedSet`; empty is "unknown".
    """

    sets: tuple[tuple[CountedShard, ...], ...]
    order: RunOrder
    rank: int = 0
    world_size: int = 1
    num_readers: int = 1
    max_samples: int = 200
    max_bytes: float = float("inf")
    source: ShardSource = field(default_factory=ShardSource)
    keep_crowds: bool = False
    unmarked: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.world_size or self.num_readers < 1 or self.max_samples < 1:
            raise ValueError(
                "rank must lie in [0, world_size), num_readers and shuffle_buffer be at least 1, "
                f"got rank {self.rank}, world_size {self.world_size}, num_readers "
                f"{self.num_readers}, shuffle_buffer {self.max_samples}"
            )

    @property
    def batch_size(self) -> int:
        """Images in a batch of one rank."""
        return self.order.global_batch // self.world_size

    @property
    def fingerprint(self) -> int:
        """A number that is equal where each reader of each rank gives the same samples."""
        order, counts = self.order, [[shard.num_samples for shard in one] for one in self.sets]
        images = (counts, order.weights, order.epoch_images, self.batch_size, order.seed)
        shape = (self.world_size, self.num_readers, self.max_samples, self.max_bytes)
        return zlib.crc32(repr((images, shape)).encode())

    def start(self) -> ReaderState:
        """The state of every reader at the start of an epoch."""
        return ReaderState(0, tuple(Cursor() for _ in self.sets))


class StreamReader:
    """Gives the samples of one reader in one epoch, from any state on.

    Its slice of the endless order is, in each set, a list of parts of shards. It reads them one
    after another, a block of samples at a time, and gives each block shuffled. To go on from
    (part, start of the block, samples given) it reads one block again and skips the front of one
    shard. At the end of the slice it begins again, until the samples that could not be read are
    replaced and all batches are full.

    Args:
        plan: What is streamed.
        number: This reader, of those of its rank.
        epoch: The epoch.
        state: Where to go on.

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
