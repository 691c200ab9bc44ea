"""One image prepared for clicks, and its cuts with a box prompt and a mask prompt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch
from scipy import ndimage
from skimage.color import rgb2lab

from maskfeat.arrays import BoolArray, FloatArray, Int32Array, IntArray
from maskfeat.features.lab import LAB_SCALE
from maskfeat.features.reading import Features
from maskfeat.interactive.cut import PAIRWISE_WEIGHT, SuperpixelCutter
from maskfeat.interactive.decoded_image import DecodedImage, Given
from maskfeat.interactive.decoder import ClickDecoder
from maskfeat.interactive.evidence import ClickEvidence
from maskfeat.interactive.geometry import Box, Window, filled, grown, whole
from maskfeat.interactive.look import MapReader
from maskfeat.interactive.mask_change import MaskChangeReader, RefinementStep
from maskfeat.interactive.narrow_band import NarrowBandReader
from maskfeat.interactive.networks import ClickNetworks
from maskfeat.interactive.priors import BoxMaskPrompt, TreePrior, box_and_mask
from maskfeat.interactive.prompt_maps import ImageMaps
from maskfeat.interactive.prompts import Prompt, pixels_of
from maskfeat.interactive.refine import Refiner
from maskfeat.segment.hierarchy import Hierarchy, superpixel_hierarchy
from maskfeat.segment.seeded_watershed import SeededWatershed, split_by_seeds, steps_of_tree
from maskfeat.segment.superpixels import RegionGraph, border_graph, superpixels

_FINE_STRIDE = 2  # features up to this stride place an outline
_COLOR_BLUR = 0.7  # pixels; without it neighbors differ by noise
# Pixels beyond a window whose superpixels are cut too, as the blurs of its pixels depend on them.
_FREE_MARGIN = 12


class ImageState:
    """What is computed once for an image: superpixels, hierarchy, and readers of prompts.

    Args:
        features: Features of the image.
        rgb: The image, uint8, shape (H, W, 3), or None to use no color.
        networks: Networks of clicks.
        decoder: Reads clicks in their place where they can change the whole mask; or None.
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
        decoder: ClickDecoder | None = None,
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
            self._distances = distances_with_color(self._distances, colors, features.scale)
        self.graph: RegionGraph = superpixels(features, per_megapixel, self._distances)
        self.hierarchy: Hierarchy = superpixel_hierarchy(self.graph, merge_classifier="default")
        means = None if colors is None else _means(colors, self.graph)
        evidence = ClickEvidence(self.graph, self.hierarchy.tree, means)
        self.cutter = SuperpixelCutter(evidence, networks.superpixels, pairwise_weight)
        # The merge classifier is fitted to learned pyramids. On color its segments mislead clicks.
        is_learned = len(features.pyramid) > 1
        self.tree_prior = TreePrior(self.hierarchy.tree) if is_learned else None
        fine = features.dense(max_stride=_FINE_STRIDE) * np.float32(np.sqrt(features.scale))
        self.refiner = Refiner(self.graph.labels, fine, colors)
        self.mask_change = MaskChangeReader(networks.mask_change, self.graph)
        self.narrow_band = NarrowBandReader(networks.narrow_band, fine, colors)
        self.decoded = None
        if decoder is not None:
            tree, inner = self.hierarchy.tree, decoder.inner_strides
            maps = ImageMaps(features, colors, self.graph.labels, tree, inner)
            self.decoded = DecodedImage(decoder, maps)

    @cached_property
    def first_pixels(self) -> IntArray:
        """The first pixel of each superpixel, numbered in reading order, (K,)."""
        return np.unique(self.graph.labels, return_index=True)[1]

    def color(self, pixels_yx: IntArray, labels: IntArray) -> IntArray:
        """A label for every pixel, by `SeededWatershed` on the hierarchy.

        Args:
            pixels_yx: Labeled pixels, shape (N, 2), at least one. Of several labels of one pixel
                the smallest counts.
            labels: Their labels, shape (N,).

        Returns:
            int64, shape (H, W).
        """
        order = np.lexsort((labels, pixels_yx[:, 1], pixels_yx[:, 0]))
        pixels_yx, first = np.unique(pixels_yx[order], axis=0, return_index=True)
        labels = labels[order][first]
        regions, parents = split_by_seeds(self.graph.labels, pixels_yx, labels)
        if len(parents) == self.graph.num_superpixels:
            watershed = self._watershed
        else:
            edges, _, contrasts = border_graph(regions, *self._distances)
            watershed = self._watershed_of(edges, contrasts, parents)
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


