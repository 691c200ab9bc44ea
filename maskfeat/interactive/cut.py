"""A minimum cut of the region adjacency graph: clicked superpixels give those of the object."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from maskfeat.arguments import checked_number
from maskfeat.arrays import BoolArray, Float64Array, FloatArray, IntArray
from maskfeat.interactive.evidence import ClickEvidence
from maskfeat.interactive.networks import ClickNet, ClickReader
from maskfeat.segment.potts import FlowGraph

# Chosen on regions of the train splits of BSDS500, ccp and coco128 (experiments/interactive).
PAIRWISE_WEIGHT = 10.0
MAX_LOGIT = 4.0
_MEDIAN_BORDER_PROBABILITY = 0.8


class SuperpixelCut(NamedTuple):
    """The result of a cut.

    Attributes:
        is_object: Whether each superpixel is the object, bool, shape (K,).
        logits: Logit of "object" of each superpixel by itself, float32, (K,).
    """

    is_object: BoolArray
    logits: FloatArray


class _Clicks(NamedTuple):
    """Clicked superpixels of both kinds, and the hard constraints; each once, rising."""

    inside: IntArray
    outside: IntArray
    fixed_object: IntArray
    fixed_background: IntArray


class SuperpixelCutter:
    """Cuts one image for many sets of clicks.

    The labels x (1 object, 0 background) of superpixels i minimize

        sum_i size_i * u_i * (1 - 2 x_i) / 2
        +  pairwise_weight * sum_ij length_ij * w_ij * [x_i != x_j]

    over the edges ij of the region adjacency graph, exactly, by maximum flow, see `FlowGraph`.

    - The unary u is the logit of "object" of a superpixel, clipped to 4 in absolute value: the
      logit of a network that reads its distances to the clicks, see `ClickNet`, plus a prior.
    - The pairwise w = 2 / (1 + exp(t * boundary strength)) has the t for which the median edge of
      the image has w = 0.8. So features need no calibration.
    - Clicked superpixels are hard constraints. A superpixel with clicks of both kinds is free.

    The result is a function of the sets of clicked superpixels, bit for bit. Of several minima it
    is the one with the smallest object.

    Args:
        evidence: Distances from clicks to the superpixels of the image.
        network: Gives the logits.
        pairwise_weight: Cost of a pixel side of outline where the boundary strength is 0.
    """

    def __init__(
        self, evidence: ClickEvidence, network: ClickNet, pairwise_weight: float = PAIRWISE_WEIGHT
    ) -> None:
        self.pairwise_weight = checked_number("pairwise_weight", pairwise_weight, least=0)
        self.graph = evidence.graph
        self.evidence = evidence
        self._reader = ClickReader(evidence, network)
        strengths = self.graph.boundary_strengths
        median = float(np.median(strengths)) if strengths.size else 0.0
        least = float(np.finfo(np.float32).tiny)
        self._t = float(np.log(2 / _MEDIAN_BORDER_PROBABILITY - 1)) / max(median, least)
        self._costs = self.graph.border_lengths * self.side_costs(strengths)
        total = MAX_LOGIT * self.graph.labels.size
        count = self.graph.num_superpixels
        self._flow = FlowGraph(count, self.graph.edges, self._costs, total)

    def cut(
        self,
        object_superpixels: npt.ArrayLike,
        background_superpixels: npt.ArrayLike,
        prior: FloatArray | None = None,
        excluded_superpixels: npt.ArrayLike = (),
    ) -> SuperpixelCut:
        """Cut the whole image.

        Args:
            object_superpixels: Superpixels of object clicks, integers, shape (N,), at least one.
            background_superpixels: Superpixels of background clicks, integers, shape (M,).
            prior: Logits that are added to those of the network, shape (K,).
            excluded_superpixels: Superpixels fixed to the background without a click, shape (B,),
                none of them clicked as object.

        Raises:
            ValueError: If there is no object click, or a superpixel that does not exist.
        """
        clicks = self._clicks(object_superpixels, background_superpixels, excluded_superpixels)
        if not clicks.inside.size:
            raise ValueError(
                "object_superpixels must name at least one superpixel, got none; click the object"
            )
        logits = self._reader.logits(clicks.inside, clicks.outside)
        return self._cut(logits if prior is None else logits + prior, clicks)

    def cut_by(
        self,
        logits: FloatArray,
        object_superpixels: npt.ArrayLike,
        background_superpixels: npt.ArrayLike,
        excluded_superpixels: npt.ArrayLike = (),
    ) -> SuperpixelCut:
        """Cut the whole image by given logits, (K,), e.g. those of a decoder; else as `cut`."""
        clicks = self._clicks(object_superpixels, background_superpixels, excluded_superpixels)
        return self._cut(logits, clicks)

    def _cut(self, logits: FloatArray, clicks: _Clicks) -> SuperpixelCut:
        unary = np.clip(logits, -MAX_LOGIT, MAX_LOGIT) * self.graph.sizes
        is_object = self._flow.cut(unary, clicks.fixed_object, clicks.fixed_background)
        return SuperpixelCut(is_object, logits)

    def cut_within(
        self,
        is_free: BoolArray,
        labels: BoolArray,
        object_superpixels: npt.ArrayLike,
        background_superpixels: npt.ArrayLike,
        prior: FloatArray | None = None,
        excluded_superpixels: npt.ArrayLike = (),
        revise: Callable[[IntArray, FloatArray, FloatArray], FloatArray] | None = None,
    ) -> SuperpixelCut:
        """Cut some superpixels; the others keep their labels, as hard constraints.

        Args:
            is_free: The superpixels to cut, shape (K,), at least one.
            labels: Labels of all others, bool, shape (K,).
            object_superpixels: See `cut`; can be empty.
            background_superpixels: See `cut`.
            prior: See `cut`.
            excluded_superpixels: See `cut`.
            revise: Gets the free superpixels and their logits, (A,) both, and their
                `evidence.SUPERPIXEL_FEATURES`, (F, A); returns the logits to cut by.

        Returns:
            The cut; logits of superpixels that are not free are infinite.

        Raises:
            ValueError: If a superpixel does not exist.
        """
        clicks = self._clicks(object_superpixels, background_superpixels, excluded_superpixels)
        free = np.flatnonzero(is_free)
        logits = np.where(labels, np.float32(np.inf), np.float32(-np.inf))
        logits[free], click_features = self._reader.logits_at(free, clicks.inside, clicks.outside)
        if prior is not None:
            logits += prior
        if revise is not None:
            logits[free] = revise(free, logits[free], click_features)
        number = np.full(len(labels), -1)
        number[free] = np.arange(len(free))
        one, other = self.graph.edges.T
        sizes = self.graph.sizes[free].astype(np.float64)
        unary = np.clip(logits[free], -MAX_LOGIT, MAX_LOGIT) * sizes
        for own, beyond in ((one, other), (other, one)):  # edges to superpixels that are not free
            fixed = np.flatnonzero(is_free[own] & ~is_free[beyond])
            costs = np.where(labels[beyond[fixed]], 1, -1) * self._costs[fixed]
            unary += np.bincount(number[own[fixed]], costs, len(free))
        within = np.flatnonzero(is_free[one] & is_free[other])
        total = float(np.abs(unary).sum())
        edges = number[self.graph.edges[within]]
        flow = FlowGraph(len(free), edges, self._costs[within], total)
        objects, grounds = number[clicks.fixed_object], number[clicks.fixed_background]
        is_object = labels.copy()
        is_object[free] = flow.cut(unary, objects[objects >= 0], grounds[grounds >= 0])
        return SuperpixelCut(is_object, logits)

    def side_costs(self, strengths: FloatArray) -> Float64Array:
        """Cost of a pixel side of outline, pairwise_weight * w, by boundary strength, any shape."""
        exponents = self._t * strengths.astype(np.float64)
        costs: Float64Array = self.pairwise_weight * np.exp(np.log(2) - np.logaddexp(0, exponents))
        return costs

    def _clicks(
        self,
        object_superpixels: npt.ArrayLike,
        background_superpixels: npt.ArrayLike,
        excluded: npt.ArrayLike,
    ) -> _Clicks:
        inside = self._checked(object_superpixels, "object_superpixels")
        outside = self._checked(background_superpixels, "background_superpixels")
        conflicting = np.intersect1d(inside, outside)
        background = np.union1d(
            np.setdiff1d(outside, conflicting), self._checked(excluded, "excluded_superpixels")
        )
        return _Clicks(inside, outside, np.setdiff1d(inside, conflicting), background)

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
