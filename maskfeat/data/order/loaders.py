"""The way of a batch from an example to the task: indexed examples, loaders that count, hooks.

Streaming mode has a loader of its own, see `maskfeat.data.order.streaming`.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import lightning as L
import numpy as np
from torch.utils.data import BatchSampler, DataLoader, Dataset, SequentialSampler

from maskfeat.batch import Example, SkippedSample, normalize_images
from maskfeat.data.annotations.image import SampleError
from maskfeat.data.annotations.sample import AnnotatedImage, as_marked
from maskfeat.data.order.run_order import RunOrder, SetOrder
from maskfeat.data.order.schedule import Mixture, indices_of, sample_at
from maskfeat.data.order.skips import SkipLedger
from maskfeat.data.shards.indexed import IndexedShards

# This number of unreadable samples in a row means that the set, not the sample, is broken.
MAX_TRIES = 50
# Makes an example of (an image, the generator of all randomness, a `Donor` or nothing): an
# `Example`, or what the loader's own `collate_fn` takes.
MakeExample = Callable[..., Any]


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


class TrainerWatch:
    """Counts the batches that a trainer has trained on, whatever it was resumed from.

    Args:
        trainer: In its fit.
    """

    def __init__(self, trainer: L.Trainer) -> None:
        self._loop = trainer.fit_loop

    def begin_epoch(self) -> None:
        """Let Lightning count the epoch that it is in.

        Resumed at the last step of an epoch, it goes into the next one and forgets to. A
        checkpoint of that one then looks like one between epochs, and batches of the epoch are
        counted from 0: the epoch ends without validation, and gradients accumulate out of step.
        """
        epochs = self._loop.epoch_progress
        for counts in (epochs.total, epochs.current):
            counts.ready = counts.started = counts.processed + 1  # type: ignore[attr-defined]

    def count_otherwise(self, difference: int) -> None:
        """Add batches to those done in this epoch, where steps have another size."""
        current: Any = self._loop.epoch_loop.batch_progress.current
        for name in ("ready", "started", "processed", "completed"):
            setattr(current, name, getattr(current, name) + difference)

    def num_trained(self) -> int:
        """Batches of all epochs: Lightning's count of those in this one can begin in mid-epoch."""
        return int(self._loop.epoch_loop.batch_progress.total.processed)  # type: ignore[attr-defined]


class EpochSampler(SequentialSampler):
    """Gives the sample indices of a rank in the current epoch, see `indices_of`.

    Sequential by name, as it shuffles nothing: to overfit batches Lightning would replace another.
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


class ResumableLoader(DataLoader[Any]):
    """A loader that counts the batches of the epoch.

    Attributes:
        watch: Counts those that were trained on; None takes all of them to be.
        is_repeating: Whether all epochs give the batches of the first one, to overfit them.
        schedule: Gives the indices of its examples, or its requests for batches.
    """

    watch: TrainerWatch | None = None
    is_repeating = False
    schedule: EpochSampler
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

    @property
    def order(self) -> RunOrder:
        """Determines the order of its images."""
        order: RunOrder = self.dataset.order  # type: ignore[attr-defined]
        return order

    @property
    def epoch(self) -> int:
        """The current epoch, which Lightning sets on the schedule."""
        return self.schedule.epoch

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that is read next."""
        self.schedule.set_epoch(epoch)

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
    """Batches of indexed mode: of the indices that the sampler gives, the schedule of this rank."""

    def __init__(
        self,
        dataset: ScheduledExamples,
        sampler: EpochSampler,
        **settings: Any,  # noqa: ANN401
    ) -> None:
        batches = BatchSampler(sampler, sampler.batch_size, drop_last=True)
        super().__init__(dataset, batch_sampler=batches, **settings)
        self.schedule = sampler

    def _batches(self, num_done: int) -> Iterator[Any]:
        self.schedule.num_done = num_done
        self.schedule.is_repeating = self.is_repeating
        return DataLoader.__iter__(self)


