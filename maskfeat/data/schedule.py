"""Who reads what: pure functions of (seed, epoch, world size, rank, workers, worker).

Nothing here reads a file or needs torch, so that a cluster can be simulated in seconds.

**Indexed mode.** The samples of a set, shuffled anew for each pass over it and laid end to end,
form one endless order. Place i of it belongs to epoch i // epoch_images; step s of an epoch takes
the next batch_size * world_size places, dealt out to the ranks in turn. So no sample is read twice
in a pass, all ranks have equally many batches, and the places of a global step are the same for
any number of ranks that share the same global batch.

**Streaming mode.** Each rank has a fixed number of readers, virtual ones: a reader is no process
but an order, the shards that are dealt to it in each pass laid end to end. Batch b of a rank, from
the first epoch on, comes from reader b % num_readers, and reader r is run by worker
r % num_workers. So batches and their order do not depend on the number of workers. They do depend
on the number of ranks and readers: a tar that is read front to back by one process cannot give
its samples to another in the middle, so whole shards are dealt out, and to whom is decided by how
many there are.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np


def sample_at(place: int, num_samples: int, seed: int) -> int:
    """The sample at one place of the endless order.

    Args:
        place: 0, 1, ...
        num_samples: Samples of the set.
        seed: Of the shuffling.

    Returns:
        A sample number in [0, num_samples).
    """
    number, position = divmod(place, num_samples)
    return int(_shuffled(num_samples, seed, number)[position])


def places_of(epoch: int, epoch_images: int, rank: int, world_size: int, batch_size: int) -> range:
    """Places that one rank reads in one epoch, in order.

    Args:
        epoch: 0, 1, ...
        epoch_images: Images in an epoch, all ranks together.
        rank: This process.
        world_size: Number of processes.
        batch_size: Images in a batch of one rank.

    Returns:
        As many whole batches as every rank can have; what is left over belongs to none.
    """
    num_steps = epoch_images // (batch_size * world_size)
    start = epoch * epoch_images
    return range(start + rank, start + num_steps * batch_size * world_size, world_size)


def batches_of_worker(
    worker: int, num_workers: int, num_readers: int, start: int, stop: int
) -> Iterator[int | None]:
    """Which batches of a rank one worker makes, in streaming mode, in which turn.

    The loader asks its workers in turn. Where the readers do not divide evenly, or the run of
    batches begins in mid-round, a worker has nothing to give in some of its turns.

    Args:
        worker: This worker.
        num_workers: Workers of the rank; each has equally many turns.
        num_readers: Virtual readers of the rank.
        start: First batch, counted from the beginning of training.
        stop: The one after the last.

    Yields:
        The number of a batch, or None for a turn without one. Taken from all workers in turn,
        without the Nones, they are start, start + 1, ..., stop - 1.
    """
    if start >= stop:
        return
    for round_number in range(start // num_readers, (stop - 1) // num_readers + 1):
        for first in range(0, num_readers, num_workers):
            batch = round_number * num_readers + first + worker
            is_one = first + worker < num_readers and start <= batch < stop
            yield batch if is_one else None


class Part(NamedTuple):
    """Samples `number`, `number` + `num_parts`, ... of a shard, given by its place in the list."""

    shard: int
    number: int
    num_parts: int


def deal_shards(
    num_shards: int, seed: int, pass_number: int, consumer: int, num_consumers: int
) -> list[Part]:
    """What one consumer reads in one pass, in order.

    All shards are shuffled, then dealt out in turn. Where there are fewer shards than consumers,
    each is dealt out in parts: several consumers read it, and each keeps its own samples.

    Args:
        num_shards: Shards of the set.
        seed: Of the shuffling.
        pass_number: 0, 1, ...
        consumer: One reader of one rank, see `consumer_of`.
        num_consumers: Readers of all ranks.

    Returns:
        Its parts of shards. Over all consumers each sample appears once.
    """
    num_parts = -(-num_consumers // num_shards)
    total = num_shards * num_parts
    order = np.random.default_rng([seed, pass_number]).permutation(total)
    # The passes laid end to end are dealt out in turn, so that no consumer gets more.
    first = (consumer - pass_number * total) % num_consumers
    return [Part(*divmod(int(i), num_parts), num_parts) for i in order[first::num_consumers]]


def consumer_of(rank: int, world_size: int, reader: int) -> int:
    """Number of a reader among those of all ranks; what is left over goes to different ranks."""
    return reader * world_size + rank


def block_order(
    size: int, seed: int, pass_number: int, consumer: int, part: int, start: int
) -> np.ndarray:
    """In which order the samples of a full shuffle buffer are given out.

    Args:
        size: Samples in the buffer.
        seed: Of the shuffling.
        pass_number: The pass they were read in.
        consumer: The reader.
        part: Which of the parts dealt to it the first one lies in.
        start: Place of the first one in its shard.

    Returns:
        A permutation of 0..size-1.
    """
    return np.random.default_rng([seed, pass_number, consumer, part, start]).permutation(size)


def spread_evenly(total: int, num: int | None) -> list[int]:
    """Numbers of at most `num` of `total` samples, evenly spread; all of them for None.

    Raises:
        ValueError: If `num` is less than 1.
    """
    if num is None or num >= total:
        return list(range(total))
    if num < 1:
        raise ValueError(f"expected at least one image, got num {num}; take None for all")
    return [(2 * i + 1) * total // (2 * num) for i in range(num)]


_CACHE: dict[tuple[int, int, int], np.ndarray] = {}


def _shuffled(num_samples: int, seed: int, number: int) -> np.ndarray:
    """The order of one pass; the last few are kept, as a batch can span two passes."""
    key = (num_samples, seed, number)
    if key not in _CACHE:
        while len(_CACHE) >= 16:  # two passes of each of several sets
            _CACHE.pop(next(iter(_CACHE)))
        _CACHE[key] = np.random.default_rng([seed, number]).permutation(num_samples)
    return _CACHE[key]
