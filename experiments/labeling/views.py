"""One image as each method sees it: what a click covers, and how scores become labels.

The scores are the same for all: probabilities of patches of 16 x 16 pixels, by one classifier on
one set of descriptors. Only the method "labeler" describes superpixels, as `maskfeat.Labeler` does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from scenes import Scene
from skimage.segmentation import felzenszwalb

import maskfeat
from maskfeat.features.color import LabEncoder
from maskfeat.labeling.click_log import Click
from maskfeat.labeling.descriptors import default_extractor, describe
from maskfeat.labeling.examples import (
    Examples,
    evenly,
    examples_of,
    labeled_superpixels,
    with_clicks,
)
from maskfeat.labeling.image_store import PreparedImage
from maskfeat.segment.hierarchy import hierarchy
from maskfeat.segment.inputs import RegionReader
from maskfeat.segment.score_cut import class_cut, cut_costs
from maskfeat.segment.superpixels import superpixels

PATCH = 16
PER_MEGAPIXEL = 8_000
MOST_PER_REGION = 24

# What each method has to choose; see README.md for how it was chosen.
SETTINGS: dict[str, dict[str, Any]] = {
    "cut": {"pairwise_weight": 10.0, "num_segments": 200},
    "upsampled": {"window": 64},
    "partition": {"num_segments": 200},
    "felzenszwalb": {"scale": 50.0},
    "color_cut": {"pairwise_weight": 10.0, "granularity": 0.97},
    "labeler": {"pairwise_weight": 10.0, "num_segments": 200},
    "cut_of_segments": {"pairwise_weight": 10.0, "num_segments": 200},
}


@dataclass
class Patches:
    """What all methods share of one image.

    Attributes:
        scene: The image and its true classes.
        grid: Rows and columns of patches.
        descriptors: float16, shape (rows * columns, D).
        superpixel_descriptors: Of our superpixels, float16, shape (K, D).
        graphs: Prepared superpixels and trees of "ours" and "color".
        features: Ours, for the partition.
    """

    scene: Scene
    grid: tuple[int, int]
    descriptors: np.ndarray
    graphs: dict[str, PreparedImage]
    features: maskfeat.Features

    @cached_property
    def patch_of_pixel(self) -> np.ndarray:
        """Number of the patch of each pixel, (H, W)."""
        return patch_numbers(self.scene.classes.shape, self.grid)

    def upsampled(self, chances: np.ndarray) -> np.ndarray:
        """Probabilities of patches, (rows * columns, L), on pixels, (L, H, W)."""
        maps = torch.from_numpy(chances.reshape(*self.grid, -1).transpose(2, 0, 1))[None].float()
        return F.interpolate(maps, self.scene.classes.shape, mode="bilinear")[0].numpy()


def patch_numbers(size: tuple[int, ...], grid: tuple[int, int]) -> np.ndarray:
    """Number of the patch of each pixel, row by row."""
    rows, columns = (np.arange(n) * cells // n for n, cells in zip(size, grid, strict=True))
    return rows[:, None] * grid[1] + columns


def open_patches(scene: Scene, model: maskfeat.FeaturePyramid) -> Patches:
    """Compute all that the methods need."""
    features = model.features(scene.rgb)
    maps = default_extractor(model)(scene.rgb, features)
    size = scene.classes.shape
    grid = round(size[0] / PATCH), round(size[1] / PATCH)
    reader = RegionReader(patch_numbers(size, grid), grid[0] * grid[1])
    color = LabEncoder(sigma=1).features(scene.rgb)
    graphs = {}
    for name, space in (("ours", features), ("color", color)):
        graph = superpixels(space, PER_MEGAPIXEL)
        tree = hierarchy(graph, merge_classifier="default" if name == "ours" else None).tree
        found = np.zeros((0, 0))
        if name == "ours":
            found = describe(maps, RegionReader(graph.labels, graph.num_superpixels))
        graphs[name] = PreparedImage(graph, cut_costs(graph), tree, found.astype(np.float16), size)
    half = describe(maps, reader).astype(np.float16)
    return Patches(scene, grid, half, graphs, features)


class View:
    """One image and one method.

    Args:
        patches: The image.
        settings: Of the method.
    """

    def __init__(self, patches: Patches, settings: dict[str, Any]) -> None:
        self.patches = patches
        self.settings = settings

    @property
    def descriptors(self) -> np.ndarray:
        """Of all places that get a probability."""
        return self.patches.descriptors

    def regions(self, clicks: Sequence[Click]) -> list[tuple[np.ndarray, int]]:
        """Pixels that each click covers, bool (H, W), and their class."""
        raise NotImplementedError

    def labels(self, chances: np.ndarray, clicks: Sequence[Click]) -> np.ndarray:
        """Class of each pixel, (H, W)."""
        raise NotImplementedError

    def locked(self, clicks: Sequence[Click]) -> np.ndarray | None:
        """Where another click can do nothing, bool (H, W)."""
        return None

    def examples(self, clicks: Sequence[Click]) -> Examples:
        """Patches that lie mostly in each region; see `examples.examples_of` for weights."""
        parts = []
        numbers = self.patches.patch_of_pixel.ravel()
        for mask, number in self.regions(clicks):
            covered = np.bincount(numbers, mask.ravel(), len(self.descriptors)) / PATCH**2
            # A region smaller than a patch is learned from the patch that holds most of it.
            best = np.flatnonzero(covered >= min(0.5, covered.max()))
            best = best[evenly(len(best), min(len(best), MOST_PER_REGION))]
            share = covered[best] / covered[best].sum() * np.sqrt(covered.sum())
            parts.append((self.descriptors[best], np.full(len(best), number), share))
        descriptors, classes, weights = (np.concatenate(part) for part in zip(*parts, strict=True))
        return Examples(descriptors, classes, weights)


class CutView(View):
    """A cut of superpixels along the borders of a feature space; a click covers a node of its tree.

    Beyond that node it counts as far as the tree believes it, see `with_clicks`.
    """

    space = "ours"

    @property
    def image(self) -> PreparedImage:
        """The superpixels."""
        return self.patches.graphs[self.space]

    @cached_property
    def _reader(self) -> RegionReader:
        return RegionReader(self.image.graph.labels, self.image.graph.num_superpixels)

    def regions(self, clicks: Sequence[Click]) -> list[tuple[np.ndarray, int]]:
        """As in `View`."""
        labeled = labeled_superpixels(self.image, clicks)
        found = []
        for superpixels_of_region, number in zip(
            labeled.regions, labeled.region_classes, strict=True
        ):
            inside = np.zeros(len(labeled.is_fixed), bool)
            inside[superpixels_of_region] = True
            found.append((inside[self.image.graph.labels], int(number)))
        return found

    def labels(self, chances: np.ndarray, clicks: Sequence[Click]) -> np.ndarray:
        """As in `View`."""
        labeled = labeled_superpixels(self.image, clicks)
        return class_cut(
            with_clicks(self._of_superpixels(chances), labeled),
            self.image.graph,
            self.image.costs,
            self.settings["pairwise_weight"],
            labeled.is_fixed,
            labeled.classes,
        ).labels[self.image.graph.labels]

    def _of_superpixels(self, chances: np.ndarray) -> np.ndarray:
        return self._reader.means(chances.reshape(*self.patches.grid, -1))


class ColorCutView(CutView):
    """The same on Lab color."""

    space = "color"


class LabelerView(CutView):
    """The same with descriptors of superpixels in place of patches."""

    @property
    def descriptors(self) -> np.ndarray:
        """As in `View`."""
        return self.image.descriptors

    def examples(self, clicks: Sequence[Click]) -> Examples:
        """As in `View`."""
        labeled = labeled_superpixels(self.image, clicks)
        return examples_of(self.image, labeled, MOST_PER_REGION)

    def _of_superpixels(self, chances: np.ndarray) -> np.ndarray:
        return chances


class UpsampledView(View):
    """Scores enlarged to pixels, the best class of each; a click covers a square around it."""

    def regions(self, clicks: Sequence[Click]) -> list[tuple[np.ndarray, int]]:
        """As in `View`."""
        found, reach = [], self.settings["window"] // 2
        for click in clicks:
            mask = np.zeros(self.patches.scene.classes.shape, bool)
            top, left = max(0, click.row - reach), max(0, click.column - reach)
            mask[top : click.row + reach, left : click.column + reach] = True
            found.append((mask, click.class_number))
        return found

    def labels(self, chances: np.ndarray, clicks: Sequence[Click]) -> np.ndarray:
        """As in `View`."""
        labels = self.patches.upsampled(chances).argmax(axis=0)
        for mask, number in self.regions(clicks):
            labels[mask] = number
        return labels


class SegmentView(View):
    """Segments made beforehand: each takes the class of most score; a click covers its segment."""

    @cached_property
    def segments(self) -> np.ndarray:
        """Segment of each pixel, (H, W)."""
        return maskfeat.partition(
            self.patches.features, self.settings["num_segments"], method="k-means"
        )

    @cached_property
    def _reader(self) -> RegionReader:
        return RegionReader(self.segments, int(self.segments.max()) + 1)

    def regions(self, clicks: Sequence[Click]) -> list[tuple[np.ndarray, int]]:
        """As in `View`."""
        last = {int(self.segments[c.row, c.column]): c.class_number for c in clicks}
        return [(self.segments == segment, number) for segment, number in last.items()]

    def labels(self, chances: np.ndarray, clicks: Sequence[Click]) -> np.ndarray:
        """As in `View`."""
        means = self._reader.means(chances.reshape(*self.patches.grid, -1))
        of_segment = means.argmax(axis=1)
        for click in clicks:
            of_segment[self.segments[click.row, click.column]] = click.class_number
        return of_segment[self.segments]

    def locked(self, clicks: Sequence[Click]) -> np.ndarray | None:
        """As in `View`."""
        clicked = [self.segments[click.row, click.column] for click in clicks]
        return np.isin(self.segments, clicked)


class CutOfSegmentsView(SegmentView):
    """The cut of our superpixels, but a click covers a segment made beforehand, as in `partition`.

    Beyond its segment a click counts for nothing.
    It tells the two parts of the cut's result apart: how labels go on, and what a click covers.
    """

    @cached_property
    def _superpixel_reader(self) -> RegionReader:
        graph = self.patches.graphs["ours"].graph
        return RegionReader(graph.labels, graph.num_superpixels)

    def labels(self, chances: np.ndarray, clicks: Sequence[Click]) -> np.ndarray:
        """As in `View`."""
        image = self.patches.graphs["ours"]
        is_fixed, fixed_at = (
            np.zeros(image.graph.num_superpixels, bool),
            np.zeros(image.graph.num_superpixels, int),
        )
        regions = self.regions(clicks)
        for mask, number in regions:
            inside = np.bincount(image.graph.labels.ravel(), mask.ravel(), len(is_fixed))
            is_mostly = inside > image.graph.sizes / 2
            is_fixed[is_mostly], fixed_at[is_mostly] = True, number
        means = self._superpixel_reader.means(chances.reshape(*self.patches.grid, -1))
        pairwise_weight = self.settings["pairwise_weight"]
        cut = class_cut(means, image.graph, image.costs, pairwise_weight, is_fixed, fixed_at)
        labels = cut.labels[image.graph.labels]
        for mask, number in regions:
            labels[mask] = number
        return labels


class FelzenszwalbView(SegmentView):
    """The same with the segments of Felzenszwalb and Huttenlocher."""

    @cached_property
    def segments(self) -> np.ndarray:
        """As in `View`."""
        rgb, scale = self.patches.scene.rgb, self.settings["scale"]
        return felzenszwalb(rgb, scale=scale, sigma=0.8, min_size=50)


METHODS: dict[str, type[View]] = {
    "cut": CutView,
    "upsampled": UpsampledView,
    "partition": SegmentView,
    "felzenszwalb": FelzenszwalbView,
    "color_cut": ColorCutView,
    "labeler": LabelerView,
    "cut_of_segments": CutOfSegmentsView,
}
