"""Loaders that follow the schedule, count their batches, and go on after a checkpoint."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, NamedTuple, Protocol

from torch.utils.data import BatchSampler, DataLoader, Sampler, SequentialSampler

from maskfeat.batch import Batch
from maskfeat.data.order.examples import StreamedBatches, as_it_is
from maskfeat.data.order.readers import ReaderState
from maskfeat.data.order.run_order import RunOrder, SetOrder
from maskfeat.data.order.schedule import indices_of


class Progress(NamedTuple):
    """The epoch of a loader, and its batches so far.

    Attributes:
        epoch: None, in checkpoints without it, is the next epoch.
        num_batches: Batches of it that were given.
    """

    epoch: int | None
    num_batches: int

    def done_of(self, epoch: int, length: int) -> int:
        """Batches to skip at the start of an epoch of `length` batches."""
        # A checkpoint at the end of an epoch goes on with the next one, from its start.
        is_within = self.epoch in (None, epoch) and self.num_batches < length
        return self.num_batches if is_within else 0


class EpochSampler(Sampler[int]):
    """Gives the sample indices of this rank in the current epoch.

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
        self.is_repeating = False  # every epoch is the first one
        self.num_done = 0  # batches of this epoch to skip, after a resume

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch of the iterators made from now on."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        return iter(self._indices()[self.num_done * self.batch_size :])

    def __len__(self) -> int:
        return len(self._indices())

    def _indices(self) -> range:
        epoch = 0 if self.is_repeating else self.epoch
        return indices_of(epoch, self.epoch_images, self.rank, self.world_size, self.batch_size)


class Watch(Protocol):
    """Counts the batches of a loader that were trained on."""

    def begin_epoch(self) -> None:
        """Called when the first batch of an epoch is asked for."""

    def num_trained(self) -> int:
        """Count the batches that were trained on, in all epochs."""


class ResumableLoader(DataLoader[Any]):
    """A loader that counts the batches of the epoch.

    Attributes:
        watch: Counts those that were trained on; None takes all of them to be.
        is_repeating: Whether all epochs give the batches of the first one, to overfit them.
        order: Determines the order of its images.
    """

    watch: Watch | None = None
    is_repeating = False
    order: RunOrder
    _given = Progress(0, 0)
    _resume: Progress | None = None
    _num_before = 0  # batches trained on before this epoch

    @property
    def progress(self) -> Progress:
        """Batches that were given, by this loader or before a checkpoint."""
        return self._resume or self._given

    @property
    def trained(self) -> Progress:
        """As `progress`, without a batch that is in training: a signal can come in mid-step."""
        if self.watch is None or self._resume is not None:
            return self.progress
        epoch, num_given = self._given
        return Progress(epoch, min(num_given, self.watch.num_trained() - self._num_before))

    def go_on_after(self, progress: Progress) -> None:
        """Skip these batches of the next epoch, if it has that number; later epochs are whole."""
        self._resume = progress

    def take_orders(self, orders: tuple[SetOrder, ...]) -> None:
        """Let each set go on in the order of another run."""
        self.order = replace(self.order, orders=orders)

    @property
    def epoch(self) -> int:
        """The current epoch, which Lightning sets."""
        raise NotImplementedError

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that is read next."""
        raise NotImplementedError

    # A generator: it begins when the first batch is asked for, after Lightning has set the epoch.
    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        resume, self._resume = self._resume, None
        num_done = resume.done_of(self.epoch, len(self)) if resume is not None else 0
        self._given = Progress(self.epoch, num_done)
        if self.watch is not None:
            self.watch.begin_epoch()
            self._num_before = self.watch.num_trained() - num_done
        for number, batch in enumerate(self._batches(num_done), start=num_done + 1):
            self._given = Progress(self.epoch, number)
            yield batch

    def _batches(self, num_done: int) -> Iterator[Any]:
        raise NotImplementedError


class IndexedLoader(ResumableLoader):
    """Batches of indexed mode.

    Args:
        dataset: Takes the indices of `sampler`.
        sampler: The schedule of this rank.
        order: Determines the order of its images.
        settings: Anything else that a DataLoader takes.
    """

    def __init__(
        self,
        dataset: Any,  # noqa: ANN401
        sampler: EpochSampler,
        order: RunOrder,
        **settings: Any,  # noqa: ANN401
    ) -> None:
        batches = BatchSampler(sampler, sampler.batch_size, drop_last=True)
        super().__init__(dataset, batch_sampler=batches, **settings)
        self.schedule = sampler
        self.order = order

    def take_orders(self, orders: tuple[SetOrder, ...]) -> None:
        """Let each set go on in the order of another run."""
        super().take_orders(orders)
        self.dataset.orders = orders  # type: ignore[attr-defined]

    @property
    def epoch(self) -> int:
        """The current epoch, which Lightning sets by `batch_sampler.sampler`, the schedule."""
        return self.schedule.epoch

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that is read next."""
        self.schedule.set_epoch(epoch)

    def _batches(self, num_done: int) -> Iterator[Any]:
        self.schedule.num_done = num_done
        self.schedule.is_repeating = self.is_repeating
        return DataLoader.__iter__(self)


class StreamLoader(ResumableLoader):
    """Batches of streaming mode; it keeps the states of the readers.

    Args:
        dataset: Makes the batches of this rank.
        settings: Anything else that a DataLoader takes, but for persistent workers: each epoch
            starts them anew from the states of the readers.

    Attributes:
        reader_states: The state of each reader after the batches of this epoch so far; None
            before there are any, and after a checkpoint without them.
    """

    def __init__(self, dataset: StreamedBatches, **settings: Any) -> None:  # noqa: ANN401
        self._requests = _Requests()
        super().__init__(dataset, batch_size=None, **{**settings, "collate_fn": as_it_is})
        self.num_batches = dataset.plan.num_batches
        self.order = dataset.plan.order
        self.reader_states: list[ReaderState] | None = None
        self._before_last: list[ReaderState] | None = None

    def take_orders(self, orders: tuple[SetOrder, ...]) -> None:
        """Let each set go on in the order of another run."""
        super().take_orders(orders)
        data: Any = self.dataset
        data.plan = replace(data.plan, orders=orders)

    def __len__(self) -> int:
        return self.num_batches

    @property
    def epoch(self) -> int:
        """The current epoch, which Lightning sets by `sampler`."""
        return self._requests.epoch

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that is read next."""
        self._requests.set_epoch(epoch)

    @property
    def sampler(self) -> Any:  # noqa: ANN401 - DataLoader's
        """Lightning sets the epoch on it; DataLoader would not take it for a stream."""
        return self._requests

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
            self.reader_states = [data.plan.start()] * data.plan.num_readers
        data.epoch, data.start = 0 if self.is_repeating else self.epoch, num_done
        data.reader_states = list(self.reader_states)
        for item in DataLoader.__iter__(self):
            if isinstance(item, Exception):
                raise item
            if item is not None:
                self._before_last, self.reader_states = self.reader_states, list(self.reader_states)
                self.reader_states[item.reader] = item.reader_state
                yield item.batch


class _Requests(SequentialSampler):
    """Asks workers for one batch after another, without a number, and keeps the epoch.

    Sequential by name, as it shuffles nothing: to overfit batches Lightning would replace another.
    """

    def __init__(self) -> None:
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __iter__(self) -> Iterator[None]:  # type: ignore[override]
        while True:
            yield None
