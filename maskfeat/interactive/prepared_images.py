"""Images prepared for training a click decoder: features, superpixels and tree, made once."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from skimage.color import rgb2lab

from maskfeat.array_file import read_arrays
from maskfeat.arrays import BoolArray
from maskfeat.data.annotations.image import SampleError
from maskfeat.data.annotations.sample import AnnotatedImage
from maskfeat.data.heldout import to_held_out
from maskfeat.features.cache import arrays_of, features_of_arrays, model_digest
from maskfeat.features.pyramid import FeaturePyramid
from maskfeat.features.reading import features_of
from maskfeat.files import whole_file
from maskfeat.interactive.image import distances_with_color
from maskfeat.interactive.prompt_maps import ImageMaps
from maskfeat.segment.hierarchy import superpixel_hierarchy
from maskfeat.segment.merge_classifier import default_merge_classifier
from maskfeat.segment.superpixels import superpixels
from maskfeat.segment.tree import PartitionTree

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
        tree = superpixel_hierarchy(graph, merge_classifier="default").tree
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
