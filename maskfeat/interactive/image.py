"""One image, prepared for prompts: superpixels, evidence, cuts, refinement, coloring."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
from scipy import ndimage
from skimage.color import rgb2lab

from maskfeat.features.lab import LAB_SCALE
from maskfeat.features.reading import Features
from maskfeat.interactive.box_and_mask import Hints, filled, hints_of
from maskfeat.interactive.cut import PAIRWISE_WEIGHT, SuperpixelCutter
from maskfeat.interactive.evidence import ClickEvidence
from maskfeat.interactive.mask_change import MaskChangeReader, RefinementStep
from maskfeat.interactive.narrow_band import NarrowBandReader
from maskfeat.interactive.networks import ClickNetworks
from maskfeat.interactive.refine import Refiner
from maskfeat.interactive.tree_prior import TreePrior
from maskfeat.interactive.windows import Window, grown, whole
from maskfeat.segment.hierarchy import Hierarchy, superpixel_hierarchy
from maskfeat.segment.merge_classifier import default_merge_classifier
from maskfeat.segment.seeded_watershed import SeededWatershed, split_by_seeds, steps_of_tree
from maskfeat.segment.superpixels import RegionGraph, border_graph, superpixels

BoolArray = npt.NDArray[np.bool_]
FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]

# Levels of features that are fine enough to place an outline.
_FINE_STRIDE = 2
# Color is smoothed by so many pixels before neighbors are compared: images have noise.
_COLOR_BLUR = 0.7
# Superpixels are cut anew up to so many pixels beyond a window: blurs of its pixels see as far.
_FREE_MARGIN = 12


class ImageState:
    """One image that is cut and colored again and again, by its prompts.

    Args:
        features: Of the image.
        rgb: The image, uint8, shape (H, W, 3), or None: then color says nothing.
        networks: Judge superpixels and pixels.
        per_megapixel: Superpixels for a million pixels, see `superpixels`.
        pairwise_weight: See `SuperpixelCutter`.

    Raises:
        ValueError: If the features are not finite, or the image has another size.
    """

    def __init__(
        self,
        features: Features,
        rgb: npt.NDArray[np.uint8] | None,
        networks: ClickNetworks,
        per_megapixel: float = 26_000,
        pairwise_weight: float = PAIRWISE_WEIGHT,
    ) -> None:
        if rgb is not None and rgb.shape[:2] != features.size:
            raise ValueError(
                f"rgb and features must have the same size, got {rgb.shape[:2]} and {features.size}"
            )
        self.features = features
        self.networks = networks
        self._distances = features.neighbor_distances()
        if not all(np.isfinite(values).all() for values in self._distances):
            raise ValueError("features must be finite, got NaN or infinity; check what made them")
        colors = None if rgb is None else (rgb2lab(rgb) / 100).astype(np.float32)
        if colors is not None:
            self._distances = _with_color(self._distances, colors, features.scale)
        self.graph: RegionGraph = superpixels(features, per_megapixel, self._distances)
        self.hierarchy: Hierarchy = superpixel_hierarchy(
            self.graph, merge_classifier=default_merge_classifier()
        )
        means = None if colors is None else _means(colors, self.graph)
        evidence = ClickEvidence(self.graph, self.hierarchy.tree, means)
        self.cutter = SuperpixelCutter(evidence, networks.superpixels, pairwise_weight)
        # The merge classifier knows learned pyramids; of color alone its segments mislead clicks.
        is_learned = len(features.pyramid) > 1
        self.tree_prior = TreePrior(self.hierarchy.tree) if is_learned else None
        fine = features.dense(max_stride=_FINE_STRIDE) * np.float32(np.sqrt(features.scale))
        self.refiner = Refiner(self.graph.labels, fine, colors)
        self.mask_change = MaskChangeReader(networks.mask_change, self.graph)
        self.narrow_band = NarrowBandReader(networks.narrow_band, fine, colors)

    def object_mask(
        self,
        object_yx: IntArray,
        background_yx: IntArray,
        box: tuple[int, int, int, int] | None = None,
        prior: BoolArray | None = None,
    ) -> BoolArray:
        """The object, pixel by pixel, before clicks are enforced.

        Args:
            object_yx: Labeled as object, shape (N, 2); none only if there is a box or a prior.
            background_yx: Labeled as background, shape (M, 2).
            box: What holds the object: (top, left, bottom, right).
            prior: What the object was before, or may be, shape (H, W).

        Returns:
            bool, shape (H, W).
        """
        hints = hints_of(self.graph, self.hierarchy.tree, object_yx, box, prior)
        labels = self.graph.labels
        outside = labels[tuple(background_yx.T)]
        logits = self._prior_logits(hints, outside)
        cut = self.cutter.cut(hints.inside, outside, logits, hints.excluded)
        width = labels.shape[1]
        pixels = object_yx @ (width, 1), background_yx @ (width, 1)
        mask = self.refiner.refine(self.networks.pixels, cut.is_object, cut.logits, *pixels)
        return mask if box is None else mask & filled(box, mask.shape)

    def cut_within(
        self,
        object_yx: IntArray,
        background_yx: IntArray,
        step: RefinementStep,
        windows: Sequence[Window],
        box: tuple[int, int, int, int] | None = None,
        prior: BoolArray | None = None,
    ) -> ImageCut:
        """A mask, changed for some prompts in some windows; before clicks are enforced.

        Args:
            object_yx: See `object_mask`, likewise the rest.
            background_yx: See there.
            step: The mask, and the prompts that are to change it.
            windows: Rows and columns.
            box: See there.
            prior: See there.
        """
        hints = hints_of(self.graph, self.hierarchy.tree, object_yx, box, prior)
        labels = self.graph.labels
        windows = [grown(window, _FREE_MARGIN, whole(labels.shape)) for window in windows]
        is_free = np.zeros(self.graph.num_superpixels, bool)
        for window in windows:
            is_free[labels[window]] = True
        held = step.below.ravel()[self._pixels_of_superpixels]
        outside = labels[tuple(background_yx.T)]

        def revise(
            superpixels: IntArray, logits: FloatArray, click_features: FloatArray
        ) -> FloatArray:
            return self.mask_change.revised(
                logits, click_features, superpixels, held[superpixels], step, windows
            )

        logits = self._prior_logits(hints, outside, is_change=True)
        cut = self.cutter.cut_within(
            is_free, held, hints.inside, outside, logits, hints.excluded, revise
        )
        rough = step.below.copy()
        for window in windows:
            rough[window] = cut.is_object[labels[window]]
        return ImageCut(self, rough, cut.logits, (object_yx, background_yx), box)

    def _prior_logits(
        self, hints: Hints, outside: IntArray, is_change: bool = False
    ) -> FloatArray | None:
        """Logit by a box or a mask, else by the segments of the hierarchy, (K,)."""
        if hints.logits is not None or self.tree_prior is None:
            return hints.logits
        return self.tree_prior.logits(hints.inside, outside, is_change)

    @cached_property
    def _pixels_of_superpixels(self) -> IntArray:
        """A pixel of each superpixel, numbered in reading order, (K,)."""
        return np.unique(self.graph.labels, return_index=True)[1]

    def color(self, pixels_yx: IntArray, labels: IntArray) -> IntArray:
        """A label for every pixel, by `SeededWatershed` on the hierarchy.

        Args:
            pixels_yx: Labeled pixels, shape (N, 2), at least one. Of several prompts on one pixel
                the smallest label counts.
            labels: Their labels, shape (N,).

        Returns:
            int64, shape (H, W).
        """
        order = np.lexsort((labels, pixels_yx[:, 1], pixels_yx[:, 0]))
        pixels_yx, first = np.unique(pixels_yx[order], axis=0, return_index=True)
        labels = labels[order][first]
        regions, parents = split_by_seeds(self.graph.labels, pixels_yx, labels)
        if len(parents) == self.graph.num_superpixels:
            forest = self._forest
        else:
            edges, _, contrasts = border_graph(regions, *self._distances)
            forest = self._forest_of(edges, contrasts, parents)
        return forest.labels(regions[tuple(pixels_yx.T)], labels)[regions]

    @cached_property
    def _forest(self) -> SeededWatershed:
        everyone = np.arange(self.graph.num_superpixels)
        return self._forest_of(self.graph.edges, self.graph.boundary_strengths, everyone)

    def _forest_of(
        self, edges: npt.NDArray[np.int32], contrasts: FloatArray, parents: IntArray
    ) -> SeededWatershed:
        """Regions, each of one superpixel, joined in the order of the hierarchy."""
        steps = steps_of_tree(self.hierarchy.tree, parents[edges], contrasts)
        return SeededWatershed(len(parents), edges, steps)


@dataclass(frozen=True)
class ImageCut:
    """A cut of some superpixels, in pixels where that is wanted, see `steps.LocalCut`.

    Attributes:
        scene: What was cut.
        rough: The mask of whole superpixels, (H, W); as it was where nothing was cut.
        logits: logit of "object" of all superpixels, (K,); infinite where they were held.
        clicks: On the object and on the background, (N, 2) and (M, 2).
        box: What holds the object, or None.
    """

    image_state: ImageState
    rough: BoolArray
    logits: FloatArray
    clicks: tuple[IntArray, IntArray]
    box: tuple[int, int, int, int] | None

    def refined(self, window: Window) -> BoolArray:
        """The mask in pixels, in a window where it was cut."""
        network, refiner = self.image_state.networks.pixels, self.image_state.refiner
        refined = refiner.refine_within(network, self.rough, self.logits, self.clicks, window)
        return refined if self.box is None else refined & filled(self.box, self.rough.shape)[window]


def _with_color(
    distances: tuple[FloatArray, FloatArray], colors: FloatArray, scale: float
) -> tuple[FloatArray, FloatArray]:
    """Distances of neighbors in features and color, each as it counts in p = 2 / (1 + exp(d^2)).

    Features know which borders matter, color knows where they run: on 43 objects of train splits
    the best mask of whole superpixels has an IoU of 0.895 by features, 0.911 by color, 0.913 by
    both.
    """
    smooth = ndimage.gaussian_filter(colors, (_COLOR_BLUR, _COLOR_BLUR, 0))
    factor = np.float32(LAB_SCALE / scale)
    right, below = (factor * np.square(np.diff(smooth, axis=axis)).sum(axis=2) for axis in (1, 0))
    return distances[0] + right, distances[1] + below


def _means(values: FloatArray, graph: RegionGraph) -> FloatArray:
    """Mean of each channel over each superpixel, (H, W, C) -> (K, C)."""
    regions = graph.labels.ravel()
    columns = values.reshape(-1, values.shape[2]).T
    sums = np.stack([np.bincount(regions, column) for column in columns], axis=1)
    return (sums / graph.sizes[:, None]).astype(np.float32)
