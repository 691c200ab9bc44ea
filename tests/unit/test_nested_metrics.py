from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maskfeat.evaluate.metrics import (
    NestedOverlap,
    average_recall,
    covering,
    nestedness,
    probabilistic_rand_index,
    variation_of_information,
)
from maskfeat.segment.tree import PartitionTree, merge_nearest

SHAPE = (9, 11)
NUM_LEAVES = 12

quick = settings(max_examples=30, deadline=None)
seeds = st.integers(0, 2**32 - 1)


def random_case(seed: int) -> tuple[PartitionTree, np.ndarray, np.ndarray]:
    """A tree over leaves scattered at random, some of equal altitude, and a target with -1."""
    rng = np.random.default_rng(seed)
    leaf_labels = rng.integers(0, NUM_LEAVES, SHAPE)
    sizes = np.bincount(leaf_labels.ravel(), minlength=NUM_LEAVES) + 1.0  # none is empty
    edges = np.stack(np.triu_indices(NUM_LEAVES, 1), axis=1)
    merges = merge_nearest(rng.random((NUM_LEAVES, 2)), sizes, edges)
    altitudes = np.floor(merges.altitudes * 20) / 20 if seed % 2 else merges.altitudes
    tree = PartitionTree.of_merges(merges.parents, altitudes, sizes)
    return tree, leaf_labels, rng.integers(-1, 4, SHAPE)


def four_leaves() -> PartitionTree:
    """Leaves 0 to 3; 4 joins 0 and 1 at altitude 1, 5 adds 2 at 2, the root 6 adds 3 at 3."""
    parents, altitudes = np.array([4, 4, 5, 6, 5, 6, 6]), np.array([0, 0, 0, 0, 1.0, 2.0, 3.0])
    return PartitionTree.of_merges(parents, altitudes, np.ones(4))


# --- the cuts of a tree --------------------------------------------------------------------------


@quick
@given(seeds)
def test_scores_at_an_altitude_are_those_of_the_label_map_of_that_cut(seed) -> None:
    tree, leaf_labels, target = random_case(seed)
    nested = NestedOverlap(tree, leaf_labels, target)
    root = tree.altitudes[-1]
    for altitude in (
        0,
        *np.quantile(tree.altitudes, [0.3, 0.6, 0.8, 0.95]),
        0.99 * root,
        root,
        9.0,
    ):
        labels = tree.groups_at(altitude)[leaf_labels]
        scores = nested.scores_at(altitude)
        assert scores["covering"] == pytest.approx(covering(labels, target))
        assert scores["pri"] == pytest.approx(probabilistic_rand_index(labels, target))
        assert scores["voi"] == pytest.approx(variation_of_information(labels, target), abs=1e-9)


@quick
@given(seeds)
def test_nodes_at_an_altitude_are_the_groups_of_the_tree(seed) -> None:
    tree, leaf_labels, target = random_case(seed)
    nested = NestedOverlap(tree, leaf_labels, target)
    for altitude in (0, *np.quantile(tree.altitudes, [0.6, 0.8, 0.95]), 9.0):
        groups = tree.groups_at(altitude)
        expected = {frozenset(np.flatnonzero(groups == group)) for group in set(groups)}
        nodes = nested.nodes_at(altitude)
        found = {frozenset(np.flatnonzero(tree.leaves_under(np.array([node])))) for node in nodes}
        assert found == expected
        assert len(nodes) == len(expected)


@quick
@given(seeds)
def test_iou_best_covering_and_average_recall_agree_with_a_loop_over_nodes(seed) -> None:
    tree, leaf_labels, target = random_case(seed)
    nested = NestedOverlap(tree, leaf_labels, target)
    counted, trues = target >= 0, sorted(set(target[target >= 0].tolist()))
    expected = np.zeros((len(tree.parents), len(trues)))
    for node in range(len(tree.parents)):
        region = tree.leaves_under(np.array([node]))[leaf_labels] & counted
        for number, true in enumerate(trues):
            here = target == true
            expected[node, number] = (region & here).sum() / (region | here).sum()
    np.testing.assert_allclose(nested.iou(), expected)
    areas = [(target == true).sum() for true in trues]
    best = np.average(expected.max(axis=0), weights=areas)
    assert nested.best_covering() == pytest.approx(best)
    assert nested.average_recall(len(expected)) == pytest.approx(
        np.mean([[value >= 0.5 + 0.05 * k for k in range(10)] for value in expected.max(axis=0)])
    )


