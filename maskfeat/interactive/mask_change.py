"""Previous-mask conditioning: which superpixels of a mask a prompt changes.

A user who corrects a mask accepts it wherever nobody clicked. How much a click should change
depends on its distance to the outline. A network weighs the logit of all clicks against the mask,
superpixel by superpixel (the role of the previous mask in RITM, Sofiiuk et al., ICIP 2022).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage
from scipy.spatial import cKDTree

from maskfeat.arrays import BoolArray, FloatArray, IntArray
from maskfeat.interactive.evidence import CLICK_DISTANCES, COMPARED, SUPERPIXEL_FEATURES
from maskfeat.interactive.geometry import Window, hull
from maskfeat.interactive.prompts import Prompt, pixels_of, radius_of_octave
from maskfeat.segment.mlp import Mlp
from maskfeat.segment.superpixels import RegionGraph

CHANGE_FEATURES = (
    "logit of the change, by all prompts",
    "the change is to the object",
    "log distance to the prompt, by its click radius",
    "log click radius, of the image",
    "log depth under the outline, by the click radius",
    "log depth under the outline, of the image",
    "log number of prompts",
    "log share of the image that has the label",
    "log click radius, of the object",
    *(f"prompts of the new label: {name}" for name in CLICK_DISTANCES),
    *(f"prompts of the old label: {name}" for name in CLICK_DISTANCES),
    *(f"new against old label: {name}" for name in COMPARED),
    *SUPERPIXEL_FEATURES[2 * len(CLICK_DISTANCES) + len(COMPARED) :],
)
# Logit of superpixels that no prompt can change.
_KEPT_LOGIT = 8.0
_LEAST_PIXELS, _LEAST_SHARE = 0.5, 1e-4


@dataclass(frozen=True)
class RefinementStep:
    """A mask, and the prompts that change it.

    Attributes:
        below: The mask, bool, shape (H, W).
        prompts: Of one octave, none satisfied by the mask.
        num_prompts: Number of all prompts, with those that made the mask.
    """

    below: BoolArray
    prompts: Sequence[Prompt]
    num_prompts: int

    def changing_to(self, is_object: bool) -> IntArray:
        """The pixels of prompts of one label that the mask does not satisfy, (N, 2)."""
        pixels = pixels_of(self.prompts, is_object)
        wrong: IntArray = pixels[self.below[tuple(pixels.T)] != is_object]
        return wrong


class MaskChangeReader:
    """Computes logits of changed labels of the superpixels of one image.

    Args:
        network: Reads `CHANGE_FEATURES`.
        graph: The superpixels.
    """

    def __init__(self, network: Mlp, graph: RegionGraph) -> None:
        self.network = network
        self.graph = graph
        self._root = math.sqrt(graph.labels.size)

    def revised(
        self,
        logits: FloatArray,
        by_prompts: FloatArray,
        superpixels: IntArray,
        is_object: BoolArray,
        step: RefinementStep,
        windows: Sequence[Window],
    ) -> FloatArray:
        """Logits of superpixels, conditioned on the previous mask.

        Args:
            logits: Logit of "object" by all prompts of each of the superpixels, (A,).
            by_prompts: `evidence.SUPERPIXEL_FEATURES` of the superpixels, (M, A).
            superpixels: All superpixels in the windows, (A,).
            is_object: Their labels in the previous mask, (A,).
            step: The previous mask and the prompts that change it.
            windows: Where it can change.

        Returns:
            Logit of "object", float32, (A,); a superpixel keeps its label if no prompt of the
            step has the other one.
        """
        revised = np.where(is_object, np.float32(_KEPT_LOGIT), np.float32(-_KEPT_LOGIT))
        for to_object in (True, False):
            asked = np.flatnonzero(is_object != to_object)
            if len(asked) and len(step.changing_to(to_object)):
                known = logits[asked], by_prompts[:, asked], superpixels[asked]
                click_features = self.click_features(*known, to_object, step, windows)
                sign = 1 if to_object else -1
                revised[asked] = sign * self.network(click_features)
        return revised

    def click_features(
        self,
        logits: FloatArray,
        by_prompts: FloatArray,
        superpixels: IntArray,
        to_object: bool,
        step: RefinementStep,
        windows: Sequence[Window],
    ) -> FloatArray:
        """Inputs of the network for changes to one label.

        Args:
            logits: See `revised`.
            by_prompts: See `revised`.
            superpixels: Superpixels of the other label, (A,).
            to_object: The label they can get.
            step: See `revised`; at least one of its prompts has that label.
            windows: See `revised`.

        Returns:
            float32, shape (F, A), in the order of `CHANGE_FEATURES`.
        """
        click_radius = radius_of_octave(step.prompts[0].octave)
        prompts = cKDTree(step.changing_to(to_object))
        distance = prompts.query(self.graph.centroids_yx[superpixels])[0] + _LEAST_PIXELS
        depth = self._depths(step.below != to_object, windows)[superpixels] + _LEAST_PIXELS
        share = max(float(step.below.mean()), _LEAST_SHARE)

        def everywhere(value: float) -> FloatArray:
            return np.full(len(superpixels), value, np.float32)

        return np.stack(
            [
                logits if to_object else -logits,
                everywhere(1 if to_object else -1),
                np.log(distance / click_radius),
                everywhere(math.log(click_radius / self._root)),
                np.log(depth / click_radius),
                np.log(depth / self._root),
                everywhere(math.log(step.num_prompts)),
                everywhere(math.log((1 - share if to_object else share) + _LEAST_SHARE)),
                everywhere(math.log(click_radius / (self._root * math.sqrt(share)))),
                *_seen_from(to_object, by_prompts),
            ]
        ).astype(np.float32)

    def _depths(self, region: BoolArray, windows: Sequence[Window]) -> FloatArray:
        """Mean distance of the pixels of each superpixel to the outside of a region, (K,)."""
        window = hull(windows)
        labels, part = self.graph.labels[window].ravel(), region[window]
        if part.all():
            return np.full(self.graph.num_superpixels, min(part.shape), np.float32)
        depths = ndimage.distance_transform_edt(part).ravel()
        count = self.graph.num_superpixels
        pixels = np.bincount(labels, minlength=count)
        means = np.bincount(labels, depths, count) / np.maximum(pixels, 1)
        return means.astype(np.float32)


def _seen_from(to_object: bool, by_prompts: FloatArray) -> FloatArray:
    """Features of superpixels; those of prompts of the new label come first."""
    if to_object:
        return by_prompts
    count, compared = len(CLICK_DISTANCES), len(COMPARED)
    ratios = slice(2 * count, 2 * count + compared)
    return np.concatenate(
        [
            by_prompts[count : 2 * count],
            by_prompts[:count],
            -by_prompts[ratios],
            by_prompts[2 * count + compared :],
        ]
    )
