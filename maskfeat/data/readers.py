"""Virtual readers: what one of them gives in streaming mode, and where it stands."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, TypeVar

import numpy as np

from maskfeat.batch import SkippedSample
from maskfeat.data.mixture import Mixture, seed_of_set
from maskfeat.data.remote import ShardSource
from maskfeat.data.sample import AnnotatedImage, SampleError
from maskfeat.data.schedule import Part, block_order, consumer_of, deal_shards
from maskfeat.data.stream import RawSample, raw_samples, read_raw

T = TypeVar("T")
Raw = RawSample | SkippedSample


class Cursor(NamedTuple):
    """Where a reader stands in the endless order of one set.

    Attributes:
        pass_number: Passes over the set that are done.
        part: Of the parts of shards dealt to the reader in this pass, those that are done.
        start: Where in its shard the first sample of the current block lies.
        num_given: Samples of that block that were given out.
    """

    pass_number: int = 0
    part: int = 0
    start: int = 0
    num_given: int = 0


class Standing(NamedTuple):
    """Where a reader stands: samples given out in all, and its cursor in each set."""

    num_items: int
    cursors: tuple[Cursor, ...]


@dataclass(frozen=True)
class StreamPlan:
    """What is streamed, and how it is shared out; workers receive it by pickle.

    Args:
        sets: The shards of each set.
        weights: How much of what is read comes from each.
        seed: Of all order.
        rank: This process.
        world_size: Number of processes.
        num_readers: Virtual readers of each rank.
        max_samples: A shuffle buffer holds at most so many samples, for each reader and set.
        max_bytes: And at most so many bytes, or one sample.
        source: Opens the shards.
    """

    sets: tuple[tuple[str, ...], ...]
    weights: tuple[float, ...]
    seed: int = 0
    rank: int = 0
    world_size: int = 1
    num_readers: int = 1
    max_samples: int = 200
    max_bytes: float = float("inf")
    source: ShardSource = field(default_factory=ShardSource)

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.world_size or self.num_readers < 1 or self.max_samples < 1:
            raise ValueError(
                "rank must lie in [0, world_size), num_readers and shuffle_buffer be at least 1, "
                f"got rank {self.rank}, world_size {self.world_size}, num_readers "
                f"{self.num_readers}, shuffle_buffer {self.max_samples}"
            )

    def start(self, pass_number: int = 0) -> Standing:
        """Where every reader stands before it has given anything."""
        return Standing(0, tuple(Cursor(pass_number) for _ in self.sets))


class StreamReader:
    """Gives the samples of one reader without end, from wherever it stands.

    Each set is read pass by pass. A pass deals shuffled shards out to all readers of all ranks
    (`maskfeat.data.schedule.deal_shards`); a reader reads its own one after the other, a block of
    samples at a time, and gives out each block shuffled. So it can go on from (pass, part, start
    of the block, samples given) after reading one block, and passing over the front of one shard.

    Args:
        plan: What is streamed.
        number: This reader, of those of its rank.
        standing: Where to go on.
    """

    def __init__(self, plan: StreamPlan, number: int, standing: Standing) -> None:
        self.plan = plan
        self.standing = standing
        self._consumer = consumer_of(plan.rank, plan.world_size, number)
        # Readers must not take turns in step, or a global batch could come from one set alone.
        name = f"{plan.seed} {self._consumer}".encode()
        self._mixture = Mixture(plan.weights, seed=zlib.crc32(name))
        self._streams = [
            self._read_set(number, cursor) for number, cursor in enumerate(standing.cursors)
        ]

    def __iter__(self) -> Iterator[tuple[Raw, tuple[int, int]]]:
        """Give samples without end; `standing` is where it stands after each.

        Yields:
            The files of a sample, or why there are none, and (seed of its set, pass number).
        """
        while True:
            num_items, cursors = self.standing
            which, _ = self._mixture.at(num_items)
            raw, cursor = next(self._streams[which])
            self.standing = Standing(
                num_items + 1, (*cursors[:which], cursor, *cursors[which + 1 :])
            )
            yield raw, (self._seed_of(which), cursor.pass_number)

    def _read_set(self, number: int, cursor: Cursor) -> Iterator[tuple[Raw, Cursor]]:
        """The samples of one set, each with the cursor that goes on after it."""
        seed, num_consumers = self._seed_of(number), self.plan.world_size * self.plan.num_readers
        shards = self.plan.sets[number]
        while True:
            pass_number = cursor.pass_number
            parts = deal_shards(len(shards), seed, pass_number, self._consumer, num_consumers)
            num_given = cursor.num_given
            for begin, block in self._blocks(shards, parts, cursor.part, cursor.start):
                order = block_order(len(block), seed, pass_number, self._consumer, *begin)
                size, rest = len(block), [block[i] for i in reversed(order)]
                block.clear()  # what was given out is let go of
                while rest:
                    raw = rest.pop()
                    if size - len(rest) > num_given:
                        yield raw, Cursor(pass_number, *begin, size - len(rest))
                num_given = 0
            cursor = Cursor(pass_number + 1)

    def _blocks(
        self, shards: Sequence[str], parts: Sequence[Part], first: int, start: int
    ) -> Iterator[tuple[tuple[int, int], list[Raw]]]:
        """What fits into the buffer at a time, with part and place of its first sample."""
        begin, block, num_bytes = (first, start), list[Raw](), 0
        for number in range(first, len(parts)):
            wanted = _Wanted(parts[number], start if number == first else 0)
            for place, raw in raw_samples(shards[parts[number].shard], self.plan.source, wanted):
                size = len(raw.jpg) + len(raw.json) if isinstance(raw, RawSample) else 0
                is_full = num_bytes + size > self.plan.max_bytes
                if block and (is_full or len(block) == self.plan.max_samples):
                    yield begin, block
                    block, num_bytes = [], 0
                if not block:
                    begin = (number, place)
                block.append(raw)
                num_bytes += size
        if block:
            yield begin, block

    def _seed_of(self, number: int) -> int:
        return seed_of_set(self.plan.seed, number, len(self.plan.sets))


def finish(
    raw: Raw,
    seeds: Sequence[int],
    transform: Callable[[AnnotatedImage, np.random.Generator], T],
) -> T | SkippedSample:
    """Decode a sample and make of it what is wanted.

    Args:
        raw: Its files, or why there are none.
        seeds: Of its set and pass.
        transform: Makes of a sample what is to be given; may raise `SampleError`. Its generator
            depends on the seeds and the key alone.
    """
    sample = read_raw(raw)
    if isinstance(sample, SkippedSample):
        return sample
    name = zlib.crc32(sample.key.encode())
    try:
        return transform(sample, np.random.default_rng([*seeds, name]))
    except SampleError as error:
        return SkippedSample(error.reason, sample.shard, sample.key, error.detail)


class _Wanted:
    """Whether a place of a shard belongs to a part and has not been given out."""

    def __init__(self, part: Part, start: int) -> None:
        self.part = part
        self.start = start

    def __call__(self, place: int) -> bool:
        return place >= self.start and place % self.part.num_parts == self.part.number
