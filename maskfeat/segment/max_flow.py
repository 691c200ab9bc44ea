"""Energies of two labels, minimized exactly by the minimum cut of an s-t graph."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import sparse
from scipy.sparse import csgraph

BoolArray = npt.NDArray[np.bool_]
IntArray = npt.NDArray[np.int64]

# Capacities are integers. Their sum must stay below this budget, so that no sum leaves 32 bits.
_CAPACITY_BUDGET = 2**29


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
        Boykov, Veksler, Zabih: Fast approximate energy minimization via graph cuts, PAMI 2001.
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
        nodes = np.arange(num_nodes)
        source, sink = np.full(num_nodes, num_nodes), np.full(num_nodes, num_nodes + 1)
        # Every edge is stored in both directions, so that the flow has the same sparsity.
        tails = np.concatenate([edges[:, 0], edges[:, 1], source, nodes, nodes, sink])
        heads = np.concatenate([edges[:, 1], edges[:, 0], nodes, source, sink, nodes])
        entries = np.arange(1, len(tails) + 1, dtype=np.int32)
        layout = sparse.csr_matrix((entries, (tails, heads)), (num_nodes + 2,) * 2)
        layout.sort_indices()
        self._layout, self._entries = layout, layout.data - 1

    def cut(
        self, unary: npt.NDArray[np.floating], object_nodes: IntArray, background_nodes: IntArray
    ) -> BoolArray:
        """The labeling of least energy.

        Args:
            unary: Positive where a node prefers the object, any sign, shape (K,).
            object_nodes: Nodes with the hard constraint x = 1.
            background_nodes: Nodes with the hard constraint x = 0, none of them an object node.

        Returns:
            x as bool, shape (K,); of several minima the one with the fewest True.
        """
        to_source = np.floor(np.maximum(unary, 0) * self._step).astype(np.int32)
        to_sink = np.floor(np.maximum(-unary, 0) * self._step).astype(np.int32)
        # More than the sum of all other capacities, so it is never in the minimum cut.
        to_source[object_nodes], to_sink[object_nodes] = _CAPACITY_BUDGET + 1, 0
        to_sink[background_nodes], to_source[background_nodes] = _CAPACITY_BUDGET + 1, 0
        none = np.zeros(self.num_nodes, np.int32)
        ends = [self._sides, self._sides, to_source, none, to_sink, none]
        capacities = np.concatenate(ends)[self._entries]

        shape, source = self._layout.shape, self.num_nodes
        structure = self._layout.indices, self._layout.indptr
        network = sparse.csr_matrix((capacities, *structure), shape)
        flow = csgraph.maximum_flow(network, source, source + 1).flow
        residual = sparse.csr_matrix((capacities - flow.data, flow.indices, flow.indptr), shape)
        residual.eliminate_zeros()
        # The nodes that the source reaches in the residual graph: the smallest minimum cut.
        reached = csgraph.breadth_first_order(residual, source, return_predecessors=False)
        is_object = np.zeros(self.num_nodes + 2, bool)
        is_object[reached] = True
        return is_object[: self.num_nodes]
