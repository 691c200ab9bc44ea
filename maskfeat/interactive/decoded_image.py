"""Logits of "object" at every pixel of an image, by a click decoder in two looks."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from maskfeat.arrays import FloatArray
from maskfeat.interactive.decoder import PromptDecoder
from maskfeat.interactive.geometry import Window, distances_in_radii
from maskfeat.interactive.look import Look, MapReader
from maskfeat.interactive.prompt_maps import ImageMaps, LookMaps
from maskfeat.interactive.prompts import Prompt, PromptSet
from maskfeat.recent import Recent

CELLS = 64  # of the longer side of a look
_MARGIN = 0.2  # of the sides of the window around the object, on each side
_LEAST_PX = 48.0  # sides of that window
_KEPT_LOOKS = 16  # encoded windows, 800 kB each
# Chosen on 107 corrections of 9 objects of train splits (experiments/interactive).
_NEAR_LOGIT, _CHANGED_RADII = 2.0, 2.5
Encoded = tuple[LookMaps, Tensor]  # maps on a grid, and what the image half made of them


class DecodedImage:
    """The unary term by a click decoder: a logit of "object" for each pixel.

    All prompts are read in two looks, at the whole image first, then at a window around object and
    prompts; a prompt that corrects a mask in one look, at the window around it. Everything that
    does not depend on the prompts is computed once: the maps of the image, and the decoder's image
    half for each window that came up. The result is a function of the set of prompts alone.

    Args:
        decoder: In evaluation mode.
        maps: Of the image.
    """

    def __init__(self, decoder: PromptDecoder, maps: ImageMaps) -> None:
        self._decoder = decoder
        self._maps = maps
        self._kept: Recent[Encoded] = Recent(_KEPT_LOOKS)

    @torch.inference_mode()
    def whole(self, given: PromptSet) -> FloatArray:
        """See `image.Unary`."""
        size, first = self._maps.features.size, self._first[0].look
        coarse = self._decoded(self._first, given)
        box = object_window(first, coarse, given, size)
        window = Look.around(box, CELLS, self._decoder.multiple)
        previous = coarse_at(first, coarse, window)
        fine = self._decoded(self._encoded(window), given, previous)
        beyond = first.at_pixels(coarse, size, torch.zeros(size))
        logits: FloatArray = window.at_pixels(fine, size, beyond).numpy()
        return logits

    @torch.inference_mode()
    def around(self, prompt: Prompt, given: PromptSet, window: Window) -> FloatArray:
        """See `image.Unary`; at full resolution for a window of up to 64 pixels.

        Added is a logit of the change by distance, so that changes stay near the prompt: 2 at the
        prompt, 0 at 2.5 click radii.
        """
        look, (rows, columns) = look_at(window), window
        logits = self._decoded(self._encoded(look), given)
        size = rows.stop - rows.start, columns.stop - columns.start
        own = replace(look, top=look.top - rows.start, left=look.left - columns.start)
        found: FloatArray = own.at_pixels(logits, size, torch.zeros(size)).numpy()
        radii = distances_in_radii(prompt.pixels_yx, prompt.click_radius, window)
        near = _NEAR_LOGIT * (1 - radii / _CHANGED_RADII)
        return found + (near if prompt.is_object else -near)

    def _decoded(
        self, encoded: Encoded, given: PromptSet, previous: Tensor | None = None
    ) -> Tensor:
        """Logits on the grid of a look, (h, w)."""
        maps, of_image = encoded
        logits: Tensor = self._decoder(of_image, maps_of(given, maps, previous).unsqueeze(0))
        return logits[0]

    @cached_property
    def _first(self) -> Encoded:
        """The look at the whole image."""
        box = (0, 0, *self._maps.features.size)
        return self._encode(Look.around(box, CELLS, self._decoder.multiple))

    def _encoded(self, look: Look) -> Encoded:
        return self._kept.get(look, lambda: self._encode(look))

    def _encode(self, look: Look) -> Encoded:
        maps = self._maps.look(look)
        return maps, self._decoder.encode(maps.image_maps.unsqueeze(0))


def maps_of(given: PromptSet, look: LookMaps, previous: Tensor | None = None) -> Tensor:
    """All that a user gave, as maps on the grid of a look, see `LookMaps.prompt_maps`."""
    start = None if given.mask is None else MapReader.of_mask(given.mask).read(look.look)[0]
    return look.prompt_maps(given.prompts, given.box, start, previous)


def look_at(window: Window) -> Look:
    """The look at the window of a correction; cells of one pixel lie on the pixels."""
    rows, columns = window
    height, width = (side.stop - side.start for side in window)
    box = rows.start, columns.start, rows.stop + height % 2, columns.stop + width % 2
    return Look.around(box, CELLS)


def object_window(
    whole: Look, coarse: Tensor, given: PromptSet, size: tuple[int, ...]
) -> tuple[float, float, float, float]:
    """The window of the second look: object, object prompts and box, with a margin.

    Args:
        whole: The first look.
        coarse: Logits on its grid, (h, w).
        given: All prompts.
        size: Height and width of the image.

    Returns:
        Top, left, bottom, right, pixels; may reach beyond the image.
    """
    pixels = [p.pixels_yx for p in given.prompts if p.is_object]
    boxes = [(*p.min(axis=0), *(p.max(axis=0) + 1)) for p in pixels]
    boxes += [] if given.box is None else [given.box]
    cells = np.argwhere(coarse.numpy() > 0)
    if len(cells):
        first, last = np.quantile(cells, [0.005, 0.995], axis=0)
        start = np.array([whole.top, whole.left])
        corners = np.array([first, last + 1]) * whole.cell_px + start
        boxes.append(tuple(corners.ravel()))
    if not boxes:
        return (0, 0, size[0], size[1])
    sides = np.array(boxes, float)
    low, high = sides[:, :2].min(axis=0), sides[:, 2:].max(axis=0)
    length = np.maximum(high - low, (high - low).max() / 2)
    length = np.maximum(length * (1 + 2 * _MARGIN), _LEAST_PX)
    # Rounded, so that the next click on the same object mostly has the same window.
    step = 2 ** np.round(np.log2(length.max() / 16))
    low, high = (
        np.round(side / step) * step
        for side in ((low + high - length) / 2, (low + high + length) / 2)
    )
    return (*low, *high)


def coarse_at(whole: Look, coarse: Tensor, window: Look) -> Tensor:
    """Values of one grid on the grid of another look, bilinearly, (h, w) -> (h', w')."""
    return MapReader(coarse.unsqueeze(0), whole.cell_px).read(
        Look(
            window.top - whole.top,
            window.left - whole.left,
            window.cell_px,
            window.rows,
            window.columns,
        )
    )[0]
