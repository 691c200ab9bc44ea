from __future__ import annotations

import itertools

import numpy as np
import pytest
from click_scenes import GRAPH, cutter_of
from hypothesis import given, settings
from hypothesis import strategies as st

from maskfeat.interactive.cut import SuperpixelCutter
from maskfeat.segment.potts import FlowGraph
from maskfeat.segment.tree import ward_tree

NONE = np.zeros(0, int)


def energy(labels: np.ndarray, unary: np.ndarray, edges: np.ndarray, pairwise: np.ndarray) -> float:
    total = 0.0
    for label, weight in zip(labels, unary, strict=True):
        total += 0.5 * weight * (1 - 2 * label)
    for (i, j), weight in zip(edges, pairwise, strict=True):
        total += weight * (labels[i] != labels[j])
    return total


def naive_max_flow(capacity: np.ndarray, source: int, sink: int) -> float:
    """Augment along the shortest path until there is none (Edmonds and Karp)."""
    residual, total = capacity.astype(float).copy(), 0.0
    while True:
        previous, queue = {source: source}, [source]
        for node in queue:
            for other in np.flatnonzero(residual[node] > 1e-12):
                if int(other) not in previous:
                    previous[int(other)] = node
                    queue.append(int(other))
        if sink not in previous:
            return total
        path, node = [], sink
        while node != source:
            path.append((previous[node], node))
            node = previous[node]
        step = min(residual[i, j] for i, j in path)
        for i, j in path:
            residual[i, j] -= step
            residual[j, i] += step
        total += step


def random_problem(seed: int, num_nodes: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    pairs = np.array(list(itertools.combinations(range(num_nodes), 2)))
    edges = pairs[rng.random(len(pairs)) < 0.5]
    return rng.normal(size=num_nodes), edges, rng.exponential(size=len(edges))


def min_cut(unary, edges, pairwise, inside=(), outside=()) -> np.ndarray:
    network = FlowGraph(len(unary), edges, pairwise, float(np.abs(unary).sum()))
    return network.cut(unary, np.array(inside, int), np.array(outside, int))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 9))
def test_no_labeling_of_a_small_graph_has_less_energy(seed: int, num_nodes: int) -> None:
    unary, edges, pairwise = random_problem(seed, num_nodes)
    found = min_cut(unary, edges, pairwise, [0], [1])
    assert found[0]
    assert not found[1]
    least = min(
        energy(np.array((1, 0, *rest)), unary, edges, pairwise)
        for rest in itertools.product((0, 1), repeat=num_nodes - 2)
    )
    assert energy(found, unary, edges, pairwise) == pytest.approx(least, abs=1e-6)


@pytest.mark.parametrize("seed", range(5))
def test_the_energy_of_the_cut_is_the_value_of_a_naive_maximum_flow(seed: int) -> None:
    unary, edges, pairwise = random_problem(seed, 40)
    capacity = np.zeros((42, 42))
    capacity[edges[:, 0], edges[:, 1]] = capacity[edges[:, 1], edges[:, 0]] = pairwise
    capacity[40, :40], capacity[:40, 41] = np.maximum(unary, 0), np.maximum(-unary, 0)
    found = min_cut(unary, edges, pairwise)
    # The cut pays |u| for every node against its unary; the energy pays -+u / 2 for all.
    paid = energy(found, unary, edges, pairwise) + np.abs(unary).sum() / 2
    assert paid == pytest.approx(naive_max_flow(capacity, 40, 41), abs=1e-6)


def test_seeds_hold_against_any_unary() -> None:
    edges, pairwise = np.array([[0, 1], [1, 2]]), np.array([1e-3, 1e-3])
    found = min_cut(np.array([-1e6, 0.0, 1e6]), edges, pairwise, [0], [2])
    assert found.tolist() == [True, False, False]


def test_without_any_cost_the_object_is_its_seed() -> None:
    edges = np.array([[0, 1]])
    found = min_cut(np.zeros(2), edges, np.zeros(1), [1])
    assert found.tolist() == [False, True]


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 30))
def test_what_speaks_more_for_the_object_never_makes_it_smaller(seed: int, num_nodes: int) -> None:
    unary, edges, pairwise = random_problem(seed, num_nodes)
    more = unary + np.random.default_rng(seed).exponential(size=num_nodes)
    network = FlowGraph(num_nodes, edges, pairwise, 10.0 * num_nodes)
    assert (network.cut(unary, NONE, NONE) <= network.cut(more, NONE, NONE)).all()


