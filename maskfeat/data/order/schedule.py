"""Who reads what: pure functions of (seed, epoch, world size, rank, workers, worker).

Nothing here reads a file or needs torch, so that a cluster can be simulated in seconds.

The samples of a set, shuffled anew for each pass over it and concatenated, form one endless order.
Index i of it belongs to epoch i // epoch_images. Each epoch reads as many whole batches as every
rank can have; the rest of its indices is not read. So no sample is read twice in a pass, and all
ranks have the same number of batches.

**Indexed mode.** Every sample is shuffled by itself. A step takes the next batch_size * world_size
indices and gives them to the ranks one by one: the indices of a global step are the same for any
number of ranks with the same global batch.

**Streaming mode.** Shards are shuffled, their samples keep the order of the tar. Each rank has a
fixed number of virtual readers. A reader is not a process but a slice of the epoch's indices, as
long as the batches it makes. Where shards do not divide evenly among readers, two readers read the
same shard and each skips the samples of the other. Batch b of an epoch comes from reader
b % num_readers, and worker r % num_workers runs reader r: batches and their order do not depend on
the number of workers. They depend on the number of ranks and readers, by which the epoch is sliced.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from maskfeat.arrays import IntArray

# Indices after which the shares are exact, and the precision that they are rounded to.
_CYCLE = 10_000


def sample_at(index: int, num_samples: int, seed: int) -> int:
    """The number of the sample at an index (0, 1, ...) of the endless order of a shuffled set."""
    number, position = divmod(index, num_samples)
    return int(_shuffled(num_samples, seed, number)[position])


class Mixture:
    """The set that each sample index draws from, as a pure function of the index.

    In each cycle of 10,000 indices each set has its share exactly, rounded to whole samples (at
    least one). Within the cycle, its j-th of n draws falls at a random moment of the j-th of n
    equal spans of time; the draws of all sets are sorted by moment (stratified sampling in time).
    So among the first N indices the number of draws of a set with share w differs from w N by less
    than 1 + (K - 2) w, for K sets, and no regular pattern coincides with the ranks.

    Args:
        weights: Of each of K sets, above 0; only their proportions count.
        seed: Of the moments.
    """

    def __init__(self, weights: Sequence[float], seed: int) -> None:
        self.quotas = _quotas(tuple(weights))
        self.seed = seed

    def at(self, index: int) -> tuple[int, int]:
        """The set that an index draws from, and the number of the draw within the set: 0, 1, ..."""
        if len(self.quotas) == 1:
            return 0, index
        cycle, position = divmod(index, _CYCLE)
        owner, rank = _draws(self.quotas, self.seed, cycle)
        number = int(owner[position])
        return number, cycle * self.quotas[number] + int(rank[position])

    def draws_before(self, index: int) -> list[int]:
        """The number of draws of each set before an index, which is the number of its next one."""
        if len(self.quotas) == 1:
            return [index]
        cycle, position = divmod(index, _CYCLE)
        owner, _ = _draws(self.quotas, self.seed, cycle)
        begun = np.bincount(owner[:position], minlength=len(self.quotas))
        return [cycle * quota + int(n) for quota, n in zip(self.quotas, begun, strict=True)]


def seed_of_set(seed: int, number: int, num_sets: int) -> int:
    """The seed of one set's own order; a single set has the seed itself."""
    if num_sets == 1:
        return seed
    return int(np.random.SeedSequence([seed, number]).generate_state(1)[0])


def indices_of(epoch: int, epoch_images: int, rank: int, world_size: int, batch_size: int) -> range:
    """Indices that one rank reads in one epoch of `epoch_images` of all ranks, in order.

    They are as many whole batches of `batch_size` as every rank can have.
    """
    num_steps = epoch_images // (batch_size * world_size)
    start = epoch * epoch_images
    return range(start + rank, start + num_steps * batch_size * world_size, world_size)


def slice_of(
    epoch: int,
    epoch_images: int,
    rank: int,
    world_size: int,
    batch_size: int,
    reader: int,
    num_readers: int,
) -> range:
    """Indices that one reader of a rank reads in one epoch, in streaming mode.

    For the first five arguments see `indices_of`.

    Returns:
        Indices without a gap, batch_size for each batch that the reader makes; there may be none.
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
    """The batches of a rank that one worker makes, in streaming mode, in order.

    The loader asks its workers one after another. Where the readers do not divide evenly among
    them, or the first batch is not that of the first reader, a worker has no batch to some of
    these requests.

    Yields:
        The number of a batch in its epoch, or None for a request without one. Those of all workers,
        one after another and without the Nones, are start, start + 1, ..., stop - 1.
    """
    if start >= stop:
        return
    for row in range(start // num_readers, (stop - 1) // num_readers + 1):
        for first in range(0, num_readers, num_workers):
            batch = row * num_readers + first + worker
            is_one = first + worker < num_readers and start <= batch < stop
            yield batch if is_one else None


class Part(NamedTuple):
    """Samples `start` up to `stop` of a shard, given by its number in the list, in one pass."""

    shard: int
    start: int
    stop: int
    pass_number: int


def parts_of(sizes: Sequence[int], seed: int, start: int, stop: int) -> list[Part]:
    """The parts of shards at indices `start` up to `stop` of the endless order, in order.

    Shards of `sizes` samples are shuffled anew for each pass; over all indices of a pass each
    sample appears once.
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
    """The order of the samples of a full shuffle buffer, identified by `where`: a permutation."""
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
    """The order of one pass; orders of neighboring passes are kept, as a batch can span two."""
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


@lru_cache
def _quotas(weights: tuple[float, ...]) -> tuple[int, ...]:
    """Whole numbers in these proportions that sum to the cycle, each at least 1."""
    shares = np.array(weights) / sum(weights) * _CYCLE
    quotas = np.maximum(1, np.floor(shares + 1e-6)).astype(np.int64)
    order = np.argsort(quotas - shares, kind="stable")  # the furthest below comes first
    while (rest := _CYCLE - int(quotas.sum())) > 0:
        quotas[order[:rest]] += 1
    while (excess := int(quotas.sum()) - _CYCLE) > 0:  # as small sets were raised to one
        quotas[np.argmax(quotas)] -= excess
    return tuple(quotas.tolist())


@lru_cache(maxsize=32)
def _draws(quotas: tuple[int, ...], seed: int, cycle: int) -> tuple[IntArray, IntArray]:
    """For each index of a cycle its set, and the draws of the set before it in the cycle."""
    rng = np.random.default_rng([seed, cycle, len(quotas)])
    due = np.concatenate([(np.arange(n) + rng.random(n)) / n for n in quotas])
    order = np.argsort(due, kind="stable")
    owner = np.repeat(np.arange(len(quotas)), quotas)
    rank = np.concatenate([np.arange(n) for n in quotas])
    return owner[order], rank[order]
