"""All that labeling needs of an image, computed once and kept in one small file."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

from maskfeat.array_file import read_arrays
from maskfeat.arrays import Float64Array
from maskfeat.features.reading import Features
from maskfeat.files import whole_file
from maskfeat.labeling.descriptors import FeatureExtractor, describe
from maskfeat.segment.hierarchy import hierarchy
from maskfeat.segment.inputs import RegionReader
from maskfeat.segment.score_cut import cut_costs
from maskfeat.segment.superpixels import RegionGraph, superpixels
from maskfeat.segment.tree import PartitionTree

_VERSION = 1
_NAMES = (
    "version",
    "labels",
    "centroids_yx",
    "edges",
    "border_lengths",
    "boundary_strengths",
    "scale",
    "costs",
    "parents",
    "altitudes",
    "descriptors",
    "size",
)


@dataclass(frozen=True)
class PreparedImage:
    """The superpixels of one image, described; its features are not needed any more.

    Attributes:
        graph: The superpixels, without their features (K, 0); all arrays as in `RegionGraph`.
        costs: What parting adjacent superpixels costs, see `cut_costs`, float64, shape (E,).
        tree: The merges of the superpixels, see `Hierarchy`.
        descriptors: What is known of each superpixel, float16, shape (K, D).
        size: Height and width of the image itself, pixels; the superpixels may be of a reduced
            one.
    """

    graph: RegionGraph
    costs: Float64Array
    tree: PartitionTree
    descriptors: npt.NDArray[np.float16]
    size: tuple[int, int]

    @cached_property
    def superpixel_pixels(self) -> Float64Array:
        """Pixels of each superpixel, float64, (K,)."""
        return self.graph.sizes.astype(np.float64)


def prepare(
    rgb: npt.NDArray[np.uint8],
    features: Features,
    extractor: FeatureExtractor,
    size: tuple[int, int],
    per_megapixel: int,
) -> PreparedImage:
    """Cut an image, uint8 (h, w, 3), into superpixels of its features and describe them.

    The size is that of the image that rgb may be a reduced copy of.
    """
    graph = superpixels(features, per_megapixel)
    tree = hierarchy(graph).tree
    reader = RegionReader(graph.labels, graph.num_superpixels)
    descriptors = describe(extractor(rgb, features), reader)
    limit = float(np.finfo(np.float16).max)
    half = descriptors.clip(-limit, limit).astype(np.float16)
    costs, none = cut_costs(graph), np.zeros((graph.num_superpixels, 0), np.float32)
    return PreparedImage(replace(graph, features=none), costs, tree, half, size)


def save_prepared(image: PreparedImage, path: Path) -> None:
    """Write a file, 4 MB for 640 x 480 pixels, whole or not at all."""
    graph, tree = image.graph, image.tree
    small = np.uint16 if graph.num_superpixels <= 2**16 else np.int32
    with whole_file(path) as file:
        # Not compressed: descriptors hardly shrink, and to unpack them takes longer than to read.
        np.savez(
            file,
            allow_pickle=False,
            version=_VERSION,
            labels=graph.labels.astype(small),
            centroids_yx=graph.centroids_yx.astype(np.float16),
            edges=graph.edges.astype(small),
            border_lengths=graph.border_lengths.astype(np.float32),
            boundary_strengths=graph.boundary_strengths.astype(np.float16),
            scale=graph.scale,
            costs=image.costs.astype(np.float32),
            parents=tree.parents.astype(np.int32),
            altitudes=tree.altitudes.astype(np.float32),
            descriptors=image.descriptors,
            size=np.array(image.size),
        )


def load_prepared(path: Path) -> PreparedImage | None:
    """Read what `save_prepared` wrote; None if it is not there, damaged or of another version."""
    arrays = read_arrays(path, _NAMES)
    if arrays is None or int(arrays["version"]) != _VERSION:
        return None  # it is computed again
    labels = arrays["labels"].astype(np.int32)
    sizes = np.bincount(labels.ravel()).astype(np.float32)
    graph = RegionGraph(
        labels=labels,
        features=np.zeros((len(sizes), 0), np.float32),
        sizes=sizes,
        centroids_yx=arrays["centroids_yx"].astype(np.float32),
        edges=arrays["edges"].astype(np.int32),
        border_lengths=arrays["border_lengths"],
        boundary_strengths=arrays["boundary_strengths"].astype(np.float32),
        scale=float(arrays["scale"]),
    )
    parents, altitudes = arrays["parents"].astype(np.int64), arrays["altitudes"].astype(np.float64)
    bare = PartitionTree(parents, altitudes, np.zeros(len(parents)))
    tree = PartitionTree(parents, altitudes, bare.sums(sizes))
    height, width = arrays["size"].tolist()
    costs, descriptors = arrays["costs"].astype(np.float64), arrays["descriptors"]
    return PreparedImage(graph, costs, tree, descriptors, (height, width))
