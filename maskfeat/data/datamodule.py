"""The data module of Lightning: which shards, which splits, which workers, which ranks."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset

from maskfeat.batch import Example, HeldOutImage, SkippedSample, collate
from maskfeat.data.annotations.limits import Limits
from maskfeat.data.augment import ExampleMaker
from maskfeat.data.folder import find_images, read_image
from maskfeat.data.heldout import ShardImages
from maskfeat.data.order.loaders import CountedBatches, MakeExample, TrainerWatch, first_readable
from maskfeat.data.order.schedule import evenly_spaced
from maskfeat.data.order.state import State, go_on, state_of
from maskfeat.data.order.streaming import as_it_is
from maskfeat.data.order.workers import prepare_worker
from maskfeat.data.settings import (
    Augmentation,
    ExampleSettings,
    StreamSettings,
    check_least,
)
from maskfeat.data.shards.indexed import IndexedShards
from maskfeat.data.shards.remote import ShardSettings, ShardSource
from maskfeat.data.training_set import OpenSets, Training
from maskfeat.files import check_stems


class ShardDataModule(CountedBatches):
    """Training, held-out and prediction data.

    Shards are tars in SA-1B's layout: KEY.jpg with KEY.json, the latter with "image" and
    "annotations" of COCO run-length masks. Each connected component of a mask is a mask.

    Args:
        train: Shards to train on: a glob, a brace range, a url, or a list of these. Or several
            sets and how much of the training images comes from each: {shards: weight, ...} or,
            where ${references} are to work, {name: {shards: a pattern or a list, weight: a
            number}}. There `unmarked: background` makes a mask of each region that no mask holds;
            else such regions are unknown, and nothing is learned from them. `unmarked: everything`
            uses no mask of a set. The shares hold in any slice of training, not only on average.
        val: Shards for validation, local.
        test: Shards for `lightning test`; null takes `val`.
        predict: An image or a folder of images for `lightning predict`.
        mode: "indexed" reads local tars with members in any order by an index of offsets;
            "streaming" reads sorted tars front to back, from disk or from http(s), s3, gs urls.
            Streamed shards are counted first: by the index.json of `maskfeat shards convert`
            beside them, by a scan of the headers of local ones, else by reading them once.
            Either goes on in mid-epoch from a checkpoint, with any number of workers; indexed
            also on another number of devices, if batch_size times devices stays the same.
        batch_size: Images per device.
        epoch_images: Images per epoch, all devices together; null is one pass over the training
            set: each image once, except for less than one step of images. An epoch goes on in the
            set where the one before ended.
        num_train_images: Most images of each set to train on, evenly spaced; null takes all. For
            indexed mode.
        num_val_images: Most held-out images, for the loss and for evaluations.
        num_workers: Worker processes per device; 0 reads in the training process.
        start_method: How workers are started: fork, spawn or forkserver; null is the system's.
        seed: Of order and augmentation.
        examples: What is cut out of an image.
        streaming: How shards are read in streaming mode.
        shards: How shards are opened.
        limits: What a sample or a pattern may ask for; samples beyond are skipped and counted.

    Raises:
        ValueError: If a number is out of its range; names the setting.
    """

    def __init__(
        self,
        train: dict[str, Any] | list[str] | str = "data_shards/train-*.tar",
        val: str | list[str] = "data_shards/val-*.tar",
        test: str | list[str] | None = None,
        predict: str | None = None,
        mode: Literal["indexed", "streaming"] = "indexed",
        batch_size: int = 8,
        epoch_images: int | None = None,
        num_train_images: int | None = None,
        num_val_images: int = 100,
        num_workers: int = 2,
        start_method: Literal["fork", "spawn", "forkserver"] | None = None,
        seed: int = 0,
        examples: ExampleSettings = ExampleSettings(),  # noqa: B008 - frozen, like those below
        streaming: StreamSettings = StreamSettings(),  # noqa: B008
        shards: ShardSettings = ShardSettings(),  # noqa: B008
        limits: Limits = Limits(),  # noqa: B008
    ) -> None:
        super().__init__(limits.max_skipped_share)
        check_least(1, batch_size=batch_size, epoch_images=epoch_images)
        check_least(1, num_train_images=num_train_images, num_val_images=num_val_images)
        check_least(0, num_workers=num_workers)
        self.train, self.val, self.test, self.predict = train, val, test or val, predict
        self.mode, self.batch_size, self.epoch_images = mode, batch_size, epoch_images
        self.num_train_images, self.num_val_images = num_train_images, num_val_images
        self.num_workers, self.start_method, self.seed = num_workers, start_method, seed
        self.examples, self.streaming = examples, streaming
        self.source = ShardSource(**vars(shards), limits=limits)
        self._sets = OpenSets(self.source, examples.keep_crowds)
        self._resume: State | None = None

    def setup(self, stage: str) -> None:
        """Look at the shards, so that a missing or empty one is an error before anything starts.

        Raises:
            FileNotFoundError: If a shard or an image is missing.
            ValueError: If there are fewer images than devices need, or images of one stem.
            RuntimeError: If too many samples are incomplete.
        """
        if stage == "fit":
            self._training().check(self.skips)
        if stage in ("fit", "validate", "test"):
            held_out = self.test if stage == "test" else self.val
            num_images = min(len(self._sets.indexed(held_out)), self.num_val_images)
            if num_images < self._ranks()[1]:
                raise ValueError(
                    f"{num_images} held-out images are fewer than the {self._ranks()[1]} devices; "
                    "give more images or fewer devices"
                )
        if stage == "predict":
            check_stems(find_images(self.predict))  # a key names what is written

    def train_dataloader(self) -> DataLoader[Any]:
        """Batches of this rank; after a checkpoint was loaded, those that it did not have."""
        make_example = self._example_maker(self.examples.augmentation)
        self._train_loader = self._training().loader(make_example, **self._loading())
        if self.trainer is not None and hasattr(self.trainer, "fit_loop"):
            self._train_loader.watch = TrainerWatch(self.trainer)
            self._train_loader.is_repeating = self.trainer.overfit_batches > 0  # type: ignore[attr-defined]
        if self._resume is not None:
            go_on(self._train_loader, self._resume)
        return self._train_loader

    def val_dataloader(self) -> DataLoader[Any]:
        """Middle crops of this rank's part of the validation images."""
        return self._held_out_loader(self.val)

    def test_dataloader(self) -> DataLoader[Any]:
        """Middle crops of this rank's part of the test images."""
        return self._held_out_loader(self.test)

    def predict_dataloader(self) -> DataLoader[Any]:
        """One image at a time: {"key": its name, "rgb": uint8 (H, W, 3)}."""
        rank, world_size = self._ranks()
        images = find_images(self.predict)[rank::world_size]
        # With fewer images than devices, some devices have none.
        self.allow_zero_length_dataloader_with_multiple_devices = True
        return DataLoader(PredictionImages(images), batch_size=None, collate_fn=as_it_is)

    def state_dict(self) -> State:
        """The state of training in its epoch and the skipped samples, for the checkpoint."""
        # Not the state of the loader itself, which Lightning would keep too: it restores that
        # only if nobody has asked for the number of steps before, and our optimizer has.
        skipped = [list(entry) for entry in self.skips.entries()]
        return {**state_of(self._train_loader), "skipped": skipped}

    def load_state_dict(self, state_dict: State) -> None:
        """Go on after the batches that were trained on before the checkpoint."""
        self._resume = state_dict
        self.skips.restore(state_dict.get("skipped", ()))

    def held_out(self, stage: str) -> Sequence[HeldOutImage]:
        """Whole held-out images with their masks, for evaluation callbacks.

        Args:
            stage: "val" or "test".
        """
        return ShardImages(
            self.test if stage == "test" else self.val,
            self.num_val_images,
            self.source.index_dir,
            self.examples.short_side,
            self.examples.keep_crowds,
            self.source.limits,
        )

    def _training(self) -> Training:
        return Training(
            self.train,
            self.mode,
            self._sets,
            self.streaming,
            self.batch_size,
            self.epoch_images,
            self.num_train_images,
            self.seed,
            *self._ranks(),
        )

    def _held_out_loader(self, shards: str | list[str]) -> DataLoader[Any]:
        rank, world_size = self._ranks()
        found = self._sets.indexed(shards)
        mine = evenly_spaced(len(found), self.num_val_images)[rank::world_size]
        dataset = HeldOutExamples(found, mine, self._example_maker(None))
        return DataLoader(dataset, batch_size=self.batch_size, **self._loading())

    def _example_maker(self, augmentation: Augmentation | None) -> MakeExample:
        """Cuts examples as the settings say; None takes the middle of the image."""
        return ExampleMaker(self.examples, augmentation)

    def _loading(self) -> dict[str, Any]:
        """What all loaders have in common."""
        context: Any = None
        if self.num_workers and self.start_method:
            context = torch.multiprocessing.get_context(self.start_method)
        return {
            "num_workers": self.num_workers,
            "collate_fn": collate,
            "pin_memory": torch.cuda.is_available(),
            "multiprocessing_context": context,
            "worker_init_fn": prepare_worker if self.num_workers else None,
        }

    def _ranks(self) -> tuple[int, int]:
        """Rank and world size, from the trainer: workers of a loader do not know them."""
        if self.trainer is None:
            return 0, 1
        return self.trainer.global_rank, self.trainer.world_size


class HeldOutExamples(Dataset[Any]):
    """The middle crops of some held-out images, always the same."""

    def __init__(
        self, shards: IndexedShards, indices: Sequence[int], make_example: MakeExample
    ) -> None:
        self.shards = shards
        self.indices = indices
        self.make_example = make_example

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, item: int) -> list[Example | SkippedSample]:
        """The example; where it cannot be read, the next one that can be."""
        rotated = itertools.chain(self.indices[item:], self.indices[:item])
        return first_readable(
            self.shards,
            rotated,
            lambda s: self.make_example(s, np.random.default_rng(self.indices[item])),
        )


class PredictionImages(IterableDataset[dict[str, Any]]):
    """Images one after another; one that cannot be read is named in the log and left out."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = paths

    def __len__(self) -> int:
        """Images at most; a progress bar has an end then."""
        return len(self.paths)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """{"key": name without ending, "rgb": uint8 (H, W, 3)} for each image."""
        for path in self.paths:
            try:
                yield {"key": path.stem, "rgb": read_image(path)}
            except ValueError as error:
                logging.getLogger("maskfeat").warning("left out: %s", error)
