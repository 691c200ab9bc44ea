"""Nested partitions: cuts, contours, linkages and the merge classifier."""

from __future__ import annotations

from dataclasses import replace

import higra as hg
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from skimage.measure import label

import maskfeat
from maskfeat.evaluate.metrics.nested import nestedness
from maskfeat.features.reading import Features
from maskfeat.segment.hierarchy import hierarchy, superpixel_tree
from maskfeat.segment.merge_classifier import (
    MergeClassifier,
    Mlp,
    calibrated,
    default_merge_classifier,
    merge_features,
)
from maskfeat.segment.regions import PAIR_FEATURES
from maskfeat.segment.superpixels import RegionGraph, superpixels


def smooth_noise(height: int = 40, width: int = 50, seed: int = 0) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(size=(height, width, 3))
    return ndimage.gaussian_filter(noise, (2, 2, 0))


def nested_squares() -> tuple[np.ndarray, np.ndarray]:
    """An object of two parts on a ground: values of three regions, and the regions."""
    truth = np.zeros((40, 40), int)
    truth[10:30, 8:20], truth[10:30, 20:32] = 1, 2
    return np.array([[0.0, 0], [1, 0.1], [1, -0.1]])[truth], truth


def num_parts(labels: np.ndarray) -> int:
    return int(label(labels, background=-1, connectivity=1).max())


def same(labels: np.ndarray, others: np.ndarray) -> bool:
    pairs = np.unique(np.stack([labels.ravel(), others.ravel()]), axis=1)
    return pairs.shape[1] == len(np.unique(labels)) == len(np.unique(others))


@pytest.mark.parametrize("linkage", ["nearest", "average", "ward"])
def test_parts_meet_before_the_object_meets_the_ground(linkage) -> None:
    values, truth = nested_squares()
    found = hierarchy(values, linkage=linkage)
    assert same(found.cut(3), truth)
    assert same(found.cut(2), truth > 0)
    assert same(found.cut(1), truth * 0)


@given(seed=st.integers(0, 999), first=st.integers(1, 400), second=st.integers(1, 400))
@settings(max_examples=20, deadline=None)
def test_cuts_are_connected_nested_and_as_many_as_asked(seed, first, second) -> None:
    found = hierarchy(smooth_noise(seed=seed))
    cuts = [found.cut(k) for k in sorted((first, second), reverse=True)]
    assert nestedness(cuts) == 1
    for cut, k in zip(cuts, sorted((first, second), reverse=True), strict=True):
        assert np.unique(cut).tolist() == list(range(k))
        assert num_parts(cut) == k


@given(seed=st.integers(0, 999), merge_classifier=st.booleans(), data=st.data())
@settings(max_examples=20, deadline=None)
def test_a_larger_granularity_is_a_refinement(seed, merge_classifier, data) -> None:
    features = Features.from_dense(smooth_noise(seed=seed), scale=5)
    found = hierarchy(features, merge_classifier="default" if merge_classifier else None)
    granularities = sorted(data.draw(st.lists(st.floats(0.001, 0.999), min_size=2, max_size=5)))
    cuts = [found.cut(granularity=g) for g in reversed(granularities)]
    assert nestedness(cuts) == 1
    numbers = [cut.max() for cut in cuts]
    assert numbers == sorted(numbers, reverse=True)


@pytest.mark.parametrize("merge_classifier", ["default", None])
def test_contours_below_a_threshold_enclose_the_segments_of_the_cut(merge_classifier) -> None:
    found = hierarchy(
        Features.from_dense(smooth_noise(), scale=5), merge_classifier=merge_classifier
    )
    contours = found.ucm()
    assert contours.shape == (81, 101)
    assert contours.dtype == np.float32
    assert (contours >= 0).all()
    assert (contours <= 1).all()
    assert not contours[1::2, 1::2].any()  # nothing inside a pixel
    for granularity in (0.2, 0.5, 0.8):
        below = label(contours <= np.float32(1 - granularity), connectivity=1)[1::2, 1::2]
        assert same(below, found.cut(granularity=granularity))


def test_the_same_input_gives_the_same_tree() -> None:
    once, again = (hierarchy(smooth_noise()) for _ in range(2))
    np.testing.assert_array_equal(once.parents, again.parents)
    np.testing.assert_array_equal(once.tree.altitudes, again.tree.altitudes)


def test_probabilities_fall_towards_the_root_and_are_those_of_the_distance() -> None:
    values, _ = nested_squares()
    features = Features.from_dense(values, scale=0.5)
    found = hierarchy(features, border_weight=0, size_power=0, merge_classifier=None)
    assert (found.probabilities[found.parents] <= found.probabilities).all()
    # The object's mean lies at (1, 0), one away from the ground.
    np.testing.assert_allclose(found.probabilities[-1], 2 / (1 + np.exp(0.5)), rtol=1e-5)


def test_the_public_names_are_there() -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)
    assert isinstance(maskfeat.hierarchy(rgb), maskfeat.Hierarchy)


