"""What clicks say of every superpixel: how near it is to them, in many distances of being near."""

from __future__ import annotations

from collections import OrderedDict
from functools import cached_property

import higra as hg
import numpy as np
import numpy.typing as npt

from maskfeat.segment.agglomeration import ward_tree
from maskfeat.segment.superpixels import RegionGraph
from maskfeat.segment.tree import BoolArray, IntArray, PartitionTree, SalientPath, salient_path

FloatArray = npt.NDArray[np.float32]

# How near a superpixel is to a click, and what stands where there is no click (and as a bound).
# "Odds" are those against being one segment; distances in the image are shares of
# the root of its area; features count in units in which p = 2 / (1 + exp(d^2)).
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
# Distances of which it counts by how many times one is the other.
COMPARED = (
    "feature distance",
    "distance in the image",
    "features and 4 x image",
    "features and 16 x image",
)
_COMPARED_ROWS = [list(_CLICK_DISTANCES).index(name) for name in COMPARED]
_LEAST = 0.02

CLICK_DISTANCES = tuple(_CLICK_DISTANCES)
# What is known of a superpixel beside the single clicks.
SUPERPIXEL_FEATURES = (
    *(f"object: {name}" for name in CLICK_DISTANCES),
    *(f"background: {name}" for name in CLICK_DISTANCES),
    *(f"object against background: {name}" for name in COMPARED),
    "under a salient node",
    "distance to the rim of the image",
)
# What is known of a click: how near the nearest others are.
CONTEXT_FEATURES = (
    *(f"same kind: {name}" for name in CLICK_DISTANCES),
    *(f"other kind: {name}" for name in CLICK_DISTANCES),
    *(f"same against other kind: {name}" for name in COMPARED),
)

# Rows of features that are kept: some 100 MB for 8,000 superpixels.
_KEPT_ROWS = 256
# Superpixels of which it is kept how near they are to one another: 50 MB.
_KEPT_PAIRS = 1024


class ClickEvidence:
    """Measures of the superpixels of one image for sets of clicked superpixels.

    All depends on the sets of clicks alone, bit for bit.

    Args:
        graph: The superpixels.
        tree: Their hierarchy, with altitudes of 1 - p ("one segment"), see
            `merge_classifier.calibrated`.
        colors: Mean color of each superpixel, Lab / 100, shape (K, 3), or None: then color says
            nothing.
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
        self._rows: OrderedDict[int, FloatArray] = OrderedDict()
        self._last: dict[bool, tuple[frozenset[int], FloatArray]] = {}
        self._salient_paths: dict[int, SalientPath] = {}
        # Superpixels that were ever clicked, in turn, and how near they are to one another.
        self._places_of_clicks: dict[int, int] = {}
        self._between = np.empty((0, 0, len(CLICK_DISTANCES)), np.float32)

    def click_features(
        self, object_superpixels: IntArray, background_superpixels: IntArray
    ) -> FloatArray:
        """The inputs of the network of superpixels.

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
        """The same numbers as `features`, for some superpixels alone.

        Args:
            superpixels: Which, (A,).
            object_superpixels: Superpixels clicked as object, (N,).
            background_superpixels: Superpixels clicked as background, (M,).
            object_distances: See `ways_at`, (W, N, A).
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
        """How near some superpixels are to each of some others, float32, (W, N, A)."""
        distances = np.empty((len(CLICK_DISTANCES), len(clicked), len(superpixels)), np.float32)
        for place, superpixel in enumerate(clicked):
            distances[:, place] = self.distances(int(superpixel))[:, superpixels]
        return distances

    def contexts(self, clicked: IntArray, others: IntArray) -> FloatArray:
        """How near the nearest other clicks are to each click of one kind.

        Args:
            clicked: Superpixels clicked in one way, each once, (N,).
            others: Superpixels clicked in the other way, each once, (M,).

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
        """The superpixels under those ancestors of object clicks that stand out most, (K,)."""
        is_excluded = np.zeros(len(self.tree.parents), bool)
        for superpixel in background_superpixels:
            is_excluded[self.tree.ancestors(int(superpixel))] = True
        nodes = [
            self._salient_path(int(superpixel)).best(is_excluded)
            for superpixel in object_superpixels
        ]
        return self.tree.leaves_under(np.array(nodes, np.int64))

    def _salient_path(self, superpixel: int) -> SalientPath:
        if superpixel not in self._salient_paths:
            self._salient_paths[superpixel] = salient_path(self._ratio_tree, superpixel)
        return self._salient_paths[superpixel]

    def _nearest(self, is_object: bool, superpixels: IntArray) -> FloatArray:
        """The least of each feature over some clicks, (distances, K)."""
        wanted = frozenset(superpixels.tolist())
        known, least = self._last.get(is_object, (frozenset[int](), None))
        if least is None or not known <= wanted:
            known, least = frozenset(), np.repeat(_FAR, self.graph.num_superpixels, axis=1)
        for superpixel in wanted - known:
            least = np.minimum(least, self.distances(superpixel))
        self._last[is_object] = wanted, least
        return least

    def _pairs(self, one: IntArray, other: IntArray) -> FloatArray:
        """How near clicked superpixels are to one another, (N, M, W); each pair is found once."""
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

    @cached_property
    def _path_contrasts(self) -> FloatArray:
        contrasts = self._path_tree.altitudes * self.graph.scale
        return np.log(contrasts + 1e-3).astype(np.float32)

    @cached_property
    def _node_logits(self) -> FloatArray:
        altitudes = self.tree.altitudes
        return np.log((altitudes + 1e-4) / (1 - altitudes + 1e-4)).astype(np.float32)

    @cached_property
    def _ratio_tree(self) -> PartitionTree:
        """Altitudes whose ratios mean something close to 1, too."""
        altitudes = np.minimum(self.tree.altitudes, 1 - 1e-6)
        return PartitionTree(self.tree.parents, altitudes / (1 - altitudes), self.tree.sizes)

    @cached_property
    def _node_shares(self) -> FloatArray:
        shares: FloatArray = np.log(self.tree.sizes / self.tree.sizes[-1]).astype(np.float32)
        return shares

    @cached_property
    def _ward_growths(self) -> FloatArray:
        growths = self._ward.altitudes * (self.graph.scale / self.graph.labels.size)
        return np.log(growths + 1e-6).astype(np.float32)

    @cached_property
    def _rim_distances(self) -> FloatArray:
        height, width = self.graph.labels.shape
        rows, columns = self.graph.centroids_yx.T
        rim = np.minimum.reduce([rows, columns, height - 1 - rows, width - 1 - columns])
        shares: FloatArray = (rim / np.sqrt(height * width)).astype(np.float32)
        return shares


