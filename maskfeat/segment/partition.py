"""Partitions into a number of connected segments, by a tree or by k-means."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
from scipy import sparse
from scipy.sparse import csgraph
from sklearn.base import BaseEstimator, ClusterMixin
from sklearn.cluster import KMeans

from maskfeat.arguments import checked_choice, checked_number
from maskfeat.arrays import FloatArray, IntArray
from maskfeat.segment.hierarchy import hierarchy, superpixel_tree
from maskfeat.segment.inputs import (
    FeatureSource,
    as_features,
    checked_num_segments,
    checked_per_megapixel,
)
from maskfeat.segment.superpixels import RegionGraph, superpixels
from maskfeat.segment.tree import Borders, in_reading_order, merge_nearest, simple_edges, ward_tree

Method = Literal["tree", "k-means"]

# Size power of the tree that is cut to a number of segments. That of `maskfeat.hierarchy` gives few
# large segments and many crumbs (chosen on half of BSDS500 val, experiments/hierarchy).
EVEN_POWER = 0.3
# Minimum number of superpixels for each segment.
_SUPERPIXELS_PER_SEGMENT = 4


def partition(
    features: FeatureSource,
    num_segments: int | None = None,
    *,
    granularity: float | None = None,
    method: Method = "tree",
    position_weight: float = 0.001,
    per_megapixel: float = 26_000,
) -> IntArray:
    """Cut an image into connected segments of similar features.

    A number of segments is reached by a tree that weighs sizes, so that segments are of similar
    size, or by k-means. A granularity cuts the tree of `maskfeat.hierarchy`, whose segments are as
    large as objects are.

    Args:
        features: Of the image: `Features`; or any per-pixel numbers, float, shape (H, W, C);
            or the image itself, RGB, uint8, shape (H, W, 3), a PIL image or the path of an image,
            for its Lab color.
        num_segments: Number of segments, at least 1.
        granularity: In place of a number, in (0, 1): regions stay together if the probability that
            they are one segment is at least this, see `Hierarchy.cut`.
        method: For a number of segments: "tree" is `superpixel_tree` with a size power of 0.3;
            "k-means" is `partition_superpixels`. The tree is more accurate, and its partitions are
            nested (experiments/partition).
        position_weight: For k-means, see `partition_superpixels`.
        per_megapixel: Superpixels for a million pixels, see `superpixels`; raised to four for each
            segment.

    Returns:
        Segment of each pixel, int64, shape (H, W), numbered from 0 in reading order of their
        first pixels, each 4-connected. Exactly `num_segments` of them, if that was given; one
        for each pixel if there are fewer pixels.

    Raises:
        ValueError: If not exactly one of `num_segments` and `granularity` is given, one is out of
            range, there is no such method, `position_weight` is negative, or the array has another
            shape or type or is not finite.
    """
    if granularity is not None or num_segments is None:
        tree = hierarchy(features, per_megapixel=per_megapixel)
        return tree.cut(num_segments, granularity=granularity)
    num_segments, position_weight = _checked_settings(num_segments, position_weight)
    per_megapixel = checked_per_megapixel(per_megapixel)
    checked_choice("method", method, ("tree", "k-means"))
    features = as_features(features)
    num_pixels = features.size[0] * features.size[1]
    num_segments = min(num_segments, num_pixels)
    needed = math.ceil(_SUPERPIXELS_PER_SEGMENT * num_segments / num_pixels * 1e6)
    graph = superpixels(features, min(max(per_megapixel, needed), 1e6))
    if method == "tree":
        segments = superpixel_tree(graph, size_power=EVEN_POWER).groups(num_segments)
        return in_reading_order(segments[graph.labels])
    segments = partition_superpixels(graph, num_segments, position_weight=position_weight)
    return segments[graph.labels]


class Partition(ClusterMixin, BaseEstimator):  # type: ignore[misc]
    """`partition` as an estimator of scikit-learn.

        labels = Partition(num_segments=50).fit_predict(features)

    Args:
        num_segments: See `partition`, as all that follow.
        granularity: In place of a number.
        method: "tree" or "k-means".
        position_weight: Weight of the position in k-means.
        per_megapixel: Superpixels for a million pixels.

    Attributes:
        labels_: After `fit`, the segment of each pixel, int64, shape (H, W).
        n_segments_: After `fit`, the number of segments.
    """

    def __init__(
        self,
        num_segments: int | None = None,
        granularity: float | None = None,
        method: Method = "tree",
        position_weight: float = 0.001,
        per_megapixel: float = 26_000,
    ) -> None:
        self.num_segments = num_segments
        self.granularity = granularity
        self.method = method
        self.position_weight = position_weight
        self.per_megapixel = per_megapixel

    def fit(self, features: FeatureSource, y: None = None) -> Partition:
        """Cut one image; see `partition` for inputs and errors."""
        self.labels_ = partition(features, **self.get_params())
        self.n_segments_ = int(self.labels_.max()) + 1
        return self


def partition_superpixels(
    graph: RegionGraph,
    num_segments: int,
    *,
    position_weight: float = 0.001,
    border_weight: float = 0.45,
    size_power: float = 0.15,
) -> IntArray:
    """Group superpixels into connected segments by k-means.

    k-means clusters mean features and position; a superpixel weighs as many pixels as it has. The
    connected components of the clusters are then merged, nearest first (`merge_nearest`), until
    `num_segments` are left. Border weight and size power trade accuracy against covering (on 25
    images of BSDS500 val, 25 segments: 0.910 and 0.43 with the defaults, 0.891 and 0.53 with a
    `size_power` of 0.08).

    Args:
        graph: Superpixels of one image.
        num_segments: Number of segments, at least 1.
        position_weight: Not negative. At 1, position (row and column together) varies as much over
            a square of the area of one segment, H * W / num_segments, as all features together
            vary over the image. The default only separates similar things that lie far apart: on
            25 images of BSDS500 train and Lab it costs no covering at 10 segments and gains 0.015
            of achievable segmentation accuracy over 0; 0.1 makes compact superpixels and loses 0.1
            of covering.
        border_weight: Of the merges, see `merge_nearest`.
        size_power: Of the merges, likewise.

    Returns:
        Segment of each superpixel, int64, shape (K,), numbered from 0 in order of their first
        superpixels; one for each superpixel if there are fewer superpixels than segments.

    Raises:
        ValueError: If `num_segments` is less than 1 or `position_weight` is negative.
    """
    num_segments, position_weight = _checked_settings(num_segments, position_weight)
    num_segments = min(num_segments, graph.num_superpixels)
    points = _points(graph, num_segments, position_weight)
    parts = _connected_clusters(graph, points, num_segments)
    sizes = np.bincount(parts, graph.sizes).astype(np.float64)
    means = np.stack(
        [np.bincount(parts, column * graph.sizes) / sizes for column in points.T], axis=1
    )
    lengths = graph.border_lengths.astype(np.float64)
    sums = (graph.border_lengths * graph.boundary_strengths).astype(np.float64)
    edges, (lengths, sums) = simple_edges(parts[graph.edges], len(sizes), lengths, sums)
    borders = Borders(lengths, sums / np.maximum(lengths, 1))
    tree = merge_nearest(means, sizes, edges, size_power, borders, border_weight)
    return tree.groups(num_segments)[parts]


def _points(graph: RegionGraph, num_segments: int, position_weight: float) -> FloatArray:
    """Features and weighted position of each superpixel, float32, shape (K, C + 2)."""
    share = graph.sizes / graph.sizes.sum()
    mean = share @ graph.features
    variance = float((share @ (graph.features - mean) ** 2).sum())
    # A square of side a has a variance of a^2 / 12 along each axis.
    variance_of_segment = float(graph.sizes.sum()) / num_segments / 6
    # If all features are equal, position alone decides.
    weight = position_weight * variance / variance_of_segment if variance > 0 else 1.0
    position = graph.centroids_yx * np.float32(math.sqrt(weight))
    return np.concatenate([graph.features, position], axis=1).astype(np.float32)


def _connected_clusters(graph: RegionGraph, points: FloatArray, num_segments: int) -> IntArray:
    """At least `num_segments` connected parts, each within one cluster of k-means, (K,)."""
    tree = ward_tree(points, graph.sizes, graph.edges)
    num_clusters = num_segments
    while True:
        if num_clusters >= graph.num_superpixels:
            return np.arange(graph.num_superpixels)
        # Ward's groups are deterministic starts near the optimum; scikit-learn's "k-means++" takes
        # three times as long.
        groups = tree.groups(num_clusters)
        weights = np.bincount(groups, graph.sizes)
        sums = [np.bincount(groups, column * graph.sizes) for column in points.T]
        starts = np.stack(sums, axis=1) / weights[:, None]
        kmeans = KMeans(num_clusters, init=starts, n_init=1, max_iter=20)
        # Equal superpixels leave clusters empty; sklearn warns, here there are just fewer.
        clusters = kmeans.fit(points, sample_weight=graph.sizes).labels_
        same = graph.edges[clusters[graph.edges[:, 0]] == clusters[graph.edges[:, 1]]]
        links = sparse.coo_matrix(
            (np.ones(len(same), np.int8), (same[:, 0], same[:, 1])), (len(clusters),) * 2
        )
        num_parts, parts = csgraph.connected_components(links, directed=False)
        if num_parts >= num_segments:
            return np.asarray(parts, np.int64)
        num_clusters *= 2


def _checked_settings(num_segments: int, position_weight: float) -> tuple[int, float]:
    # At a weight of 1e6 features no longer matter.
    return checked_num_segments(num_segments), checked_number(
        "position_weight", position_weight, least=0, most=1e6
    )
