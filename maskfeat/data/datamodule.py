"""Loaders: which shards, which splits, which workers, which ranks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import lightning as L
import torch
from torch.utils.data import DataLoader

from maskfeat.batch import HeldOutImage, normalize_images
from maskfeat.data.annotations.limits import Limits
from maskfeat.data.augment import Augmentation, ExampleMaker
from maskfeat.data.checks import check_held_out, check_least, check_share, check_training
from maskfeat.data.folder import find_images
from maskfeat.data.heldout import ShardImages
from maskfeat.data.order.examples import HeldOutExamples, collate
from maskfeat.data.order.loaders import ResumableLoader
from maskfeat.data.order.schedule import evenly_spaced
from maskfeat.data.order.skips import SkipLedger
from maskfeat.data.order.state import State, TrainerWatch, go_on, state_of
from maskfeat.data.order.training_loader import indexed_loader, streaming_loader
from maskfeat.data.order.workers import prepare_worker
from maskfeat.data.prediction_set import PredictionImages
from maskfeat.data.shards.count import CountedShard, count_samples
from maskfeat.data.shards.indexed import IndexedShards, expand_shards
from maskfeat.data.shards.remote import ShardSource
from maskfeat.files import check_stems


class ShardDataModule(L.LightningDataModule):
    """Training, held-out and prediction data.

    Shards are tars in SA-1B's layout: KEY.jpg with KEY.json, the latter with "image" and
    "annotations" of COCO run-length masks. Each connected component of a mask is a mask.

    Args:
        train: Shards to train on: a glob, a brace range, a url, or a list of these. Or several
            sets and how much of what is read comes from each: {shards: weight, ...} or, where
            ${references} are to work, {name: {shards: a pattern or a list, weight: a number}};
            there `unmarked: background` makes masks of what no mask holds, region by region, which
            is else unknown: nothing is taught of it. `unmarked: everything` uses no mask of a set.
            The shares hold in any stretch of training, not only on average.
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
        crop_size: Height and width of training examples, pixels.
        short_side: Images count as reduced to this short side, pixels, before augmentation
            scales them; null leaves them as they are. For SA-1B (1500) take 512 to 1024.
        num_points: Points sampled per example.
        border_share: Share of the points that lie near mask borders.
        num_pairs: Pairs of nearby pixels sampled per example, for model.local_weight.
        pair_radius: The two of a pair are at most so many pixels apart on each axis.
        boundaries: Whether examples have a map of boundaries, for model.boundary_weight.
        max_masks: At most so many masks per example, a random choice where there are more.
        keep_crowds: Whether masks of many objects at once (`iscrowd` of COCO) are read.
        augmentation: How much training examples vary.
        epoch_images: Images per epoch, all devices together; null is one pass over the training
            set: all of it once, but for less than one step. An epoch goes on in the set where the
            one before ended.
        num_train_images: Train on at most so many images of each set, evenly spaced; null takes
            all. For indexed mode.
        num_val_images: At most so many held-out images, for the loss and for evaluations.
        num_workers: Worker processes per device; 0 reads in the training process.
        start_method: How workers are started: fork, spawn or forkserver; null is the system's.
        shuffle_buffer: Samples held for shuffling in streaming mode, at most, per reader.
        shuffle_buffer_mb: Memory for shuffling in streaming mode, at most, MB per device, all its
            readers together (JPEG and JSON as they lie in the tar; 1 MB a sample in SA-1B).
        num_readers: Shards that are read side by side in streaming mode, per device; the order
            depends on it, so keep it. Workers share the readers: it should be a multiple of
            num_workers, and more workers than readers are not started. Each epoch is cut into as
            many stretches of equally many batches as there are readers on all devices; one that
            begins in the middle of a shard passes over its front.
        cache_dir: Folder on a local disk that shards at urls are kept in, whole, for later
            epochs and other processes; null reads them over the network each time.
        cache_gb: Bound on that folder, GB; shards used longest ago make room. Keep room for one
            more per reader: those being fetched or read come on top.
        url_attempts: A url that failed so often in a row stops training, in one sentence.
        url_wait_s: Pause after the first failure, seconds; doubles with each, up to a minute.
        url_timeout_s: Seconds without a byte after which a connection counts as failed.
        url_min_bytes_s: So does one that gives fewer bytes a second, on average over that time.
        max_skipped_share: Training stops when a larger share of the samples could not be read.
        index_dir: Where indexes are kept if not beside the tars.
        allow_pipe: Let `pipe:` urls run shell commands. Only for urls that you wrote yourself.
        limits: What a sample or a pattern may ask for; samples beyond are skipped and counted.
        seed: Of order and augmentation.

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
        crop_size: int = 256,
        short_side: int | None = None,
        num_points: int = 512,
        border_share: float = 0.5,
        num_pairs: int = 0,
        pair_radius: int = 8,
        boundaries: bool = False,
        max_masks: int = 128,
        keep_crowds: bool = False,
        augmentation: Augmentation = Augmentation(),  # noqa: B008 - frozen
        epoch_images: int | None = None,
        num_train_images: int | None = None,
        num_val_images: int = 100,
        num_workers: int = 2,
        start_method: Literal["fork", "spawn", "forkserver"] | None = None,
        shuffle_buffer: int = 200,
        shuffle_buffer_mb: float = 1000,
        num_readers: int = 4,
        cache_dir: str | None = None,
        cache_gb: float = 50,
        url_attempts: int = 5,
        url_wait_s: float = 1,
        url_timeout_s: float = 60,
        url_min_bytes_s: float = 1000,
        max_skipped_share: float = 0.05,
        index_dir: str | None = None,
        allow_pipe: bool = False,
        limits: Limits = Limits(),  # noqa: B008 - frozen
        seed: int = 0,
    ) -> None:
        super().__init__()
        check_least(
            1,
            batch_size=batch_size,
            crop_size=crop_size,
            short_side=short_side,
            max_masks=max_masks,
            pair_radius=pair_radius,
            epoch_images=epoch_images,
            num_train_images=num_train_images,
            num_val_images=num_val_images,
            num_readers=num_readers,
        )
        check_least(2, num_points=num_points)  # a loss compares points
        check_least(0, num_workers=num_workers, num_pairs=num_pairs)
        check_share(border_share=border_share, max_skipped_share=max_skipped_share)
        self.train, self.val, self.test, self.predict = train, val, test, predict
        self.mode = mode
        self.batch_size = batch_size
        self.crop_size = crop_size
        self.short_side = short_side
        self.num_points = num_points
        self.border_share = border_share
        self.num_pairs = num_pairs
        self.pair_radius = pair_radius
        self.boundaries = boundaries
        self.max_masks = max_masks
        self.keep_crowds = keep_crowds
        self.augmentation = augmentation
        self.epoch_images = epoch_images
        self.num_train_images = num_train_images
        self.num_val_images = num_val_images
        self.num_workers = num_workers
        self.start_method = start_method
        self.shuffle_buffer = shuffle_buffer
        self.shuffle_buffer_mb = shuffle_buffer_mb
        self.num_readers = num_readers
        self.source = ShardSource(
            allow_pipe,
            url_attempts,
            url_wait_s,
            url_timeout_s,
            url_min_bytes_s,
            cache_dir,
            cache_gb,
            limits,
        )
        self.index_dir = index_dir
        self.allow_pipe = allow_pipe
        self.seed = seed
        self.skips = SkipLedger(max_share=max_skipped_share)
        self._num_read = 0
        self._num_train_batches = 0  # of this process
        self._num_logged = -1  # skipped samples, so that a run without any shows its zero
        self._resume: State | None = None
        self._train_loader: ResumableLoader | None = None
        self._indexed: dict[str, IndexedShards] = {}
        self._counted: dict[str, tuple[CountedShard, ...]] = {}

    def setup(self, stage: str) -> None:
        """Look at the shards, so that a missing or empty one is an error before anything starts."""
        if stage == "fit":
            check_training(self)
        if stage in ("fit", "validate"):
            check_held_out(self, self.val)
        if stage == "test":
            check_held_out(self, self.test or self.val)
        if stage == "predict":
            check_stems(find_images(self.predict))  # a key names what is written

    def train_dataloader(self) -> DataLoader[Any]:
        """Batches of this rank; after a checkpoint was loaded, those that it had not had."""
        make_loader = streaming_loader if self.mode == "streaming" else indexed_loader
        self._train_loader = make_loader(self, self.ranks())
        if self.trainer is not None and hasattr(self.trainer, "fit_loop"):
            self._train_loader.watch = TrainerWatch(self.trainer)
            self._train_loader.is_repeating = self.trainer.overfit_batches > 0  # type: ignore[attr-defined]
        if self._resume is not None:
            go_on(self._train_loader, self._resume, self)
        return self._train_loader

    def val_dataloader(self) -> DataLoader[Any]:
        """Middle crops of this rank's part of the validation images."""
        return self._held_out_loader(self.val)

    def test_dataloader(self) -> DataLoader[Any]:
        """Middle crops of this rank's part of the test images."""
        return self._held_out_loader(self.test or self.val)

    def predict_dataloader(self) -> DataLoader[Any]:
        """One image at a time: {"key": its name, "rgb": uint8 (H, W, 3)}."""
        rank, world_size = self.ranks()
        images = find_images(self.predict)[rank::world_size]
        # Of fewer images than devices, some devices have none.
        self.allow_zero_length_dataloader_with_multiple_devices = True
        return DataLoader(PredictionImages(images), batch_size=None, collate_fn=_as_it_is)

    def state_dict(self) -> State:
        """Where training stands in its epoch, and what was skipped, for the checkpoint."""
        # Not the state of the loader itself, which Lightning would keep too: it restores that
        # only if nobody has asked for the number of steps before, and our optimizer has.
        return state_of(self._train_loader, self)

    def load_state_dict(self, state_dict: State) -> None:
        """Go on after the batches that were trained on before the checkpoint."""
        self._resume = state_dict
        self.skips.restore(state_dict.get("skipped", ()))

    def held_out(self, stage: str) -> Sequence[HeldOutImage]:
        """Whole held-out images with their masks, for evaluation callbacks.

        Args:
            stage: "val" or "test".
        """
        shards = (self.test or self.val) if stage == "test" else self.val
        settings = self.num_val_images, self.index_dir, self.short_side, self.keep_crowds
        return ShardImages(shards, *settings, self.source.limits)

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:  # noqa: ANN401
        """Count what had to be skipped, and stop when it is too much."""
        if "skipped" not in batch:
            return batch
        self._num_read += len(batch["keys"])
        for skipped in batch["skipped"]:
            self.skips.add(skipped)
        self.skips.check(self._num_read)
        if self._is_training():
            self._watch_skips()
        return batch

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:  # noqa: ANN401
        """Normalize images where they are used."""
        if "images" in batch:
            batch["images"] = normalize_images(batch["images"])
        return batch

    def _watch_skips(self) -> None:
        """Count and log over all ranks, at steps that are the same on all of them."""
        loader, trainer = self._train_loader, self.trainer
        assert trainer is not None
        is_last = loader is not None and loader.progress.num_batches == len(loader)
        every = max(1, getattr(trainer, "log_every_n_steps", 1))
        if self._num_train_batches % every == 0 or is_last:
            self.skips.share()
            if trainer.logger is not None and self.skips.total != self._num_logged:
                counts = {f"data/skipped/{name}": float(n) for name, n in self.skips.counts.items()}
                totals = {"data/skipped": float(self.skips.total), **counts}
                trainer.logger.log_metrics(totals, step=trainer.global_step)
                self._num_logged = self.skips.total
        self._num_train_batches += 1

    def _is_training(self) -> bool:
        return self.trainer is not None and self.trainer.training

    def _held_out_loader(self, shards: str | list[str]) -> DataLoader[Any]:
        rank, world_size = self.ranks()
        found = self.indexed(shards)
        mine = evenly_spaced(len(found), self.num_val_images)[rank::world_size]
        dataset = HeldOutExamples(found, mine, self.example_maker(None))
        return DataLoader(dataset, batch_size=self.batch_size, **self.loading())

    def example_maker(self, augmentation: Augmentation | None) -> ExampleMaker:
        """Cuts examples as the settings say; None takes the middle of the image."""
        return ExampleMaker(
            self.crop_size,
            self.num_points,
            self.max_masks,
            augmentation,
            self.short_side,
            self.border_share,
            self.num_pairs,
            self.pair_radius,
            self.boundaries,
        )

    def loading(self) -> dict[str, Any]:
        """What all loaders have in common."""
        return {
            "num_workers": self.num_workers,
            "collate_fn": collate,
            "pin_memory": torch.cuda.is_available(),
            "multiprocessing_context": self._context() if self.num_workers else None,
            "worker_init_fn": prepare_worker if self.num_workers else None,
        }

    def _context(self) -> Any:  # noqa: ANN401 - None or a multiprocessing context
        return torch.multiprocessing.get_context(self.start_method) if self.start_method else None

    def indexed(self, shards: str | list[str]) -> IndexedShards:
        """A set of local tars; indexed once."""
        name = str(shards)
        if name not in self._indexed:
            settings = self.index_dir, self.keep_crowds, self.source.limits
            self._indexed[name] = IndexedShards(shards, *settings)
        return self._indexed[name]

    def counted(self, shards: str | list[str]) -> tuple[CountedShard, ...]:
        """A set of streamed tars; counted once."""
        name = str(shards)
        if name not in self._counted:
            urls = expand_shards(shards, self.allow_pipe, self.source.limits.names)
            self._counted[name] = count_samples(urls, self.source, self.index_dir)
        return self._counted[name]

    def ranks(self) -> tuple[int, int]:
        """Rank and world size, asked where they are known: workers are told, they do not ask."""
        if self.trainer is None:
            return 0, 1
        return self.trainer.global_rank, self.trainer.world_size


def _as_it_is(image: Any) -> Any:  # noqa: ANN401 - an image stays an array
    return image