def _as_click_features(
    inside: FloatArray, outside: FloatArray, salient: BoolArray, rim: FloatArray
) -> FloatArray:
    """In the order of `SUPERPIXEL_FEATURES`, (F, K)."""
    ratios = _compared(inside, outside)
    flags = salient[None].astype(np.float32)
    return np.concatenate([inside, outside, ratios, flags, rim[None]])


def _compared(one: FloatArray, other: FloatArray) -> FloatArray:
    """By how many times one distance is the other, as a logarithm, (distances, ...) -> (4, ...)."""
    ratios: FloatArray = np.log((one[_COMPARED_ROWS] + _LEAST) / (other[_COMPARED_ROWS] + _LEAST))
    return ratios


def _path_tree(graph: RegionGraph) -> PartitionTree:
    """Merges in the order of contrast along borders: on the smoothest path none is larger."""
    edges, count = graph.edges, graph.num_superpixels
    parents, contrasts = np.zeros(1, np.int64), np.zeros(2 * count - 1)
    if count > 1:
        order = np.argsort(graph.boundary_strengths, kind="stable")
        tree, _ = hg.bpt_canonical((edges[:, 0], edges[:, 1], count), sorted_edge_indices=order)
        parents = np.asarray(tree.parents(), np.int64)
        contrasts[count:] = graph.boundary_strengths[tree.mst_edge_map]
    return PartitionTree.of_merges(parents, contrasts, graph.sizes)


def _columns(values: npt.NDArray[np.floating]) -> FloatArray:
    """Each value of all superpixels side by side, (K, C) -> (C, K)."""
    return np.ascontiguousarray(values.T, np.float32)


def _distances(values: FloatArray, superpixel: int) -> FloatArray:
    """Euclidean distance of one superpixel's values to those of all, (C, K) -> (K,)."""
    steps = values - values[:, superpixel : superpixel + 1]
    steps *= steps
    distances: FloatArray = np.sqrt(steps.sum(axis=0))
    return distances
