"""Trees of merges against sets."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maskfeat.segment.tree import PartitionTree


def random_tree(seed: int, count: int = 9) -> tuple[PartitionTree, list[set[int]]]:
    """A tree of random merges at rising altitudes, and the leaves under each node."""
    rng = np.random.default_rng(seed)
    under = [{i} for i in range(count)]
    parents = np.arange(2 * count - 1)
    alive = list(range(count))
    for node in range(count, 2 * count - 1):
        first, second = (alive.pop(int(rng.integers(len(alive)))) for _ in range(2))
        parents[[first, second]] = node
        under.append(under[first] | under[second])
        alive.append(node)
    altitudes = np.concatenate([np.zeros(count), np.sort(rng.random(count - 1))])
    sizes = rng.integers(1, 9, count).astype(float)
    return PartitionTree.of_merges(parents, altitudes, sizes), under


def as_sets(groups: np.ndarray) -> set[frozenset[int]]:
    return {frozenset(np.flatnonzero(groups == g).tolist()) for g in np.unique(groups)}


@given(seed=st.integers(0, 5000), num_groups=st.integers(1, 9))
@settings(max_examples=40, deadline=None)
def test_undoing_the_last_merges_leaves_the_nodes_below_them(seed: int, num_groups: int) -> None:
    tree, under = random_tree(seed)
    num_nodes = len(under)
    undone = set(range(num_nodes - (num_groups - 1), num_nodes))
    tops = [
        n
        for n in range(num_nodes)
        if n not in undone and (n == num_nodes - 1 or int(tree.parents[n]) in undone)
    ]
    groups = tree.groups(num_groups)
    assert as_sets(groups) == {frozenset(under[n]) for n in tops}
    _, first = np.unique(groups, return_index=True)
    assert (np.diff(first) > 0).all()  # numbered by first leaf


@given(seed=st.integers(0, 5000), altitude=st.floats(0, 1))
@settings(max_examples=40, deadline=None)
def test_a_cut_at_an_altitude_keeps_the_merges_at_or_below_it(seed: int, altitude: float) -> None:
    tree, under = random_tree(seed)
    kept = [n for n in range(len(under)) if tree.altitudes[n] <= altitude]
    largest = {
        frozenset(under[n]) for n in kept if not any(under[n] < under[other] for other in kept)
    }
    assert as_sets(tree.groups_at(altitude)) == largest


@given(seed=st.integers(0, 5000))
@settings(max_examples=20, deadline=None)
def test_sums_sizes_and_children_are_those_of_the_sets(seed: int) -> None:
    tree, under = random_tree(seed)
    values = np.random.default_rng(seed).integers(0, 9, (9, 2))
    expected = np.array([values[sorted(leaves)].sum(axis=0) for leaves in under])
    np.testing.assert_array_equal(tree.sums(values), expected)
    np.testing.assert_allclose(tree.sizes, [tree.sizes[sorted(leaves)].sum() for leaves in under])
    for node, (first, second) in enumerate(tree.children, start=tree.num_leaves):
        assert under[first] | under[second] == under[node]
        assert first < second


@given(seed=st.integers(0, 5000))
@settings(max_examples=20, deadline=None)
def test_the_meeting_altitude_is_that_of_the_smallest_node_with_both(seed: int) -> None:
    tree, under = random_tree(seed)
    altitudes = tree.altitudes[tree.meeting_nodes(3)]
    for leaf in range(9):
        both = [n for n in range(len(under)) if {3, leaf} <= under[n]]
        assert altitudes[leaf] == (0 if leaf == 3 else tree.altitudes[min(both)])


def test_new_altitudes_renumber_the_merges_and_keep_the_groups() -> None:
    tree, under = random_tree(7)
    altitudes = tree.altitudes.copy()
    # Swap the order of the two lowest merges where neither holds the other.
    altitudes[9:] = altitudes[9:][np.argsort(np.random.default_rng(0).random(8))]
    for node in range(9, 16):  # no child above its parent
        altitudes[tree.parents[node]] = max(altitudes[tree.parents[node]], altitudes[node])
    sorted_tree = tree.with_altitudes(altitudes)
    assert (np.diff(sorted_tree.altitudes[9:]) >= 0).all()
    number = np.arange(17)
    number[9 + np.argsort(altitudes[9:], kind="stable")] = np.arange(9, 17)
    assert (sorted_tree.parents[:-1] > np.arange(16)).all()
    np.testing.assert_array_equal(sorted_tree.parents[number], number[tree.parents])
    np.testing.assert_array_equal(sorted_tree.sizes[number], tree.sizes)
    for altitude in (0.2, 0.5, 0.9):
        kept = [n for n in range(len(under)) if altitudes[n] <= altitude]
        largest = {frozenset(under[n]) for n in kept if not any(under[n] < under[o] for o in kept)}
        assert as_sets(sorted_tree.groups_at(altitude)) == largest


def test_leaves_under_several_nodes_are_their_union() -> None:
    tree, under = random_tree(1)
    for nodes in ([10], [9, 12], [16], [0]):
        expected = set().union(*(under[n] for n in nodes))
        assert set(np.flatnonzero(tree.leaves_under(np.array(nodes))).tolist()) == expected


def test_a_tree_of_one_leaf_is_its_root() -> None:
    tree = PartitionTree.of_merges(np.zeros(1, np.int64), np.zeros(1), np.ones(1))
    assert tree.groups(1).tolist() == [0]
    assert tree.groups_at(0.5).tolist() == [0]
    assert tree.children.shape == (0, 2)
    with pytest.raises(IndexError):
        _ = tree.sizes[1]
