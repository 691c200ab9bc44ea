from __future__ import annotations

import numpy as np
from click_scenes import GRAPH
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import minimum_spanning_tree

from maskfeat.interactive.evidence import (
    CLICK_DISTANCES,
    CONTEXT_FEATURES,
    SUPERPIXEL_FEATURES,
    ClickEvidence,
)
from maskfeat.segment.agglomeration import ward_tree
from maskfeat.segment.hierarchy import superpixel_hierarchy

TREE = superpixel_hierarchy(GRAPH).tree
COLORS = np.random.default_rng(0).random((GRAPH.num_superpixels, 3)).astype(np.float32)
INSIDE, OUTSIDE = np.array([17, 230, 301]), np.array([55, 380])


def measured(name: str, inside=INSIDE, outside=OUTSIDE, colors=COLORS) -> np.ndarray:
    click_features = ClickEvidence(GRAPH, TREE, colors).click_features(inside, outside)
    assert click_features.shape == (len(SUPERPIXEL_FEATURES), GRAPH.num_superpixels)
    return click_features[SUPERPIXEL_FEATURES.index(name)]


def nearest(distances: np.ndarray, clicks: np.ndarray) -> np.ndarray:
    return distances[clicks].min(axis=0)


def far_apart(values: np.ndarray) -> np.ndarray:
    return np.linalg.norm(values[:, None].astype(float) - values[None].astype(float), axis=2)


def meeting(tree) -> np.ndarray:
    leaves = np.arange(GRAPH.num_superpixels)
    first, second = (side.ravel().copy() for side in np.meshgrid(leaves, leaves, indexing="ij"))
    met = np.asarray(tree.tree.lowest_common_ancestor(first, second))
    return met.reshape(GRAPH.num_superpixels, -1)


def test_distances_are_the_least_over_all_pairs_and_count_in_their_units() -> None:
    features = far_apart(GRAPH.features) * np.sqrt(GRAPH.scale)
    places = far_apart(GRAPH.centroids_yx) / np.sqrt(60 * 100)
    for kind, clicks in (("object", INSIDE), ("background", OUTSIDE)):
        for name, distances, far in (
            ("feature distance", features, 5.0),
            ("distance in the image", places, 1.5),
            ("features and 16 x image", features + 16 * places, 25.0),
            ("color and 2 x image", far_apart(COLORS) + 2 * places, 4.0),
        ):
            expected = np.minimum(nearest(distances, clicks), far)
            np.testing.assert_allclose(measured(f"{kind}: {name}"), expected, atol=1e-4)


def test_altitudes_are_those_of_the_merges_at_which_superpixels_meet() -> None:
    altitudes = TREE.altitudes[meeting(TREE)]
    logits = np.log((altitudes + 1e-4) / (1 - altitudes + 1e-4))
    np.testing.assert_allclose(
        measured("object: logit at the merge"), nearest(logits, INSIDE).clip(max=9.5), atol=1e-4
    )
    shares = np.log(TREE.sizes / 6000)[meeting(TREE)]
    np.testing.assert_allclose(
        measured("background: log share of the merge"), nearest(shares, OUTSIDE), atol=1e-4
    )
    ward = ward_tree(GRAPH.features, GRAPH.sizes, GRAPH.edges)
    growths = np.log(ward.altitudes * GRAPH.scale / 6000 + 1e-6)[meeting(ward)]
    np.testing.assert_allclose(
        measured("object: log growth of variance at Ward's merge"),
        nearest(growths, INSIDE).clip(max=4),
        atol=1e-4,
    )


