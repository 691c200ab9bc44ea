"""What a click decoder is trained on: sessions of simulated users on the images of shards."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
from skimage.color import rgb2lab

from maskfeat.array_file import read_arrays
from maskfeat.arrays import BoolArray
from maskfeat.batch import LeftOutCrowds, SkippedSample
from maskfeat.data.annotations.image import SampleError
from maskfeat.data.annotations.limits import Limits
from maskfeat.data.annotations.sample import AnnotatedImage
from maskfeat.data.augment import Donor
from maskfeat.data.datamodule import ShardDataModule
from maskfeat.data.heldout import to_held_out
from maskfeat.data.settings import Augmentation
from maskfeat.data.shards.remote import ShardSettings
from maskfeat.features.cache import arrays_of, features_of_arrays, model_digest
from maskfeat.features.pyramid import FeaturePyramid
from maskfeat.features.reading import features_of
from maskfeat.files import whole_file
from maskfeat.interactive.cut import OutlineCutter
from maskfeat.interactive.decoder_unary import ImageMaps
from maskfeat.interactive.image import distances_with_color
from maskfeat.interactive.training.session import TrainingSession
from maskfeat.segment.hierarchy import hierarchy
from maskfeat.segment.merge_classifier import default_merge_classifier
from maskfeat.segment.superpixels import superpixels
from maskfeat.segment.tree import PartitionTree


class ImageSessions(list[TrainingSession]):
    """The sessions on different objects of one image, and what is counted of it."""

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


# Shares of the image between which a mask is an object to click; the most of one image.
_OBJECT_SHARES = (0.001, 0.7)
_MOST_MASKS = 32
_PER_MEGAPIXEL = 26_000  # superpixels, as `InteractiveSegmenter` has them


class PreparedImages:
    """Makes the maps that a decoder reads of annotated images, or reads those of before.

    What takes a second for an image is kept on disk, in half precision, 6 MB each. A file is named
    by what it is made of: the content of the sample, and the weights of the feature network and of
    the merge classifier as they are when the sample is read.

    Args:
        net: Gives the features.
        folder: Where prepared images are kept.
        short_side: Larger images are reduced to this short side, pixels.
        inner_strides: See `FeaturePyramid.features`.
    """

    def __init__(
        self,
        net: FeaturePyramid,
        folder: Path,
        short_side: int = 384,
        inner_strides: Sequence[int] = (),
    ) -> None:
        self._net = net
        self._folder = folder
        self._short_side = short_side
        self._inner_strides = tuple(inner_strides)

    def maps_and_masks(self, sample: AnnotatedImage) -> tuple[ImageMaps, BoolArray]:
        """Maps of an image and some of its masks, (M, H, W), at least one.

        Raises:
            SampleError: If the sample cannot be read, or has no masks ("no masks").
        """
        path = self._path(sample)
        kept = read_arrays(path, ["scale", "strides", "level_0", "masks"])
        if kept is None:
            kept = self._prepared(sample)
            path.parent.mkdir(parents=True, exist_ok=True)
            with whole_file(path) as file:
                np.savez(file, allow_pickle=False, **kept)
        size = (kept["labels"].shape[0], kept["labels"].shape[1])
        features = features_of_arrays(kept, size)
        tree = PartitionTree(kept["parents"], kept["altitudes"], kept["sizes"])
        colors = kept["colors"].astype(np.float32)
        masks = np.unpackbits(kept["masks"], axis=-1, count=size[1]).astype(bool)
        return ImageMaps(features, colors, kept["labels"], tree, self._inner_strides), masks

    def _path(self, sample: AnnotatedImage) -> Path:
        classifier = default_merge_classifier(bool(self._net.boundary_heads))
        network, runs = classifier.network, sample.runs
        settings = runs.size, self._short_side, _OBJECT_SHARES, _MOST_MASKS, _PER_MEGAPIXEL
        named = repr((*settings, *self._inner_strides)).encode()
        digest = hashlib.sha256(model_digest(self._net) + named + sample.jpg)
        for values in (
            *(network.mean, network.std, *network.weights, *network.biases),
            *(runs.starts, runs.stops, runs.mask_of_run),
        ):
            digest.update(np.ascontiguousarray(values).tobytes())
        return self._folder / f"{digest.hexdigest()[:32]}.npz"

    def _prepared(self, sample: AnnotatedImage) -> dict[str, Any]:
        image = to_held_out(sample, self._short_side)
        if not len(image.masks):
            raise SampleError("no masks", "it has none to click")
        features = features_of(self._net, image.image, self._inner_strides)
        colors = (rgb2lab(image.image) / 100).astype(np.float32)
        distances = distances_with_color(features.neighbor_distances(), colors, features.scale)
        graph = superpixels(features, _PER_MEGAPIXEL, distances)
        tree = hierarchy(graph).tree
        return {
            **arrays_of(features),
            "colors": colors.astype(np.float16),
            "labels": graph.labels,
            "parents": tree.parents,
            "altitudes": tree.altitudes,
            "sizes": tree.sizes,
            "masks": np.packbits(image.masks[_objects(image.masks)], axis=-1),
        }


def _objects(masks: BoolArray) -> list[int]:
    """Masks of a fair size, evenly spaced if there are many; the largest where there is none."""
    shares = masks.mean(axis=(1, 2))
    fair = np.flatnonzero((shares > _OBJECT_SHARES[0]) & (shares < _OBJECT_SHARES[1]))
    if not len(fair):
        return [int(shares.argmax())]
    chosen = np.linspace(0, len(fair) - 1, min(len(fair), _MOST_MASKS)).astype(int)
    return [int(i) for i in fair[chosen]]
