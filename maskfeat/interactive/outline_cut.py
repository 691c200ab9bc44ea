"""A minimum cut of pixels: where exactly the outline of a mask runs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import ndimage

from maskfeat.arrays import BoolArray, Float64Array, FloatArray, IntArray
from maskfeat.interactive.geometry import Window
from maskfeat.segment.potts import FlowGraph

# Chosen on objects of train splits (experiments/interactive).
PIXEL_PAIRWISE_WEIGHT = 4.0
BAND_PX = 4  # from the outline of a mask; pixels there are decided again, one by one
Part = tuple[slice, slice]  # rows and columns, open on some sides
_NO_NODES: IntArray = np.zeros(0, np.int64)


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
        """The labels of a window.

        Args:
            mask: Labels of its pixels, bool, shape (h, w).
            unary: Logit of "object" of each pixel, shape (h, w).
            is_free: Which pixels can change, bool, shape (h, w).
            window: Rows and columns.

        Returns:
            bool, shape (h, w).
        """
        rows, columns = window
        right = self._right[rows, columns.start : max(columns.start, columns.stop - 1)]
        below = self._below[rows.start : max(rows.start, rows.stop - 1), columns]
        # A pixel whose logit outweighs all its neighbors needs no cut.
        pull = np.zeros(mask.shape)
        pull[:, 1:] += right
        pull[:, :-1] += right
        pull[1:] += below
        pull[:-1] += below
        is_sure = is_free & (np.abs(unary) > pull)
        found: BoolArray = np.where(is_sure, unary > 0, mask)
        is_open = is_free & ~is_sure
        if is_open.any():
            sides = ((np.s_[:, :-1], np.s_[:, 1:], right), (np.s_[:-1, :], np.s_[1:, :], below))
            found[is_open] = _minimum_cut(found, unary, is_open, sides)
        return found


def _minimum_cut(
    mask: BoolArray,
    unary: FloatArray,
    is_open: BoolArray,
    sides: Sequence[tuple[Part, Part, FloatArray]],
) -> BoolArray:
    """Labels of the open pixels, (N,).

    Args:
        mask: Labels of all others, (h, w).
        unary: See `OutlineCutter.cut`.
        is_open: (h, w), at least one.
        sides: For each direction, two views of the window that lay neighbors over each other, and
            the costs of parting them.
    """
    count = int(np.count_nonzero(is_open))
    number = np.full(mask.shape, -1)
    number[is_open] = np.arange(count)
    own_unary: Float64Array = unary[is_open].astype(np.float64)
    edges, costs = [], []
    for one, other, cost in sides:
        both = is_open[one] & is_open[other]
        edges.append(np.stack([number[one][both], number[other][both]], axis=1))
        costs.append(cost[both])
        for own, beyond in ((one, other), (other, one)):
            rim = is_open[own] & ~is_open[beyond]
            pulls = np.where(mask[beyond][rim], cost[rim], -cost[rim])
            own_unary += np.bincount(number[own][rim], pulls, count)
    total = float(np.abs(own_unary).sum())
    flow = FlowGraph(count, np.concatenate(edges), np.concatenate(costs), total)
    return flow.cut(own_unary, _NO_NODES, _NO_NODES)
