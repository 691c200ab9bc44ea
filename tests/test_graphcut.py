from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter

from maskfeat.features.reading import Features
from maskfeat.segment.atoms import AtomGraph, atoms
from maskfeat.segment.graphcut import AtomCutter, cut, min_cut, parts_with
from maskfeat.segment.hierarchy import merge_tree, salient_node

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


def two_discs() -> tuple[AtomGraph, np.ndarray]:
    """Two discs of one color on another ground, noisy; and which disc (1, 2) or none (0)."""
    rows, columns = np.mgrid[:60, :100]
    truth = np.zeros((60, 100), int)
    truth[(rows - 30) ** 2 + (columns - 25) ** 2 < 225] = 1
    truth[(rows - 30) ** 2 + (columns - 72) ** 2 < 225] = 2
    noise = gaussian_filter(np.random.default_rng(0).normal(size=(60, 100, 3)), (1, 1, 0))
    return atoms(Features.from_dense((truth > 0)[..., None] * [1, -1, 1] + 0.3 * noise)), truth


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 9))
def test_no_labeling_of_a_small_graph_has_less_energy(seed: int, num_nodes: int) -> None:
    unary, edges, pairwise = random_problem(seed, num_nodes)
    found = min_cut(unary, edges, pairwise, np.array([0]), np.array([1]))
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
    found = min_cut(unary, edges, pairwise, NONE, NONE)
    # The cut pays |u| for every node against its unary; the energy pays -+u / 2 for all.
    paid = energy(found, unary, edges, pairwise) + np.abs(unary).sum() / 2
    assert paid == pytest.approx(naive_max_flow(capacity, 40, 41), abs=1e-6)


def test_seeds_hold_against_any_unary() -> None:
    edges, pairwise = np.array([[0, 1], [1, 2]]), np.array([1e-3, 1e-3])
    found = min_cut(np.array([-1e6, 0.0, 1e6]), edges, pairwise, np.array([0]), np.array([2]))
    assert found.tolist() == [True, False, False]


def test_without_any_cost_the_object_is_its_seed() -> None:
    edges = np.array([[0, 1]])
    found = min_cut(np.zeros(2), edges, np.zeros(1), np.array([1]), NONE)
    assert found.tolist() == [False, True]


def test_parts_that_hold_no_click_are_left_out() -> None:
    labels = np.array([True, True, False, True])
    edges = np.array([[0, 1], [1, 2], [2, 3]])
    assert parts_with(labels, edges, np.array([1])).tolist() == [True, True, False, False]


def test_one_click_on_a_disc_finds_that_disc() -> None:
    graph, truth = two_discs()
    mask = cut(graph, [graph.labels[30, 25]], NONE)[graph.labels]
    assert (mask & (truth == 1)).sum() / (mask | (truth == 1)).sum() > 0.9


def test_a_click_on_each_disc_and_one_between_find_both_discs() -> None:
    graph, truth = two_discs()
    clicked = graph.labels[[30, 30], [25, 72]]
    mask = cut(graph, clicked, [graph.labels[30, 48]])[graph.labels]
    assert (mask & (truth > 0)).sum() / (mask | (truth > 0)).sum() > 0.9


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000))
def test_clicks_are_obeyed_and_their_order_is_nothing(seed: int) -> None:
    rng = np.random.default_rng(seed)
    clicked = rng.choice(GRAPH.num_atoms, size=9, replace=False)
    inside, outside = clicked[:4], clicked[4:]
    found = CUTTER.cut(inside, outside)
    assert found[inside].all()
    assert not found[outside].any()
    again = CUTTER.cut(rng.permutation(np.repeat(inside, 2)), rng.permutation(outside))
    np.testing.assert_array_equal(found, again)


