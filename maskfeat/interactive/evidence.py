"""Distances from clicks to superpixels: the inputs of the networks."""

from __future__ import annotations

from collections import OrderedDict

import higra as hg
import numpy as np
import numpy.typing as npt

from maskfeat.arrays import BoolArray, FloatArray, IntArray
from maskfeat.segment.agglomeration import ward_tree
from maskfeat.segment.superpixels import RegionGraph
from maskfeat.segment.tree import PartitionTree, SalientPath, salient_path

# Distances from a click to a superpixel, and their upper bound, which also stands for no click.
# Logits are those of "not one segment". Distances in the image are divided by the root of its
# area. Features are in units in which p = 2 / (1 + exp(d^2)).
_CLICK_DISTANCES = {
    "logit at the merge": 9.5,
    "log share of the merge": 0.5,
    "log growth of variance at Ward's merge": 4.0,
    "feature distance": 5.0,
    "distance in the image": 1.5,
    "log contrast on the smoothest path": 4.0,
    "color distance": 2.0,
    "features and 4 x image": 11.0,
    "features and 16 x image": 25.0,
    "logits and 10 x image": 24.5,
    "logits and 40 x image": 69.5,
    "color and 2 x image": 4.0,
}
_FAR = np.array(list(_CLICK_DISTANCES.values()), np.float32)[:, None]
# Distances whose ratios are features.
COMPARED = (
    "feature distance",
    "distance in the image",
    "features and 4 x image",
    "features and 16 x image",
)
_COMPARED_ROWS = [list(_CLICK_DISTANCES).index(name) for name in COMPARED]
_LEAST = 0.02

CLICK_DISTANCES = tuple(_CLICK_DISTANCES)
# Features of a superpixel for a set of clicks.
SUPERPIXEL_FEATURES = (
    *(f"object: {name}" for name in CLICK_DISTANCES),
    *(f"background: {name}" for name in CLICK_DISTANCES),
    *(f"object against background: {name}" for name in COMPARED),
    "under a salient node",
    "distance to the rim of the image",
)
# Features of a click: its distances to the nearest other clicks.
CONTEXT_FEATURES = (
    *(f"same kind: {name}" for name in CLICK_DISTANCES),
    *(f"other kind: {name}" for name in CLICK_DISTANCES),
    *(f"same against other kind: {name}" for name in COMPARED),
)

_KEPT_ROWS = 256  # clicked superpixels whose distances are kept, 100 MB for 8,000 superpixels
_KEPT_PAIRS = 1024  # clicked superpixels whose mutual distances are kept, 50 MB


