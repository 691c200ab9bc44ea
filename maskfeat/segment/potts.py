"""Energies of labels on a graph, minimized by minimum cuts: exactly for two labels."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import sparse
from scipy.sparse import csgraph

from maskfeat.arrays import BoolArray, Float64Array, IntArray

# Capacities are integers. Their sum must stay below this budget, so that no sum leaves 32 bits.
_CAPACITY_BUDGET = 2**29
_NO_NODES = np.zeros(0, np.int64)
# A move must gain more than rounding does, or two labelings of equal energy would alternate.
_LEAST_GAIN = 1e-9


class FlowGraph:
    """An s-t graph whose minimum cut minimizes an energy of two labels exactly.

        E(x) = sum_i unary_i * (1 - 2 x_i) / 2  +  sum_ij pairwise_ij * [x_i != x_j]

    The constructor lays out everything that does not depend on the unary terms, so that many cuts
    of one graph are cheap. scipy computes the maximum flow (Dinic's algorithm).

    Args:
        num_nodes: K, the nodes beside source and sink.
        edges: Pairs of nodes, integers, shape (E, 2).
        pairwise: Cost of separating the two nodes of an edge, not negative, shape (E,).
        max_total: Upper bound of the sum of the absolute unary terms of any cut. Costs are rounded
            to multiples of 2^-29 of this bound plus all pairwise costs.

    References:
        Boykov, Jolly: Interactive graph cuts for optimal boundary and region segmentation of
        objects in N-D images, ICCV 2001.
    """

    def __init__(
        self,
        num_nodes: int,
        edges: npt.NDArray[np.integer],
        pairwise: npt.NDArray[np.floating],
        max_total: float,
    ) -> None:
        self.num_nodes = num_nodes
        total = float(pairwise.sum()) + max_total
        # Costs are rounded down, so that their sum stays within the budget. All unary terms have
        # the same step: rounding never makes the object of a greater unary term smaller.
        self._step = _CAPACITY_BUDGET / total if total > 0 else 1.0
        self._sides = np.floor(pairwise * self._step).astype(np.int32)
        nodes, num_all = np.arange(num_nodes), num_nodes + 2
        source, sink = np.full_like(nodes, num_nodes), np.full_like(nodes, num_nodes + 1)
        first, second = edges.T.astype(np.int64)
        # Every edge is stored in both directions, so that the flow has the same sparsity.
        tails = np.concatenate([first, second, source, nodes, nodes, sink])
        heads = np.concatenate([second, first, nodes, source, sink, nodes])
        # Rows and columns in order; scipy would get there by way of three other matrices.
        self._entries = np.argsort(tails * num_all + heads)
        self._heads = heads[self._entries].astype(np.int32)  # 32 bits are what scipy works with
        self._starts = np.zeros(num_all + 1, np.int32)
        self._starts[1:] = np.cumsum(np.bincount(tails, minlength=num_all))

    def cut(
        self, unary: npt.NDArray[np.floating], object_nodes: IntArray, background_nodes: IntArray
    ) -> BoolArray:
        """The labeling x of least energy, bool, (K,); of several the one with the fewest True.

        Args:
            unary: Positive where a node prefers the object, any sign, shape (K,).
            object_nodes: Nodes with the hard constraint x = 1.
            background_nodes: Nodes with the hard constraint x = 0, none of them an object node.
        """
        to_source = np.floor(np.maximum(unary, 0) * self._step).astype(np.int32)
        to_sink = np.floor(np.maximum(-unary, 0) * self._step).astype(np.int32)
        # More than the sum of all other capacities, so it is never in the minimum cut.
        to_source[object_nodes], to_sink[object_nodes] = _CAPACITY_BUDGET + 1, 0
        to_sink[background_nodes], to_source[background_nodes] = _CAPACITY_BUDGET + 1, 0
        none = np.zeros(self.num_nodes, np.int32)
        ends = [self._sides, self._sides, to_source, none, to_sink, none]
        capacities = np.concatenate(ends)[self._entries]

        shape, source = (self.num_nodes + 2,) * 2, self.num_nodes
        network = sparse.csr_matrix((capacities, self._heads, self._starts), shape)
        flow = csgraph.maximum_flow(network, source, source + 1).flow
        residual = sparse.csr_matrix((capacities - flow.data, flow.indices, flow.indptr), shape)
        residual.eliminate_zeros()
        # The nodes connected to the source in the residual graph are the smallest minimum cut.
        reached = csgraph.breadth_first_order(residual, source, return_predecessors=False)
        is_object = np.zeros(self.num_nodes + 2, bool)
        is_object[reached] = True
        return is_object[: self.num_nodes]


class PottsEnergy(NamedTuple):
    """The Potts energy of a labeling f of the nodes of a graph.

        E(f) = sum_i unary_i(f_i)  +  sum_ij pairwise_ij * [f_i != f_j]

    Attributes:
        unary: Cost of each label at each node, any sign, float64, shape (K, L).
        edges: Pairs of nodes, no pair twice, integers, shape (E, 2).
        pairwise: Cost of separating the two nodes of an edge, not negative, float64, shape (E,).
    """

    unary: Float64Array
    edges: npt.NDArray[np.integer]
    pairwise: Float64Array

    def of(self, labels: IntArray) -> float:
        """E of a labeling, (K,)."""
        apart = labels[self.edges[:, 0]] != labels[self.edges[:, 1]]
        own = self.unary[np.arange(len(labels)), labels]
        return float(own.sum() + self.pairwise[apart].sum())


class Labeling(NamedTuple):
    """Result of `minimize_potts`.

    Attributes:
        labels: int64, shape (K,), in 0 to L - 1.
        energies: E at the start and after every accepted move, strictly falling.
    """

    labels: IntArray
    energies: list[float]


def minimize_potts(
    energy: PottsEnergy,
    start: IntArray | None = None,
    is_fixed: BoolArray | None = None,
    max_sweeps: int = 10,
) -> Labeling:
    """Lower a Potts energy by expansion moves, each found exactly by a minimum cut.

    A move offers one label to all nodes at once; each takes it or keeps its own. The labels take
    turns until none lowers the energy. The result is within E(f*) + sum_ij pairwise_ij
    [f*_i != f*_j] of the best labeling f* (Boykov et al., Theorem 6.1). Two labels are solved
    exactly, in one move.

    Nodes whose cheapest label beats the others by more than all their neighbors can cost are set
    to it beforehand (dead-end elimination), which makes the graphs smaller.

    Args:
        energy: The energy.
        start: A labeling to begin with, shape (K,); None for the cheapest label of each node alone.
        is_fixed: Nodes that keep their label of `start`, bool, shape (K,); needs `start`.
        max_sweeps: How often all labels are offered at most.

    Returns:
        The labeling; the same input always gives the same.

    Raises:
        ValueError: If nodes are fixed and there is no start.

    References:
        Boykov, Veksler, Zabih: Fast approximate energy minimization via graph cuts, PAMI 2001.
        Desmet, De Maeyer, Hazes, Lasters: The dead-end elimination theorem, Nature 1992.
    """
    num_nodes, num_labels = energy.unary.shape
    if is_fixed is not None and start is None:
        raise ValueError("fixed nodes need a start with their labels, got None")
    fixed = np.zeros(num_nodes, bool) if is_fixed is None else is_fixed.copy()
    cheapest = energy.unary.argmin(axis=1)
    labels = cheapest.copy() if start is None else start.astype(np.int64)
    energies = [energy.of(labels)]
    is_sure = _is_sure(energy) & ~fixed
    labels[is_sure] = cheapest[is_sure]
    fixed |= is_sure
    if num_labels == 2:  # every labeling is one expansion away from "all 0"
        labels = _expanded(energy, np.where(fixed, labels, 0), 1, fixed)
    else:
        best, since_gain = energy.of(labels), 0
        for number in range(max_sweeps * num_labels):
            proposed = _expanded(energy, labels, number % num_labels, fixed)
            value = energy.of(proposed)
            since_gain += 1
            if value < best - _LEAST_GAIN * (1 + abs(best)):
                labels, best, since_gain = proposed, value, 0
                if value < energies[-1]:
                    energies.append(value)
            if since_gain >= num_labels:
                break
    final = energy.of(labels)
    if final < energies[-1]:
        energies.append(final)
    return Labeling(labels, energies)


def _is_sure(energy: PottsEnergy) -> BoolArray:
    """The nodes whose cheapest label no neighbors can change, (K,)."""
    num_nodes, num_labels = energy.unary.shape
    if num_labels < 2:
        return np.ones(num_nodes, bool)
    least_two = np.partition(energy.unary, 1, axis=1)[:, :2]
    pull = sum(np.bincount(energy.edges[:, side], energy.pairwise, num_nodes) for side in (0, 1))
    is_sure: BoolArray = least_two[:, 1] - least_two[:, 0] > pull
    return is_sure


def _expanded(energy: PottsEnergy, labels: IntArray, offered: int, fixed: BoolArray) -> IntArray:
    """The best labeling by one expansion move: free nodes keep their label or take `offered`.

    With x_i = 1 where node i takes it, an edge between free nodes of one label costs
    w [x_i != x_j]; between free nodes of two labels w (1 - x_i x_j), which is
    w - w (x_i + x_j) / 2 + w [x_i != x_j] / 2. All other edges have one end that does not move.
    """
    is_free = ~fixed & (labels != offered)
    if not is_free.any():
        return labels
    free = np.flatnonzero(is_free)
    number = np.full(len(labels), -1)
    number[free] = np.arange(len(free))
    first, second = energy.edges[:, 0], energy.edges[:, 1]

    # Cost of keeping the label less that of taking the offered one, at each node.
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
    graph = FlowGraph(len(free), inner_edges, sides, float(np.abs(unary).sum()))
    takes = graph.cut(unary, _NO_NODES, _NO_NODES)
    moved = labels.copy()
    moved[free[takes]] = offered
    return moved
