"""A window of an image on a grid of square cells, and maps read on such a grid."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from maskfeat.arrays import BoolArray, IntArray


@dataclass(frozen=True)
class Look:
    """A window of an image, on a grid of square cells.

    The decoder reads the whole image first, then a window around the object and its prompts at a
    finer scale, as the zoom-in of RITM and the focus crop of FocalClick do.

    Attributes:
        top: Upper edge of the window, pixels of the image; may be negative.
        left: Left edge, likewise.
        cell_px: Side of a cell, pixels; may be below one.
        rows: Height of the grid, cells.
        columns: Width of the grid, cells.

    References:
        Sofiiuk et al.: Reviving iterative training with mask guidance, ICIP 2022 (RITM,
        arXiv:2102.06583). Chen et al.: FocalClick, CVPR 2022 (arXiv:2204.02574).
    """

    top: float
    left: float
    cell_px: float
    rows: int
    columns: int

    @classmethod
    def around(
        cls, box_yxyx: Sequence[float], cells: int, multiple: int = 8, least_px: float = 1.0
    ) -> Look:
        """The look whose longer side has a number of cells and whose window holds a box.

        Args:
            box_yxyx: Top, left, bottom, right, pixels; the last two exclusive.
            cells: Cells of the longer side, a multiple of `multiple`.
            multiple: Rows and columns are multiples of it.
            least_px: Smallest cell, pixels; a smaller box gets a larger window.
        """
        top, left, bottom, right = map(float, box_yxyx)
        height, width = max(bottom - top, 1.0), max(right - left, 1.0)
        cell = max(max(height, width) / cells, least_px)
        rows, columns = (
            min(cells, multiple * math.ceil(side / cell / multiple - 1e-9))
            for side in (height, width)
        )
        middle_y, middle_x = (top + bottom) / 2, (left + right) / 2
        return cls(middle_y - rows * cell / 2, middle_x - columns * cell / 2, cell, rows, columns)

    @cached_property
    def centers(self) -> tuple[Tensor, Tensor]:
        """Middles of the cells, rows (h,) and columns (w,), pixels; that of pixel 0 is 0."""
        rows = self.top + (torch.arange(self.rows) + 0.5) * self.cell_px - 0.5
        columns = self.left + (torch.arange(self.columns) + 0.5) * self.cell_px - 0.5
        return rows, columns

    def lies_on(self, stride: float) -> bool:
        """Whether its cells are those of a map of this stride, pixels per cell."""
        return self.cell_px == stride and self.top % stride == 0 and self.left % stride == 0

    def filled(self, box_yxyx: Sequence[float]) -> Tensor:
        """1 for cells whose middle lies in a box (top, left, bottom, right; pixels), (h, w)."""
        rows, columns = self.centers
        top, left, bottom, right = box_yxyx
        in_rows = (rows >= top - 0.5) & (rows < bottom - 0.5)
        in_columns = (columns >= left - 0.5) & (columns < right - 0.5)
        return (in_rows[:, None] & in_columns[None, :]).float()

    def nearest(self, size: tuple[int, int]) -> tuple[IntArray, IntArray]:
        """Rows (h, 1) and columns (1, w) of the pixels at the cells' middles, inside the image."""
        rows, columns = (
            np.clip(np.round(places.numpy()), 0, side - 1).astype(np.int64)
            for places, side in zip(self.centers, size, strict=True)
        )
        return rows[:, None], columns[None, :]

    def at_pixels(self, cells: Tensor, size: tuple[int, int], beyond: Tensor) -> Tensor:
        """Values of the grid (h, w) at the pixels of an image of a size, bilinearly, (H, W).

        Pixels outside the window get those of `beyond`, (H, W).
        """
        # Pixels whose middle lies in the window.
        top, left = (max(0, math.ceil(edge - 1e-6)) for edge in (self.top, self.left))
        bottom = min(size[0], math.floor(self.top + self.rows * self.cell_px + 1e-6))
        right = min(size[1], math.floor(self.left + self.columns * self.cell_px + 1e-6))
        found = beyond.clone()
        if top >= bottom or left >= right:
            return found
        if self.lies_on(1):
            first, start = top - int(self.top), left - int(self.left)
            own = cells[first : first + bottom - top, start : start + right - left]
            found[top:bottom, left:right] = own
            return found
        rows = _blending(top, bottom, self.top, self.cell_px, self.rows)
        columns = _blending(left, right, self.left, self.cell_px, self.columns)
        found[top:bottom, left:right] = rows @ cells.to(rows) @ columns.T
        return found