@dataclass(frozen=True)
class PromptCutter:
    """Cuts an image by clicks, with a box prompt and a mask prompt.

    All masks are functions of the set of prompts. Clicks can still be unsatisfied, see
    `update.enforce_hard_constraints`.
    """

    image_state: ImageState
    box: Box | None
    mask: BoolArray | None

    @property
    def has_decoder(self) -> bool:
        """Whether a click decoder reads the prompts of a large click radius."""
        return self.image_state.decoded is not None

    def whole(self, prompts: Sequence[Prompt]) -> BoolArray:
        """The mask of a cut of the whole image, (H, W)."""
        state = self.image_state
        inside, outside = pixels_of(prompts, True), pixels_of(prompts, False)
        prompt, background, logits = self._priors(inside, outside)
        if state.decoded is None:
            cut = state.cutter.cut(prompt.inside, background, logits, prompt.excluded)
        else:
            logits = self._decoded_logits(state.decoded, prompts)
            clicked = state.graph.labels[tuple(inside.T)], background
            cut = state.cutter.cut_by(logits, *clicked, prompt.excluded)
        width = state.graph.labels.shape[1]
        pixels = inside @ (width, 1), outside @ (width, 1)
        mask = state.refiner.refine(state.networks.pixels, cut.is_object, cut.logits, *pixels)
        return mask if self.box is None else mask & filled(self.box, mask.shape)

    def _decoded_logits(self, decoded: DecodedImage, prompts: Sequence[Prompt]) -> FloatArray:
        """Mean logit of the pixels of each superpixel, (K,)."""
        graph, start = self.image_state.graph, None
        if self.mask is not None:
            signs = np.where(self.mask, np.float32(1), np.float32(-1))
            start = MapReader(torch.from_numpy(signs).unsqueeze(0), 1)
        logits = decoded.logits(Given(prompts, self.box, start))
        sums = np.bincount(graph.labels.ravel(), logits.ravel(), graph.num_superpixels)
        return (sums / graph.sizes).astype(np.float32)

    def within(
        self, inside: IntArray, outside: IntArray, step: RefinementStep, windows: Sequence[Window]
    ) -> LocalCut:
        """A cut of some windows that changes the mask of a refinement step; the rest stays."""
        state, labels = self.image_state, self.image_state.graph.labels
        prompt, background, logits = self._priors(inside, outside, is_change=True)
        windows = [grown(window, _FREE_MARGIN, whole(labels.shape)) for window in windows]
        is_free = np.zeros(state.graph.num_superpixels, bool)
        for window in windows:
            is_free[labels[window]] = True
        before = step.below.ravel()[state.first_pixels]

        def revise(free: IntArray, logits: FloatArray, features: FloatArray) -> FloatArray:
            return state.mask_change.revised(logits, features, free, before[free], step, windows)

        cut = state.cutter.cut_within(
            is_free, before, prompt.inside, background, logits, prompt.excluded, revise
        )
        rough = step.below.copy()
        for window in windows:
            rough[window] = cut.is_object[labels[window]]
        return LocalCut(state, rough, cut.logits, (inside, outside), self.box)

    def narrow_band_change(
        self, prompt: Prompt, below: BoolArray, inside: IntArray, outside: IntArray
    ) -> tuple[Window, BoolArray]:
        """A window around a prompt near the outline, and its pixels that get the prompt's label."""
        window, change = self.image_state.narrow_band.change(prompt, below, (outside, inside))
        if self.box is not None and prompt.is_object:
            change = change & filled(self.box, below.shape)[window]
        return window, change

    def _priors(
        self, inside: IntArray, outside: IntArray, is_change: bool = False
    ) -> tuple[BoxMaskPrompt, IntArray, FloatArray | None]:
        """Box and mask, clicked superpixels of the background, and logits of box, mask or tree."""
        state = self.image_state
        prompt = box_and_mask(state.graph, state.hierarchy.tree, inside, self.box, self.mask)
        background = state.graph.labels[tuple(outside.T)]
        logits = prompt.logits
        if logits is None and state.tree_prior is not None:
            logits = state.tree_prior.logits(prompt.inside, background, is_change)
        return prompt, background, logits


@dataclass(frozen=True)
class LocalCut:
    """A cut of some windows, refined to pixels on demand.

    Attributes:
        image_state: The image.
        rough: The mask of whole superpixels, (H, W); unchanged outside the windows.
        logits: Logit of "object" of all superpixels, (K,); infinite for those not cut.
        clicks: Pixels on the object and on the background, (N, 2) and (M, 2).
        box: Holds the whole object, or None.
    """

    image_state: ImageState
    rough: BoolArray
    logits: FloatArray
    clicks: tuple[IntArray, IntArray]
    box: Box | None

    def refined(self, window: Window) -> BoolArray:
        """The mask in pixels, in a window that was cut."""
        network, refiner = self.image_state.networks.pixels, self.image_state.refiner
        refined = refiner.refine_within(network, self.rough, self.logits, self.clicks, window)
        return refined if self.box is None else refined & filled(self.box, self.rough.shape)[window]


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


def _means(values: FloatArray, graph: RegionGraph) -> FloatArray:
    """Mean of each channel over each superpixel, (H, W, C) -> (K, C)."""
    regions = graph.labels.ravel()
    columns = values.reshape(-1, values.shape[2]).T
    sums = np.stack([np.bincount(regions, column) for column in columns], axis=1)
    return (sums / graph.sizes[:, None]).astype(np.float32)
