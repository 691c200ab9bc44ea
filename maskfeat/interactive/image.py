"""One image prepared for clicks: superpixels, hierarchy, and the terms of the cuts."""

from __future__ import annotations

from functools import cached_property
from typing import Protocol

import numpy as np
import numpy.typing as npt
from scipy import ndimage
from skimage.color import rgb2lab

from maskfeat.arrays import BoolArray, FloatArray, Int32Array, IntArray
from maskfeat.features.color import LAB_SCALE
from maskfeat.features.reading import Features
from maskfeat.interactive.cut import PAIRWISE_WEIGHT, OutlineCutter, SuperpixelCutter
from maskfeat.interactive.decoder import PromptDecoder
from maskfeat.interactive.decoder_unary import DecodedImage, ImageMaps, num_image_channels
from maskfeat.interactive.feature_unary import FeatureUnary
from maskfeat.interactive.prompts import Prompt, PromptSet, Window
from maskfeat.recent import Recent
from maskfeat.segment.hierarchy import Hierarchy, hierarchy
from maskfeat.segment.seeded_watershed import SeededWatershed, split_by_seeds, steps_of_tree
from maskfeat.segment.superpixels import RegionGraph, border_graph, superpixels

_COLOR_BLUR = 0.7  # pixels; without it neighbors differ by noise
_KEPT_CHANGES = 1024  # 10 kB each


class Unary(Protocol):
    """The unary term: logits of "object" per pixel, for a set of prompts.

    By a click decoder, see `DecodedImage`; without one by features, see `FeatureUnary`.
    """

    def whole(self, given: PromptSet) -> FloatArray:
        """Logit of "object" of each pixel, float32, shape (H, W)."""
        ...

    def around(self, prompt: Prompt, given: PromptSet, window: Window) -> FloatArray:
        """Logits of "object" in a window around a prompt that corrects a mask.

        Args:
            prompt: It corrects the mask.
            given: The prompts near it, itself among them, and the mask that they correct.
            window: Rows and columns.

        Returns:
            float32, shape (h, w) of the window.
        """
        ...


class ImageState:
    """What is computed once for an image.

    Args:
        features: Features of the image.
        rgb: The image, uint8, shape (H, W, 3), or None to use no color.
        per_megapixel: Superpixels for a million pixels, see `superpixels`.
        pairwise_weight: See `SuperpixelCutter`.
        decoder: Gives the unary term; without one features do.

    Attributes:
        graph: The superpixels.
        hierarchy: Their merges. Border strengths here include color, so it is not the hierarchy
            of `maskfeat.hierarchy(features)`.
        unary: Logits of "object" per pixel, for given prompts.
        cutter: Cuts superpixels.
        outline: Cuts pixels.
        changes: Changes of masks by single prompts, see `PromptedMasks.change`.

    Raises:
        ValueError: If the features are not finite, the image has another size, or the decoder reads
            other features.
    """

    def __init__(
        self,
        features: Features,
        rgb: npt.NDArray[np.uint8] | None,
        per_megapixel: float = 26_000,
        pairwise_weight: float = PAIRWISE_WEIGHT,
        decoder: PromptDecoder | None = None,
    ) -> None:
        if rgb is not None and rgb.shape[:2] != features.size:
            raise ValueError(
                f"rgb and features must have the same size, got {rgb.shape[:2]} and {features.size}"
            )
        self.features = features
        self._distances = features.neighbor_distances()
        if not all(np.isfinite(values).all() for values in self._distances):
            raise ValueError("features must be finite, got NaN or infinity; check what made them")
        colors = None if rgb is None else (rgb2lab(rgb) / 100).astype(np.float32)
        if colors is not None:
            self._distances = distances_with_color(self._distances, colors, features.scale)
        self.graph: RegionGraph = superpixels(features, per_megapixel, self._distances)
        self.hierarchy: Hierarchy = hierarchy(self.graph)
        self.cutter = SuperpixelCutter(self.graph, pairwise_weight)
        self.outline = OutlineCutter(*self._distances)
        self.changes: Recent[BoolArray] = Recent(_KEPT_CHANGES)
        self.unary: Unary
        if decoder is None:
            is_learned = len(features.pyramid) > 1
            self.unary = FeatureUnary(self.graph, self.hierarchy.tree, is_learned, colors)
        else:
            tree, inner = self.hierarchy.tree, decoder.inner_strides
            maps = ImageMaps(features, colors, self.graph.labels, tree, inner)
            if not reads(decoder, features):
                raise ValueError(
                    f"the click decoder reads {decoder.config['image_channels']} maps, got "
                    f"features of {features.num_channels} channels; take that of these features"
                )
            self.unary = DecodedImage(decoder, maps)

    def labels_by_watershed(self, pixels_yx: IntArray, labels: IntArray) -> IntArray:
        """A label for every pixel, int64 (H, W), by `SeededWatershed` on the hierarchy.

        Of labeled pixels (N, 2), at least one; of several labels of one pixel the smallest counts.
        """
        order = np.lexsort((labels, pixels_yx[:, 1], pixels_yx[:, 0]))
        pixels_yx, first = np.unique(pixels_yx[order], axis=0, return_index=True)
        labels = labels[order][first]
        regions, parents = split_by_seeds(self.graph.labels, pixels_yx, labels)
        if len(parents) == self.graph.num_superpixels:
            watershed = self._watershed
        else:
            edges, _, (strengths,) = border_graph(regions, self._distances)
            watershed = self._watershed_of(edges, strengths, parents)
        return watershed.labels(regions[tuple(pixels_yx.T)], labels)[regions]

    @cached_property
    def _watershed(self) -> SeededWatershed:
        everyone = np.arange(self.graph.num_superpixels)
        return self._watershed_of(self.graph.edges, self.graph.boundary_strengths, everyone)

    def _watershed_of(
        self, edges: Int32Array, strengths: FloatArray, parents: IntArray
    ) -> SeededWatershed:
        """Of regions that each lie in one superpixel, its parent."""
        steps = steps_of_tree(self.hierarchy.tree, parents[edges], strengths)
        return SeededWatershed(len(parents), edges, steps)


def reads(decoder: PromptDecoder, features: Features) -> bool:
    """Whether features have the channels that a decoder was trained on."""
    if not set(decoder.inner_strides) <= set(features.inner):
        return False
    channels = [level.shape[0] for level in features.pyramid]
    inner = [features.inner[stride].shape[0] for stride in decoder.inner_strides]
    is_read: bool = decoder.config["image_channels"] == num_image_channels(channels, inner)
    return is_read


def distances_with_color(
    distances: tuple[FloatArray, FloatArray], colors: FloatArray, scale: float
) -> tuple[FloatArray, FloatArray]:
    """Distances of neighbors in features and color, each as it counts in p = 2 / (1 + exp(d^2)).

    Features tell which borders matter, color where they run. On 43 objects of train splits the
    best mask of whole superpixels has an IoU of 0.895 by features, 0.911 by color, 0.913 by both.
    """
    smooth = ndimage.gaussian_filter(colors, (_COLOR_BLUR, _COLOR_BLUR, 0))
    factor = np.float32(LAB_SCALE / scale)
    right, below = (factor * np.square(np.diff(smooth, axis=axis)).sum(axis=2) for axis in (1, 0))
    return distances[0] + right, distances[1] + below