@pytest.mark.parametrize("pixels", [(1, 1), (1, 7), (2, 2)])
def test_tiny_images_have_hierarchies_too(pixels) -> None:
    found = hierarchy(Features.from_dense(np.arange(pixels[0] * pixels[1]).reshape(*pixels, 1)))
    assert found.cut(1).max() == 0
    assert found.cut(99).max() + 1 == pixels[0] * pixels[1]
    assert found.ucm().shape == (2 * pixels[0] + 1, 2 * pixels[1] + 1)


@pytest.mark.parametrize(
    ("settings_", "message"),
    [
        ({}, "give num_segments or granularity, one of the two, got None and None"),
        ({"num_segments": 3, "granularity": 0.5}, "one of the two, got 3 and 0.5"),
        ({"num_segments": 0}, "num_segments must be a whole number of at least 1, got 0"),
        ({"num_segments": 1.5}, "num_segments must be a whole number of at least 1, got 1.5"),
        ({"granularity": 1.0}, "granularity must be a finite number above 0 and below 1, got 1.0"),
    ],
)
def test_a_cut_that_makes_no_sense_is_refused(settings_, message) -> None:
    with pytest.raises(ValueError, match=message):
        hierarchy(np.zeros((4, 4, 1))).cut(**settings_)


@pytest.mark.parametrize(
    ("settings_", "message"),
    [
        ({"linkage": "single"}, "linkage must be nearest, average or ward, got 'single'"),
        (
            {"size_power": -1},
            "size_power must be a finite number of at least 0 and at most 10",
        ),
        (
            {"border_weight": 2},
            r"border_weight must be .* at least 0 and at most 1, got 2",
        ),
    ],
)
def test_bad_settings_are_refused(settings_, message) -> None:
    with pytest.raises(ValueError, match=message):
        hierarchy(np.zeros((4, 4, 1)), **settings_)


BOUNDARY_LOGITS = torch.from_numpy(np.random.default_rng(1).normal(size=(2, 24, 30)))


def graph_and_tree() -> tuple[RegionGraph, object]:
    features = Features.from_dense(smooth_noise(24, 30), scale=3)
    features.boundary_logits = BOUNDARY_LOGITS.float()
    graph = superpixels(features, per_megapixel=1)
    return graph, superpixel_tree(graph)


def mean_boundary(inside: np.ndarray, outside: np.ndarray) -> float:
    """Mean predicted probability of the pixel sides between two sets of pixels."""
    found = []
    for probabilities, (down, right) in zip(
        BOUNDARY_LOGITS.sigmoid().numpy(), ((0, 1), (1, 0)), strict=True
    ):
        for y, x in np.ndindex(24 - down, 30 - right):
            ends = (y, x), (y + down, x + right)
            if any(inside[a] and outside[b] for a, b in (ends, ends[::-1])):
                found.append(probabilities[y, x])
    return float(np.mean(found))


def test_merge_features_are_those_of_the_pixels_of_both_sides() -> None:
    graph, tree = graph_and_tree()
    features = merge_features(tree, graph)
    labels = graph.labels
    under = [{i} for i in range(graph.num_superpixels)]
    for node in range(graph.num_superpixels, len(tree.parents)):
        first, second = np.flatnonzero(tree.parents[:node] == node)
        under.append(under[first] | under[second])
    framed = np.pad(labels, 1, constant_values=-1)
    for node in (graph.num_superpixels, graph.num_superpixels + 150, len(tree.parents) - 2):
        sides = sorted(
            tree.children[node - graph.num_superpixels], key=lambda n: (tree.sizes[n], n)
        )
        small, large = (np.isin(labels, sorted(under[n])) for n in sides)
        found = dict(zip(PAIR_FEATURES, features[:, node - graph.num_superpixels], strict=True))
        assert found["log share of the image, small"] == pytest.approx(np.log(small.mean()))
        superpixel_means = graph.features[labels]  # (H, W, C)
        apart = np.linalg.norm(superpixel_means[small].mean(0) - superpixel_means[large].mean(0))
        assert found["log distance of the means"] == pytest.approx(
            np.log(apart * np.sqrt(3)), abs=1e-4
        )
        inside = np.isin(framed, sorted(under[sides[0]]))[1:-1, 1:-1]
        other = np.isin(framed, sorted(under[sides[1]]))
        common = sum(
            int((inside & np.roll(other, shift, axis)[1:-1, 1:-1]).sum())
            for shift, axis in ((1, 0), (-1, 0), (1, 1), (-1, 1))
        )
        squared = found["log squared length of the common border over area, small"]
        assert squared == pytest.approx(np.log(common**2 / small.sum()))
        # The outline of the small side, the rim of the image left out.
        outline = sum(
            int(
                (inside & ~np.isin(np.roll(framed, s, a), [-1, *under[sides[0]]])[1:-1, 1:-1]).sum()
            )
            for s, a in ((1, 0), (-1, 0), (1, 1), (-1, 1))
        )
        squared = found["log squared perimeter over area, small"]
        assert squared == pytest.approx(np.log(max(outline, 1) ** 2 / small.sum()))
        rim = np.concatenate([large[0], large[-1], large[:, 0], large[:, -1]])
        assert found["share of the image's rim, large"] == pytest.approx(rim.mean())
        for name, other in (("common border", large), ("outline, small", ~small)):
            p = mean_boundary(small, other)
            logit = found[f"logit of the mean predicted boundary along the {name}"]
            assert logit == pytest.approx(np.log(p / (1 - p)), abs=1e-4)