class ClickEvidence:
    """Distances and features of the superpixels of one image, for sets of clicked superpixels.

    All are functions of the sets of clicks, bit for bit.

    Args:
        graph: The superpixels.
        tree: Their hierarchy, with calibrated altitudes.
        colors: Mean color of each superpixel, Lab / 100, shape (K, 3), or None to use no color.
    """

    def __init__(
        self,
        graph: RegionGraph,
        tree: PartitionTree,
        colors: npt.NDArray[np.floating] | None = None,
    ) -> None:
        self.graph = graph
        self.tree = tree
        self._features = _columns(graph.features * np.float32(np.sqrt(graph.scale)))
        self._places = _columns(graph.centroids_yx / np.float32(np.sqrt(graph.labels.size)))
        self._colors = None if colors is None else _columns(colors)
        self._ward = ward_tree(graph.features, graph.sizes, graph.edges)
        self._path_tree = _path_tree(graph)
        # Values of tree nodes: a click and a superpixel have that of the node where they meet.
        altitudes = tree.altitudes
        self._node_logits = _log((altitudes + 1e-4) / (1 - altitudes + 1e-4))
        self._node_shares = _log(tree.sizes / tree.sizes[-1])
        scale, num_pixels = graph.scale, graph.labels.size
        self._ward_growths = _log(self._ward.altitudes * (scale / num_pixels) + 1e-6)
        self._path_contrasts = _log(self._path_tree.altitudes * scale + 1e-3)
        # The ratios of p / (1 - p) tell altitudes close to 1 apart.
        p = np.minimum(altitudes, 1 - 1e-6)
        self._ratio_tree = PartitionTree(tree.parents, p / (1 - p), tree.sizes)
        height, width = graph.labels.shape
        rows, columns = graph.centroids_yx.T
        rim = np.minimum.reduce([rows, columns, height - 1 - rows, width - 1 - columns])
        self._rim_distances: FloatArray = (rim / np.sqrt(num_pixels)).astype(np.float32)
        self._rows: OrderedDict[int, FloatArray] = OrderedDict()
        self._last: dict[bool, tuple[frozenset[int], FloatArray]] = {}
        self._salient_paths: dict[int, SalientPath] = {}
        # Row of each superpixel that was ever clicked in the distances between them.
        self._places_of_clicks: dict[int, int] = {}
        self._between = np.empty((0, 0, len(CLICK_DISTANCES)), np.float32)

    def click_features(
        self, object_superpixels: IntArray, background_superpixels: IntArray
    ) -> FloatArray:
        """Features of all superpixels.

        Args:
            object_superpixels: Superpixels clicked as object, (N,).
            background_superpixels: Superpixels clicked as background, (M,).

        Returns:
            float32, shape (F, K), in the order of `SUPERPIXEL_FEATURES`.
        """
        salient = self.salient(object_superpixels, background_superpixels)
        inside = self._nearest(True, object_superpixels)
        outside = self._nearest(False, background_superpixels)
        return _as_click_features(inside, outside, salient, self._rim_distances)

    def click_features_at(
        self,
        superpixels: IntArray,
        object_superpixels: IntArray,
        background_superpixels: IntArray,
        object_distances: FloatArray,
        background_distances: FloatArray,
    ) -> FloatArray:
        """As `click_features`, for some superpixels.

        Args:
            superpixels: Which, (A,).
            object_superpixels: Superpixels clicked as object, (N,).
            background_superpixels: Superpixels clicked as background, (M,).
            object_distances: See `distances_at`, (W, N, A).
            background_distances: Likewise, (W, M, A).

        Returns:
            float32, shape (F, A).
        """
        inside, outside = (
            np.minimum(distances.min(axis=1, initial=np.inf), _FAR)
            for distances in (object_distances, background_distances)
        )
        salient = self.salient(object_superpixels, background_superpixels)[superpixels]
        return _as_click_features(inside, outside, salient, self._rim_distances[superpixels])

    def distances_at(self, clicked: IntArray, superpixels: IntArray) -> FloatArray:
        """Distances from clicked superpixels to some others, float32, (W, N, A)."""
        distances = np.empty((len(CLICK_DISTANCES), len(clicked), len(superpixels)), np.float32)
        for place, superpixel in enumerate(clicked):
            distances[:, place] = self.distances(int(superpixel))[:, superpixels]
        return distances

    def contexts(self, clicked: IntArray, others: IntArray) -> FloatArray:
        """Distances of clicks of one kind to the nearest other clicks.

        Args:
            clicked: Superpixels of the clicks, each once, (N,).
            others: Superpixels of the clicks of the other kind, each once, (M,).

        Returns:
            float32, shape (N, C), in the order of `CONTEXT_FEATURES`.
        """
        to_same, to_other = self._pairs(clicked, clicked), self._pairs(clicked, others)
        to_same[np.eye(len(clicked), dtype=bool)] = np.inf
        same, other = (
            np.minimum(distances.min(axis=1, initial=np.inf), _FAR[:, 0])
            for distances in (to_same, to_other)
        )
        return np.concatenate([same, other, _compared(same.T, other.T).T], axis=1)

    def salient(self, object_superpixels: IntArray, background_superpixels: IntArray) -> BoolArray:
        """Superpixels under the most salient ancestors of object clicks, (K,)."""
        is_excluded = np.zeros(len(self.tree.parents), bool)
        for superpixel in background_superpixels:
            is_excluded[self.tree.ancestors(int(superpixel))] = True
        nodes = []
        for superpixel in object_superpixels.tolist():
            if superpixel not in self._salient_paths:
                self._salient_paths[superpixel] = salient_path(self._ratio_tree, superpixel)
            nodes.append(self._salient_paths[superpixel].best(is_excluded))
        return self.tree.leaves_under(np.array(nodes, np.int64))

    def _nearest(self, is_object: bool, superpixels: IntArray) -> FloatArray:
        """The smallest distances to some clicks, (W, K)."""
        wanted = frozenset(superpixels.tolist())
        known, least = self._last.get(is_object, (frozenset[int](), None))
        if least is None or not known <= wanted:
            known, least = frozenset(), np.repeat(_FAR, self.graph.num_superpixels, axis=1)
        for superpixel in wanted - known:
            least = np.minimum(least, self.distances(superpixel))
        self._last[is_object] = wanted, least
        return least

    def _pairs(self, one: IntArray, other: IntArray) -> FloatArray:
        """Distances between clicked superpixels, (N, M, W); each pair is computed once."""
        wanted = {*one.tolist(), *other.tolist()}
        if len(wanted | self._places_of_clicks.keys()) > _KEPT_PAIRS:
            self._places_of_clicks = {}
            self._between = np.empty((0, 0, len(CLICK_DISTANCES)), np.float32)
        for superpixel in wanted - self._places_of_clicks.keys():
            place = self._places_of_clicks[superpixel] = len(self._places_of_clicks)
            if place >= len(self._between):
                grown = np.empty((2 * place + 16,) * 2 + (len(CLICK_DISTANCES),), np.float32)
                grown[:place, :place] = self._between[:place, :place]
                self._between = grown
            known = np.fromiter(self._places_of_clicks, np.int64)
            distances = self.distances(superpixel)[:, known].T
            self._between[place, : place + 1] = self._between[: place + 1, place] = distances
        places = [
            [self._places_of_clicks[int(superpixel)] for superpixel in superpixels]
            for superpixels in (one, other)
        ]
        return self._between[np.ix_(*(np.array(p, np.int64) for p in places))]

    def distances(self, superpixel: int) -> FloatArray:
        """Distances from one superpixel to all, `CLICK_DISTANCES`, float32, (W, K)."""
        if superpixel in self._rows:
            self._rows.move_to_end(superpixel)
            return self._rows[superpixel]
        met, met_ward = self.tree.meeting_nodes(superpixel), self._ward.meeting_nodes(superpixel)
        logits = self._node_logits[met]
        place = _distances(self._places, superpixel)
        feature = _distances(self._features, superpixel)
        color = (
            np.zeros_like(place) if self._colors is None else _distances(self._colors, superpixel)
        )
        row = np.stack(
            [
                logits,
                self._node_shares[met],
                self._ward_growths[met_ward],
                feature,
                place,
                self._path_contrasts[self._path_tree.meeting_nodes(superpixel)],
                color,
                feature + 4 * place,
                feature + 16 * place,
                logits + 10 * place,
                logits + 40 * place,
                color + 2 * place,
            ]
        )
        self._rows[superpixel] = np.minimum(row, _FAR, dtype=np.float32)
        if len(self._rows) > _KEPT_ROWS:
            self._rows.popitem(last=False)
        return self._rows[superpixel]


