"""Sessions of simulated users for training: one object, its prompts so far, its mask so far."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from skimage.color import lab2rgb
from torch import Tensor

from maskfeat.arrays import BoolArray, IntArray
from maskfeat.features.look import Look, MapReader
from maskfeat.interactive.cut import BAND_PX, OutlineCutter
from maskfeat.interactive.decoder_unary import CELLS, ImageMaps, LookMaps, object_window
from maskfeat.interactive.prompts import (
    Box,
    Prompt,
    PromptSet,
    distance_to_outline,
    full_window,
    grown,
    window_of,
)

# How sessions start, by chance; the rest starts with a click.
_BOX, _MASK, _SCRIBBLE, _MANY = 0.10, 0.06, 0.10, 0.10
_MOST_CLICKS = 100
_CROPPED = 0.3  # share of sessions whose first look is a part of the image
_RADIUS_KNOWN = 0.6  # share of later clicks
_NEAR_OUTLINE_PX = 6


class TrainingSession:
    """A simulated user who corrects the mask of one object, as in RITM's iterative training.

    A session starts with a click, a box, a mask to start from, a scribble, or up to a hundred
    clicks at once. Every later step clicks an error of the mask: in its middle, anywhere in it, or
    near its outline. Some clicks come with their click radius.

    Args:
        maps: Of the image.
        outline: Cuts pixels of the image, so that masks are as wrong as those of a segmenter.
        mask: The object, bool, shape (H, W), not empty.
        rng: Draws everything.

    Attributes:
        given: The prompts so far.
        pred: The mask so far, bool, shape (H, W).
        first: The first look, square.
        is_flipped: Whether looks are mirrored.

    References:
        Sofiiuk et al.: Reviving iterative training with mask guidance, ICIP 2022.
    """

    def __init__(
        self,
        maps: ImageMaps,
        outline: OutlineCutter,
        mask: BoolArray,
        rng: np.random.Generator,
    ) -> None:
        self.mask = mask
        self._maps, self._outline = maps, outline
        self._rng = rng
        self._target = MapReader(torch.from_numpy(mask.astype(np.float32)).unsqueeze(0), 1)
        self.pred = np.zeros_like(mask)
        self.given = PromptSet([])
        self.is_flipped = bool(rng.random() < 0.5)
        rows, columns = window_of(mask)
        self._box: Box = rows.start, columns.start, rows.stop, columns.stop
        self.first = maps.look(square(self._first_box()))
        self._is_started = self._start()

    def click(self) -> None:
        """Add a click on an error, unless the session started with other prompts just now."""
        wrong = self._wrong()
        if self._is_started or not wrong.any():
            self._is_started = False
            return
        place = self._place_in(self._error(wrong))
        radius = math.inf
        if self.given.prompts and self.pred.any() and self._rng.random() < _RADIUS_KNOWN:
            radius = distance_to_outline(self.pred, place)
        self._add(place, radius)

    def target(self, look: Look) -> Tensor:
        """Share of object in each cell of a look, (h, w)."""
        return self._target.read(look)[0]

    def second(self, coarse: Tensor) -> LookMaps:
        """The look around object and prompts, moved and scaled by chance, square.

        The object is where the logits (h, w) of the first look are above 0.
        """
        box = np.array(object_window(self.first.look, coarse, self.given, self.mask.shape), float)
        low, high = box[:2], box[2:]
        middle = (low + high) / 2 + self._rng.normal(0, 0.04, 2) * (high - low)
        half = (high - low) / 2 * self._rng.uniform(0.85, 1.25)
        return self._maps.look(square((*(middle - half), *(middle + half))))

    def show(self, look: Look, logits: Tensor, coarse: Tensor) -> None:
        """Take the mask of two looks, its outline cut; clicked pixels have their label.

        Logits are (h, w), on the grid of the second look; the coarse ones on that of the first.
        """
        beyond = self.first.look.at_pixels(
            coarse, self.mask.shape, torch.full(self.mask.shape, -8.0)
        )
        unary = look.at_pixels(logits, self.mask.shape, beyond).numpy()
        self.pred = unary > 0
        window = grown(window_of(self.pred), BAND_PX + 1, full_window(self.pred.shape))
        self.pred[window] = self._outline.refined(self.pred[window], unary[window], window)
        for prompt in self.given.prompts:
            self.pred[tuple(prompt.pixels_yx.T)] = prompt.is_object

    def drawn(self) -> NDArray[np.uint8]:
        """The mask so far with all prompts, and the true mask, uint8, shape (H, 2 W, 3).

        What is not the object is dark. Clicks are green on the object, red on the background.
        """
        lab = self._maps.colors.permute(1, 2, 0).numpy() * 100
        rgb = np.round(lab2rgb(lab) * 255)
        panels = np.concatenate(
            [rgb * (0.3 + 0.7 * m[..., None]) for m in (self.pred, self.mask)], 1
        )
        if self.given.box is not None:
            top, left, bottom, right = self.given.box
            panels[[top, bottom - 1], left:right] = panels[top:bottom, [left, right - 1]] = 255
        for prompt in self.given.prompts:
            color = (0, 255, 0) if prompt.is_object else (255, 0, 0)
            for half, shade in ((4, (255, 255, 255)), (3, color)):
                for row, column in prompt.pixels_yx.tolist():
                    rows = slice(max(0, row - half), row + half + 1)
                    panels[rows, max(0, column - half) : column + half + 1] = shade
        return panels.astype(np.uint8)

    def _wrong(self) -> BoolArray:
        """Wrong pixels without a prompt, (H, W)."""
        wrong = self.pred != self.mask
        for prompt in self.given.prompts:
            wrong[tuple(prompt.pixels_yx.T)] = False
        is_wrong: BoolArray = wrong
        return is_wrong

    def _first_box(self) -> tuple[float, float, float, float]:
        """The image, or by chance a part of it that holds the object."""
        height, width = self.mask.shape
        if self._rng.random() >= _CROPPED:
            return (0, 0, height, width)
        top, left, bottom, right = self._box
        draw = self._rng.uniform
        return (draw(0, top), draw(0, left), draw(bottom, height), draw(right, width))

    def _start(self) -> bool:
        """Begin with other prompts than a click, by chance.

        Returns:
            Whether the next step goes without a click.
        """
        kinds = (self._with_box, self._with_mask, self._with_scribbles, self._with_many)
        chances = np.cumsum([_BOX, _MASK, _SCRIBBLE, _MANY])
        kind = int(np.searchsorted(chances, self._rng.random(), side="right"))
        return kinds[kind]() if kind < len(kinds) else False

    def _with_box(self) -> bool:
        """A box around the object, up to a sixteenth too large."""
        top, left, bottom, right = self._box
        most = 0.06 * max(bottom - top, right - left)
        margin = np.round(self._rng.uniform(0, most, 4)).astype(int).tolist()
        height, width = self.mask.shape
        box = (
            max(0, top - margin[0]),
            max(0, left - margin[1]),
            min(height, bottom + margin[2]),
            min(width, right + margin[3]),
        )
        self.given = self.given._replace(box=box)
        return bool(self._rng.random() < 0.6)

    def _with_mask(self) -> bool:
        """The object's mask, grown or shrunk, with a rectangle added or cut out."""
        rng = self._rng
        steps = min(12, max(1, int(rng.uniform(0.02, 0.15) * math.sqrt(self.mask.sum()))))
        change = ndimage.binary_dilation if rng.random() < 0.5 else ndimage.binary_erosion
        start = change(self.mask, iterations=steps)
        top, left, bottom, right = self._box
        row, column = rng.integers(top, bottom), rng.integers(left, right)
        height = max(4, int((bottom - top) * rng.uniform(0.1, 0.4)))
        width = max(4, int((right - left) * rng.uniform(0.1, 0.4)))
        rows, columns = (
            slice(max(0, row - height), row + height),
            slice(max(0, column - width), None),
        )
        start[rows, columns.start : column + width] = rng.random() < 0.5
        if not start.any():
            return False
        self.pred = start
        self.given = self.given._replace(mask=start.copy())
        return bool(rng.random() < 0.3)

    def _with_scribbles(self) -> bool:
        self._add(self._scribble(self.mask))
        if self._rng.random() < 0.4 and not self.mask.all():
            self._add(self._scribble(~self.mask))
        return True

    def _with_many(self) -> bool:
        """Up to a hundred clicks, most of them near the outline; at least one on the object."""
        grown = ndimage.binary_dilation(self.mask, iterations=_NEAR_OUTLINE_PX)
        shrunk = ndimage.binary_erosion(self.mask, iterations=_NEAR_OUTLINE_PX)
        near, anywhere = np.argwhere(grown & ~shrunk), np.argwhere(np.ones_like(self.mask))
        self._add(self._drawn(np.argwhere(self.mask)))
        for _ in range(int(math.exp(self._rng.uniform(0, math.log(_MOST_CLICKS))))):
            self._add(self._drawn(near if self._rng.random() < 0.6 else anywhere))
        return True

    def _scribble(self, region: BoolArray) -> IntArray:
        """A walk inside a region, (N, 2)."""
        place = self._drawn(np.argwhere(region))[0].astype(float)
        angle, pixels = self._rng.uniform(0, 2 * math.pi), [place.astype(np.int64)]
        for _ in range(int(self._rng.integers(6, 30))):
            angle += self._rng.normal(0, 0.3)
            ahead = place + 3 * np.array([math.sin(angle), math.cos(angle)])
            pixel = np.round(ahead).astype(np.int64)
            if ((pixel < 0) | (pixel >= region.shape)).any() or not region[tuple(pixel)]:
                angle += 2.0
                continue
            place = ahead
            pixels.append(pixel)
        return np.unique(pixels, axis=0)

    def _error(self, wrong: BoolArray) -> BoolArray:
        """One connected error, mostly the largest one, (H, W)."""
        found = []
        for kind in (wrong & self.mask, wrong & ~self.mask):
            parts, count = ndimage.label(kind)
            sizes = np.bincount(parts.ravel(), minlength=count + 1)[1:]
            found += [(size, parts, i + 1) for i, size in enumerate(sizes.tolist())]
        sizes = np.array([size for size, *_ in found], float)
        is_largest = self._rng.random() < 0.85
        chosen = int(
            sizes.argmax() if is_largest else self._rng.choice(len(found), p=sizes / sizes.sum())
        )
        _, parts, number = found[chosen]
        error: BoolArray = parts == number
        return error

    def _place_in(self, error: BoolArray) -> IntArray:
        """The deepest pixel of an error, any, or one near its outline, (1, 2)."""
        rows, columns = window_of(error)
        depths = ndimage.distance_transform_edt(np.pad(error[rows, columns], 1))[1:-1, 1:-1]
        chance = self._rng.random()
        if chance < 0.5:
            place = np.argwhere(depths == depths.max())[:1]
        else:
            most = depths.max() if chance < 0.8 else max(1.5, 0.25 * depths.max())
            place = self._drawn(np.argwhere((depths > 0) & (depths <= most)))
        moved: IntArray = place + [rows.start, columns.start]  # noqa: RUF005 - a sum
        return moved

    def _drawn(self, pixels_yx: IntArray) -> IntArray:
        """One of some pixels, (1, 2)."""
        number = self._rng.integers(len(pixels_yx))
        return pixels_yx[number : number + 1]

    def _add(self, pixels_yx: IntArray, radius: float = math.inf) -> None:
        is_object = bool(self.mask[tuple(pixels_yx[0])])
        prompt = Prompt(pixels_yx, is_object, radius)
        self.given = self.given._replace(prompts=[*self.given.prompts, prompt])


def square(box_yxyx: tuple[float, float, float, float]) -> Look:
    """The look around a box with as many rows as columns, so that looks make a batch."""
    look = Look.around(box_yxyx, CELLS)
    top = look.top - (CELLS - look.rows) / 2 * look.cell_px
    left = look.left - (CELLS - look.columns) / 2 * look.cell_px
    return Look(top, left, look.cell_px, CELLS, CELLS)