def test_the_cut_has_less_energy_than_moving_any_one_atom() -> None:
    inside, outside = np.array([10, 200]), np.array([50, 300])
    salient = CUTTER._salient(inside, outside)
    unary = CUTTER._unary(inside, outside, salient)
    found = min_cut(unary, GRAPH.edges, CUTTER.pairwise, inside, outside)
    best = energy(found, unary, GRAPH.edges, CUTTER.pairwise)
    for atom in range(0, GRAPH.num_atoms, 7):
        if atom not in (10, 200, 50, 300):
            other = found.copy()
            other[atom] ^= True
            assert energy(other, unary, GRAPH.edges, CUTTER.pairwise) >= best - 1e-3


def test_the_outline_does_not_grow_longer_when_smoothness_grows() -> None:
    inside, outside = [GRAPH.labels[30, 25]], [GRAPH.labels[30, 48], GRAPH.labels[5, 5]]

    def outline(smoothness: float) -> float:
        labels = cut(GRAPH, inside, outside, smoothness=smoothness)
        i, j = GRAPH.edges.T
        return float(GRAPH.border_lengths[labels[i] != labels[j]].sum())

    assert outline(1000) <= outline(30) <= outline(0)


def test_direct_feature_distances_can_join_in_and_keep_every_click() -> None:
    inside, outside = [GRAPH.labels[30, 25]], [GRAPH.labels[5, 5]]
    labels = cut(GRAPH, inside, outside, feature_weight=1.0)
    assert labels[inside].all()
    assert not labels[outside].any()
    share = labels[GRAPH.labels][TRUTH == 1].mean()
    assert share > 0.9


def test_features_multiplied_by_a_number_give_the_same_cut() -> None:
    values = GRAPH_VALUES
    masks = []
    for factor in (1.0, 16.0):
        graph = atoms(Features.from_dense(values * factor))
        inside, outside = [graph.labels[30, 25]], [graph.labels[30, 48]]
        masks.append(cut(graph, inside, outside)[graph.labels])
    np.testing.assert_array_equal(*masks)


def test_the_lowest_common_node_of_two_leaves_gives_their_meeting_level() -> None:
    tree = merge_tree(GRAPH)
    levels = tree.meeting_levels(17)
    path = tree.ancestors(17).tolist()
    for leaf in range(0, GRAPH.num_atoms, 11):
        shared = [node for node in tree.ancestors(leaf).tolist() if node in path]
        assert levels[leaf] == (0 if leaf == 17 else tree.levels[min(shared)])
        under = tree.leaves_under(np.array([min(shared)]))
        assert under[leaf]
        assert under[17]
        assert under.dot(GRAPH.sizes) == tree.sizes[min(shared)]


def test_a_salient_node_holds_the_click_and_no_barred_region() -> None:
    tree = merge_tree(GRAPH)
    for leaf, other in itertools.product((3, 120, 250), (7, 199, 390)):
        barred = np.zeros(len(tree.parents), bool)
        barred[tree.ancestors(other)] = True
        under = tree.leaves_under(np.array([salient_node(tree, leaf, barred)]))
        assert under[leaf]
        assert not under[other]
        assert under.dot(GRAPH.sizes) <= 0.6 * GRAPH.labels.size


def test_bad_input_is_refused_in_one_sentence() -> None:
    with pytest.raises(ValueError, match="object_atoms must name at least one atom"):
        cut(GRAPH, NONE, [1])
    with pytest.raises(ValueError, match="clicked as object and as background"):
        cut(GRAPH, [1, 2], [2])
    with pytest.raises(ValueError, match=r"background_atoms must lie in 0 to 399, got 400 to 400"):
        cut(GRAPH, [1], [400])
    with pytest.raises(ValueError, match="object_atoms must be integers, got float64"):
        cut(GRAPH, [1.5], [2])
    with pytest.raises(ValueError, match="smoothness must not be negative"):
        AtomCutter(GRAPH, smoothness=-1)


GRAPH, TRUTH = two_discs()
GRAPH_VALUES = (TRUTH > 0)[..., None] * [1, -1, 1] + 0.3 * gaussian_filter(
    np.random.default_rng(0).normal(size=(60, 100, 3)), (1, 1, 0)
)
CUTTER = AtomCutter(GRAPH)
