"""Logits of "object" at every pixel of an image, by a click decoder in two looks."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from maskfeat.arrays import FloatArray
from maskfeat.interactive.decoder import ClickDecoder
from maskfeat.interactive.geometry import Box, Window
from maskfeat.interactive.look import Look, MapReader
from maskfeat.interactive.prompt_maps import ImageMaps, LookMaps
from maskfeat.interactive.prompts import Prompt

CELLS = 64  # of the longer side of a look
_MARGIN = 0.2  # of the sides of the window around the object, on each side
_LEAST_PX = 48.0  # sides of that window
_KEPT_LOOKS = 16  # encoded windows, 800 kB each


class Given(NamedTuple):
    """All that a user gave for one object.

    Attributes:
        prompts: Clicks and scribbles; their order does not matter.
        box: Holds the whole object, or None.
        mask: Reads the mask to start from, 1 object and -1 background, on any grid; or None.
    """

    prompts: Sequence[Prompt]
    box: Box | None = None
    mask: MapReader | None = None

    def maps(self, look: LookMaps, previous: Tensor | None = None) -> Tensor:
        """See `LookMaps.prompt_maps`."""
        start = None if self.mask is None else self.mask.read(look.look)[0]
        return look.prompt_maps(self.prompts, self.box, start, previous)


class DecodedImage:
    """Reads prompts on one image: the whole image first, then a window around object and prompts.

    Everything that does not depend on the prompts is computed once: the maps of the image, and the
    decoder's image half for each window that came up. The result is a function of the set of
    prompts alone.

    Args:
        decoder: In evaluation mode.
        maps: Of the image.
    """

    def __init__(self, decoder: ClickDecoder, maps: ImageMaps) -> None:
        self._decoder = decoder
        self._maps = maps
        self._encoded: OrderedDict[Look, tuple[LookMaps, Tensor]] = OrderedDict()
        self._whole = Look.around((0, 0, *maps.features.size), CELLS, decoder.multiple)

    @torch.inference_mode()
    def logits(self, given: Given) -> FloatArray:
        """Logit of "object" of each pixel, float32, shape (H, W)."""
        size = self._maps.features.size
        coarse = self._decoded(self._whole, given, None)
        box = object_window(self._whole, coarse, given, size)
        window = Look.around(box, CELLS, self._decoder.multiple)
        fine = self._decoded(window, given, coarse_at(self._whole, coarse, window))
        beyond = self._whole.at_pixels(coarse, size, torch.zeros(size))
        logits: FloatArray = window.at_pixels(fine, size, beyond).numpy()
        return logits

    @torch.inference_mode()
    def logits_on(self, look: Look, given: Given) -> Tensor:
        """Logits on the grid of one look, (h, w), e.g. around a click that corrects a mask."""
        return self._decoded(look, given, None)

    def _decoded(self, look: Look, given: Given, previous: Tensor | None) -> Tensor:
        """Logits on the grid of a look, (h, w)."""
        maps, encoded = self._look(look)
        logits: Tensor = self._decoder(encoded, given.maps(maps, previous).unsqueeze(0))
        return logits[0]

    def _look(self, look: Look) -> tuple[LookMaps, Tensor]:
        if look not in self._encoded:
            maps = self._maps.look(look)
            self._encoded[look] = maps, self._decoder.encode(maps.image_maps.unsqueeze(0))
        self._encoded.move_to_end(look)
        if len(self._encoded) > _KEPT_LOOKS:
            oldest = next(key for key in self._encoded if key != self._whole)
            del self._encoded[oldest]
        return self._encoded[look]


def look_at(window: Window) -> Look:
    """The look at the window of a correction; cells of one pixel lie on the pixels."""
    rows, columns = window
    height, width = (side.stop - side.start for side in window)
    box = rows.start, columns.start, rows.stop + height % 2, columns.stop + width % 2
    return Look.around(box, CELLS)


def object_window(
    whole: Look, coarse: Tensor, given: Given, size: tuple[int, ...]
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
