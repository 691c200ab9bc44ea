from __future__ import annotations

import itertools

import numpy as np
import pytest
from click_scenes import GRAPH, TRUTH, VALUES
from hypothesis import given, settings
from hypothesis import strategies as st

from maskfeat import score_cut
from maskfeat.features.reading import Features
from maskfeat.segment.inputs import RegionReader
from maskfeat.segment.score_cut import class_cut, cut_costs
from maskfeat.segment.superpixels import RegionGraph, graph_of_labels


def tiny_graph(seed: int, height: int = 2, width: int = 4) -> RegionGraph:
    """Every pixel is a superpixel; sizes and features are random."""
    rng = np.random.default_rng(seed)
    features = Features.from_dense(rng.normal(size=(height, width, 2)), scale=rng.exponential())
    return graph_of_labels(features, np.arange(height * width).reshape(height, width))


def naive_energy(graph, scores, groups, means, pairwise_weight: float) -> float:
    scores = np.asarray(scores, float).reshape(graph.num_superpixels, -1)
    mean = np.average(scores, axis=0, weights=graph.sizes)
    variance = np.average(((scores - mean) ** 2).sum(axis=1), weights=graph.sizes)
    total = 0.0
    for superpixel, group in enumerate(groups):
        total += graph.sizes[superpixel] * ((scores[superpixel] - means[group]) ** 2).sum()
    for (i, j), length in zip(graph.edges, graph.border_lengths, strict=True):
        d2 = ((graph.features[i] - graph.features[j]) ** 2).sum()
        same = 2 / (1 + np.exp(graph.scale * d2))
        total += pairwise_weight * variance * length * same * (groups[i] != groups[j])
    return float(total)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 4), st.floats(0, 2))
def test_the_energies_fall_and_the_last_is_that_of_the_answer(
    seed, num_groups, pairwise_weight
) -> None:
    graph = tiny_graph(seed)
    scores = np.random.default_rng(seed + 1).normal(size=(8, 2))
    found = score_cut(scores, graph, pairwise_weight=pairwise_weight, num_groups=num_groups)
    assert all(np.diff(found.energies) < 0)
    last = naive_energy(graph, scores, found.groups, found.means, pairwise_weight)
    assert found.energies[-1] == pytest.approx(last, rel=1e-6)
    for group in np.unique(found.groups):
        own = scores[found.groups == group]
        np.testing.assert_allclose(found.means[group], own.mean(axis=0), atol=1e-9)


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 10_000), st.floats(0, 2))
def test_no_other_groups_cost_less_for_the_means_found(seed, pairwise_weight) -> None:
    graph = tiny_graph(seed)
    scores = np.random.default_rng(seed + 1).normal(size=8)
    found = score_cut(scores, graph, pairwise_weight=pairwise_weight)
    least = min(
        naive_energy(graph, scores, groups, found.means, pairwise_weight)
        for groups in itertools.product((0, 1), repeat=8)
    )
    assert found.energies[-1] == pytest.approx(least, rel=1e-5, abs=1e-6)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.floats(0, 3))
def test_two_classes_are_cut_exactly_with_hard_constraints(seed, pairwise_weight) -> None:
    graph = tiny_graph(seed)
    chances = np.random.default_rng(seed).dirichlet((1, 1), size=8)
    costs, is_fixed, classes = cut_costs(graph), np.zeros(8, bool), np.full(8, 1)
    is_fixed[[0, 7]], classes[7] = True, 0
    found = class_cut(chances, graph, costs, pairwise_weight, is_fixed, classes)

    def energy(classes) -> float:
        i, j = np.asarray(classes)[graph.edges.T]
        own = -np.log(chances[np.arange(8), classes]) * graph.sizes
        return float(own.sum() + pairwise_weight * costs[i != j].sum())

    allowed = [c for c in itertools.product((0, 1), repeat=8) if c[0] == 1 and c[7] == 0]
    assert found.labels[[0, 7]].tolist() == [1, 0]
    assert energy(found.labels) == pytest.approx(min(map(energy, allowed)), rel=1e-5, abs=1e-6)


def coarse_scores(noise: float = 0.15) -> np.ndarray:
    """What a classifier of 10 x 10 patches would say of the discs, and its noise."""
    mean = (TRUTH > 0).reshape(6, 10, 10, 10).mean(axis=(1, 3))
    return mean + np.random.default_rng(3).normal(0, noise, mean.shape)


def iou(mask: np.ndarray) -> float:
    inside = TRUTH > 0
    return float((mask & inside).sum() / (mask | inside).sum())


