"""Who reads what: a pure function of (seed, epoch, world size, rank), and the loader that obeys.

The samples of a set, shuffled anew for each pass over it and laid end to end, form one endless
order. Place i of it belongs to epoch i // epoch_images; step s of an epoch takes the next
batch_size * world_size places, dealt out to the ranks in turn. So no sample is read twice in a
pass, all ranks have equally many batches, and the places of a global step are the same for any
number of ranks that share the same global batch.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from torch.utils.data import BatchSampler, DataLoader, Sampler


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


class PlaceSampler(Sampler[int]):
    """Gives the places of this rank in the current epoch.

    Args:
        epoch_images: Images in an epoch, all ranks together.
        batch_size: Images in a batch of one rank.
        rank: This process.
        world_size: Number of processes.
    """

    def __init__(self, epoch_images: int, batch_size: int, rank: int, world_size: int) -> None:
        self.epoch_images = epoch_images
        self.batch_size = batch_size
        self.rank = rank
        self.world_size = world_size
        self.epoch = 0
        self.num_done = 0  # batches of this epoch to be passed over, after a resume

    def set_epoch(self, epoch: int) -> None:
        """Called by Lightning at the start of each epoch."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        # Only the epoch that was broken off is shortened.
        num_done, self.num_done = self.num_done, 0
        return iter(self._places()[num_done * self.batch_size :])

    def __len__(self) -> int:
        return len(self._places())

    def _places(self) -> range:
        return places_of(self.epoch, self.epoch_images, self.rank, self.world_size, self.batch_size)


class ResumableLoader(DataLoader[Any]):
    """A loader of scheduled batches that knows how many of the epoch it has handed out.

    Args:
        dataset: Takes places (`PlaceSampler`) as its indices.
        sampler: The schedule of this rank; its `num_done` shortens the next epoch alone.
        settings: Anything else that a DataLoader takes.
    """

    def __init__(self, dataset: Any, sampler: PlaceSampler, **settings: Any) -> None:  # noqa: ANN401
        batches = BatchSampler(sampler, sampler.batch_size, drop_last=True)
        super().__init__(dataset, batch_sampler=batches, **settings)
        self.schedule = sampler
        self.num_given = 0  # batches of the current epoch

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        self.num_given = self.schedule.num_done
        for batch in super().__iter__():
            self.num_given += 1
            yield batch


class EpochLoader(DataLoader[Any]):
    """A loader over a stream that is told the epoch, as Lightning tells samplers."""

    @property
    def sampler(self) -> Any:  # noqa: ANN401 - whatever has set_epoch
        """The stream itself: Lightning calls `loader.sampler.set_epoch`."""
        return self.dataset

    @sampler.setter
    def sampler(self, value: object) -> None:
        """DataLoader sets a sampler that a stream has no use for."""


_CACHE: dict[tuple[int, int, int], np.ndarray] = {}


def _shuffled(num_samples: int, seed: int, number: int) -> np.ndarray:
    """The order of one pass; the last few are kept, as a batch can span two passes."""
    key = (num_samples, seed, number)
    if key not in _CACHE:
        while len(_CACHE) >= 4:
            _CACHE.pop(next(iter(_CACHE)))
        _CACHE[key] = np.random.default_rng([seed, number]).permutation(num_samples)
    return _CACHE[key]
