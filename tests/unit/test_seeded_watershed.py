from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from maskfeat.segment.seeded_watershed import SeededWatershed, steps_of_tree
from maskfeat.segment.tree import PartitionTree


def grid_edges(height: int, width: int) -> np.ndarray:
    numbers = np.arange(height * width).reshape(height, width)
    right = np.stack([numbers[:, :-1].ravel(), numbers[:, 1:].ravel()], axis=1)
    below = np.stack([numbers[:-1].ravel(), numbers[1:].ravel()], axis=1)
    return np.concatenate([right, below])


def kruskal(count, edges, steps, seeds, labels) -> list[int]:
    """Take edges from the smallest step on, but never join two labels."""
    part, own = list(range(count)), [-1] * count
    for seed, label in zip(seeds, labels, strict=True):
        own[seed] = label

    def root(region: int) -> int:
        while part[region] != region:
            region = part[region]
        return region

    for edge in np.argsort(steps, kind="stable"):
        a, b = (root(region) for region in edges[edge])
        if a == b or (own[a] >= 0 and own[b] >= 0 and own[a] != own[b]):
            continue
        part[a] = b
        own[b] = max(own[a], own[b])
    return [own[root(region)] for region in range(count)]


def minimax(count, edges, steps, seed) -> np.ndarray:
    """Largest step on the best path from a seed, by relaxing until nothing changes."""
    cost = np.full(count, np.inf)
    cost[seed] = -np.inf
    for _ in range(count):
        for (a, b), step in zip(edges, steps, strict=True):
            cost[a] = min(cost[a], max(cost[b], step))
            cost[b] = min(cost[b], max(cost[a], step))
    return cost


@st.composite
def problems(draw):
    height, width = draw(st.integers(1, 5)), draw(st.integers(1, 5))
    rng = np.random.default_rng(draw(st.integers(0, 10_000)))
    edges = grid_edges(height, width)
    steps = rng.integers(0, 5, len(edges)).astype(float)
    seeds = rng.choice(height * width, rng.integers(1, height * width + 1), replace=False)
    return height * width, edges, steps, seeds, rng.integers(0, 4, len(seeds))


@settings(max_examples=200, deadline=None)
@given(problems())
def test_the_labels_are_those_of_kruskals_algorithm_with_seeds(problem) -> None:
    count, edges, steps, seeds, labels = problem
    found = SeededWatershed(count, edges, steps).labels(seeds, labels)
    assert found.tolist() == kruskal(*problem)


@settings(max_examples=60, deadline=None)
@given(problems())
def test_no_seed_of_another_label_is_nearer_and_every_region_is_tied_to_its_own(problem) -> None:
    count, edges, steps, seeds, labels = problem
    found = SeededWatershed(count, edges, steps).labels(seeds, labels)
    np.testing.assert_array_equal(found[seeds], labels)
    costs = np.stack([minimax(count, edges, steps, seed) for seed in seeds])
    own = np.where(labels[:, None] == found, costs, np.inf).min(axis=0)
    np.testing.assert_array_equal(own, costs.min(axis=0))
    same = edges[found[edges[:, 0]] == found[edges[:, 1]]]
    parts = connected_components(
        coo_matrix((np.ones(len(same)), (same[:, 0], same[:, 1])), (count, count))
    )[1]
    assert set(parts) == set(parts[seeds])


def test_a_forest_labels_again_and_again_in_any_order() -> None:
    edges = grid_edges(6, 6)
    forest = SeededWatershed(36, edges, np.random.default_rng(0).random(len(edges)))
    first = forest.labels([3, 20, 30], [0, 7, 2])
    forest.labels([1], [5])
    np.testing.assert_array_equal(forest.labels([30, 3, 20, 3], [2, 0, 7, 0]), first)


@pytest.mark.parametrize(
    ("seeds", "labels", "message"),
    [
        ([], [], "at least one"),
        ([0, 1], [1], "got 1 and 2"),
        ([4], [1], "seeds must lie in 0 to 3, got 4 to 4"),
        ([-1], [1], "seeds must lie in 0 to 3, got -1 to -1"),
        ([2, 2], [1, 0], "region 2 has two labels"),
    ],
)
def test_bad_seeds_are_refused_in_one_sentence(seeds, labels, message) -> None:
    forest = SeededWatershed(4, grid_edges(2, 2), np.arange(4.0))
    with pytest.raises(ValueError, match=message):
        forest.labels(np.array(seeds, np.int64), np.array(labels, np.int64))


def test_steps_follow_the_tree_and_then_the_strength() -> None:
    #   6 = 4 + 5, 4 = 0 + 1, 5 = 2 + 3
    tree = PartitionTree.of_merges(
        np.array([4, 4, 5, 5, 6, 6, 6]), np.array([0, 0, 0, 0, 0.2, 0.1, 0.9]), np.ones(4)
    )
    edges = np.array([[0, 1], [0, 2], [1, 3], [2, 3]])
    steps = steps_of_tree(tree, edges, np.array([5.0, 4.0, 3.0, 9.0]))
    assert steps.tolist() == [1, 3, 2, 0]
