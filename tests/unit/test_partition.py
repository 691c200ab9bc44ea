from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from skimage.color import rgb2lab
from skimage.measure import label
from sklearn.base import clone

from maskfeat.evaluate.metrics.nested import nestedness
from maskfeat.features.reading import Features
from maskfeat.segment.hierarchy import hierarchy
from maskfeat.segment.partition import Partition, partition, partition_superpixels
from maskfeat.segment.superpixels import superpixels
from maskfeat.segment.tree import ward_tree


def four_quadrants(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    quadrants = np.arange(4).reshape(2, 2).repeat(20, 0).repeat(25, 1)
    colors = np.array([[-0.9, -0.9], [-0.9, 0.9], [0.9, -0.9], [0.9, 0.9]])
    noise = np.random.default_rng(seed).normal(scale=0.05, size=(40, 50, 2))
    return quadrants, colors[quadrants] + noise


def num_parts(labels: np.ndarray) -> int:
    return int(label(labels, background=-1, connectivity=1).max())


METHODS = pytest.mark.parametrize("method", ["tree", "k-means"])


@METHODS
def test_four_noisy_quadrants_are_found_exactly(method) -> None:
    quadrants, features = four_quadrants()
    np.testing.assert_array_equal(partition(features, 4, method=method), quadrants)


@METHODS
def test_two_patches_of_one_color_are_two_segments_when_three_are_asked_for(method) -> None:
    truth = np.zeros((30, 60), int)
    truth[10:20, 5:20], truth[10:20, 40:55] = 1, 2
    values = (truth > 0)[..., None].astype(float)
    np.testing.assert_array_equal(partition(values, 3, method=method), truth)


@settings(max_examples=25, deadline=None)
@given(
    st.integers(1, 24),
    st.integers(1, 24),
    st.integers(1, 700),
    st.integers(0, 99),
    st.booleans(),
    st.sampled_from(["tree", "k-means"]),
)
def test_segments_are_connected_and_exactly_as_many_as_asked(
    height: int, width: int, num_segments: int, seed: int, is_flat: bool, method: str
) -> None:
    values = np.random.default_rng(seed).normal(size=(height, width, 2)) * (not is_flat)
    labels = partition(values, num_segments, method=method)
    expected = min(num_segments, height * width)
    assert labels.dtype == np.int64
    _, first = np.unique(labels, return_index=True)
    assert (np.sort(first) == first).all()  # numbered in reading order
    assert np.unique(labels).tolist() == list(range(expected))
    assert num_parts(labels) == expected


def test_a_finer_partition_than_the_usual_superpixels_is_still_exact() -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (60, 60, 3), dtype=np.uint8)
    for method in ("tree", "k-means"):
        assert num_parts(partition(rgb, 900, method=method)) == 900


def test_an_rgb_image_is_cut_by_its_lab_color() -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)
    by_lab = partition(Features.from_dense(rgb2lab(rgb) / 100), 20)
    np.testing.assert_array_equal(partition(rgb, 20), by_lab)


def test_precomputed_superpixels_give_the_same_partition() -> None:
    _, values = four_quadrants()
    graph = superpixels(Features.from_dense(values))
    by_kmeans = partition(values, 9, method="k-means")
    np.testing.assert_array_equal(partition_superpixels(graph, 9)[graph.labels], by_kmeans)


@METHODS
def test_the_scale_of_features_does_not_matter(method) -> None:
    _, values = four_quadrants()
    larger = partition(values * 64, 12, method=method)
    np.testing.assert_array_equal(partition(values, 12, method=method), larger)


def test_partitions_by_the_tree_are_nested() -> None:
    values = np.random.default_rng(0).normal(size=(50, 50, 3))
    assert nestedness([partition(values, k) for k in (100, 30, 7)]) == 1


def test_position_makes_segments_of_more_even_size() -> None:
    values = np.random.default_rng(0).normal(size=(50, 50, 3))
    sizes = [
        np.bincount(partition(values, 25, method="k-means", position_weight=w).ravel())
        for w in (0, 10)
    ]
    assert sizes[1].std() < 0.5 * sizes[0].std()


