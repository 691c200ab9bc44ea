"""Two discs to click on, and a cutter of their superpixels."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import gaussian_filter

from maskfeat.features.reading import Features
from maskfeat.interactive.cut import PAIRWISE_WEIGHT, SuperpixelCutter
from maskfeat.segment.superpixels import superpixels


def two_discs() -> tuple[np.ndarray, np.ndarray]:
    """Two discs of one color on another ground, noisy; and which disc (1, 2) or none (0)."""
    rows, columns = np.mgrid[:60, :100]
    truth = np.zeros((60, 100), int)
    truth[(rows - 30) ** 2 + (columns - 25) ** 2 < 225] = 1
    truth[(rows - 30) ** 2 + (columns - 72) ** 2 < 225] = 2
    noise = gaussian_filter(np.random.default_rng(0).normal(size=(60, 100, 3)), (1, 1, 0))
    return (truth > 0)[..., None] * [1, -1, 1] + 0.3 * noise, truth


VALUES, TRUTH = two_discs()
GRAPH = superpixels(Features.from_dense(VALUES))


def cutter_of(pairwise_weight: float = PAIRWISE_WEIGHT) -> SuperpixelCutter:
    """A new cutter that has seen no click."""
    return SuperpixelCutter(GRAPH, pairwise_weight)
