"""Merges against a naive search."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maskfeat.segment.tree import Borders, merge_nearest


def naive(means, sizes, edges, power, lengths, squares, weight):
    """Groups of regions after each merge of pairs that are each other's nearest, with sets."""
    groups = [frozenset([i]) for i in range(len(sizes))]
    borders = {
        frozenset(edge): (length, length * square)
        for edge, length, square in zip(edges.tolist(), lengths, squares, strict=True)
    }
    found = set(groups)

    def cost(a, b):
        pair = [sorted(a), sorted(b)]
        mean = [(means[ids] * sizes[ids, None]).sum(0) / sizes[ids].sum() for ids in pair]
        touching = [v for k, v in borders.items() if len(k & a) == 1 and len(k & b) == 1]
        if not touching:
            return np.inf
        contrast = np.sqrt(sum(t[1] for t in touching) / sum(t[0] for t in touching))
        smaller = min(sizes[ids].sum() for ids in pair) / sizes.sum()
        return np.linalg.norm(mean[0] - mean[1]) ** (1 - weight) * contrast**weight * smaller**power

    while len(groups) > 1:
        costs = np.array([[cost(a, b) if a != b else np.inf for b in groups] for a in groups])
        nearest = costs.argmin(1)
        pairs = [(i, j) for i, j in enumerate(nearest) if i < j and nearest[j] == i]
        for i, j in pairs:
            groups.append(groups[i] | groups[j])
        gone = {i for pair in pairs for i in pair}
        groups = [g for n, g in enumerate(groups) if n not in gone]
        found |= set(groups)
    return found


def scene(seed: int, count: int = 12):
    rng = np.random.default_rng(seed)
    means, sizes = rng.normal(size=(count, 3)), rng.integers(1, 50, count).astype(float)
    chain = np.stack([np.arange(count - 1), np.arange(1, count)], axis=1)
    more = rng.integers(0, count, (8, 2))
    edges = np.unique(np.sort(np.concatenate([chain, more[more[:, 0] != more[:, 1]]])), axis=0)
    lengths = rng.integers(1, 9, len(edges)).astype(float)
    return means, sizes, edges, lengths, rng.random(len(edges))


@given(
    seed=st.integers(0, 10_000),
    power=st.sampled_from([0, 0.15, 1]),
    weight=st.sampled_from([0, 0.6, 1]),
)
@settings(max_examples=60, deadline=None)
def test_the_groups_are_those_of_a_naive_search(seed, power, weight) -> None:
    means, sizes, edges, lengths, squares = scene(seed)
    merges = merge_nearest(means, sizes, edges, power, Borders(lengths, squares), weight)
    under = [frozenset([i]) for i in range(len(sizes))]
    for node in range(len(sizes), len(merges.parents)):
        first, second = np.flatnonzero(merges.parents[:node] == node)
        under.append(under[first] | under[second])
    assert set(under) == naive(means, sizes, edges, power, lengths, squares, weight)


@given(seed=st.integers(0, 10_000))
@settings(max_examples=30, deadline=None)
def test_parents_come_after_their_children_and_at_no_lower_altitude(seed) -> None:
    means, sizes, edges, *_ = scene(seed)
    tree = merge_nearest(means, sizes, edges)
    parents, altitudes = tree.parents, tree.altitudes
    assert (parents[:-1] > np.arange(len(parents) - 1)).all()
    assert parents[-1] == len(parents) - 1
    assert (altitudes[parents] >= altitudes).all()
    assert (np.diff(altitudes[len(sizes) :]) >= 0).all()
    assert (np.bincount(parents[:-1])[len(sizes) :] == 2).all()


def test_the_cheapest_of_three_is_merged_first_and_its_altitude_is_its_cost() -> None:
    means, sizes = np.array([[0.0], [1.0], [3.0]]), np.array([1.0, 1.0, 2.0])
    tree = merge_nearest(means, sizes, np.array([[0, 1], [1, 2]]), size_power=1)
    assert tree.parents.tolist() == [3, 3, 4, 4, 4]
    # |0 - 1| * 1/4, then |0.5 - 3| * 2/4
    np.testing.assert_allclose(tree.altitudes, [0, 0, 0, 0.25, 1.25])


def test_parts_that_do_not_touch_are_joined_last() -> None:
    means = np.array([[0.0], [1.0], [5.0], [5.5]])
    tree = merge_nearest(means, np.ones(4), np.array([[0, 1], [2, 3]]))
    assert tree.groups(2).tolist() == [0, 0, 1, 1]
    assert tree.altitudes[-1] == tree.altitudes[-2]
    assert tree.sizes[-1] == 4


@pytest.mark.parametrize("num_groups", [1, 5])
def test_equal_regions_and_a_single_one_are_no_special_case(num_groups) -> None:
    edges = np.stack([np.arange(4), np.arange(1, 5)], axis=1)
    tree = merge_nearest(np.ones((5, 2)), np.ones(5), edges)
    assert tree.groups(num_groups).max() + 1 == num_groups
    tree = merge_nearest(np.ones((1, 2)), np.ones(1), np.zeros((0, 2), int))
    assert (tree.parents.tolist(), tree.altitudes.tolist()) == ([0], [0.0])


def test_border_weights_without_borders_are_refused() -> None:
    with pytest.raises(ValueError, match=r"border_weight 0.5 needs borders"):
        merge_nearest(np.ones((2, 1)), np.ones(2), np.array([[0, 1]]), border_weight=0.5)
