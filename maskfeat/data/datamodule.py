"""Loaders: which shards, which splits, which workers, which ranks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import lightning as L
import torch
from torch.utils.data import DataLoader

from maskfeat.batch import HeldOutImage, normalize_images
from maskfeat.data.augment import Augmentation, Example, ExampleMaker
from maskfeat.data.examples import (
    HeldOutExamples,
    ScheduledExamples,
    StreamedBatches,
    collate,
)
from maskfeat.data.folder import Pictures, find_pictures
from maskfeat.data.heldout import ShardImages
from maskfeat.data.schedule import EpochLoader, PlaceSampler, ResumableLoader, spread_evenly
from maskfeat.data.shards import IndexedShards, SkipLedger, expand_shards
from maskfeat.data.stream import StreamedShards


class ShardDataModule(L.LightningDataModule):
    """Training, held-out and prediction data.

    Shards are tars in SA-1B's layout: KEY.jpg with KEY.json, the latter with "image" and
    "annotations" of COCO run-length masks. Each connected component of a mask is a mask.

    Args:
        train: Shards to train on: a glob, a brace range, a url, or a list of these.
        val: Shards for validation, local.
        test: Shards for `lightning test`; null takes `val`.
        predict: A picture or a folder of pictures for `lightning predict`.
        mode: "indexed" reads local tars with members in any order by an index of offsets;
            "streaming" reads sorted tars front to back, from disk or from http(s), s3, gs urls.
        batch_size: Images per device.
        crop_size: Height and width of training examples, pixels.
        short_side: Images count as reduced to this short side, pixels, before augmentation
            scales them; null leaves them as they are. For SA-1B (1500) take 512 to 1024.
        num_points: Points sampled per example.
        border_share: Share of the points that lie near mask borders.
        max_masks: At most so many masks per example, a random choice where there are more.
        augmentation: How much training examples vary.
        epoch_images: Images per epoch, all devices together; null is one pass over the training
            set. Needed in streaming mode, where the size of the set is not known.
        num_train_images: Train on at most so many images, evenly spread; null takes all.
        num_val_images: At most so many held-out images, for the loss and for evaluations.
        num_workers: Worker processes per device; 0 reads in the training process.
        start_method: How workers are started: fork, spawn or forkserver; null is the system's.
        shuffle_buffer: Samples held for shuffling in streaming mode, per worker.
        max_skipped_share: Training stops when a larger share of the samples could not be read.
        index_dir: Where indexes are kept if not beside the tars.
        allow_pipe: Let `pipe:` urls run shell commands. Only for urls that you wrote yourself.
        seed: Of order and augmentation.
    """

    def __init__(
        self,
        train: str | list[str] = "data_shards/train-*.tar",
        val: str | list[str] = "data_shards/val-*.tar",
        test: str | list[str] | None = None,
        predict: str | None = None,
        mode: Literal["indexed", "streaming"] = "indexed",
        batch_size: int = 8,
        crop_size: int = 256,
        short_side: int | None = None,
        num_points: int = 512,
        border_share: float = 0.5,
        max_masks: int = 128,
        augmentation: Augmentation = Augmentation(),  # noqa: B008 - frozen
        epoch_images: int | None = None,
        num_train_images: int | None = None,
        num_val_images: int = 100,
        num_workers: int = 2,
        start_method: Literal["fork", "spawn", "forkserver"] | None = None,
        shuffle_buffer: int = 200,
        max_skipped_share: float = 0.05,
        index_dir: str | None = None,
        allow_pipe: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.train, self.val, self.test, self.predict = train, val, test, predict
        self.mode = mode
        self.batch_size = batch_size
        self.crop_size = crop_size
        self.short_side = short_side
        self.num_points = num_points
        self.border_share = border_share
        self.max_masks = max_masks
        self.augmentation = augmentation
        self.epoch_images = epoch_images
        self.num_train_images = num_train_images
        self.num_val_images = num_val_images
        self.num_workers = num_workers
        self.start_method = start_method
        self.shuffle_buffer = shuffle_buffer
        self.index_dir = index_dir
        self.allow_pipe = allow_pipe
        self.seed = seed
        self.skips = SkipLedger(max_share=max_skipped_share)
        self._num_read = 0
        self._num_done = 0  # batches of the first epoch that a resumed run passes over
        self._train_loader: ResumableLoader | None = None
        self._indexed: dict[str, IndexedShards] = {}

    def setup(self, stage: str) -> None:
        """Look at the shards, so that a missing or empty one is an error before anything starts."""
        if stage == "fit":
            if self.mode == "streaming":
                expand_shards(self.train, allow_pipe=self.allow_pipe)
                if self.epoch_images is None:
                    raise ValueError(
                        "data.epoch_images must be set in streaming mode, where the number of "
                        "images is not known; take about the number of images of the set"
                    )
            else:
                num_images = len(self._shards(self.train))
                self._check_epoch(min(num_images, self.num_train_images or num_images))
        if stage in ("fit", "validate"):
            self._check_held_out(self._shards(self.val))
        if stage == "test":
            self._check_held_out(self._shards(self.test or self.val))
        if stage == "predict":
            find_pictures(self.predict)

    def train_dataloader(self) -> DataLoader[Any]:
        """Batches of this rank."""
        rank, world_size = self._rank()
        example = self._example_maker(self.augmentation)
        if self.mode == "streaming":
            return self._streaming_loader(example, rank, world_size)
        shards = self._shards(self.train)
        indices = spread_evenly(len(shards), self.num_train_images)
        epoch_images = self.epoch_images or len(indices)
        places = PlaceSampler(epoch_images, self.batch_size, rank, world_size)
        dataset = ScheduledExamples(shards, indices, example, self.seed)
        self._train_loader = ResumableLoader(
            dataset, places, persistent_workers=self.num_workers > 0, **self._loading()
        )
        # A checkpoint at the end of an epoch goes on with the next one, from its start.
        if self._num_done < len(self._train_loader):
            places.num_done = self._num_done
        return self._train_loader

    def val_dataloader(self) -> DataLoader[Any]:
        """Middle crops of this rank's part of the validation images."""
        return self._held_out_loader(self.val)

    def test_dataloader(self) -> DataLoader[Any]:
        """Middle crops of this rank's part of the test images."""
        return self._held_out_loader(self.test or self.val)

    def predict_dataloader(self) -> DataLoader[Any]:
        """One picture at a time: {"key": its name, "rgb": uint8 (H, W, 3)}."""
        rank, world_size = self._rank()
        pictures = find_pictures(self.predict)[rank::world_size]
        return DataLoader(Pictures(pictures), batch_size=None, collate_fn=_as_it_is)

    def state_dict(self) -> dict[str, int]:
        """Where training stands in its epoch, for the checkpoint."""
        # Not the state of the loader itself, which Lightning would keep too: it restores that
        # only if nobody has asked for the number of steps before, and our optimizer has.
        loader = self._train_loader
        return {"num_batches": loader.num_given if loader is not None else 0}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Pass over the batches that were handed out before the checkpoint."""
        self._num_done = state_dict["num_batches"]

    def held_out(self, stage: str) -> Sequence[HeldOutImage]:
        """Whole held-out images with their masks, for evaluation callbacks.

        Args:
            stage: "val" or "test".
        """
        shards = (self.test or self.val) if stage == "test" else self.val
        return ShardImages(shards, self.num_val_images, self.index_dir, self.short_side)

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:  # noqa: ANN401
        """Count what had to be skipped, and stop when it is too much."""
        if "skipped" not in batch:
            return batch
        self._num_read += len(batch["keys"])
        num_before = self.skips.total
        for skipped in batch["skipped"]:
            self.skips.add(skipped)
        first = self._num_read == len(batch["keys"])
        if first or self.skips.total != num_before:
            self._log_skips()
        self.skips.check(self._num_read)
        return batch

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:  # noqa: ANN401
        """Normalize images where they are used."""
        if "images" in batch:
            batch["images"] = normalize_images(batch["images"])
        return batch

    def _log_skips(self) -> None:
        if self.trainer is None or not self.trainer.training or self.trainer.logger is None:
            return
        counts = {f"data/skipped/{reason}": n for reason, n in self.skips.counts.items()}
        self.trainer.logger.log_metrics(
            {"data/skipped": self.skips.total, **counts}, step=self.trainer.global_step
        )

    def _streaming_loader(
        self, example: ExampleMaker, rank: int, world_size: int
    ) -> DataLoader[Any]:
        assert self.epoch_images is not None  # setup refused it
        stream: StreamedShards[Example] = StreamedShards(
            self.train,
            seed=self.seed,
            rank=rank,
            world_size=world_size,
            shuffle_buffer=self.shuffle_buffer,
            allow_pipe=self.allow_pipe,
            transform=example,
        )
        num_batches = self.epoch_images // (self.batch_size * world_size)
        dataset = StreamedBatches(stream, self.batch_size, num_batches)
        return EpochLoader(dataset, **{**self._loading(), "collate_fn": None}, batch_size=None)

    def _held_out_loader(self, shards: str | list[str]) -> DataLoader[Any]:
        rank, world_size = self._rank()
        found = self._shards(shards)
        mine = spread_evenly(len(found), self.num_val_images)[rank::world_size]
        dataset = HeldOutExamples(found, mine, self._example_maker(None))
        return DataLoader(dataset, batch_size=self.batch_size, **self._loading())

    def _example_maker(self, augmentation: Augmentation | None) -> ExampleMaker:
        return ExampleMaker(
            self.crop_size,
            self.num_points,
            self.max_masks,
            augmentation,
            self.short_side,
            self.border_share,
        )

    def _loading(self) -> dict[str, Any]:
        return {
            "num_workers": self.num_workers,
            "collate_fn": collate,
            "pin_memory": torch.cuda.is_available(),
            "multiprocessing_context": self._context() if self.num_workers else None,
        }

    def _context(self) -> Any:  # noqa: ANN401 - None or a multiprocessing context
        return torch.multiprocessing.get_context(self.start_method) if self.start_method else None

    def _shards(self, shards: str | list[str]) -> IndexedShards:
        name = str(shards)
        if name not in self._indexed:
            self._indexed[name] = IndexedShards(shards, index_dir=self.index_dir)
        return self._indexed[name]

    def _rank(self) -> tuple[int, int]:
        """Rank and world size, asked where they are known: workers are told, they do not ask."""
        if self.trainer is None:
            return 0, 1
        return self.trainer.global_rank, self.trainer.world_size

    def _check_epoch(self, num_images: int) -> None:
        world_size = self._rank()[1]
        needed = self.batch_size * world_size
        if (self.epoch_images or num_images) < needed:
            raise ValueError(
                f"an epoch of {self.epoch_images or num_images} images has no whole batch of "
                f"{self.batch_size} images on {world_size} devices; lower data.batch_size or "
                "set data.epoch_images"
            )

    def _check_held_out(self, shards: IndexedShards) -> None:
        world_size = self._rank()[1]
        if min(len(shards), self.num_val_images) < world_size:
            raise ValueError(
                f"{min(len(shards), self.num_val_images)} held-out images are fewer than the "
                f"{world_size} devices; give more images or fewer devices"
            )


def _as_it_is(picture: Any) -> Any:  # noqa: ANN401 - a picture stays an array
    return picture
