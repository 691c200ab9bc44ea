"""Narrow-band refinement: which pixels a click near the outline changes.

Late clicks correct the outline by a pixel or two, which a cut of superpixels cannot do: on train
splits it changed as many right pixels as wrong ones. A network decides each pixel near the click by
geometry (a wrong band is about as wide as the click is deep, and a few times as long) and by how
much the pixel looks like either side of the outline.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage
from scipy.spatial import cKDTree

from maskfeat.arrays import BoolArray, Float64Array, FloatArray, IntArray
from maskfeat.interactive.geometry import Window, grown, whole, window_around
from maskfeat.interactive.prompts import Prompt
from maskfeat.segment.mlp import Mlp

NARROW_BAND_FEATURES = (
    "log click radius",
    "distance to the prompt",
    "depth under the outline",
    "distance by click radius",
    "depth by click radius",
    "color: like the prompt's side",
    "features: like the prompt's side",
    "color of the prompt: like its side",
    "features of the prompt: like its side",
    "color distance to the prompt",
    "feature distance to the prompt",
    "distance to other prompts of the other kind",
    "distance to other prompts of its kind",
    "the prompt is on the object",
)

# The largest distance of a pixel from its prompt: times the click radius, plus.
_LENGTH, _LEAST_LENGTH = 5.0, 6
# Prompts with a larger window, such as long scribbles, are cut instead; pixels.
_LARGEST_WINDOW = 256 * 256
_MOST_OCTAVE = 3  # click radius up to 3.4 pixels
_FAR = 24.0  # largest distance to other prompts, pixels
_AROUND = 5  # half side of the square over which colors and features are averaged, pixels
_PLACES = np.array([2**31, 1])  # a number for each (row, column)
_KEPT = 1024  # changes, 10 kB each


def is_in_narrow_band(prompt: Prompt) -> bool:
    """Whether a prompt is near enough to the outline, and small enough, for the narrow band."""
    if prompt.octave > _MOST_OCTAVE:
        return False
    margin = 2 * _length(prompt.click_radius)
    height, width = (side.stop - side.start for side in window_around(prompt.pixels_yx))
    fits: bool = (height + margin) * (width + margin) <= _LARGEST_WINDOW
    return fits


class NarrowBandReader:
    """Computes the changes of prompts near the outline, on one image.

    Args:
        network: Reads `NARROW_BAND_FEATURES`.
        fine: Features of each pixel at fine levels, in units in which p = 2 / (1 + exp(d^2)),
            float32, shape (H, W, C).
        colors: Lab / 100, float32, shape (H, W, 3), or None to use no color.
    """

    def __init__(self, network: Mlp, fine: FloatArray, colors: FloatArray | None = None) -> None:
        self.network = network
        self.fine = fine
        self.colors = colors
        plain = np.zeros((*fine.shape[:2], 1), np.float32)
        self._looks = (plain if colors is None else colors, fine)
        self._kept: OrderedDict[tuple[Any, ...], BoolArray] = OrderedDict()

    def change(
        self, prompt: Prompt, mask: BoolArray, prompts: tuple[IntArray, IntArray]
    ) -> tuple[Window, BoolArray]:
        """The pixels that a prompt changes.

        Args:
            prompt: The prompt, with a finite click radius; some of its pixels wrong in the mask.
            mask: The mask before, bool, shape (H, W).
            prompts: Pixels of all prompts on the background and on the object, (N, 2) and (M, 2).

        Returns:
            A window around the prompt, and its pixels that get the label of the prompt, bool,
            (h, w); some can be disconnected from the prompt.
        """
        window = _window_of(prompt, mask.shape)
        others = _others(prompt, prompts, window)
        key = (
            prompt.key,
            prompt.click_radius,
            mask[window].tobytes(),
            *(o.tobytes() for o in others),
        )
        if key not in self._kept:
            asked, click_features = self.read(prompt, mask, others, window)
            change = np.zeros(mask[window].shape, bool)
            change[asked] = self.network(click_features) > 0
            self._kept[key] = change
        self._kept.move_to_end(key)
        if len(self._kept) > _KEPT:
            self._kept.popitem(last=False)
        return window, self._kept[key]

    def read(
        self,
        prompt: Prompt,
        mask: BoolArray,
        others: Sequence[IntArray],
        window: Window,
    ) -> tuple[tuple[IntArray, IntArray], FloatArray]:
        """Inputs of the network, see `change`.

        Args:
            prompt: See there.
            mask: See there.
            others: Pixels of other prompts of the other label and of its own, (N, 2) and (M, 2).
            window: Around the prompt.

        Returns:
            Pixels, as rows and columns from the corner of the window, (N,) each, and their
            `NARROW_BAND_FEATURES`, float32, shape (F, N).
        """
        is_wrong = mask[window] != prompt.is_object
        corner = np.array([side.start for side in window])
        place = prompt.pixels_yx - corner
        distance = _distance_to(place, is_wrong.shape)
        down, right = np.nonzero(is_wrong & (distance <= _length(prompt.click_radius)))
        asked = down.astype(np.int64), right.astype(np.int64)
        distance = distance[asked]
        depth = ndimage.distance_transform_edt(is_wrong)[asked]
        middle = tuple(place[len(place) // 2])
        likeness, of_prompt, apart = zip(
            *(_looks(look[window], ~is_wrong, asked, middle) for look in self._looks), strict=True
        )
        pixels = np.stack(asked, axis=1) + corner
        click_radius = max(prompt.click_radius, 1.0)
        rows = [
            math.log(click_radius),
            distance,
            depth,
            distance / click_radius,
            depth / click_radius,
            *likeness,
            *of_prompt,
            *apart,
            *(_nearest(pixels, prompts) for prompts in others),
            float(prompt.is_object),
        ]
        click_features = np.empty((len(rows), len(distance)), np.float32)
        for row, values in zip(click_features, rows, strict=True):
            row[:] = values
        return asked, click_features


def _length(click_radius: float) -> int:
    return math.ceil(_LENGTH * max(click_radius, 1.0)) + _LEAST_LENGTH


def _window_of(prompt: Prompt, size: tuple[int, ...]) -> Window:
    return grown(window_around(prompt.pixels_yx), _length(prompt.click_radius), whole(size))


def _others(
    prompt: Prompt, prompts: tuple[IntArray, IntArray], window: Window
) -> tuple[IntArray, IntArray]:
    """Pixels of other prompts near a window, of the other label and of its own."""
    low, high = np.array([(side.start, side.stop) for side in window]).T
    felt = []
    for of_kind in (prompts[1 - prompt.is_object], prompts[prompt.is_object]):
        is_felt = ((of_kind >= low - _FAR) & (of_kind < high + _FAR)).all(axis=1)
        felt.append(np.unique(of_kind[is_felt], axis=0))
    is_own = np.isin(felt[1] @ _PLACES, prompt.pixels_yx @ _PLACES)
    return felt[0], felt[1][~is_own]


def _distance_to(pixels: IntArray, size: tuple[int, ...]) -> Float64Array:
    """Distance of each pixel of a window to the nearest of some pixels, (h, w)."""
    if len(pixels) == 1:
        down, right = (np.arange(length) - at for length, at in zip(size, pixels[0], strict=True))
        straight: Float64Array = np.hypot(down[:, None], right)
        return straight
    is_free = np.ones(size, bool)
    is_free[tuple(pixels.T)] = False
    distances: Float64Array = ndimage.distance_transform_edt(is_free)
    return distances


def _nearest(pixels: IntArray, prompts: IntArray) -> FloatArray | float:
    """Distance of each pixel to the nearest prompt, at most `_FAR`, (N,)."""
    if not len(prompts):
        return _FAR
    nearest: FloatArray = cKDTree(prompts).query(pixels, distance_upper_bound=_FAR)[0]
    return np.minimum(nearest, _FAR)


def _looks(
    look: FloatArray,
    is_prompt_side: BoolArray,
    asked: tuple[IntArray, IntArray],
    at: tuple[int, ...],
) -> tuple[FloatArray, float, FloatArray]:
    """Compare pixels with the means around them on either side of the outline.

    Args:
        look: Color or features of a window, (h, w, C).
        is_prompt_side: Pixels that have the label of the prompt, (h, w).
        asked: Rows and columns of N pixels.
        at: That of the prompt.

    Returns:
        Distance of the pixels to the mean of the other side less that to the mean of the prompt's
        side, (N,); the same of the prompt; and their distance to the prompt, (N,).
    """
    own = is_prompt_side[..., None]
    sums = _sums_around(np.concatenate([look * own, own, look, np.ones_like(own)], axis=2))
    places = tuple(np.append(asked[axis], at[axis]) for axis in (0, 1))
    looks, sums = look[places], sums[places]
    channels = look.shape[2]
    of_own, count, of_all, total = np.split(sums, np.cumsum([channels, 1, channels]), axis=1)
    to_own = _norm(looks - of_own / (count + 1e-3))
    to_other = _norm(looks - (of_all - of_own) / (total - count + 1e-3))
    likeness = (to_other - to_own).astype(np.float32)
    return likeness[:-1], float(likeness[-1]), _norm(looks[:-1] - looks[-1])


def _norm(steps: npt.NDArray[Any]) -> npt.NDArray[Any]:
    norms: npt.NDArray[Any] = np.sqrt(np.einsum("nc,nc->n", steps, steps))
    return norms


def _sums_around(values: npt.NDArray[np.floating]) -> Float64Array:
    """Sums over the square around each pixel, clipped to the window, (h, w, C)."""
    sums = values.astype(np.float64)
    for axis in (0, 1):
        total = np.cumsum(sums, axis=axis)
        total = np.concatenate([np.zeros_like(total.take([0], axis)), total], axis=axis)
        places = np.arange(sums.shape[axis])
        last = np.minimum(places + _AROUND + 1, sums.shape[axis])
        sums = total.take(last, axis) - total.take(np.maximum(places - _AROUND, 0), axis)
    return sums