def test_one_network_cuts_many_times() -> None:
    unary, edges, pairwise = random_problem(3, 20)
    network = FlowGraph(20, edges, pairwise, 100.0)
    first = network.cut(unary, NONE, NONE)
    network.cut(-unary, NONE, NONE)
    np.testing.assert_array_equal(network.cut(unary, NONE, NONE), first)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000))
def test_clicks_are_obeyed_and_their_order_is_nothing(seed: int) -> None:
    rng = np.random.default_rng(seed)
    clicked = rng.choice(GRAPH.num_superpixels, size=9, replace=False)
    inside, outside = clicked[:4], clicked[4:]
    logits = rng.normal(0, 3, GRAPH.num_superpixels).astype(np.float32)
    found = CUTTER.cut(logits, inside, outside)
    assert found[inside].all()
    assert not found[outside].any()
    again = cutter_of().cut(logits, rng.permutation(np.repeat(inside, 2)), rng.permutation(outside))
    np.testing.assert_array_equal(found, again)


def test_the_outline_does_not_grow_longer_when_pairwise_weight_grows() -> None:
    inside, outside = [GRAPH.labels[30, 25]], [GRAPH.labels[30, 48], GRAPH.labels[5, 5]]

    noise = np.random.default_rng(0).normal(0, 4, GRAPH.num_superpixels).astype(np.float32)

    def outline(pairwise_weight: float) -> float:
        labels = cutter_of(pairwise_weight).cut(noise, inside, outside)
        i, j = GRAPH.edges.T
        return float(GRAPH.border_lengths[labels[i] != labels[j]].sum())

    assert outline(1000) <= outline(30) <= outline(0)
    assert outline(1000) < outline(0)


def test_excluded_superpixels_are_background_and_logits_move_the_rest() -> None:
    inside = [GRAPH.labels[30, 25]]
    excluded = np.unique(GRAPH.labels[:, 50:])
    likely = np.full(GRAPH.num_superpixels, 50, np.float32)
    found = CUTTER.cut(likely, inside, NONE, np.array([*excluded, *inside]))
    assert not found[np.setdiff1d(excluded, inside)].any()
    assert found[inside].all()
    assert CUTTER.cut(likely, inside, NONE).all()


def test_the_lowest_common_node_of_two_leaves_gives_their_meeting_altitude() -> None:
    tree = ward_tree(GRAPH.features, GRAPH.sizes, GRAPH.edges)
    altitudes = tree.altitudes[tree.meeting_nodes(17)]
    path = tree.ancestors(17).tolist()
    for leaf in range(0, GRAPH.num_superpixels, 11):
        shared = [node for node in tree.ancestors(leaf).tolist() if node in path]
        assert altitudes[leaf] == (0 if leaf == 17 else tree.altitudes[min(shared)])
        under = tree.leaves_under(np.array([min(shared)]))
        assert under[leaf]
        assert under[17]
        assert under.dot(GRAPH.sizes) == tree.sizes[min(shared)]


def test_a_bad_pairwise_weight_is_refused_in_one_sentence() -> None:
    with pytest.raises(ValueError, match="pairwise_weight must be a finite number of at least 0"):
        SuperpixelCutter(GRAPH, pairwise_weight=-1)


CUTTER = cutter_of()


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000))
def test_a_cut_within_is_the_cut_of_all_with_the_rest_held(seed: int) -> None:
    rng = np.random.default_rng(seed)
    cutter = cutter_of()
    count = GRAPH.num_superpixels
    clicks = rng.choice(count, 6, replace=False)
    inside, outside = clicks[:3], clicks[3:]
    logits = rng.normal(0, 3, count).astype(np.float32)
    everything = cutter.cut_within(
        np.ones(count, bool), np.zeros(count, bool), logits, inside, outside
    )
    np.testing.assert_array_equal(everything, cutter.cut(logits, inside, outside))

    is_free, labels = rng.random(count) < 0.3, rng.random(count) < 0.5
    found = cutter.cut_within(is_free, labels, logits, inside, outside)
    np.testing.assert_array_equal(found[~is_free], labels[~is_free])
    # The same with all others clicked; those that are clicked and not free keep their label, too.
    objects = np.where(is_free, np.isin(np.arange(count), inside), labels)
    grounds = np.where(is_free, np.isin(np.arange(count), outside), ~labels)
    wanted = cutter.cut(logits, np.flatnonzero(objects), np.flatnonzero(grounds))
    np.testing.assert_array_equal(found, wanted)
