"""The unary term of the cuts: what a set of prompts says about each pixel by itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
import torch
from scipy import ndimage

from maskfeat.arrays import BoolArray, FloatArray
from maskfeat.interactive.decoded_image import DecodedImage, Given, look_at
from maskfeat.interactive.geometry import Box, Window
from maskfeat.interactive.look import MapReader
from maskfeat.interactive.prompts import Prompt

# Chosen on 107 corrections of 9 objects of train splits (experiments/interactive).
_NEAR_LOGIT, _CHANGED_RADII = 2.0, 2.5


class PromptSet(NamedTuple):
    """All that a user gave for one object.

    Attributes:
        prompts: Clicks and scribbles; their order does not matter.
        box: Holds the whole object, or None.
        mask: A mask to start from, bool, shape (H, W), or None.
    """

    prompts: Sequence[Prompt]
    box: Box | None = None
    mask: BoolArray | None = None


class Unary(Protocol):
    """Reads prompts on one image, see `feature_unary` and `DecoderUnary`."""

    def whole(self, given: PromptSet) -> FloatArray:
        """Logit of "object" of each pixel, float32, shape (H, W)."""
        ...

    def around(self, prompt: Prompt, given: PromptSet, window: Window) -> FloatArray:
        """Logit of "object" near a prompt that corrects a mask.

        Args:
            prompt: One of those given.
            given: Prompts near it, and the mask that they correct.
            window: Around the prompt.

        Returns:
            float32, of the shape of the window.
        """
        ...


class DecoderUnary:
    """A click decoder's logits: two looks at the whole object, or one around a prompt.

    Args:
        decoded: The image as the decoder sees it.
    """

    def __init__(self, decoded: DecodedImage) -> None:
        self._decoded = decoded

    def whole(self, given: PromptSet) -> FloatArray:
        """See `Unary`."""
        start = None if given.mask is None else MapReader.of_mask(given.mask)
        return self._decoded.logits(Given(given.prompts, given.box, start))

    def around(self, prompt: Prompt, given: PromptSet, window: Window) -> FloatArray:
        """See `Unary`; at full resolution for a window of up to 64 pixels.

        Added is a logit of the change by distance, so that changes stay near the prompt: 2 at the
        prompt, 0 at 2.5 click radii.
        """
        assert given.mask is not None
        look, start = look_at(window), MapReader.of_mask(given.mask)
        logits = self._decoded.logits_on(look, Given(given.prompts, given.box, start))
        beyond = torch.zeros(given.mask.shape)
        found: FloatArray = look.at_pixels(logits, given.mask.shape, beyond).numpy()[window]
        near = _NEAR_LOGIT * (1 - distances_in_radii(prompt, window) / _CHANGED_RADII)
        return found + (near if prompt.is_object else -near)


def distances_in_radii(prompt: Prompt, window: Window) -> FloatArray:
    """Distance of each pixel of a window to a prompt, by its click radius, float32, (h, w)."""
    is_apart = np.ones([side.stop - side.start for side in window], bool)
    is_apart[tuple((prompt.pixels_yx - [side.start for side in window]).T)] = False
    distances = ndimage.distance_transform_edt(is_apart) / max(prompt.click_radius, 1.0)
    in_radii: FloatArray = distances.astype(np.float32)
    return in_radii