@quick
@given(seeds)
def test_no_cut_covers_better_than_the_best_nodes(seed) -> None:
    tree, leaf_labels, target = random_case(seed)
    nested = NestedOverlap(tree, leaf_labels, target)
    for altitude in tree.altitudes:
        assert nested.scores_at(altitude)["covering"] <= nested.best_covering() + 1e-12


def test_the_worked_tree_covers_by_its_best_nodes() -> None:
    # Leaves 0 1 2 3 in a row; the truth parts {0, 1, 2} and {3}: nodes 5 and 3, cut at altitude 2.
    nested = NestedOverlap(four_leaves(), np.array([[0, 1, 2, 3]]), np.array([[7, 7, 7, 9]]))
    assert nested.best_covering() == 1
    assert nested.scores_at(2) == {"covering": 1, "pri": 1, "voi": 0}
    assert nested.nodes_at(2).tolist() == [3, 5]
    # At altitude 1: {0, 1}, {2}, {3}: best IoU 2/3 and 1; 2 of 6 pairs disputed; 3/4 H(1/3) bit.
    scores = nested.scores_at(1)
    assert scores["covering"] == pytest.approx((3 * 2 / 3 + 1) / 4)
    assert scores["pri"] == pytest.approx(4 / 6)
    assert scores["voi"] == pytest.approx(0.75 * (math.log2(3) - 2 / 3))


def test_labels_under_uncounted_pixels_change_no_node() -> None:
    tree, leaf_labels, target = random_case(1)
    changed = np.where(target < 0, 0, leaf_labels)
    for name in ("shared", "sizes", "target_sizes"):
        found = getattr(NestedOverlap(tree, changed, target), name)
        np.testing.assert_array_equal(
            found, getattr(NestedOverlap(tree, leaf_labels, target), name)
        )


def test_a_tree_of_one_leaf_has_one_cut() -> None:
    tree = PartitionTree.of_merges(np.zeros(1, np.int64), np.zeros(1), np.array([4.0]))
    nested = NestedOverlap(tree, np.zeros((1, 4), int), np.array([[0, 0, 1, 1]]))
    for altitude in (0, 1):
        scores = nested.scores_at(altitude)
        assert scores == {"covering": 0.5, "pri": pytest.approx(2 / 6), "voi": pytest.approx(1)}


def test_one_counted_pixel_has_no_rand_index() -> None:
    nested = NestedOverlap(four_leaves(), np.array([[0, 1, 2, 3]]), np.array([[0, -1, -1, -1]]))
    scores = nested.scores_at(0)
    assert math.isnan(scores["pri"])
    assert (scores["covering"], scores["voi"]) == (1, 0)


def test_a_target_without_counted_pixels_is_refused() -> None:
    with pytest.raises(ValueError, match="target has no counted pixel"):
        NestedOverlap(four_leaves(), np.array([[0, 1, 2, 3]]), np.full((1, 4), -1))
    with pytest.raises(ValueError, match=r"same shape, got \(1, 4\) and \(4, 1\)"):
        NestedOverlap(four_leaves(), np.array([[0, 1, 2, 3]]), np.zeros((4, 1), int))


# --- average recall ------------------------------------------------------------------------------


def test_average_recall_of_the_worked_pool() -> None:
    iou = np.array([[0.50, 0.20], [0.56, 0.94], [1.00, 0.96]])
    assert average_recall(iou, 1) == pytest.approx((1 + 0) / 20)  # 0.50 reaches 0.5 alone
    assert average_recall(iou, 2) == pytest.approx((2 + 9) / 20)
    assert average_recall(iou, 3) == 1
    assert average_recall(iou, 99) == 1


@pytest.mark.parametrize("step", range(10))
def test_an_iou_exactly_at_a_threshold_reaches_it(step) -> None:
    threshold = (50 + 5 * step) / 100
    assert average_recall(np.array([[threshold]]), 1) == pytest.approx((step + 1) / 10)
    assert average_recall(np.array([[threshold - 1e-6]]), 1) == pytest.approx(step / 10)