def _as_click_features(
    inside: FloatArray, outside: FloatArray, salient: BoolArray, rim: FloatArray
) -> FloatArray:
    """In the order of `SUPERPIXEL_FEATURES`, (F, K)."""
    ratios = _compared(inside, outside)
    flags = salient[None].astype(np.float32)
    return np.concatenate([inside, outside, ratios, flags, rim[None]])


def _compared(one: FloatArray, other: FloatArray) -> FloatArray:
    """Logarithms of ratios of distances, (W, ...) -> (4, ...)."""
    ratios: FloatArray = np.log((one[_COMPARED_ROWS] + _LEAST) / (other[_COMPARED_ROWS] + _LEAST))
    return ratios


def _path_tree(graph: RegionGraph) -> PartitionTree:
    """A tree whose merges are in the order of boundary strength (smoothest paths)."""
    edges, count = graph.edges, graph.num_superpixels
    parents, contrasts = np.zeros(1, np.int64), np.zeros(2 * count - 1)
    if count > 1:
        order = np.argsort(graph.boundary_strengths, kind="stable")
        tree, _ = hg.bpt_canonical((edges[:, 0], edges[:, 1], count), sorted_edge_indices=order)
        parents = np.asarray(tree.parents(), np.int64)
        contrasts[count:] = graph.boundary_strengths[tree.mst_edge_map]
    return PartitionTree.of_merges(parents, contrasts, graph.sizes)


def _log(values: npt.NDArray[np.floating]) -> FloatArray:
    logs: FloatArray = np.log(values).astype(np.float32)
    return logs


def _columns(values: npt.NDArray[np.floating]) -> FloatArray:
    """(K, C) -> (C, K), contiguous."""
    return np.ascontiguousarray(values.T, np.float32)


def _distances(values: FloatArray, superpixel: int) -> FloatArray:
    """Euclidean distance of one superpixel's values to those of all, (C, K) -> (K,)."""
    steps = values - values[:, superpixel : superpixel + 1]
    steps *= steps
    distances: FloatArray = np.sqrt(steps.sum(axis=0))
    return distances