def test_scores_of_patches_find_two_discs_that_their_upsampling_misses() -> None:
    features = Features.from_dense(VALUES)
    found = score_cut(coarse_scores(), features)
    is_disc = found.labels == found.means[:, 0].argmax()
    blocky = np.kron(coarse_scores() > 0.5, np.ones((10, 10))) > 0
    assert iou(is_disc) > 0.93 > 0.85 > iou(blocky)


def test_the_scale_of_scores_is_nothing_and_pairwise_weight_shortens_borders() -> None:
    scores = coarse_scores(0.3)
    found = score_cut(scores, GRAPH, pairwise_weight=0.3)
    np.testing.assert_array_equal(
        found.labels, score_cut(1000 * scores - 7, GRAPH, pairwise_weight=0.3).labels
    )

    def outline(pairwise_weight: float) -> float:
        groups = score_cut(scores, GRAPH, pairwise_weight=pairwise_weight).groups
        i, j = groups[GRAPH.edges.T]
        return float(cut_costs(GRAPH)[i != j].sum())

    assert outline(10) <= outline(1) < outline(0)


def test_seeds_are_obeyed_and_name_the_groups() -> None:
    for disc in (0, 1):
        seeds = [[30, 25, disc], [3, 3, 1 - disc]]
        found = score_cut(coarse_scores(), GRAPH, seeds=seeds)
        assert found.labels[30, 25] == disc
        assert found.labels[3, 3] == 1 - disc
        assert iou(found.labels == disc) > 0.8
    apart = score_cut(coarse_scores(), GRAPH, num_groups=3, seeds=[[30, 25, 2], [30, 72, 0]])
    assert (apart.labels[30, 25], apart.labels[30, 72]) == (2, 0)


def test_scores_of_patches_and_of_superpixels_are_both_taken() -> None:
    patches = score_cut(coarse_scores(), GRAPH)
    reader = RegionReader(GRAPH.labels, GRAPH.num_superpixels)
    superpixels = score_cut(reader.means(coarse_scores()[..., None]), GRAPH)
    np.testing.assert_array_equal(patches.labels, superpixels.labels)


def test_a_reader_of_regions_agrees_with_enlarging_the_whole_map() -> None:
    import torch

    rng = np.random.default_rng(0)
    values, labels = rng.normal(size=(5, 7, 3)), rng.integers(0, 9, (33, 50))
    enlarged = torch.nn.functional.interpolate(
        torch.from_numpy(values.transpose(2, 0, 1))[None], (33, 50), mode="bilinear"
    )[0].numpy()
    means = RegionReader(labels, 9).means(values)
    for region in range(9):
        expected = enlarged[:, labels == region].mean(axis=1)
        np.testing.assert_allclose(means[region], expected, atol=1e-9)


def test_scores_without_any_difference_make_one_group() -> None:
    found = score_cut(np.ones((6, 10)), GRAPH)
    assert len(np.unique(found.labels)) == 1


def test_bad_input_is_refused_in_one_sentence() -> None:
    scores = coarse_scores()
    with pytest.raises(ValueError, match="pairwise_weight must be a finite number of at least 0"):
        score_cut(scores, GRAPH, pairwise_weight=-1)
    with pytest.raises(ValueError, match="num_groups must be a whole number of 1 to 64, got 0"):
        score_cut(scores, GRAPH, num_groups=0)
    with pytest.raises(ValueError, match="max_rounds must be a whole number of at least 1"):
        score_cut(scores, GRAPH, max_rounds=0)
    with pytest.raises(ValueError, match="scores must be finite numbers"):
        score_cut(np.full((6, 10), np.nan), GRAPH)
    with pytest.raises(ValueError, match=r"scores must have shape \(h, w\) or"):
        score_cut(np.zeros(7), GRAPH)
    with pytest.raises(ValueError, match=r"seeds must be integers of shape \(N, 3\)"):
        score_cut(scores, GRAPH, seeds=[[1, 2]])
    with pytest.raises(ValueError, match="seeds must lie inside the image"):
        score_cut(scores, GRAPH, seeds=[[60, 0, 0]])
    with pytest.raises(ValueError, match="seeds must name groups of 0 to 1, got 2 to 2"):
        score_cut(scores, GRAPH, seeds=[[0, 0, 2]])
    with pytest.raises(ValueError, match="two seeds of different groups lie in one superpixel"):
        score_cut(scores, GRAPH, seeds=[[0, 0, 0], [0, 0, 1]])
