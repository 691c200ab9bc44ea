"""Refine a cut of superpixels: decide the pixels near its outline and near clicks."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFilter

from maskfeat.arrays import BoolArray, FloatArray, Int32Array, IntArray
from maskfeat.interactive.geometry import Window, grown, whole, window_of
from maskfeat.interactive.prompts import some_of
from maskfeat.segment.mlp import Mlp

# Pixels around a click whose distance to it is computed, and the bound of a distance.
RADIUS = 20
_FAR = 24.0
_NEAR = 12.0  # pixels within which a click of the other label makes a pixel uncertain
# Blurs of the mask, standard deviations in pixels.
_FINE_BLUR, _COARSE_BLUR, _LOGIT_BLUR = 3.0, 8.0, 2.0
_REDUCED = 4  # reduction of the coarse blur
_MARGIN = 32  # around the mask: four standard deviations of the widest blur
_MAX_LOGIT = 6.0
_MOST_CLICKED = 512  # pixels of one kind; of a longer scribble only this number
_KEPT_PATCHES = 4096  # clicks, 20 kB each
# Pixels per unit of distance: of features (p = 2 / (1 + exp(d^2))), and of Lab / 100.
_FEATURE_PX, _COLOR_PX = 8.0, 30.0

_CLICK_DISTANCES = ("distance", "distance and features", "distance and color")
PIXEL_FEATURES = (
    "blurred mask",
    "mask, blurred more",
    "logit of the superpixel",
    "blurred logit",
    *(f"object: {name}" for name in _CLICK_DISTANCES),
    *(f"background: {name}" for name in _CLICK_DISTANCES),
)
PIXEL_SIGNS = (1, 1, 1, 1, *(-1,) * len(_CLICK_DISTANCES), *(1,) * len(_CLICK_DISTANCES))


class Refiner:
    """Decides pixels near the outline of a cut, and near clicks that contradict it.

    A network gives the logit of each uncertain pixel. Pixels far inside the object are uncertain
    only near a background click, and the other way round. So one more object click removes no
    pixel as long as the cut removes none.

    Args:
        labels: Superpixel of each pixel, shape (H, W).
        fine: Features of each pixel at fine levels, in units in which p = 2 / (1 + exp(d^2)),
            float32, shape (H, W, C).
        colors: Lab / 100, float32, shape (H, W, 3), or None to use no color.
    """

    def __init__(
        self,
        labels: Int32Array,
        fine: FloatArray,
        colors: FloatArray | None = None,
    ) -> None:
        self.labels = labels
        self._fine = fine
        self._colors = colors
        self._last: dict[bool, tuple[frozenset[int], FloatArray]] = {}
        self._patches: dict[tuple[int, int], tuple[FloatArray, tuple[int, int]]] = {}

    def refine(
        self,
        network: Mlp,
        is_object: BoolArray,
        logits: FloatArray,
        object_pixels: IntArray,
        background_pixels: IntArray,
    ) -> BoolArray:
        """The mask in pixels.

        Args:
            network: Reads `PIXEL_FEATURES`.
            is_object: The cut of the superpixels, shape (K,).
            logits: logit of "object" of the superpixels, shape (K,).
            object_pixels: Clicked pixels, numbered in reading order, (N,).
            background_pixels: Likewise, (M,).

        Returns:
            bool, shape (H, W). Clicks can still be unsatisfied.
        """
        mask = is_object[self.labels]
        places, click_features = self.click_features(mask, logits, object_pixels, background_pixels)
        mask.ravel()[places] = network(click_features) > 0
        return mask

    def refine_within(
        self,
        network: Mlp,
        mask: BoolArray,
        logits: FloatArray,
        clicks: tuple[IntArray, IntArray],
        window: Window,
    ) -> BoolArray:
        """The mask in a window.

        Args:
            network: See `refine`.
            mask: To be refined in the window, bool, shape (H, W).
            logits: See `refine`; infinite for superpixels that were not cut.
            clicks: Clicked pixels of the object and of the background, (N, 2) and (M, 2).
            window: Rows and columns.

        Returns:
            bool, of the shape of the window. Clicks can still be unsatisfied.
        """
        around = _aligned(grown(window, _MARGIN, whole(mask.shape)))
        inner = tuple(
            slice(w.start - a.start, w.stop - a.start) for w, a in zip(window, around, strict=True)
        )
        near = self._nearest_in(clicks[0], around), self._nearest_in(clicks[1], around)
        is_asked, levels = _levels(mask[around], logits, self.labels[around], near)
        refined = mask[around].copy()
        asked = np.nonzero(is_asked[inner])
        asked = asked[0] + inner[0].start, asked[1] + inner[1].start
        click_features = np.stack([level[asked].astype(np.float32) for level in levels])
        refined[asked] = network(click_features) > 0
        return refined[inner]

    def click_features(
        self,
        mask: BoolArray,
        logits: FloatArray,
        object_pixels: IntArray,
        background_pixels: IntArray,
    ) -> tuple[IntArray, FloatArray]:
        """The uncertain pixels and their features.

        Returns:
            The pixels, numbered in reading order, (N,), and their features, float32, (F, N).
        """
        near = self._nearest(True, object_pixels), self._nearest(False, background_pixels)
        window = _window_around(mask)
        near = near[0][:, window[0], window[1]], near[1][:, window[0], window[1]]
        is_asked, levels = _levels(mask[window], logits, self.labels[window], near)
        asked = np.nonzero(is_asked)
        click_features = np.stack([level[asked].astype(np.float32) for level in levels])
        places = (asked[0] + window[0].start) * mask.shape[1] + asked[1] + window[1].start
        return places, click_features

    def _nearest_in(self, clicks_yx: IntArray, window: Window) -> FloatArray:
        """As `_nearest`, in a window, for the clicks near it."""
        low, high = np.array([(side.start, side.stop) for side in window]).T
        is_near = ((clicks_yx >= low - RADIUS) & (clicks_yx < high + RADIUS)).all(axis=1)
        maps = np.full((len(_CLICK_DISTANCES), *(high - low)), _FAR, np.float32)
        width = self.labels.shape[1]
        pixels = np.unique(clicks_yx[is_near] @ (width, 1))
        for pixel in some_of(pixels, _MOST_CLICKED).tolist():
            row, column = divmod(pixel, width)
            self._add(maps, row, column, window)
        return maps

    def _nearest(self, is_object: bool, pixels: IntArray) -> FloatArray:
        """The smallest distances to clicks of one label, (D, H, W)."""
        wanted = frozenset(some_of(np.unique(pixels), _MOST_CLICKED).tolist())
        known, maps = self._last.get(is_object, (frozenset[int](), None))
        if maps is None or not known <= wanted:
            known = frozenset()
            maps = np.full((len(_CLICK_DISTANCES), *self.labels.shape), _FAR, np.float32)
        everywhere = whole(self.labels.shape)
        for pixel in wanted - known:
            row, column = divmod(pixel, self.labels.shape[1])
            self._add(maps, row, column, everywhere)
        self._last[is_object] = wanted, maps
        return maps

    def _add(self, maps: FloatArray, row: int, column: int, window: Window) -> None:
        """Lower the maps of a window, (D, h, w), to the distances of one click."""
        distances, corner = self._distances_around(row, column)
        into, part = [], []
        for side, first, length in zip(window, corner, distances.shape[1:], strict=True):
            start, stop = max(side.start, first), min(side.stop, first + length)
            into.append(slice(start - side.start, stop - side.start))
            part.append(slice(start - first, stop - first))
        near = maps[:, into[0], into[1]]
        np.minimum(near, distances[:, part[0], part[1]], out=near)

    def _distances_around(self, row: int, column: int) -> tuple[FloatArray, tuple[int, int]]:
        """Distances from a click to the pixels around it, (D, h, w), and the first pixel."""
        if (row, column) in self._patches:
            return self._patches[row, column]
        height, width = self.labels.shape
        rows = slice(max(0, row - RADIUS), min(height, row + RADIUS + 1))
        columns = slice(max(0, column - RADIUS), min(width, column + RADIUS + 1))
        down = np.arange(rows.start, rows.stop, dtype=np.float32) - row
        right = np.arange(columns.start, columns.stop, dtype=np.float32) - column
        distance = np.sqrt(down[:, None] ** 2 + right**2)
        distances = [distance]
        for values, pixels_per_unit in ((self._fine, _FEATURE_PX), (self._colors, _COLOR_PX)):
            if values is None:
                distances.append(distance)
                continue
            steps = values[rows, columns] - values[row, column]
            distances.append(
                distance + pixels_per_unit * np.sqrt(np.einsum("yxc,yxc->yx", steps, steps))
            )
        if len(self._patches) >= _KEPT_PATCHES:
            self._patches.clear()
        self._patches[row, column] = np.stack(distances), (rows.start, columns.start)
        return self._patches[row, column]


def _levels(
    mask: BoolArray,
    logits: FloatArray,
    labels: Int32Array,
    near: tuple[FloatArray, FloatArray],
) -> tuple[BoolArray, list[npt.NDArray[Any]]]:
    """Which pixels are uncertain, (h, w), and the maps of `PIXEL_FEATURES`, (h, w) each.

    Args:
        mask: The cut, (h, w).
        logits: Of all superpixels, (K,).
        labels: Superpixel of each pixel, (h, w).
        near: Distances to clicks on the object and on the background, (D, h, w) each.
    """
    gray = mask.astype(np.uint8) * 255
    blurred = _blurred(gray, _FINE_BLUR)
    is_asked = (blurred > 1) & (blurred < 254)
    is_asked |= (blurred <= 1) & (near[0][0] < _NEAR)
    is_asked |= (blurred >= 254) & (near[1][0] < _NEAR)
    clipped = np.clip(logits, -_MAX_LOGIT, _MAX_LOGIT)
    as_bytes = np.round((clipped + _MAX_LOGIT) * (255 / (2 * _MAX_LOGIT))).astype(np.uint8)
    return is_asked, [
        blurred,
        _blurred(gray, _COARSE_BLUR, reduced=_REDUCED),
        clipped[labels],
        _blurred(as_bytes[labels], _LOGIT_BLUR),
        *(of_distance for maps in near for of_distance in maps),
    ]


def _window_around(mask: BoolArray) -> Window:
    """The window of all uncertain pixels and of what their blurs depend on."""
    used = window_of(mask)
    if used[0].stop == 0:
        used = slice(0, 1), slice(0, 1)
    return _aligned(grown(used, _MARGIN, whole(mask.shape)))


def _aligned(window: Window) -> Window:
    """Start at multiples of `_REDUCED`, as the reduced image of all does."""
    rows, columns = (slice(side.start // _REDUCED * _REDUCED, side.stop) for side in window)
    return rows, columns


def _blurred(gray: npt.NDArray[np.uint8], sigma: float, reduced: int = 1) -> npt.NDArray[np.uint8]:
    """Gaussian blur, of an image reduced by `reduced` first."""
    image = Image.fromarray(gray)
    if reduced == 1:
        return np.asarray(image.filter(ImageFilter.GaussianBlur(sigma)))
    blurred = image.reduce(reduced).filter(ImageFilter.GaussianBlur(sigma / reduced))
    box = (0, 0, image.width / reduced, image.height / reduced)
    return np.asarray(blurred.resize(image.size, Image.Resampling.BILINEAR, box=box))