def test_merge_features_do_not_depend_on_the_unit_of_the_features() -> None:
    values = smooth_noise(24, 30)
    graphs = [superpixels(Features.from_dense(values * f, scale=3 / f**2)) for f in (1, 8)]
    found = [merge_features(superpixel_tree(graph), graph) for graph in graphs]
    np.testing.assert_allclose(*found, atol=1e-3)


def classifier_of(column: int, slope: float) -> MergeClassifier:
    """Uses one feature alone: probability sigmoid(slope * tanh(tanh(value)))."""
    width = len(PAIR_FEATURES)
    first = np.zeros((2, width))
    first[0, column] = 1
    second = np.zeros((2, 2))
    second[0, 0] = 1
    last = np.array([[slope, 0.0]])
    zeros = (np.zeros(2), np.zeros(2), np.zeros(1))
    weights = (first, second, last)
    return MergeClassifier(Mlp(PAIR_FEATURES, np.zeros(width), np.ones(width), weights, zeros))


def test_a_merge_classifier_is_the_network_it_says() -> None:
    features = np.random.default_rng(0).normal(size=(len(PAIR_FEATURES), 5))
    expected = 1 / (1 + np.exp(-2 * np.tanh(np.tanh(features[3]))))
    np.testing.assert_allclose(classifier_of(3, 2.0)(features), expected)


def test_calibrated_altitudes_are_ultrametric_and_keep_the_merges() -> None:
    graph, tree = graph_and_tree()
    found = calibrated(tree, graph, default_merge_classifier())
    assert (found.altitudes[found.parents] >= found.altitudes).all()
    assert ((found.altitudes >= 0) & (found.altitudes < 1)).all()
    groups = {frozenset(np.flatnonzero(tree.leaves_under(np.array([n])))) for n in range(450, 460)}
    others = {
        frozenset(np.flatnonzero(found.leaves_under(np.array([n]))))
        for n in range(graph.num_superpixels, len(found.parents))
    }
    assert groups <= others


@pytest.mark.parametrize(("has_boundaries", "num_features"), [(False, 14), (True, 17)])
def test_a_merge_classifier_comes_back_from_its_file_as_it_was(
    has_boundaries, num_features, tmp_path
) -> None:
    merge_classifier = default_merge_classifier(has_boundaries)
    assert merge_classifier.network.inputs == PAIR_FEATURES[:num_features]
    merge_classifier.save(tmp_path / "again.safetensors")
    again = MergeClassifier.load(tmp_path / "again.safetensors")
    features = np.random.default_rng(0).normal(size=(len(PAIR_FEATURES), 9))
    np.testing.assert_array_equal(merge_classifier(features), again(features))
    assert "train" in merge_classifier.network.origin
    assert "val" not in merge_classifier.network.origin
    other = replace(
        merge_classifier.network, inputs=("another", *merge_classifier.network.inputs[1:])
    )
    other.save(tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match=r"was fitted to other features than this version has"):
        MergeClassifier.load(tmp_path / "other.safetensors")
    (tmp_path / "none.safetensors").write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"'.*none.safetensors' cannot be used"):
        MergeClassifier.load(tmp_path / "none.safetensors")


@pytest.mark.parametrize("pixels", [(1, 1), (1, 7), (12, 9)])
def test_the_contour_map_is_the_one_that_higra_draws(pixels) -> None:
    found = hierarchy(smooth_noise(*pixels))
    graph = hg.get_4_adjacency_graph(pixels)
    ends = (found.superpixel_labels.ravel()[np.asarray(side)] for side in graph.edge_list())
    nodes = found.tree.higra_tree.lowest_common_ancestor(*(side.astype(np.int64) for side in ends))
    altitudes = found.tree.altitudes[nodes]
    if pixels == (1, 1):
        assert not found.ucm().any()
        return
    expected = hg.graph_4_adjacency_2_khalimsky(graph, altitudes, pixels, add_extra_border=True)
    np.testing.assert_array_equal(found.ucm(), expected.astype(np.float32))


def test_superpixels_at_hand_give_the_same_hierarchy() -> None:
    features = Features.from_dense(smooth_noise(), scale=5)
    from_superpixels = hierarchy(superpixels(features), merge_classifier=default_merge_classifier())
    np.testing.assert_array_equal(from_superpixels.cut(30), hierarchy(features).cut(30))