class ScheduledExamples(Dataset[Any]):
    """Training examples by their index in the endless order of `maskfeat.data.order.schedule`.

    An example depends on its index alone, not on the worker, the rank or earlier reads. With
    several sets, `Mixture` says which set each index draws from; each set has its own endless
    order. A sample that cannot be read is replaced by another of its set, chosen by the index too.

    Args:
        sets: The images of each set.
        indices: Which images of each set.
        order: The mixture of the sets, and the endless order of each.
        make_example: Cuts an example out of one.
        unmarked: What unmarked pixels of each set are, see `WeightedSet`.
    """

    def __init__(
        self,
        sets: Sequence[IndexedShards],
        indices: Sequence[Sequence[int]],
        order: RunOrder,
        make_example: MakeExample,
        unmarked: Sequence[str],
    ) -> None:
        self.sets = sets
        self.indices = indices
        self.order = order
        self.mixture = Mixture(order.weights, order.seed)
        self.make_example = make_example
        self.unmarked = unmarked

    def take_orders(self, orders: tuple[SetOrder, ...]) -> None:
        """Let each set go on in the order of another run."""
        self.order = replace(self.order, orders=orders)

    def __getitem__(self, index: int) -> list[Example | SkippedSample]:
        """The example at one index, after the samples that could not be read in its place."""
        rng = np.random.default_rng([self.order.seed, index])
        which, draw = self.mixture.at(index)
        indices, order = self.indices[which], self.order.orders[which]
        first = sample_at(draw + order.shift, len(indices), order.seed)
        others = (int(rng.integers(len(indices))) for _ in itertools.count())
        numbers = itertools.chain([first], others)
        return first_readable(
            self.sets[which],
            (indices[number] for number in numbers),
            lambda s: self.make_example(as_marked(s, self.unmarked[which]), rng, self._donor),
        )

    def _donor(self, rng: np.random.Generator) -> AnnotatedImage | None:
        """Any image of the mixture; None where it cannot be read."""
        which, _ = self.mixture.at(int(rng.integers(2**31)))
        index = self.indices[which][int(rng.integers(len(self.indices[which])))]
        try:
            return self.sets[which][index]
        except SampleError:
            return None


class CountedBatches(L.LightningDataModule):
    """Hooks of a data module for what its loaders give: skipped samples are counted and logged.

    Args:
        max_skipped_share: Of the samples; more end training.

    Attributes:
        skips: What was skipped.
    """

    def __init__(self, max_skipped_share: float) -> None:
        super().__init__()
        self.skips = SkipLedger(max_share=max_skipped_share)
        self._train_loader: ResumableLoader | None = None
        self._num_read = 0
        self._num_train_batches = 0  # of this process
        self._logged: dict[str, float] = {}

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:  # noqa: ANN401
        """Count the skipped samples and the crowds, and stop when too much was skipped."""
        if "skipped" not in batch:
            return batch
        self._num_read += len(batch["keys"])
        for skipped in batch["skipped"]:
            self.skips.add(skipped)
        for crowds in batch["crowds"]:
            self.skips.add_crowds(crowds)
        if self.skips.counts:
            self.skips.check(self._num_read)
        if self.trainer is not None and self.trainer.training:
            self._log_skips()
        return batch

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:  # noqa: ANN401
        """Normalize images where they are used."""
        if "images" in batch:
            batch["images"] = normalize_images(batch["images"])
        return batch

    def _log_skips(self) -> None:
        """Count and log over all ranks, at steps that are the same on all of them."""
        loader, trainer = self._train_loader, self.trainer
        assert trainer is not None
        is_last = loader is not None and loader.progress.num_batches == len(loader)
        every = max(1, getattr(trainer, "log_every_n_steps", 1))
        if self._num_train_batches % every == 0 or is_last:
            self.skips.share()
            counts = self.skips.metrics()  # with zeros, so that a run without any shows them
            if trainer.logger is not None and counts != self._logged:
                trainer.logger.log_metrics(counts, step=trainer.global_step)
                self._logged = counts
        self._num_train_batches += 1


def first_readable(
    shards: IndexedShards,
    indices: Iterable[int],
    make_example: Callable[[AnnotatedImage], Example],
) -> list[Example | SkippedSample]:
    """An example of the first sample that can be read, after those that could not."""
    found: list[Example | SkippedSample] = []
    for index in itertools.islice(indices, MAX_TRIES):
        try:
            return [*found, make_example(shards[index])]
        except SampleError as error:
            key, shard = shards.key(index), shards.shard(index)
            found.append(SkippedSample(error.reason, shard, key, str(error)))
    raise RuntimeError(too_many(len(found), found[-1]))


def too_many(number: int, last: Example | SkippedSample) -> str:
    """The sentence for a number of samples in a row that cannot be read."""
    return f"{number} samples in a row could not be read, the last was {last}; look at the shards"
