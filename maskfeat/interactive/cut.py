"""Two labels by an exact cut: clicked superpixels -> which superpixels are the object."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import sparse
from scipy.sparse import csgraph

from maskfeat.arguments import checked_number
from maskfeat.interactive.click_net import ClickNet
from maskfeat.interactive.click_reader import ClickReader
from maskfeat.interactive.evidence import ClickEvidence

BoolArray = npt.NDArray[np.bool_]
FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]

# Capacities are integers; together they must stay below this, so that no sum leaves 32 bits.
_CAPACITY_BUDGET = 2**29

# Chosen on regions of the train splits of BSDS500, ccp and coco128 (experiments/interactive).
SMOOTHNESS = 10.0
MAX_ODDS = 4.0
_MEDIAN_BORDER_PROBABILITY = 0.8


class SuperpixelCut(NamedTuple):
    """What a cut found.

    Attributes:
        is_object: Which superpixels are the object, bool, shape (K,).
        odds: What speaks for the object at each superpixel by itself, log odds, float32, (K,).
    """

    is_object: BoolArray
    odds: FloatArray


class _Clicks(NamedTuple):
    """Superpixels clicked either way, each once, rising, and those held at either label."""

    inside: IntArray
    outside: IntArray
    held_object: IntArray
    held_background: IntArray


class SuperpixelCutter:
    """Cuts one image again and again; what does not depend on clicks is computed once.

    The labels x (1 object, 0 background) minimize, with every clicked superpixel held at its label,

        sum_i size_i * u_i * (1 - 2 x_i) / 2  +  smoothness * sum_ij length_ij * w_ij * [x_i != x_j]

    over superpixels i and edges ij, exactly, by maximum flow, see `FlowGraph`.

    - u is the log odds of "object", bounded by 4, that a small network gives a superpixel for how
      near it is to the clicks of either kind, in many ways of being near, and for how near these
      are to one another, see `ClickNet`.
    - w = 2 / (1 + exp(t * contrast of the border)), with the t that makes the median border 0.8:
      borders compete with one another within an image, and so the cut works for features that
      were never calibrated.

    A superpixel clicked both ways is held at neither label. The answer depends on the sets of
    clicked superpixels alone, is bit for bit the same in any order, and of several minima it is the
    one with the smallest object.

    Args:
        evidence: Measures the superpixels of the image.
        network: Reads clicks and gives u.
        smoothness: What a pixel side of a border without contrast costs, in units of u.
    """

    def __init__(
        self, evidence: ClickEvidence, network: ClickNet, smoothness: float = SMOOTHNESS
    ) -> None:
        smoothness = checked_number("smoothness", smoothness, least=0)
        self.graph = evidence.graph
        self.evidence = evidence
        self._reader = ClickReader(evidence, network)
        self.smoothness = smoothness
        self._border_scale = _border_scale(self.graph.border_contrasts)
        costs = self.graph.border_lengths * self.side_costs(self.graph.border_contrasts)
        self._border_costs = costs
        self._cuts = FlowGraph(
            self.graph.num_superpixels, self.graph.edges, costs, MAX_ODDS * self.graph.labels.size
        )

    def cut(
        self,
        object_superpixels: npt.ArrayLike,
        background_superpixels: npt.ArrayLike,
        prior: FloatArray | None = None,
        barred_superpixels: npt.ArrayLike = (),
    ) -> SuperpixelCut:
        """Which superpixels are the object.

        Args:
            object_superpixels: Superpixels clicked as object, integers, shape (N,), at least one.
            background_superpixels: Superpixels clicked as background, integers, shape (M,), may be
                empty.
            prior: Log odds to be added to those of each superpixel, shape (K,).
            barred_superpixels: Superpixels that are background, but say nothing of others, shape
                (B,); none of them clicked as object.

        Returns:
            The cut.

        Raises:
            ValueError: If there is no object click, or a superpixel that does not exist.
        """
        clicks = self._clicks(object_superpixels, background_superpixels, barred_superpixels)
        if not clicks.inside.size:
            raise ValueError(
                "object_superpixels must name at least one superpixel, got none; click the object"
            )
        odds = self._reader.odds(clicks.inside, clicks.outside)
        if prior is not None:
            odds = odds + prior
        unary = np.clip(odds, -MAX_ODDS, MAX_ODDS) * self.graph.sizes
        return SuperpixelCut(
            self._cuts.cut(unary, clicks.held_object, clicks.held_background), odds
        )

    def cut_within(
        self,
        is_free: BoolArray,
        labels: BoolArray,
        object_superpixels: npt.ArrayLike,
        background_superpixels: npt.ArrayLike,
        prior: FloatArray | None = None,
        barred_superpixels: npt.ArrayLike = (),
        revise: Callable[[IntArray, FloatArray, FloatArray], FloatArray] | None = None,
    ) -> SuperpixelCut:
        """As `cut`, for some superpixels alone, while all others are held at labels they have.

        Args:
            is_free: The superpixels to be labeled, shape (K,), at least one.
            labels: Of all the others, bool, shape (K,).
            object_superpixels: See `cut`; there may be none.
            background_superpixels: See `cut`.
            prior: See `cut`.
            barred_superpixels: See `cut`.
            revise: Called with the free superpixels, their log odds, (A,) both, and their
                `evidence.SUPERPIXEL_MEASURES`, (F, A); gives other log odds.

        Returns:
            The cut; the odds of superpixels that are held are infinite.

        Raises:
            ValueError: If a superpixel does not exist.
        """
        clicks = self._clicks(object_superpixels, background_superpixels, barred_superpixels)
        free = np.flatnonzero(is_free)
        odds = np.where(labels, np.float32(np.inf), np.float32(-np.inf))
        odds[free], measures = self._reader.odds_at(free, clicks.inside, clicks.outside)
        if prior is not None:
            odds += prior
        if revise is not None:
            odds[free] = revise(free, odds[free], measures)
        place = np.full(len(labels), -1)
        place[free] = np.arange(len(free))
        one, other = self.graph.edges.T
        unary = np.clip(odds[free], -MAX_ODDS, MAX_ODDS) * self.graph.sizes[free].astype(np.float64)
        for own, beyond in ((one, other), (other, one)):  # borders with what is held
            held = np.flatnonzero(is_free[own] & ~is_free[beyond])
            costs = np.where(labels[beyond[held]], 1, -1) * self._border_costs[held]
            unary += np.bincount(place[own[held]], costs, len(free))
        within = np.flatnonzero(is_free[one] & is_free[other])
        pairwise = self._border_costs[within]
        total = float(np.abs(unary).sum())
        cuts = FlowGraph(len(free), place[self.graph.edges[within]], pairwise, total)
        objects, grounds = place[clicks.held_object], place[clicks.held_background]
        cut = labels.copy()
        cut[free] = cuts.cut(unary, objects[objects >= 0], grounds[grounds >= 0])
        return SuperpixelCut(cut, odds)

    def side_costs(self, contrasts: FloatArray) -> npt.NDArray[np.float64]:
        """What it costs to part two pixels, by their contrast: smoothness * w, any shape."""
        scaled = self._border_scale * contrasts.astype(np.float64)
        costs: npt.NDArray[np.float64] = self.smoothness * np.exp(
            np.log(2) - np.logaddexp(0, scaled)
        )
        return costs

    def _clicks(
        self,
        object_superpixels: npt.ArrayLike,
        background_superpixels: npt.ArrayLike,
        barred: npt.ArrayLike,
    ) -> _Clicks:
        """Clicked superpixels, checked, and which of them are held at which label."""
        inside = self._checked(object_superpixels, "object_superpixels")
        outside = self._checked(background_superpixels, "background_superpixels")
        torn = np.intersect1d(inside, outside)
        held = np.union1d(np.setdiff1d(outside, torn), self._checked(barred, "barred_superpixels"))
        return _Clicks(inside, outside, np.setdiff1d(inside, torn), held)

    def _checked(self, superpixels: npt.ArrayLike, name: str) -> IntArray:
        ids = np.asarray(superpixels)
        if ids.size and not np.issubdtype(ids.dtype, np.integer):
            raise ValueError(f"{name} must be integers, got {ids.dtype}")
        unique = np.unique(ids.astype(np.int64))
        if unique.size and (unique[0] < 0 or unique[-1] >= self.graph.num_superpixels):
            raise ValueError(
                f"{name} must lie in 0 to {self.graph.num_superpixels - 1}, "
                f"got {unique[0]} to {unique[-1]}"
            )
        return unique


class FlowGraph:
    """Minimizes energies of two labels on one graph exactly, by maximum flow.

    The energy of labels x is the sum of unary_i over nodes labeled 0 less that over nodes labeled
    1, halved, plus the sum of pairwise_ij over edges whose ends differ (Boykov and Jolly,
    Interactive graph cuts, ICCV 2001; Boykov, Veksler, Zabih, Fast approximate energy
    minimization via graph cuts, PAMI 2001). What does not depend on the unary terms is laid out
    once.

    Args:
        num_nodes: K.
        edges: Pairs of nodes, integers, shape (E, 2).
        pairwise: Cost of cutting an edge, not negative, shape (E,).
        max_total: No unary terms add up to more, in absolute values. Costs are rounded to
            2^-29 of this and all pairwise costs.
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
        # Rounded down, so that the sum of all stays within the budget. The step is the same for
        # all unary terms: greater ones never give a smaller object by rounding.
        self._step = _CAPACITY_BUDGET / total if total > 0 else 1.0
        self._sides = np.floor(pairwise * self._step).astype(np.int32)
        nodes = np.arange(num_nodes)
        source, sink = np.full(num_nodes, num_nodes), np.full(num_nodes, num_nodes + 1)
        # Each edge both ways, so that a flow fits into the same places.
        tails = np.concatenate([edges[:, 0], edges[:, 1], source, nodes, nodes, sink])
        heads = np.concatenate([edges[:, 1], edges[:, 0], nodes, source, sink, nodes])
        places = np.arange(1, len(tails) + 1, dtype=np.int32)
        layout = sparse.csr_matrix((places, (tails, heads)), (num_nodes + 2,) * 2)
        layout.sort_indices()
        self._layout, self._places = layout, layout.data - 1

    def cut(
        self, unary: npt.NDArray[np.floating], object_nodes: IntArray, background_nodes: IntArray
    ) -> BoolArray:
        """The labels of least energy.

        Args:
            unary: What speaks for the object, any sign, shape (K,).
            object_nodes: Nodes held at 1.
            background_nodes: Nodes held at 0, none of them an object node.

        Returns:
            x as bool, shape (K,); of several minima the one with the fewest True.
        """
        to_source = np.floor(np.maximum(unary, 0) * self._step).astype(np.int32)
        to_sink = np.floor(np.maximum(-unary, 0) * self._step).astype(np.int32)
        # More than all other capacities together: never worth cutting.
        to_source[object_nodes], to_sink[object_nodes] = _CAPACITY_BUDGET + 1, 0
        to_sink[background_nodes], to_source[background_nodes] = _CAPACITY_BUDGET + 1, 0
        none = np.zeros(self.num_nodes, np.int32)
        ends = [self._sides, self._sides, to_source, none, to_sink, none]
        return self._source_side(np.concatenate(ends)[self._places])

    def _source_side(self, capacities: npt.NDArray[np.int32]) -> BoolArray:
        """What the source still reaches when no more can flow, (K,)."""
        shape, source = self._layout.shape, self.num_nodes
        structure = self._layout.indices, self._layout.indptr
        network = sparse.csr_matrix((capacities, *structure), shape)
        flow = csgraph.maximum_flow(network, source, source + 1).flow
        residual = sparse.csr_matrix((capacities - flow.data, flow.indices, flow.indptr), shape)
        residual.eliminate_zeros()
        reached = csgraph.breadth_first_order(residual, source, return_predecessors=False)
        labels = np.zeros(self.num_nodes + 2, bool)
        labels[reached] = True
        return labels[: self.num_nodes]


def _border_scale(contrasts: FloatArray) -> float:
    """The t with which 2 / (1 + exp(t * contrast)) is 0.8 at the median border."""
    median = float(np.median(contrasts)) if contrasts.size else 0.0
    least = float(np.finfo(np.float32).tiny)
    return float(np.log(2 / _MEDIAN_BORDER_PROBABILITY - 1)) / max(median, least)
