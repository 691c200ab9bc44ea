"""Many labels by exact cuts: unary costs and a graph -> a label for each node."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from maskfeat.segment.max_flow import FlowGraph

BoolArray = npt.NDArray[np.bool_]
FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

_NO_NODES = np.zeros(0, np.int64)
# A move must gain more than rounding does, or two labelings of equal energy would take turns.
_LEAST_GAIN = 1e-9


class PottsEnergy(NamedTuple):
    """What a labeling f of the nodes of a graph costs.

        E(f) = sum_i unary_i(f_i)  +  sum_ij pairwise_ij * [f_i != f_j]

    Attributes:
        unary: Cost of each label at each node, any sign, float64, shape (K, L).
        edges: Pairs of nodes, no pair twice, integers, shape (E, 2).
        pairwise: Cost of parting the two nodes of an edge, not negative, float64, shape (E,).
    """

    unary: FloatArray
    edges: npt.NDArray[np.integer]
    pairwise: FloatArray

    def of(self, labels: IntArray) -> float:
        """E of a labeling, (K,)."""
        parted = labels[self.edges[:, 0]] != labels[self.edges[:, 1]]
        own = self.unary[np.arange(len(labels)), labels]
        return float(own.sum() + self.pairwise[parted].sum())


class Labeling(NamedTuple):
    """What was found.

    Attributes:
        labels: int64, shape (K,), in 0 to L - 1.
        energies: E at the start and after every move that was taken; it falls strictly.
    """

    labels: IntArray
    energies: list[float]


def minimize_potts(
    energy: PottsEnergy,
    start: IntArray | None = None,
    is_held: BoolArray | None = None,
    max_sweeps: int = 10,
) -> Labeling:
    """Lower a Potts energy by expansion moves, each found exactly by a maximum flow.

    A move offers one label to all nodes at once, and each takes it or keeps its own. Label after
    label is offered until none gains (Boykov, Veksler, Zabih, Fast approximate energy
    minimization via graph cuts, PAMI 2001, section 5). What is left then costs no more than the
    best labeling f* with its borders paid twice, E(f) <= E(f*) + sum_ij pairwise_ij [f*_i != f*_j]
    (their Theorem 6.1, of which this is the last line but one of the proof). Two labels are solved
    exactly, in one move.

    Nodes that no neighbor can talk out of their cheapest label are set to it beforehand: some
    best labeling has them so (Desmet, De Maeyer, Hazes, Lasters, The dead-end elimination theorem,
    Nature 1992), and the networks are smaller for it.

    Args:
        energy: What to lower.
        start: A labeling to begin with, shape (K,); None is the cheapest label of each node alone.
        is_held: Nodes that keep their label of `start`, bool, shape (K,); needs `start`.
        max_sweeps: How often all labels are offered at most.

    Returns:
        The labeling; the same input always gives the same.

    Raises:
        ValueError: If nodes are held and there is no start.
    """
    num_nodes, num_labels = energy.unary.shape
    if is_held is not None and start is None:
        raise ValueError("nodes that are held need a start that says what they are held at")
    held = np.zeros(num_nodes, bool) if is_held is None else is_held.copy()
    labels = energy.unary.argmin(axis=1) if start is None else start.astype(np.int64)
    labels = labels.copy()
    energies = [energy.of(labels)]
    sure, is_sure = _sure_labels(energy, held)
    labels[is_sure] = sure[is_sure]
    held |= is_sure
    if num_labels == 2:  # every labeling is one expansion away from "all 0"
        labels = np.where(held, labels, 0)
        labels = _expanded(energy, labels, 1, held)
        return _ended(energy, labels, energies)
    best = energy.of(labels)
    # The labels that no free node has to gain from are still offered: neighbors may want them.
    since_gain = 0
    for number in range(max_sweeps * num_labels):
        proposed = _expanded(energy, labels, number % num_labels, held)
        value = energy.of(proposed)
        since_gain += 1
        if value < best - _LEAST_GAIN * (1 + abs(best)):
            labels, best, since_gain = proposed, value, 0
            if value < energies[-1]:
                energies.append(value)
        if since_gain >= num_labels:
            break
    return _ended(energy, labels, energies)


def _ended(energy: PottsEnergy, labels: IntArray, energies: list[float]) -> Labeling:
    final = energy.of(labels)
    if final < energies[-1]:
        energies.append(final)
    return Labeling(labels, energies)


def _sure_labels(energy: PottsEnergy, held: BoolArray) -> tuple[IntArray, BoolArray]:
    """The cheapest label of each node, and the free nodes where all neighbors cannot change it."""
    num_nodes, num_labels = energy.unary.shape
    cheapest = energy.unary.argmin(axis=1)
    if num_labels < 2:
        return cheapest, ~held
    least_two = np.partition(energy.unary, 1, axis=1)[:, :2]
    pull = sum(
        np.bincount(energy.edges[:, side], energy.pairwise, num_nodes) for side in (0, 1)
    )  # what all neighbors together can pay
    return cheapest, (least_two[:, 1] - least_two[:, 0] > pull) & ~held


def _expanded(energy: PottsEnergy, labels: IntArray, offered: int, held: BoolArray) -> IntArray:
    """The labeling of least energy in which every free node keeps its label or takes `offered`.

    With x_i = 1 where node i takes it, an edge between free nodes of one label costs
    w [x_i != x_j]; between free nodes of two labels w (1 - x_i x_j), which is
    w - w (x_i + x_j) / 2 + w [x_i != x_j] / 2. All other edges have one end that does not move.
    """
    is_free = ~held & (labels != offered)
    if not is_free.any():
        return labels
    free = np.flatnonzero(is_free)
    number = np.full(len(labels), -1)
    number[free] = np.arange(len(free))
    first, second = energy.edges[:, 0], energy.edges[:, 1]

    # What keeping costs more than taking, at each node.
    unary = energy.unary[free, labels[free]] - energy.unary[free, offered]
    inner = is_free[first] & is_free[second]
    i, j, w = first[inner], second[inner], energy.pairwise[inner]
    differ = labels[i] != labels[j]
    sides = np.where(differ, w / 2, w)
    for end in (i, j):
        unary += np.bincount(number[end], np.where(differ, w / 2, 0), len(free))
    for near, far in ((first, second), (second, first)):
        outer = is_free[near] & ~is_free[far]
        mine, theirs, w_outer = near[outer], labels[far[outer]], energy.pairwise[outer]
        keeping = np.where(theirs == labels[mine], 0.0, w_outer)
        taking = np.where(theirs == offered, 0.0, w_outer)
        unary += np.bincount(number[mine], keeping - taking, len(free))

    inner_edges = np.stack([number[i], number[j]], axis=1)
    network = FlowGraph(len(free), inner_edges, sides, float(np.abs(unary).sum()))
    takes = network.cut(unary, _NO_NODES, _NO_NODES)
    moved = labels.copy()
    moved[free[takes]] = offered
    return moved
