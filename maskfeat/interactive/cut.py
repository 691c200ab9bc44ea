"""Minimum cuts: which superpixels are the object, and where exactly its outline runs."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from maskfeat.arguments import checked_number
from maskfeat.arrays import BoolArray, Float64Array, FloatArray, IntArray
from maskfeat.interactive.prompts import Window
from maskfeat.segment.potts import FlowGraph
from maskfeat.segment.superpixels import RegionGraph, first_pixels

# Chosen on regions of the train splits of BSDS500, ccp and coco128 (experiments/interactive).
PAIRWISE_WEIGHT = 10.0
MAX_LOGIT = 4.0
_MEDIAN_BORDER_PROBABILITY = 0.8
# Chosen on objects of train splits (experiments/interactive).
PIXEL_PAIRWISE_WEIGHT = 4.0
BAND_PX = 4  # from the outline of a mask; pixels there are decided again, one by one
_NO_NODES: IntArray = np.zeros(0, np.int64)


class SuperpixelCutter:
    """Cuts one image for many sets of clicks.

    The labels x (1 object, 0 background) of superpixels i minimize

        sum_i size_i * u_i * (1 - 2 x_i) / 2
        +  pairwise_weight * sum_ij length_ij * w_ij * [x_i != x_j]

    over the edges ij of the region adjacency graph, exactly, by maximum flow, see `FlowGraph`.

    - The unary u is the logit of "object" of a superpixel, clipped to 4 in absolute value.
    - The pairwise w = 2 / (1 + exp(t * boundary strength)) has the t for which the median edge of
      the image has w = 0.8. So features need no calibration.
    - Clicked superpixels are hard constraints. A superpixel with clicks of both kinds is free.

    The result is a function of the sets of clicked superpixels, bit for bit. Of several minima it
    is the one with the smallest object.

    Args:
        graph: The superpixels.
        pairwise_weight: Cost of a pixel side of outline where the boundary strength is 0.

    References:
        Boykov, Jolly: Interactive graph cuts for optimal boundary and region segmentation of
        objects in N-D images, ICCV 2001.
    """

    def __init__(self, graph: RegionGraph, pairwise_weight: float = PAIRWISE_WEIGHT) -> None:
        weight = checked_number("pairwise_weight", pairwise_weight, least=0)
        self.graph = graph
        strengths = graph.boundary_strengths
        median = float(np.median(strengths)) if strengths.size else 0.0
        least = float(np.finfo(np.float32).tiny)
        t = float(np.log(2 / _MEDIAN_BORDER_PROBABILITY - 1)) / max(median, least)
        exponents = t * strengths.astype(np.float64)
        w: Float64Array = np.exp(np.log(2) - np.logaddexp(0, exponents))
        self._costs: Float64Array = weight * graph.border_lengths * w
        total = MAX_LOGIT * graph.labels.size
        self._flow = FlowGraph(graph.num_superpixels, graph.edges, self._costs, total)

    @cached_property
    def first_pixels(self) -> IntArray:
        """The first pixel of each superpixel, numbered in reading order, (K,)."""
        return first_pixels(self.graph.labels, self.graph.num_superpixels)

    def means(self, values: FloatArray, window: Window | None = None) -> FloatArray:
        """Mean (K,) of values (h, w) over the pixels of each superpixel in a window; 0 for others.

        float32; the window None is the whole image.
        """
        count = self.graph.num_superpixels
        labels = self._flat_labels
        sizes: npt.NDArray[Any] = self.graph.sizes
        if window is not None:
            labels = self.graph.labels[window].ravel().astype(np.int64)
            sizes = np.maximum(np.bincount(labels, minlength=count), 1)
        sums = np.bincount(labels, values.ravel(), count)
        means: FloatArray = (sums / sizes).astype(np.float32)
        return means

    @cached_property
    def _flat_labels(self) -> IntArray:
        """Superpixel of each pixel, (H * W,), in the type that numpy counts in."""
        return self.graph.labels.ravel().astype(np.int64)

    def cut(
        self,
        logits: FloatArray,
        inside: IntArray,
        outside: IntArray,
        excluded: IntArray = _NO_NODES,
    ) -> BoolArray:
        """Cut the whole image; whether each superpixel is the object, bool, (K,).

        Args:
            logits: Logit of "object" of each superpixel by itself, shape (K,).
            inside: Superpixels of object clicks, shape (N,).
            outside: Superpixels of background clicks, shape (M,).
            excluded: Superpixels fixed to the background without a click, shape (B,); one that is
                clicked as object is object.
        """
        fixed = _fixed(inside, outside, excluded)
        return self._flow.cut(_clipped(logits) * self.graph.sizes, *fixed)

    def cut_within(
        self,
        is_free: BoolArray,
        labels: BoolArray,
        logits: FloatArray,
        inside: IntArray,
        outside: IntArray,
        excluded: IntArray = _NO_NODES,
    ) -> BoolArray:
        """As `cut`, for free superpixels; the others keep their labels, as hard constraints.

        Args:
            is_free: Which superpixels can change, bool, shape (K,).
            labels: The labels before, bool, shape (K,); those of free ones are not read.
            logits: See `cut`, as the next three.
            inside: See there.
            outside: See there.
            excluded: See there.
        """
        free = np.flatnonzero(is_free)
        number = np.full(len(labels), -1)
        number[free] = np.arange(len(free))
        one, other = self.graph.edges.T
        unary = _clipped(logits[free]) * self.graph.sizes[free].astype(np.float64)
        for own, beyond in ((one, other), (other, one)):  # edges to superpixels that are not free
            rim = np.flatnonzero(is_free[own] & ~is_free[beyond])
            costs = np.where(labels[beyond[rim]], 1, -1) * self._costs[rim]
            unary += np.bincount(number[own[rim]], costs, len(free))
        within = np.flatnonzero(is_free[one] & is_free[other])
        edges = number[self.graph.edges[within]]
        flow = FlowGraph(len(free), edges, self._costs[within], float(np.abs(unary).sum()))
        fixed = (number[ids][is_free[ids]] for ids in _fixed(inside, outside, excluded))
        found = labels.copy()
        found[free] = flow.cut(unary, *fixed)
        return found


def _fixed(inside: IntArray, outside: IntArray, excluded: IntArray) -> tuple[IntArray, IntArray]:
    """The hard constraints, object and background; each superpixel once, rising."""
    only_inside = np.setdiff1d(inside, outside)
    return only_inside, np.setdiff1d(np.union1d(outside, excluded), inside)


def _clipped(logits: FloatArray) -> FloatArray:
    """Logits of at most 4 in absolute value."""
    clipped: FloatArray = np.clip(logits, -MAX_LOGIT, MAX_LOGIT)
    return clipped


class OutlineCutter:
    """Decides some pixels of one image by a minimum cut of the pixel grid.

    The labels x (1 object, 0 background) of free pixels i minimize

        sum_i u_i * (1 - 2 x_i) / 2  +  4 * sum_ij exp(-d_ij / d) * [x_i != x_j]

    over the pairs of adjacent pixels ij, exactly; u is a logit of "object", d_ij the squared
    distance of two pixels in features and color, d its mean over the image. The other pixels keep
    their label.

    Args:
        right: Squared distance of each pixel to the one on its right, float32, shape (H, W - 1).
        below: Likewise to the one below, shape (H - 1, W).

    References:
        Boykov, Jolly: Interactive graph cuts for optimal boundary and region segmentation of
        objects in N-D images, ICCV 2001.
    """

    def __init__(self, right: FloatArray, below: FloatArray) -> None:
        total = float(right.sum() + below.sum())
        mean = total / max(1, right.size + below.size)
        least = float(np.finfo(np.float32).tiny)
        self._right, self._below = (
            PIXEL_PAIRWISE_WEIGHT * np.exp(-steps / max(mean, least)) for steps in (right, below)
        )

    def refined(self, mask: BoolArray, unary: FloatArray, window: Window) -> BoolArray:
        """The labels of a window, pixels near the outline decided again; see `cut`."""
        border = np.zeros(mask.shape, bool)
        border[1:] |= mask[1:] != mask[:-1]
        border[:, 1:] |= mask[:, 1:] != mask[:, :-1]
        is_free = ndimage.maximum_filter(border, size=2 * BAND_PX + 1)
        return self.cut(mask, unary, is_free, window)

    def cut(
        self, mask: BoolArray, unary: FloatArray, is_free: BoolArray, window: Window
    ) -> BoolArray:
        """The labels of a window, bool, shape (h, w).

        Args:
            mask: Labels of its pixels before, bool, shape (h, w).
            unary: Logit of "object" of each pixel, shape (h, w).
            is_free: Which pixels can change, bool, shape (h, w).
            window: Rows and columns.
        """
        rows, columns = window
        right = self._right[rows, columns.start : max(columns.start, columns.stop - 1)]
        below = self._below[rows.start : max(rows.start, rows.stop - 1), columns]
        sides = (np.s_[:, :-1], np.s_[:, 1:], right), (np.s_[:-1, :], np.s_[1:, :], below)
        # A pixel whose logit outweighs all its neighbors needs no cut.
        pull = np.zeros(mask.shape)
        for one, other, cost in sides:
            pull[other] += cost
            pull[one] += cost
        is_sure = is_free & (np.abs(unary) > pull)
        found: BoolArray = np.where(is_sure, unary > 0, mask)
        is_open = is_free & ~is_sure
        count = int(np.count_nonzero(is_open))
        if not count:
            return found
        number = np.full(mask.shape, -1, np.int32)
        number[is_open] = np.arange(count, dtype=np.int32)
        # Of each pixel, with what its neighbors that are not open add to it.
        unaries = unary.astype(np.float64)
        signs = np.where(is_open, 0, np.where(found, 1, -1)).astype(np.float32)
        edges, costs = [], []
        for one, other, cost in sides:
            unaries[one] += signs[other] * cost
            unaries[other] += signs[one] * cost
            both = is_open[one] & is_open[other]
            edges.append(np.stack([number[one][both], number[other][both]], axis=1))
            costs.append(cost[both])
        own = unaries[is_open]
        total = float(np.abs(own).sum())
        flow = FlowGraph(count, np.concatenate(edges), np.concatenate(costs), total)
        found[is_open] = flow.cut(own, _NO_NODES, _NO_NODES)
        return found