def test_twice_the_same_features_are_twice_the_same_partition() -> None:
    noise = np.random.default_rng(0).normal(size=(50, 50, 3))
    values = ndimage.gaussian_filter(noise, (3, 3, 0))  # no clusters of its own
    np.testing.assert_array_equal(partition(values, 25), partition(values, 25))


def test_a_granularity_cuts_the_hierarchy() -> None:
    quadrants, features = four_quadrants()
    np.testing.assert_array_equal(partition(features * 5, granularity=0.05), quadrants)
    found = hierarchy(features).cut(granularity=0.4)
    np.testing.assert_array_equal(partition(features, granularity=0.4), found)
    with pytest.raises(ValueError, match="give num_segments or granularity, one of the two"):
        partition(features)
    with pytest.raises(ValueError, match=r"one of the two, got 3 and 0\.5"):
        partition(features, 3, granularity=0.5)


def test_the_estimator_gives_what_the_function_gives() -> None:
    _, features = four_quadrants()
    estimator = Partition(num_segments=7)
    labels = estimator.fit_predict(features)
    np.testing.assert_array_equal(labels, partition(features, 7))
    assert estimator.n_segments_ == 7
    assert clone(estimator).get_params() == estimator.get_params()
    assert Partition(granularity=0.5).fit(features).n_segments_ >= 1


@pytest.mark.parametrize(
    ("features", "num_segments", "message"),
    [
        (np.zeros((4, 4, 1)), 0, "num_segments must be a whole number of at least 1, got 0"),
        (np.zeros((4, 4, 1)), 2.7, "num_segments must be a whole number of at least 1, got 2.7"),
        (np.full((4, 4, 1), np.nan), 2, "features must be finite"),
        (np.zeros((4, 4)), 2, r"got float64 \(4, 4\)"),
        (np.zeros((4, 4, 1), np.uint8), 2, r"uint8 image must have shape \(H, W, 3\)"),
        (np.zeros((4, 4, 3), np.int64), 2, "features must be float, or uint8"),
    ],
)
def test_bad_input_is_refused_in_one_sentence(
    features: np.ndarray, num_segments: int, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        partition(features, num_segments)


def test_an_unknown_method_is_refused() -> None:
    with pytest.raises(ValueError, match="method must be tree or k-means, got 'slic'"):
        partition(np.zeros((4, 4, 1)), 2, method="slic")


def test_a_negative_position_weight_is_refused() -> None:
    with pytest.raises(ValueError, match="position_weight must be a finite number of at least 0"):
        partition(np.zeros((4, 4, 1)), 2, position_weight=-1)


def test_the_ward_tree_merges_the_pair_that_a_naive_search_finds() -> None:
    values = np.random.default_rng(0).normal(size=(4, 5, 2))
    graph = superpixels(Features.from_dense(values))  # every pixel is a superpixel
    tree = ward_tree(graph.features, graph.sizes, graph.edges)
    groups: list[frozenset[int]] = [frozenset([i]) for i in range(20)]
    edges = graph.edges.tolist()
    flat = graph.features.astype(float)

    def growth(a: frozenset[int], b: frozenset[int]) -> float:
        means = [flat[list(group)].mean(0) for group in (a, b)]
        return len(a) * len(b) / (len(a) + len(b)) * float(((means[0] - means[1]) ** 2).sum())

    for left in range(19, 0, -1):
        pairs = {
            (a, b) for i, j in edges for a in groups for b in groups if a != b and i in a and j in b
        }
        best = min(pairs, key=lambda pair: growth(*pair))
        groups = [g for g in groups if g not in best] + [best[0] | best[1]]
        found = tree.groups(left)
        assert {frozenset(np.flatnonzero(found == g).tolist()) for g in range(left)} == set(groups)


def test_a_tree_of_one_region_is_its_root() -> None:
    tree = ward_tree(np.zeros((1, 2)), np.ones(1), np.zeros((0, 2), np.int32))
    assert tree.num_leaves == 1
    assert tree.groups(1).tolist() == [0]
    assert tree.leaves_under(np.array([0])).tolist() == [True]
