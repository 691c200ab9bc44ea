"""Images prepared for training a click decoder: features, superpixels and tree, made once."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from skimage.color import rgb2lab
from torch.utils.data import DataLoader, IterableDataset

from maskfeat.array_file import read_arrays
from maskfeat.arrays import BoolArray
from maskfeat.batch import HeldOutImage
from maskfeat.data.annotations.sample import AnnotatedImage, SampleError, to_held_out
from maskfeat.data.shards.indexed import IndexedShards
from maskfeat.features.cache import model_digest
from maskfeat.features.pyramid import FeaturePyramid
from maskfeat.features.reading import Features
from maskfeat.features.weights import load
from maskfeat.files import whole_file
from maskfeat.interactive.image import distances_with_color
from maskfeat.interactive.prompt_maps import ImageMaps
from maskfeat.interactive.training_session import TrainingSession
from maskfeat.segment.hierarchy import superpixel_hierarchy
from maskfeat.segment.merge_classifier import default_merge_classifier
from maskfeat.segment.superpixels import superpixels
from maskfeat.segment.tree import PartitionTree

# Shares of the image between which a mask is an object to click; the most of one image.
_OBJECT_SHARES = (0.001, 0.7)
_MOST_MASKS = 32
_PER_MEGAPIXEL = 26_000  # superpixels, as `InteractiveSegmenter` has them


class PreparedImages(Sequence[tuple[ImageMaps, BoolArray]]):
    """Images of shards with the maps that a decoder reads, and their masks.

    What takes a second for an image is kept on disk, in half precision, 4 MB each. A file is named
    by what it is made of: the content of the sample, and the weights of the feature network and of
    the merge classifier as they are when the sample is read.

    Args:
        shards: Local tars in SA-1B's layout, as in `IndexedShards`.
        net: Gives the features.
        folder: Where prepared images are kept.
        short_side: Larger images are reduced to this short side, pixels.
    """

    def __init__(
        self, shards: str | Sequence[str], net: FeaturePyramid, folder: Path, short_side: int = 384
    ) -> None:
        self._shards = IndexedShards(shards)
        self._net = net
        self._folder = folder
        self._short_side = short_side

    def __len__(self) -> int:
        return len(self._shards)

    def __getitem__(self, i: int) -> tuple[ImageMaps, BoolArray]:  # type: ignore[override]
        """Maps of an image and some of its masks, (M, H, W); M is 0 where none is fair.

        Raises:
            SampleError: If the sample cannot be read.
        """
        sample = self._shards[i]
        path = self._path(sample)
        kept = read_arrays(path, ["scale", "strides", "level_0", "masks"])
        if kept is None:
            kept = self._prepared(to_held_out(sample, self._short_side))
            path.parent.mkdir(parents=True, exist_ok=True)
            with whole_file(path) as file:
                np.savez(file, allow_pickle=False, **kept)
        size = (kept["labels"].shape[0], kept["labels"].shape[1])
        strides = kept["strides"].tolist()
        levels = [torch.from_numpy(kept[f"level_{n}"]).float() for n in range(len(strides))]
        features = Features(levels, strides, size, float(kept["scale"]))
        tree = PartitionTree(kept["parents"], kept["altitudes"], kept["sizes"])
        colors = kept["colors"].astype(np.float32)
        masks = np.unpackbits(kept["masks"], axis=-1, count=size[1]).astype(bool)
        return ImageMaps(features, colors, kept["labels"], tree), masks

    def _path(self, sample: AnnotatedImage) -> Path:
        network, runs = default_merge_classifier().network, sample.runs
        limits = runs.size, self._short_side, _OBJECT_SHARES, _MOST_MASKS, _PER_MEGAPIXEL
        digest = hashlib.sha256(model_digest(self._net) + repr(limits).encode() + sample.jpg)
        for values in (
            *(network.mean, network.std, *network.weights, *network.biases),
            *(runs.starts, runs.stops, runs.mask_of_run),
        ):
            digest.update(np.ascontiguousarray(values).tobytes())
        return self._folder / f"{digest.hexdigest()[:32]}.npz"

    def _prepared(self, image: HeldOutImage) -> dict[str, Any]:
        features = self._net.features(image.image)
        colors = (rgb2lab(image.image) / 100).astype(np.float32)
        distances = distances_with_color(features.neighbor_distances(), colors, features.scale)
        graph = superpixels(features, _PER_MEGAPIXEL, distances)
        tree = superpixel_hierarchy(graph, merge_classifier=default_merge_classifier()).tree
        shares = image.masks.mean(axis=(1, 2))
        fair = np.flatnonzero((shares > _OBJECT_SHARES[0]) & (shares < _OBJECT_SHARES[1]))
        chosen = fair[np.linspace(0, len(fair) - 1, min(len(fair), _MOST_MASKS)).astype(int)]
        return {
            **{f"level_{n}": level.half().numpy() for n, level in enumerate(features.pyramid)},
            "strides": np.array(features.strides),
            "scale": np.array(features.scale),
            "colors": colors.astype(np.float16),
            "labels": graph.labels,
            "parents": tree.parents,
            "altitudes": tree.altitudes,
            "sizes": tree.sizes,
            "masks": np.packbits(image.masks[chosen], axis=-1),
        }


class SessionBatches(IterableDataset[list[TrainingSession]]):
    """Endless batches of new sessions.

    Args:
        sets: Prepared images, and the weight of each set.
        num_images: Images of a batch.
        num_objects: Sessions of each image, on different objects, larger ones more often.
        seed: Of everything that is drawn.
    """

    def __init__(
        self,
        sets: Sequence[tuple[PreparedImages, float]],
        num_images: int,
        num_objects: int,
        seed: Sequence[int],
    ) -> None:
        self._sets = [images for images, _ in sets]
        weights = np.array([weight for _, weight in sets], float)
        self._shares = weights / weights.sum()
        self._num_images, self._num_objects, self._seed = num_images, num_objects, seed

    def __iter__(self) -> Iterator[list[TrainingSession]]:
        rng = np.random.default_rng(list(self._seed))
        while True:
            sessions: list[TrainingSession] = []
            for _ in range(self._num_images):
                maps, masks = self._image(rng)
                weights = np.sqrt(masks.mean(axis=(1, 2)))
                number = min(self._num_objects, len(masks))
                chosen = rng.choice(len(masks), number, replace=False, p=weights / weights.sum())
                sessions += [TrainingSession(maps, masks[i], rng) for i in chosen]
            yield sessions

    def _image(self, rng: np.random.Generator) -> tuple[ImageMaps, BoolArray]:
        while True:
            images = self._sets[rng.choice(len(self._sets), p=self._shares)]
            try:
                maps, masks = images[int(rng.integers(len(images)))]
            except SampleError:
                continue  # the shards are checked, and their faults logged, when they are converted
            if len(masks):
                return maps, masks


class ClickDataModule(L.LightningDataModule):
    """Sessions on the train splits of some sets.

    Args:
        train: Name of each set -> its weight; `data_root`/NAME/train-*.tar are its shards.
        data_root: Folder of the sets.
        net: The feature network: a name that comes with the package, or a file.
        prepared_dir: Where prepared images are kept, 4 MB each.
        num_images: Images of a step.
        num_objects: Sessions of each image.
        seed: Of order and users.
    """

    def __init__(
        self,
        train: dict[str, float],
        data_root: str = "data_shards",
        net: str = "maskfeat-b0",
        prepared_dir: str = "runs/prepared",
        num_images: int = 5,
        num_objects: int = 2,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.train, self.data_root, self.net = train, Path(data_root), net
        self.prepared_dir = Path(prepared_dir)
        self.num_images, self.num_objects, self.seed = num_images, num_objects, seed

    def train_dataloader(self) -> DataLoader[list[TrainingSession]]:
        """Batches of sessions; after a checkpoint others than before it."""
        net = load(self.net)
        sets = [
            (
                PreparedImages(str(self.data_root / name / "train-*.tar"), net, self.prepared_dir),
                weight,
            )
            for name, weight in self.train.items()
        ]
        step = 0 if self.trainer is None else self.trainer.global_step
        seed = [self.seed, step, 0 if self.trainer is None else self.trainer.global_rank]
        batches = SessionBatches(sets, self.num_images, self.num_objects, seed)
        return DataLoader(batches, batch_size=None)