def test_the_smoothest_path_has_the_least_largest_contrast() -> None:
    i, j = GRAPH.edges.T
    links = coo_matrix(
        (GRAPH.boundary_strengths.astype(float) + 1e-9, (i, j)), (GRAPH.num_superpixels,) * 2
    )
    tree = minimum_spanning_tree(links).tocoo()
    neighbors: dict[int, list[tuple[int, float]]] = {}
    for a, b, contrast in zip(tree.row, tree.col, tree.data, strict=True):
        neighbors.setdefault(int(a), []).append((int(b), contrast))
        neighbors.setdefault(int(b), []).append((int(a), contrast))
    largest = {55: 0.0}
    queue = [55]
    for superpixel in queue:
        for other, contrast in neighbors[superpixel]:
            if other not in largest:
                largest[other] = max(largest[superpixel], contrast)
                queue.append(other)
    expected = np.log(np.array([largest[k] for k in range(GRAPH.num_superpixels)]) + 1e-3)
    found = measured("background: log contrast on the smoothest path", outside=np.array([55]))
    np.testing.assert_allclose(found, expected.clip(max=4), atol=1e-3)


def test_without_a_click_of_a_kind_it_is_far_and_another_click_can_only_bring_it_nearer() -> None:
    evidence = ClickEvidence(GRAPH, TREE, COLORS)
    none = np.empty(0, np.int64)
    before = evidence.click_features(INSIDE, none)
    after = evidence.click_features(INSIDE, OUTSIDE[:1])
    of_background = [name.startswith("background: ") for name in SUPERPIXEL_FEATURES]
    assert (after[of_background] <= before[of_background]).all()
    of_object = [name.startswith("object: ") for name in SUPERPIXEL_FEATURES]
    np.testing.assert_array_equal(after[of_object], before[of_object])
    np.testing.assert_array_equal(evidence.click_features(INSIDE, none), before)


def test_distances_to_both_kinds_are_compared_by_their_ratio() -> None:
    inside, outside = (measured(f"{kind}: feature distance") for kind in ("object", "background"))
    np.testing.assert_allclose(
        measured("object against background: feature distance"),
        np.log((inside + 0.02) / (outside + 0.02)),
        atol=1e-5,
    )


def test_the_context_of_a_click_is_how_near_the_nearest_others_are() -> None:
    evidence = ClickEvidence(GRAPH, TREE, COLORS)
    contexts = evidence.contexts(INSIDE, OUTSIDE)
    assert contexts.shape == (3, len(CONTEXT_FEATURES))
    for context, superpixel in zip(contexts, INSIDE, strict=True):
        known = dict(zip(CONTEXT_FEATURES, context, strict=True))
        for row, name in enumerate(CLICK_DISTANCES):
            same = min(
                evidence.distances(superpixel)[row, other]
                for other in INSIDE
                if other != superpixel
            )
            other = min(evidence.distances(superpixel)[row, other] for other in OUTSIDE)
            assert known[f"same kind: {name}"] == same
            assert known[f"other kind: {name}"] == other
        same, other = (known[f"{kind} kind: feature distance"] for kind in ("same", "other"))
        ratio = np.log((same + 0.02) / (other + 0.02))
        np.testing.assert_allclose(known["same against other kind: feature distance"], ratio, 1e-4)


def test_a_click_alone_is_far_from_all_others() -> None:
    none = np.empty(0, np.int64)
    (context,) = ClickEvidence(GRAPH, TREE, COLORS).contexts(INSIDE[:1], none)
    known = dict(zip(CONTEXT_FEATURES, context, strict=True))
    assert known["same kind: distance in the image"] == 1.5
    assert known["other kind: feature distance"] == 5.0


def test_without_colors_all_have_one() -> None:
    assert (measured("object: color distance", colors=None) == 0).all()


def test_some_superpixels_alone_are_measured_as_among_all() -> None:
    evidence = ClickEvidence(GRAPH, TREE, COLORS)
    superpixels = np.array([5, 17, 100, 399])
    distances = [evidence.distances_at(clicks, superpixels) for clicks in (INSIDE, OUTSIDE)]
    some = evidence.click_features_at(superpixels, INSIDE, OUTSIDE, *distances)
    np.testing.assert_array_equal(some, evidence.click_features(INSIDE, OUTSIDE)[:, superpixels])
    none = np.empty(0, np.int64)
    some = evidence.click_features_at(
        superpixels, INSIDE, none, distances[0], evidence.distances_at(none, superpixels)
    )
    np.testing.assert_array_equal(some, evidence.click_features(INSIDE, none)[:, superpixels])
