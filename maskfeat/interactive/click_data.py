"""What a click decoder is trained on: sessions of simulated users on the images of shards."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypedDict

import numpy as np

from maskfeat.arrays import BoolArray
from maskfeat.batch import LeftOutCrowds, SkippedSample
from maskfeat.data.annotations.limits import Limits
from maskfeat.data.annotations.sample import AnnotatedImage
from maskfeat.data.augment import Donor
from maskfeat.data.datamodule import ShardDataModule
from maskfeat.data.settings import Augmentation
from maskfeat.data.shards.remote import ShardSettings
from maskfeat.interactive.image import distances_with_color
from maskfeat.interactive.outline_cut import OutlineCutter
from maskfeat.interactive.prepared_images import PreparedImages
from maskfeat.interactive.training_session import TrainingSession


class ImageSessions(list[TrainingSession]):
    """The sessions of one image.

    Args:
        sample: The image.
        sessions: On different objects of it.
    """

    def __init__(self, sample: AnnotatedImage, sessions: Sequence[TrainingSession]) -> None:
        super().__init__(sessions)
        self.key, self.shard, self.num_crowds = sample.key, sample.shard, sample.num_crowds


class SessionBatch(TypedDict):
    """The sessions of a step.

    Attributes:
        sessions: Of all images.
        keys: Name of each image.
        skipped: Samples that could not be read.
        crowds: Masks that were left out as crowds.
    """

    sessions: list[TrainingSession]
    keys: list[str]
    skipped: list[SkippedSample]
    crowds: list[LeftOutCrowds]


class SessionMaker:
    """Begins sessions on an image, as `ScheduledExamples` makes examples of one.

    Args:
        images: Prepares it.
        num_objects: Sessions of an image, on different objects, larger ones more often.
        part_weight: Weight of objects that lie inside another one, see `ClickDataModule`.
    """

    def __init__(self, images: PreparedImages, num_objects: int, part_weight: float) -> None:
        self._images = images
        self._num_objects, self._part_weight = num_objects, part_weight

    def __call__(
        self, sample: AnnotatedImage, rng: np.random.Generator, donor: Donor | None = None, /
    ) -> ImageSessions:
        """The sessions; all that users do comes from the generator, and nothing is pasted.

        Raises:
            SampleError: If the sample cannot be read.
        """
        maps, masks = self._images.maps_and_masks(sample)
        weights = np.sqrt(masks.mean(axis=(1, 2)))
        weights *= np.where(lie_in_another(masks), self._part_weight, 1)
        number = min(self._num_objects, len(masks))
        chosen = rng.choice(len(masks), number, replace=False, p=weights / weights.sum())
        distances = maps.features.neighbor_distances()
        colors = maps.colors.permute(1, 2, 0).numpy()
        outline = OutlineCutter(*distances_with_color(distances, colors, maps.features.scale))
        return ImageSessions(
            sample, [TrainingSession(maps, outline, masks[i], rng) for i in chosen]
        )


def lie_in_another(masks: BoolArray) -> BoolArray:
    """Which masks (M, H, W) lie inside another one that is at least 1.3 times as large, (M,)."""
    flat = masks.reshape(len(masks), -1).astype(np.float32)
    shared, sizes = flat @ flat.T, flat.sum(axis=1)
    lies = (shared > 0.9 * sizes[:, None]) & (sizes > 1.3 * sizes[:, None])
    is_part: BoolArray = lies.any(axis=1)
    return is_part


class ClickDataModule(ShardDataModule):
    """Sessions on some sets, in the order of `ShardDataModule`.

    The maps of an image come from the network of the `ClickTask` that is trained.

    Args:
        train: Name of each set -> its weight; `data_root`/NAME/train-*.tar are its shards.
        val: Names of sets; `data_root`/NAME/val-*.tar are held out.
        data_root: Folder of the sets.
        prepared_dir: Where prepared images are kept, 6 MB each.
        num_images: Images of a step, on each device.
        num_objects: Sessions of each image.
        part_weight: Masks that lie inside another one are drawn less often by this factor. A first
            click mostly means a whole thing, and sets of parts do not say which are whole.
        epoch_images: See `ShardDataModule`.
        num_val_images: Most held-out images.
        seed: Of order and users.
        shards: How shards are opened.
        limits: What a sample may ask for; samples beyond are skipped and counted.
    """

    def __init__(
        self,
        train: dict[str, float],
        val: list[str],
        data_root: str = "data_shards",
        prepared_dir: str = "runs/prepared",
        num_images: int = 5,
        num_objects: int = 2,
        part_weight: float = 0.3,
        epoch_images: int | None = None,
        num_val_images: int = 40,
        seed: int = 0,
        shards: ShardSettings = ShardSettings(),  # noqa: B008 - frozen, like the next
        limits: Limits = Limits(),  # noqa: B008
    ) -> None:
        sets = {
            name: {"shards": str(Path(data_root, name, "train-*.tar")), "weight": weight}
            for name, weight in train.items()
        }
        super().__init__(
            train=sets,
            val=[str(Path(data_root, name, "val-*.tar")) for name in val],
            batch_size=num_images,
            epoch_images=epoch_images,
            num_val_images=num_val_images,
            num_workers=0,  # sessions are played by the step itself
            seed=seed,
            shards=shards,
            limits=limits,
        )
        self.prepared_dir, self.num_objects = Path(prepared_dir), num_objects
        self.part_weight = part_weight

    def _example_maker(self, augmentation: Augmentation | None) -> SessionMaker:
        """Begins sessions; users are simulated in the same way in training and validation."""
        task: Any = self.trainer.lightning_module  # type: ignore[union-attr]
        strides = task.decoder.inner_strides
        images = PreparedImages(task.net, self.prepared_dir, inner_strides=strides)
        return SessionMaker(images, self.num_objects, self.part_weight)

    def _loading(self) -> dict[str, Any]:
        return {**super()._loading(), "collate_fn": collate_sessions}


def collate_sessions(items: Sequence[Sequence[ImageSessions | SkippedSample]]) -> SessionBatch:
    """The sessions of some images together, and what could not be read in their places."""
    flat = [one for item in items for one in item]
    images = [one for one in flat if isinstance(one, ImageSessions)]
    return SessionBatch(
        sessions=[session for image in images for session in image],
        keys=[image.key for image in images],
        skipped=[one for one in flat if isinstance(one, SkippedSample)],
        crowds=[LeftOutCrowds(i.num_crowds, i.shard, i.key) for i in images if i.num_crowds],
    )
