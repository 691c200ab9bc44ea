"""Merging by a classifier, against regions put together from superpixels in each round."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from maskfeat.features.reading import Features
from maskfeat.segment.hierarchy import superpixel_tree
from maskfeat.segment.merge_classifier import (
    MergeClassifier,
    default_merge_classifier,
    merge_by_classifier,
    merge_features,
    reagglomerated,
)
from maskfeat.segment.regions import PAIR_FEATURES, Regions
from maskfeat.segment.superpixels import RegionGraph, graph_of_labels, superpixels


def noise(seed: int = 0, size: tuple[int, int] = (30, 40)) -> Features:
    values = np.random.default_rng(seed).normal(size=(*size, 3))
    return Features.from_dense(ndimage.gaussian_filter(values, (2, 2, 0)), scale=4)


def graph_of(seed: int = 0) -> RegionGraph:
    return superpixels(noise(seed), per_megapixel=1)


def naive(
    graph: RegionGraph, groups: np.ndarray, merge_classifier: MergeClassifier
) -> set[frozenset[int]]:
    """The sets of groups that are ever one region."""
    number = np.arange(groups.max() + 1)  # region of each group
    found = {frozenset([int(group)]) for group in number}
    while number.max() > 0:
        regions = Regions.of_superpixels(graph).grouped(number[groups])
        costs = 1 - merge_classifier(regions.pair_features(np.arange(len(regions.pairs))))
        best = np.full(number.max() + 1, -1)
        for pair in np.argsort(-costs, kind="stable"):  # the most probable is written last
            best[regions.pairs[pair]] = pair
        merged = [pair for pair in set(best.tolist()) if (best[regions.pairs[pair]] == pair).all()]
        for first, second in regions.pairs[merged]:
            number[number == second] = first
        number = np.unique(number, return_inverse=True)[1]
        found |= {frozenset(np.flatnonzero(number == n).tolist()) for n in range(number.max() + 1)}
    return found


def sets_under(parents: np.ndarray) -> set[frozenset[int]]:
    count = (len(parents) + 1) // 2
    under = [{leaf} for leaf in range(count)] + [set() for _ in range(count - 1)]
    for node, parent in enumerate(parents[:-1]):
        under[parent] |= under[node]
    return {frozenset(leaves) for leaves in under}


@given(seed=st.integers(0, 999), count=st.integers(2, 60))
@settings(max_examples=15, deadline=None)
def test_merges_are_those_of_regions_classified_from_scratch_each_round(seed, count) -> None:
    graph = graph_of(seed)
    groups = superpixel_tree(graph).groups(count)
    parents = merge_by_classifier(
        Regions.of_superpixels(graph).grouped(groups), default_merge_classifier()
    )
    assert sets_under(parents) == naive(graph, groups, default_merge_classifier())


def test_grouped_regions_are_those_of_the_pixels() -> None:
    features = noise()
    graph = superpixels(features, per_megapixel=1)
    groups = superpixel_tree(graph).groups(25)
    found = Regions.of_superpixels(graph).grouped(groups)
    labels = groups[graph.labels].astype(np.int32)
    direct = Regions.of_superpixels(
        graph_of_labels(features, labels, features.neighbor_distances())
    )
    np.testing.assert_array_equal(found.pairs, direct.pairs)
    for name in ("sizes", "means", "outlines", "strengths", "rims"):
        mine, other = getattr(found.sums, name), getattr(direct.sums, name)
        np.testing.assert_allclose(mine, other, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found.borders.lengths, direct.borders.lengths)
    np.testing.assert_allclose(found.borders.strengths, direct.borders.strengths, rtol=1e-4)
    variances = found.sums.squares / found.sums.sizes - (found.sums.means**2).sum(axis=1)
    apart = graph.features - found.sums.means[groups]
    expected = np.bincount(groups, graph.sizes * (apart**2).sum(axis=1)) / found.sums.sizes
    np.testing.assert_allclose(variances, expected, atol=1e-5)


@pytest.mark.parametrize("count", [2, 3, 40, 200])
def test_a_merge_features_the_same_in_a_tree_as_while_it_is_made(count) -> None:
    graph = graph_of()
    tree = superpixel_tree(graph)
    groups = tree.groups(count)  # the next merge is that of the node before these groups' tops
    node = len(tree.parents) - (count - 1)
    regions = Regions.of_superpixels(graph).grouped(groups)
    sides = [tree.leaves_under(np.array([child])) for child in tree.children[node - len(groups)]]
    pair = sorted(int(groups[side][0]) for side in sides)
    which = np.flatnonzero((regions.pairs == pair).all(axis=1))
    found = regions.pair_features(which)[:, 0]
    np.testing.assert_allclose(
        found, merge_features(tree, graph)[:, node - graph.num_superpixels], rtol=1e-3, atol=1e-3
    )
    assert found.shape == (len(PAIR_FEATURES),)


@pytest.mark.parametrize("count", [1, 2, 30, 10_000])
def test_only_the_last_merges_change(count) -> None:
    graph = graph_of()
    tree = superpixel_tree(graph)
    found = reagglomerated(tree, graph, default_merge_classifier(), count)
    kept = min(count, graph.num_superpixels)
    np.testing.assert_array_equal(found.groups(kept), tree.groups(kept))
    assert (found.parents[:-1] > np.arange(len(found.parents) - 1)).all()
    assert (found.altitudes[found.parents] >= found.altitudes).all()
    assert (np.bincount(found.parents[:-1])[graph.num_superpixels :] == 2).all()
    leaves = [found.leaves_under(np.array([n])) for n in range(len(found.parents))]
    np.testing.assert_allclose(found.sizes, [graph.sizes[under].sum() for under in leaves])
