"""Two labels by an exact cut: clicked atoms -> which atoms are the object."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import sparse
from scipy.sparse import csgraph

from maskfeat.segment.atoms import AtomGraph
from maskfeat.segment.hierarchy import merge_tree, salient_node
from maskfeat.segment.tree import MergeTree

BoolArray = npt.NDArray[np.bool_]
Float64Array = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

# Capacities are integers; together they must stay below this, so that no sum leaves 32 bits.
_CAPACITY_BUDGET = 2**29


def cut(
    graph: AtomGraph,
    object_atoms: npt.ArrayLike,
    background_atoms: npt.ArrayLike,
    *,
    smoothness: float = 30.0,
    salience_weight: float = 0.5,
    feature_weight: float = 0.0,
    max_unary: float = 2.0,
) -> BoolArray:
    """Mark the object that some clicked atoms stand for. See `AtomCutter` for energy and errors.

    Args:
        graph: Atoms of one image.
        object_atoms: Atoms clicked as object, integers, shape (N,), at least one.
        background_atoms: Atoms clicked as background, integers, shape (M,), may be empty.
        smoothness: See `AtomCutter`, as all that follow.
        salience_weight: Weight of the salient nodes.
        feature_weight: Weight of the direct feature distances.
        max_unary: Bound of the unary of one pixel.

    Returns:
        Which atoms are the object, bool, shape (K,).
    """
    cutter = AtomCutter(
        graph,
        smoothness=smoothness,
        salience_weight=salience_weight,
        feature_weight=feature_weight,
        max_unary=max_unary,
    )
    return cutter.cut(object_atoms, background_atoms)


class AtomCutter:
    """Cuts one image again and again; what does not depend on clicks is computed once.

    The labels x (1 object, 0 background) minimize, with every clicked atom held at its label,

        sum_i size_i * u_i * (1 - 2 x_i) / 2  +  smoothness * sum_ij length_ij * w_ij * [x_i != x_j]

    over atoms i and edges ij (Boykov and Jolly, Interactive graph cuts, ICCV 2001; Boykov,
    Veksler, Zabih, Fast approximate energy minimization via graph cuts, PAMI 2001). The minimum
    is exact, by maximum flow. u is the log odds of "object", in [-max_unary, max_unary]:

        u_i = log(L_b / L_o) + salience_weight * (+1 or -1) + feature_weight * log(p_o / p_b)

    - L_o is the lowest level at which the Ward tree merges atom i with an atom clicked as object,
      L_b with one clicked as background: unlike distances of colors, levels
      know what lies between.
    - The sign says whether i lies under a salient node: the ancestor of an object click that
      stands out most of those that hold no background click (`hierarchy.salient_node`).
    - p = 2 / (1 + exp(scale * d2)) of the mean features, the largest over the clicks.
    - w is the same p at the contrast of the border, with the scale that gives the median border
      `median_border_probability`: borders compete with one another within an image, and so
      the cut works for features that were never calibrated.

    Without background clicks the salient nodes are the object. The answer depends on the sets of
    clicked atoms alone, is bit for bit the same in any order, and of several
    minima it is the one with the smallest object.

    Args:
        graph: Atoms of one image.
        tree: `merge_tree(graph)` where it is at hand.
        smoothness: What a pixel side of a border without contrast costs, in units of u.
        salience_weight: Weight of the salient nodes.
        feature_weight: Weight of the direct feature distances.
        max_unary: Bound of the unary of one pixel.
        median_border_probability: In (0, 1); lower makes the cut follow strong borders more.
    """

    def __init__(
        self,
        graph: AtomGraph,
        tree: MergeTree | None = None,
        *,
        smoothness: float = 30.0,
        salience_weight: float = 0.5,
        feature_weight: float = 0.0,
        max_unary: float = 2.0,
        median_border_probability: float = 0.8,
    ) -> None:
        if smoothness < 0 or max_unary <= 0 or not 0 < median_border_probability < 1:
            raise ValueError(
                "smoothness must not be negative, max_unary must be positive and "
                "median_border_probability in (0, 1), got "
                f"{smoothness}, {max_unary}, {median_border_probability}"
            )
        self.graph = graph
        self.tree = merge_tree(graph) if tree is None else tree
        self.salience_weight = salience_weight
        self.feature_weight = feature_weight
        self.max_unary = max_unary
        self.pairwise = smoothness * _border_costs(graph, median_border_probability)

    def cut(self, object_atoms: npt.ArrayLike, background_atoms: npt.ArrayLike) -> BoolArray:
        """Which atoms are the object.

        Args:
            object_atoms: Atoms clicked as object, integers, shape (N,), at least one.
            background_atoms: Atoms clicked as background, integers, shape (M,), may be empty.

        Returns:
            bool, shape (K,): the parts of the minimum that hold object clicks.

        Raises:
            ValueError: If there is no object click, an atom that does not exist, or one atom on
                both sides (`split_atoms` first).
        """
        inside = self._checked(object_atoms, "object_atoms")
        outside = self._checked(background_atoms, "background_atoms")
        if not inside.size:
            raise ValueError("object_atoms must name at least one atom, got none; click the object")
        if np.intersect1d(inside, outside).size:
            raise ValueError("an atom is clicked as object and as background; split_atoms it first")
        salient = self._salient(inside, outside)
        if not outside.size:
            return salient
        unary = self._unary(inside, outside, salient)
        labels = min_cut(unary, self.graph.edges, self.pairwise, inside, outside)
        return parts_with(labels, self.graph.edges, inside)

    def _checked(self, atoms: npt.ArrayLike, name: str) -> IntArray:
        ids = np.asarray(atoms)
        if ids.size and not np.issubdtype(ids.dtype, np.integer):
            raise ValueError(f"{name} must be integers, got {ids.dtype}")
        unique = np.unique(ids.astype(np.int64))
        if unique.size and (unique[0] < 0 or unique[-1] >= self.graph.num_atoms):
            raise ValueError(
                f"{name} must lie in 0 to {self.graph.num_atoms - 1}, "
                f"got {unique[0]} to {unique[-1]}"
            )
        return unique

    def _salient(self, inside: IntArray, outside: IntArray) -> BoolArray:
        is_barred = np.zeros(len(self.tree.parents), bool)
        for atom in outside:
            is_barred[self.tree.ancestors(atom)] = True
        nodes = [salient_node(self.tree, int(atom), is_barred) for atom in inside]
        return self.tree.leaves_under(np.array(nodes))

    def _unary(self, inside: IntArray, outside: IntArray, salient: BoolArray) -> Float64Array:
        near, far = self._lowest_levels(inside), self._lowest_levels(outside)
        least = max(float(self.tree.levels[-1]) * 1e-6, np.finfo(np.float64).tiny)
        odds = np.log((far + least) / (near + least))
        odds += self.salience_weight * np.where(salient, 1.0, -1.0)
        if self.feature_weight:
            log_probability = self._log_probability(inside) - self._log_probability(outside)
            odds += self.feature_weight * log_probability
        unary: Float64Array = np.clip(odds, -self.max_unary, self.max_unary) * self.graph.sizes
        return unary

    def _lowest_levels(self, clicked: IntArray) -> Float64Array:
        levels: Float64Array = np.min([self.tree.meeting_levels(atom) for atom in clicked], axis=0)
        return levels

    def _log_probability(self, clicked: IntArray) -> Float64Array:
        """Log of the largest p over the clicks, bounded below since exp(-9) is chance enough."""
        means = self.graph.features
        d2 = np.min([((means - means[atom]) ** 2).sum(axis=1) for atom in clicked], axis=0)
        x = self.graph.scale * d2.astype(np.float64)
        log_p: Float64Array = np.maximum(np.log(2) - np.logaddexp(0, x), -9.0)
        return log_p


def min_cut(
    unary: Float64Array,
    edges: npt.NDArray[np.integer],
    pairwise: Float64Array,
    object_nodes: IntArray,
    background_nodes: IntArray,
) -> BoolArray:
    """Minimize an energy of two labels on a graph exactly, by maximum flow.

    The energy of labels x is the sum of unary_i over nodes labeled 0 less that over nodes labeled
    1, halved, plus the sum of pairwise_ij over edges whose ends differ. Costs are rounded to
    2^-29 of their sum.

    Args:
        unary: What speaks for the object, float, any sign, shape (K,).
        edges: Pairs of nodes, shape (E, 2).
        pairwise: Cost of cutting an edge, not negative, shape (E,).
        object_nodes: Nodes held at 1.
        background_nodes: Nodes held at 0, none of them an object node.

    Returns:
        x as bool, shape (K,); of several minima the one with the fewest True.
    """
    num_nodes = len(unary)
    source, sink = num_nodes, num_nodes + 1
    total = float(np.abs(unary).sum() + pairwise.sum())
    step = _CAPACITY_BUDGET / total if total > 0 else 1.0
    # Rounded down, so that the sum of all stays within the budget.
    to_source = np.floor(np.maximum(unary, 0) * step).astype(np.int32)
    to_sink = np.floor(np.maximum(-unary, 0) * step).astype(np.int32)
    sides = np.floor(pairwise * step).astype(np.int32)
    # More than all other capacities together: never worth cutting.
    to_source[object_nodes], to_sink[object_nodes] = _CAPACITY_BUDGET + 1, 0
    to_sink[background_nodes], to_source[background_nodes] = _CAPACITY_BUDGET + 1, 0
    nodes = np.arange(num_nodes)
    tails = np.concatenate([edges[:, 0], edges[:, 1], np.full(num_nodes, source), nodes])
    heads = np.concatenate([edges[:, 1], edges[:, 0], nodes, np.full(num_nodes, sink)])
    capacities = np.concatenate([sides, sides, to_source, to_sink])
    network = sparse.csr_matrix(
        (capacities, (tails, heads)), (num_nodes + 2, num_nodes + 2), dtype=np.int32
    )
    residual = network - csgraph.maximum_flow(network, source, sink).flow
    residual.eliminate_zeros()
    reached = csgraph.breadth_first_order(residual, source, return_predecessors=False)
    labels = np.zeros(num_nodes + 2, bool)
    labels[reached] = True
    return labels[:num_nodes]


def parts_with(labels: BoolArray, edges: npt.NDArray[np.integer], nodes: IntArray) -> BoolArray:
    """Of the nodes labeled True, those in a connected part that holds one of `nodes`, (K,)."""
    both = edges[labels[edges[:, 0]] & labels[edges[:, 1]]]
    links = sparse.coo_matrix(
        (np.ones(len(both), np.int8), (both[:, 0], both[:, 1])), (len(labels), len(labels))
    )
    parts = csgraph.connected_components(links, directed=False)[1]
    kept: BoolArray = labels & np.isin(parts, parts[nodes])
    return kept


def _border_costs(graph: AtomGraph, median_probability: float) -> Float64Array:
    """Length times p of the contrast, per edge, shape (E,)."""
    contrasts = graph.border_contrasts.astype(np.float64)
    median = float(np.median(contrasts)) if contrasts.size else 0.0
    scale = np.log(2 / median_probability - 1) / max(median, np.finfo(np.float32).tiny)
    probability = np.exp(np.log(2) - np.logaddexp(0, scale * contrasts))
    costs: Float64Array = graph.border_lengths * probability
    return costs
