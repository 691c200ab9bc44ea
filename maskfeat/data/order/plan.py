"""What is streamed, which rank and reader reads what, and how far readers are."""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field
from typing import NamedTuple

from maskfeat.data.order.run_order import RunOrder
from maskfeat.data.shards.count import CountedShard
from maskfeat.data.shards.remote import ShardSource


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
