"""A prompt on a mask -> how likely each superpixel is to change its label for it.

What all prompts together say of a superpixel is one thing, the mask that the user saw when making
one more another: it was right wherever nobody clicked, as far as the user cared. How much of it a
prompt is to change depends on where it was made, seen from the outline. A hard limit to that
(nothing thicker than 1.5 times the click radius) is right for users who click the middle of an
error, and stops those who click anywhere in it. So a small network weighs one against the other,
superpixel by superpixel.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage
from scipy.spatial import cKDTree

from maskfeat.interactive.click_radius import Prompt, pixels_of, radius_of_octave
from maskfeat.interactive.evidence import CLICK_DISTANCES, COMPARED, SUPERPIXEL_FEATURES
from maskfeat.interactive.windows import Window, hull
from maskfeat.segment.mlp import Mlp
from maskfeat.segment.superpixels import RegionGraph

BoolArray = npt.NDArray[np.bool_]
FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]

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
# logit that a superpixel keeps a label that no prompt is about.
_KEPT_LOGIT = 8.0
_LEAST_PIXELS, _LEAST_SHARE = 0.5, 1e-4


@dataclass(frozen=True)
class RefinementStep:
    """A mask, and prompts that are to change it.

    Attributes:
        below: The mask, bool, shape (H, W).
        prompts: Of one octave, each wrong somewhere in the mask.
        num_prompts: So many are known, these and those that the mask stands for.
    """

    below: BoolArray
    prompts: Sequence[Prompt]
    num_prompts: int

    def changing_to(self, is_object: bool) -> IntArray:
        """The pixels of prompts of one sign that are wrong in the mask, (N, 2)."""
        pixels = pixels_of(self.prompts, is_object)
        wrong: IntArray = pixels[self.below[tuple(pixels.T)] != is_object]
        return wrong


class MaskChangeReader:
    """Weighs changes of the superpixels of one image.

    Args:
        network: Gives logits from `CHANGE_FEATURES`.
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
        """What becomes of the logit of superpixels, in view of the mask below.

        Args:
            logits: Of "object", by all prompts, of each of the superpixels, (A,).
            by_prompts: `evidence.SUPERPIXEL_FEATURES` of the superpixels, (M, A).
            superpixels: Which, (A,), all of those in the windows.
            is_object: Labels of these in the mask below, (A,).
            step: The mask and the prompts that are to change it.
            windows: Where it may change.

        Returns:
            logit of "object", float32, (A,); such as keep the label where no prompt of the
            step is about it.
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
        """The inputs of the network, for changes to one label.

        Args:
            logits: See `revised`.
            by_prompts: See `revised`.
            superpixels: Which, (A,), all of the other label.
            to_object: The label that they may get.
            step: See `revised`; at least one of its prompts is to make such a change.
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
    """Measures of superpixels; those by prompts of the label that they may get come first."""
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
