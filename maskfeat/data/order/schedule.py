"""Who reads what: pure functions of (seed, epoch, world size, rank, workers, worker).

Nothing here reads a file or needs torch, so that a cluster can be simulated in seconds.

The samples of a set, shuffled anew for each pass over it and laid end to end, form one endless
order. Place i of it belongs to epoch i // epoch_images; of these places each epoch reads as many
whole batches as every rank can have, and what is left over belongs to none. So no sample is read
twice in a pass, and all ranks have equally many batches.

**Indexed mode.** Every sample is shuffled by itself. Step s of an epoch takes the next
batch_size * world_size places, dealt out to the ranks in turn: the places of a global step are the
same for any number of ranks that share the same global batch.

**Streaming mode.** Shards are shuffled, their samples left in the order of the tar. Each rank has
a fixed number of readers, virtual ones: a reader is no process but a stretch of the epoch's
places, next to that of another reader, as long as the batches it makes. So where shards do not
divide evenly among readers, some are read by two, each of which passes over what is the other's.
Batch b of an epoch comes from reader b % num_readers, and reader r is run by worker
r % num_workers: batches and their order do not depend on the number of workers. They do depend on
the number of ranks and readers, which says where the stretches end.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
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


def stretch_of(
    epoch: int,
    epoch_images: int,
    rank: int,
    world_size: int,
    batch_size: int,
    reader: int,
    num_readers: int,
) -> range:
    """Places that one reader of a rank reads in one epoch, in streaming mode.

    Args:
        epoch: 0, 1, ...
        epoch_images: Images in an epoch, all ranks together.
        rank: This process.
        world_size: Number of processes.
        batch_size: Images in a batch of one rank.
        reader: This reader of the rank.
        num_readers: Readers of each rank.

    Returns:
        Places without a gap, batch_size for each batch that the reader makes; there may be none.
        Those of all readers of all ranks are the first whole global batches of the epoch.
    """
    num_steps = epoch_images // (batch_size * world_size)
    num_before = sum(_num_batches(num_steps, other, num_readers) for other in range(reader))
    num_own = _num_batches(num_steps, reader, num_readers)
    start = epoch * epoch_images + (num_before * world_size + rank * num_own) * batch_size
    return range(start, start + num_own * batch_size)


def _num_batches(num_steps: int, reader: int, num_readers: int) -> int:
    return len(range(reader, num_steps, num_readers))


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
        start: First batch, counted from the beginning of the epoch.
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
    """Samples `start` up to `stop` of a shard, given by its place in the list, in one pass."""

    shard: int
    start: int
    stop: int
    pass_number: int


def parts_of(sizes: Sequence[int], seed: int, start: int, stop: int) -> list[Part]:
    """Where the samples at some places of the endless order of shards lie.

    Args:
        sizes: Samples in each shard of the set, one at least in all.
        seed: Of the shuffling of shards, anew for each pass.
        start: First place, 0 or above.
        stop: The one after the last.

    Returns:
        Parts of shards, in order; over all places of a pass each sample appears once.
    """
    total, parts = sum(sizes), list[Part]()
    for pass_number in range(start // total, -(-stop // total)):
        end = pass_number * total
        for shard in np.random.default_rng([seed, pass_number]).permutation(len(sizes)).tolist():
            begin, end = end, end + sizes[shard]
            low, high = max(start, begin), min(stop, end)
            if low < high:
                parts.append(Part(shard, low - begin, high - begin, pass_number))
    return parts


def block_order(size: int, seed: int, *where: int) -> np.ndarray:
    """In which order the samples of a full shuffle buffer are given out.

    Args:
        size: Samples in the buffer.
        seed: Of the shuffling.
        where: Tells one buffer from another.

    Returns:
        A permutation of 0..size-1.
    """
    return np.random.default_rng([seed, *where]).permutation(size)


def evenly_spaced(total: int, num: int | None) -> Sequence[int]:
    """Numbers of at most `num` of `total` samples, evenly spaced; all of them for None.

    Raises:
        ValueError: If `num` is less than 1.
    """
    if num is None or num >= total:
        return range(total)  # no list: a set may have millions
    if num < 1:
        raise ValueError(f"expected at least one image, got num {num}; take None for all")
    return [(2 * i + 1) * total // (2 * num) for i in range(num)]


_CACHE: dict[tuple[int, int, int], np.ndarray] = {}


def _shuffled(num_samples: int, seed: int, number: int) -> np.ndarray:
    """The order of one pass; that of the one beside it is kept, as a batch can span two passes."""
    key = (num_samples, seed, number)
    if key not in _CACHE:
        for old in list(_CACHE):  # of a set of millions, each takes many MB in each worker
            if old[:2] == key[:2] and abs(old[2] - number) > 1:
                _CACHE.pop(old, None)
        while len(_CACHE) >= 16:  # two passes of each of several sets
            _CACHE.pop(next(iter(_CACHE)))
        order = np.random.default_rng([seed, number]).permutation(num_samples)
        _CACHE[key] = order.astype(np.int32) if num_samples < 2**31 else order
    return _CACHE[key]