class MapReader:
    """Reads a map (C, h, w), of a stride in pixels per cell, on the grids of looks.

    A coarse grid reads means over 2, 4, ... cells of the map (mipmaps), computed once.
    """

    def __init__(self, level: Tensor, stride: float) -> None:
        self._levels = [level]
        self._stride = stride

    def read(self, look: Look) -> Tensor:
        """The map on a grid, (C, rows, columns); beyond the map its border goes on."""
        octave = max(0, math.floor(math.log2(look.cell_px / self._stride) + 1e-6))
        while len(self._levels) <= octave and min(self._levels[-1].shape[1:]) > 1:
            level = self._levels[-1]
            odd = (0, level.shape[2] % 2, 0, level.shape[1] % 2)
            self._levels.append(F.avg_pool2d(F.pad(level, odd, mode="replicate"), 2))
        octave = min(octave, len(self._levels) - 1)
        level, stride = self._levels[octave], self._stride * 2**octave
        if look.lies_on(stride):
            top, left = int(look.top / stride), int(look.left / stride)
            return _cut_out(level, top, left, look.rows, look.columns)
        rows, columns = look.centers
        height, width = level.shape[1:]
        y = 2 * (rows + 0.5) / (height * stride) - 1
        x = 2 * (columns + 0.5) / (width * stride) - 1
        grid = torch.stack([x.expand(len(y), -1), y[:, None].expand(-1, len(x))], dim=-1)
        grid = grid.unsqueeze(0).to(level)
        return F.grid_sample(level[None], grid, padding_mode="border", align_corners=False)[0]


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


def mask_on(look: Look, mask: BoolArray) -> Tensor:
    """A mask (H, W) on the grid of a look: 1 object, -1 background, (rows, columns)."""
    # A user's mask may be mirrored or not writable, which torch takes no view of.
    values = torch.from_numpy(np.require(mask, requirements=["C", "W"])).unsqueeze(0)
    if look.lies_on(1):  # cut out first: a tenth of the time
        values = _cut_out(values, int(look.top), int(look.left), look.rows, look.columns)
        return values[0].float().mul_(2).sub_(1)
    return MapReader(values.float().mul_(2).sub_(1), 1).read(look)[0]


def _cut_out(level: Tensor, top: int, left: int, rows: int, columns: int) -> Tensor:
    """A window of a map, whose border goes on beyond it, (C, rows, columns)."""
    height, width = level.shape[1:]
    if 0 <= top <= height - rows and 0 <= left <= width - columns:
        return level[:, top : top + rows, left : left + columns]
    own_rows = torch.arange(top, top + rows).clamp_(0, height - 1)
    own_columns = torch.arange(left, left + columns).clamp_(0, width - 1)
    return level[:, own_rows[:, None], own_columns]


def _blending(first: int, last: int, start: float, cell_px: float, count: int) -> Tensor:
    """Weights of `count` cells from `start` on at pixels first to last - 1, bilinear, (P, count).

    A product with them is three times as fast as `grid_sample` for a whole image.
    """
    places = (torch.arange(first, last) + 0.5 - start) / cell_px - 0.5
    distances = places.clamp(0, count - 1)[:, None] - torch.arange(count)
    return (1 - distances.abs()).clamp(min=0)
