"""The unary term without a decoder: distances of features from clicks, and the tree."""

from __future__ import annotations

from functools import partial

import numpy as np
import numpy.typing as npt

from maskfeat.arrays import BoolArray, FloatArray, IntArray
from maskfeat.interactive.decoder_unary import COLOR_SCALE, TreeMaps
from maskfeat.interactive.prompts import (
    Box,
    Prompt,
    PromptSet,
    Window,
    distances_in_radii,
    filled,
    superpixels_of,
)
from maskfeat.recent import Recent
from maskfeat.segment.superpixels import RegionGraph
from maskfeat.segment.tree import PartitionTree

# Squared distance that counts as much as one across the image, in units of p = 2 / (1 + exp(d2)).
_PLACE_D2 = 16.0
_MAX_LOGIT = 6.0  # of one probability
_MASK_LOGIT = 6.0  # of a superpixel that lies wholly inside a mask to start from
# Around a prompt: weight of likeness, logit of a change at the prompt, and the distances in click
# radii where that logit is 0 and up to which the other side is read. Chosen on 107 corrections of 9
# objects of train splits (experiments/interactive).
_LIKENESS, _NEAR_LOGIT, _CHANGED_RADII, _AROUND_RADII = 2.0, 3.0, 1.5, 5.0
_KEPT_ROWS = 512  # clicked superpixels, 30 kB each


class FeatureUnary:
    """Logits from the calibrated probability that a click and a superpixel are one segment.

    Two probabilities are known, that of features and that of the hierarchy:

        p_features = 2 / (1 + exp(scale * ||f_i - f_j||^2 + 16 * ||x_i - x_j||^2 / area)),
        p_tree     = that of the smallest node of the tree that holds superpixel i and click j.

    The logit of "object" is, for each of them, that of the nearest click on the object less that of
    the nearest click on the background, if this is positive: clicks on the background never make
    the object larger. Nothing is fitted to clicks, so that clicks measure the
    features. No tree is read for features of one level: its altitudes are calibrated for learned
    pyramids, and on color its segments mislead.

    Args:
        graph: The superpixels.
        tree: Their hierarchy.
        is_learned: Whether to read the tree.
        colors: L*a*b* / 100 of each pixel, float32, shape (H, W, 3), or None to use no color.
    """

    def __init__(
        self,
        graph: RegionGraph,
        tree: PartitionTree,
        is_learned: bool,
        colors: FloatArray | None = None,
    ) -> None:
        self._graph = graph
        self._tree = tree
        self._tree_maps = TreeMaps(tree) if is_learned else None
        self._colors = colors
        self._features = graph.features * np.float32(np.sqrt(graph.scale))
        places = graph.centroids_yx * np.float32(np.sqrt(_PLACE_D2 / graph.labels.size))
        self._points = np.concatenate([self._features, places], axis=1).astype(np.float32)
        self._norms = np.einsum("kc,kc->k", self._points, self._points)
        self._rows: Recent[FloatArray] = Recent(_KEPT_ROWS)

    def whole(self, given: PromptSet) -> FloatArray:
        """See `image.Unary`; the same for all pixels of a superpixel."""
        labels = self._graph.labels
        inside, outside = (
            superpixels_of(given.prompts, is_object, labels) for is_object in (True, False)
        )
        logits = np.zeros(self._graph.num_superpixels, np.float32)
        if len(inside):
            logits += self._logits(inside)
        if len(outside):
            logits -= np.maximum(self._logits(outside), 0)
        mask = given.mask
        if mask is None and given.box is not None:
            mask = self._best_node(given.box)
        if mask is not None:
            shares = np.bincount(labels.ravel(), mask.ravel(), len(logits)) / self._graph.sizes
            logits += (_MASK_LOGIT * (2 * shares - 1)).astype(np.float32)
        elif self._tree_maps is not None:
            maps = self._tree_maps.maps(inside, outside)
            logits += _logit(maps[0]) if len(inside) else 0
            logits -= np.maximum(_logit(maps[3]), 0) if len(outside) else 0
        found: FloatArray = logits[labels]
        return found

    def around(self, prompt: Prompt, given: PromptSet, window: Window) -> FloatArray:
        """See `image.Unary`: whether a pixel looks like the prompt or like the other side.

        The logit of a change is 2 * (d_other - d_prompt) + 3 * (1 - r / 1.5), where d are distances
        in features and color to the prompt, and to the mean of the pixels around it that have the
        other label and lie too far to change with it; r is the distance in click radii.
        """
        assert given.mask is not None
        radii = distances_in_radii(prompt.pixels_yx, prompt.click_radius, window)
        others = (given.mask[window] != prompt.is_object) & (radii > _CHANGED_RADII)
        near = others & (radii <= _AROUND_RADII)
        pixels = np.argwhere(near if near.any() else others)
        places = prompt.pixels_yx[len(prompt.pixels_yx) // 2][None]
        to_prompt = self._distances(places, window)
        corner = [side.start for side in window]
        likeness = self._distances(pixels + corner, window) - to_prompt if len(pixels) else 0
        change = (_LIKENESS * likeness + _NEAR_LOGIT * (1 - radii / _CHANGED_RADII)).astype(
            np.float32
        )
        return change if prompt.is_object else -change

    def _distances(self, pixels_yx: IntArray, window: Window) -> FloatArray:
        """Distance of each pixel of a window to the mean of some pixels, (h, w).

        In the features of the superpixels, and in color, each as it counts in p.
        """
        places = tuple(pixels_yx.T)
        labels = self._graph.labels[window]
        counts = np.bincount(self._graph.labels[places], minlength=len(self._norms))
        used = np.flatnonzero(counts)
        mean = counts[used].astype(np.float32) @ self._features[used] / len(pixels_yx)
        inside = np.unique(labels)
        d2 = np.zeros(len(self._norms), np.float32)
        d2[inside] = np.square(self._features[inside] - mean).sum(axis=1)
        of_pixels = d2[labels]
        if self._colors is not None:
            steps = self._colors[window] - self._colors[places].mean(axis=0)
            of_pixels += np.float32(COLOR_SCALE) * np.einsum("yxc,yxc->yx", steps, steps)
        return np.sqrt(of_pixels)

    def _logits(self, clicked: IntArray) -> FloatArray:
        """Logit of "one segment with the nearest of some clicks" by features, (K,)."""

        def d2_to(superpixel: int) -> FloatArray:
            products = self._points @ self._points[superpixel]
            found: FloatArray = np.maximum(self._norms + self._norms[superpixel] - 2 * products, 0)
            return found

        rows = [self._rows.get(one, partial(d2_to, one)) for one in clicked.tolist()]
        return _logit(2 / (1 + np.exp(np.minimum(np.minimum.reduce(rows), 30))))

    def _best_node(self, box: Box) -> BoolArray:
        """The node of the hierarchy of the largest IoU with a box, clipped to it, (H, W)."""
        window = self._graph.labels[box[0] : box[2], box[1] : box[3]]
        within = self._tree.sums(np.bincount(window.ravel(), minlength=len(self._norms)))
        overlaps = within / (self._tree.sizes + window.size - within)
        node = np.array([int(overlaps.argmax())], np.int64)
        labels = self._graph.labels
        return self._tree.leaves_under(node)[labels] & filled(box, labels.shape)


def _logit(p: npt.NDArray[np.floating]) -> FloatArray:
    """log(p / (1 - p)), clipped."""
    with np.errstate(divide="ignore"):
        logits = np.log(p) - np.log1p(-p)
    clipped: FloatArray = np.clip(logits, -_MAX_LOGIT, _MAX_LOGIT).astype(np.float32)
    return clipped