def test_an_empty_pool_finds_nothing_and_no_true_segment_is_not_scored() -> None:
    assert average_recall(np.zeros((0, 3)), 5) == 0
    assert average_recall(np.ones((4, 3)), 0) == 0
    assert math.isnan(average_recall(np.zeros((4, 0)), 5))


def test_nodes_are_ranked_from_the_root_down() -> None:
    # One true segment for all: the root alone finds it, at every threshold.
    leaves = np.array([[0, 1, 2, 3]])
    whole = NestedOverlap(four_leaves(), leaves, np.zeros((1, 4), int))
    assert whole.average_recall(1) == 1
    # {0, 1, 2} and {3}: the root reaches 3/4 and 1/4, then 5 and 3 follow, of equal rank.
    parted = NestedOverlap(four_leaves(), leaves, np.array([[0, 0, 0, 1]]))
    assert parted.average_recall(1) == pytest.approx((6 + 0) / 20)
    assert parted.average_recall(3) == 1


def test_of_nodes_at_equal_altitudes_the_upper_ones_come_first() -> None:
    tree = four_leaves()
    tree = PartitionTree(tree.parents, np.minimum(tree.altitudes, 1), tree.sizes)
    nested = NestedOverlap(tree, np.array([[0, 1, 2, 3]]), np.array([[0, 0, 1, 1]]))
    # IoUs with {0, 1} and {2, 3}: root 1/2, 1/2; node 5 2/3, 1/4; node 4 1, 0.
    assert nested.average_recall(1) == pytest.approx((1 + 1) / 20)
    assert nested.average_recall(2) == pytest.approx((4 + 1) / 20)
    assert nested.average_recall(3) == pytest.approx((10 + 1) / 20)


# --- nestedness ----------------------------------------------------------------------------------


def test_nestedness_of_the_worked_case_is_the_share_of_unbroken_segments() -> None:
    fine = np.array([[0, 0, 1, 1, 2, 2]])
    middle = np.array([[5, 5, 5, 6, 6, 6]])  # breaks 1 of 3
    coarse = np.array([[1, 1, 1, 1, 1, 2]])  # breaks 1 of 2
    assert nestedness([fine, middle]) == pytest.approx(2 / 3)
    assert nestedness([fine, middle, coarse]) == pytest.approx((2 + 1) / (3 + 2))


@quick
@given(seeds)
def test_the_cuts_of_one_tree_are_nested_exactly(seed) -> None:
    tree, leaf_labels, _ = random_case(seed)
    by_altitude = [tree.groups_at(altitude)[leaf_labels] for altitude in np.unique(tree.altitudes)]
    by_number = [tree.groups(number)[leaf_labels] for number in (12, 9, 9, 5, 2, 1)]
    assert nestedness(by_altitude) == 1.0
    assert nestedness(by_number) == 1.0


@quick
@given(seeds)
def test_independent_partitions_are_not_nested(seed) -> None:
    rng = np.random.default_rng(seed)
    fine, coarse = rng.integers(0, 12, (20, 20)), rng.integers(0, 4, (20, 20))
    assert nestedness([fine, coarse]) < 0.5


@quick
@given(seeds)
def test_renumbering_and_repeating_partitions_keeps_nestedness(seed) -> None:
    rng = np.random.default_rng(seed)
    fine, coarse = rng.integers(0, 30, (6, 7)), rng.integers(0, 3, (6, 7))
    numbers = rng.permutation(30) * 10**9 - 7
    assert nestedness([numbers[fine], coarse]) == nestedness([fine, coarse])
    assert nestedness([fine, fine]) == 1


def test_nestedness_needs_two_partitions_of_one_shape() -> None:
    with pytest.raises(ValueError, match="needs at least two partitions, got 1"):
        nestedness([np.zeros((2, 2), int)])
    with pytest.raises(ValueError, match=r"same shape, got \(2, 3\) and \(3, 2\)"):
        nestedness([np.zeros((2, 3), int), np.zeros((3, 2), int)])
