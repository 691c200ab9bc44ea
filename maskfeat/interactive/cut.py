"""Two labels by an exact cut: clicked superpixels -> which superpixels are the object."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from maskfeat.arguments import checked_number
from maskfeat.interactive.evidence import ClickEvidence
from maskfeat.interactive.networks import ClickNet, ClickReader
from maskfeat.segment.potts import FlowGraph

BoolArray = npt.NDArray[np.bool_]
FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]

# Chosen on regions of the train splits of BSDS500, ccp and coco128 (experiments/interactive).
PAIRWISE_WEIGHT = 10.0
MAX_LOGIT = 4.0
_MEDIAN_BORDER_PROBABILITY = 0.8


class SuperpixelCut(NamedTuple):
    """What a cut found.

    Attributes:
        is_object: Which superpixels are the object, bool, shape (K,).
        logits: Logit of "object" of each superpixel by itself, float32, (K,).
    """

    is_object: BoolArray
    logits: FloatArray


class _Clicks(NamedTuple):
    """Clicked superpixels of either sign, sorted, and those with hard constraints."""

    inside: IntArray
    outside: IntArray
    fixed_object: IntArray
    fixed_background: IntArray


class SuperpixelCutter:
    """Cuts one image again and again; what does not depend on clicks is computed once.

    The labels x (1 object, 0 background) minimize, with a hard constraint for every clicked
    superpixel,

        sum_i size_i * u_i * (1 - 2 x_i) / 2
        +  pairwise_weight * sum_ij length_ij * w_ij * [x_i != x_j]

    over superpixels i and edges ij, exactly, by maximum flow, see `FlowGraph`.

    - u is the logit of "object", bounded by 4, that a small network gives a superpixel for how
      near it is to the clicks of either kind, in many distances of being near, and for how near
      these are to one another, see `ClickNet`.
    - w = 2 / (1 + exp(t * contrast of the border)), with the t that makes the median border 0.8:
      borders compete with one another within an image, and so the cut works for features that
      were never calibrated.

    A superpixel with clicks of both signs has no hard constraint. The answer depends on the sets of
    clicked superpixels alone, is bit for bit the same in any order, and of several minima it is the
    one with the smallest object.

    Args:
        evidence: Measures the superpixels of the image.
        network: Reads clicks and gives u.
        pairwise_weight: What a pixel side of a border without contrast costs, in units of u.
    """

    def __init__(
        self, evidence: ClickEvidence, network: ClickNet, pairwise_weight: float = PAIRWISE_WEIGHT
    ) -> None:
        pairwise_weight = checked_number("pairwise_weight", pairwise_weight, least=0)
        self.graph = evidence.graph
        self.evidence = evidence
        self._reader = ClickReader(evidence, network)
        self.pairwise_weight = pairwise_weight
        self._border_scale = _border_scale(self.graph.boundary_strengths)
        costs = self.graph.border_lengths * self.side_costs(self.graph.boundary_strengths)
        self._border_costs = costs
        self._cuts = FlowGraph(
            self.graph.num_superpixels, self.graph.edges, costs, MAX_LOGIT * self.graph.labels.size
        )

    def cut(
        self,
        object_superpixels: npt.ArrayLike,
        background_superpixels: npt.ArrayLike,
        prior: FloatArray | None = None,
        excluded_superpixels: npt.ArrayLike = (),
    ) -> SuperpixelCut:
        """Which superpixels are the object.

        Args:
            object_superpixels: Superpixels clicked as object, integers, shape (N,), at least one.
            background_superpixels: Superpixels clicked as background, integers, shape (M,), may be
                empty.
            prior: logit to be added to those of each superpixel, shape (K,).
            excluded_superpixels: Superpixels that are background, but say nothing of others, shape
                (B,); none of them clicked as object.

        Returns:
            The cut.

        Raises:
            ValueError: If there is no object click, or a superpixel that does not exist.
        """
        clicks = self._clicks(object_superpixels, background_superpixels, excluded_superpixels)
        if not clicks.inside.size:
            raise ValueError(
                "object_superpixels must name at least one superpixel, got none; click the object"
            )
        logits = self._reader.logits(clicks.inside, clicks.outside)
        if prior is not None:
            logits = logits + prior
        unary = np.clip(logits, -MAX_LOGIT, MAX_LOGIT) * self.graph.sizes
        return SuperpixelCut(
            self._cuts.cut(unary, clicks.fixed_object, clicks.fixed_background), logits
        )

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
        """As `cut`, for some superpixels alone, with hard constraints for all others.

        Args:
            is_free: The superpixels to be labeled, shape (K,), at least one.
            labels: Of all the others, bool, shape (K,).
            object_superpixels: See `cut`; there may be none.
            background_superpixels: See `cut`.
            prior: See `cut`.
            excluded_superpixels: See `cut`.
            revise: Called with the free superpixels, their logit, (A,) both, and their
                `evidence.SUPERPIXEL_FEATURES`, (F, A); gives other logit.

        Returns:
            The cut; the logits of superpixels with hard constraints are infinite.

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
        place = np.full(len(labels), -1)
        place[free] = np.arange(len(free))
        one, other = self.graph.edges.T
        unary = np.clip(logits[free], -MAX_LOGIT, MAX_LOGIT) * self.graph.sizes[free].astype(
            np.float64
        )
        for own, beyond in ((one, other), (other, one)):  # borders with hard constraints
            outer = np.flatnonzero(is_free[own] & ~is_free[beyond])
            costs = np.where(labels[beyond[outer]], 1, -1) * self._border_costs[outer]
            unary += np.bincount(place[own[outer]], costs, len(free))
        within = np.flatnonzero(is_free[one] & is_free[other])
        pairwise = self._border_costs[within]
        total = float(np.abs(unary).sum())
        cuts = FlowGraph(len(free), place[self.graph.edges[within]], pairwise, total)
        objects, grounds = place[clicks.fixed_object], place[clicks.fixed_background]
        cut = labels.copy()
        cut[free] = cuts.cut(unary, objects[objects >= 0], grounds[grounds >= 0])
        return SuperpixelCut(cut, logits)

    def side_costs(self, contrasts: FloatArray) -> npt.NDArray[np.float64]:
        """What it costs to part two pixels, by their contrast: pairwise_weight * w, any shape."""
        scaled = self._border_scale * contrasts.astype(np.float64)
        costs: npt.NDArray[np.float64] = self.pairwise_weight * np.exp(
            np.log(2) - np.logaddexp(0, scaled)
        )
        return costs

    def _clicks(
        self,
        object_superpixels: npt.ArrayLike,
        background_superpixels: npt.ArrayLike,
        excluded: npt.ArrayLike,
    ) -> _Clicks:
        """Checked clicked superpixels, and their hard constraints."""
        inside = self._checked(object_superpixels, "object_superpixels")
        outside = self._checked(background_superpixels, "background_superpixels")
        conflicting = np.intersect1d(inside, outside)
        fixed_background = np.union1d(
            np.setdiff1d(outside, conflicting), self._checked(excluded, "excluded_superpixels")
        )
        return _Clicks(inside, outside, np.setdiff1d(inside, conflicting), fixed_background)

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


def _border_scale(contrasts: FloatArray) -> float:
    """The t with which 2 / (1 + exp(t * contrast)) is 0.8 at the median border."""
    median = float(np.median(contrasts)) if contrasts.size else 0.0
    least = float(np.finfo(np.float32).tiny)
    return float(np.log(2 / _MEDIAN_BORDER_PROBABILITY - 1)) / max(median, least)
