from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maskfeat.segment.potts import PottsEnergy, minimize_potts


def random_energy(seed: int, num_nodes: int, num_labels: int) -> PottsEnergy:
    rng = np.random.default_rng(seed)
    pairs = np.array(list(itertools.combinations(range(num_nodes), 2)))
    edges = pairs[rng.random(len(pairs)) < 0.6]
    pairwise = rng.exponential(size=len(edges)) * rng.choice([0.1, 0.5, 2])
    return PottsEnergy(rng.normal(size=(num_nodes, num_labels)), edges, pairwise)


def naive(energy: PottsEnergy, labels) -> float:
    total = sum(energy.unary[node, label] for node, label in enumerate(labels))
    for (i, j), cost in zip(energy.edges, energy.pairwise, strict=True):
        total += cost if labels[i] != labels[j] else 0
    return float(total)


def borders(energy: PottsEnergy, labels) -> float:
    return naive(energy._replace(unary=np.zeros_like(energy.unary)), labels)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 9))
def test_two_labels_are_solved_exactly(seed: int, num_nodes: int) -> None:
    energy = random_energy(seed, num_nodes, 2)
    found = minimize_potts(energy)
    least = min(naive(energy, f) for f in itertools.product((0, 1), repeat=num_nodes))
    assert naive(energy, found.labels) == pytest.approx(least, abs=1e-6)
    assert found.energies[-1] == pytest.approx(least, abs=1e-6)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 6), st.integers(3, 4))
def test_more_labels_keep_the_guarantee_and_every_move_gains(
    seed: int, num_nodes: int, num_labels: int
) -> None:
    energy = random_energy(seed, num_nodes, num_labels)
    start = np.random.default_rng(seed + 1).integers(0, num_labels, num_nodes)
    found = minimize_potts(energy, start)
    everything = itertools.product(range(num_labels), repeat=num_nodes)
    best = min(everything, key=lambda f: naive(energy, f))
    assert found.energies[0] == pytest.approx(naive(energy, start))
    assert found.energies[-1] == pytest.approx(naive(energy, found.labels))
    assert all(np.diff(found.energies) < 0)
    assert naive(energy, found.labels) >= naive(energy, best) - 1e-6
    # Boykov, Veksler, Zabih, Theorem 6.1: the borders of the best are paid twice at most.
    assert naive(energy, found.labels) <= naive(energy, best) + borders(energy, best) + 1e-6


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 7))
def test_no_expansion_lowers_what_was_found(seed: int, num_nodes: int) -> None:
    energy = random_energy(seed, num_nodes, 3)
    found = minimize_potts(energy)
    for offered in range(3):
        for takes in itertools.product((False, True), repeat=num_nodes):
            moved = np.where(takes, offered, found.labels)
            assert naive(energy, moved) >= naive(energy, found.labels) - 1e-6


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10_000), st.integers(3, 7), st.integers(2, 3))
def test_fixed_nodes_keep_their_label_and_the_rest_is_best_for_it(
    seed: int, num_nodes: int, num_labels: int
) -> None:
    energy = random_energy(seed, num_nodes, num_labels)
    rng = np.random.default_rng(seed)
    start = rng.integers(0, num_labels, num_nodes)
    fixed = np.arange(num_nodes) < 2
    found = minimize_potts(energy, start, fixed)
    np.testing.assert_array_equal(found.labels[fixed], start[fixed])
    allowed = [
        f
        for f in itertools.product(range(num_labels), repeat=num_nodes)
        if f[:2] == tuple(start[:2])
    ]
    best = min(allowed, key=lambda f: naive(energy, f))
    slack = 0 if num_labels == 2 else borders(energy, best)
    assert naive(energy, found.labels) <= naive(energy, best) + slack + 1e-6


def test_a_chain_of_three_is_labeled_as_worked_by_hand() -> None:
    # The middle node mildly wants label 2 (gain 1), which would open two borders of 2 each; its
    # neighbors insist on 0 and 1, so one border of 2 stays and the middle joins the cheaper side.
    unary = np.array([[0.0, 9, 9], [1.5, 2, 1], [9, 0, 9]])
    found = minimize_potts(PottsEnergy(unary, np.array([[0, 1], [1, 2]]), np.array([2.0, 2.0])))
    assert found.labels.tolist() == [0, 0, 1]
    assert found.energies[-1] == pytest.approx(3.5)


def test_fixed_nodes_need_a_start() -> None:
    with pytest.raises(ValueError, match="fixed nodes need a start"):
        minimize_potts(random_energy(0, 3, 3), None, np.ones(3, bool))
