"""A look: a window of an image on a grid of cells, and what lies in each cell."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Look:
    """A window of an image, on a grid of square cells.

    Attributes:
        top: Upper edge of the window, pixels of the image; may be negative.
        left: Left edge, likewise.
        cell_px: Side of a cell, pixels; may be below one.
        rows: Height of the grid, cells.
        columns: Width of the grid, cells.
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
            cells: Cells of the longer side.
            multiple: Rows and columns are multiples of it.
            least_px: Smallest cell, pixels; a smaller box gets a larger window.
        """
        top, left, bottom, right = box_yxyx
        height, width = max(bottom - top, 1.0), max(right - left, 1.0)
        cell = max(max(height, width) / cells, least_px)
        rows, columns = (
            min(cells, multiple * math.ceil(side / cell / multiple - 1e-9))
            for side in (height, width)
        )
        middle_y, middle_x = (top + bottom) / 2, (left + right) / 2
        return cls(middle_y - rows * cell / 2, middle_x - columns * cell / 2, cell, rows, columns)

    def centers(self) -> tuple[Tensor, Tensor]:
        """Rows (h,) and columns (w,) of the cells' middles, pixels; a pixel's middle is an integer."""
        rows = self.top + (torch.arange(self.rows) + 0.5) * self.cell_px - 0.5
        columns = self.left + (torch.arange(self.columns) + 0.5) * self.cell_px - 0.5
        return rows, columns

    def cells_of(self, pixels_yx: npt.ArrayLike) -> npt.NDArray[np.float32]:
        """Places on the grid, in cells, (N, 2): the middle of the first cell is (0, 0)."""
        pixels = np.asarray(pixels_yx, np.float32).reshape(-1, 2)
        start = np.array([self.top, self.left], np.float32) - 0.5
        cells: npt.NDArray[np.float32] = (pixels - start) / np.float32(self.cell_px) - 0.5
        return cells

    def sample(self, level: Tensor, stride: float) -> Tensor:
        """A map of the image on the grid.

        Args:
            level: A map whose cells have `stride` pixels, float, shape (C, h, w). Where the cells
                of the look are at least twice as large, means of two, four, ... are read.
            stride: Pixels per cell of the map.

        Returns:
            Shape (C, rows, columns); beyond the map its border goes on.
        """
        while stride * 2 <= self.cell_px and min(level.shape[1:]) > 1:
            level = F.avg_pool2d(level.unsqueeze(0), 2, ceil_mode=True, count_include_pad=False)[0]
            stride *= 2
        height, width = level.shape[1:]
        rows, columns = self.centers()
        # align_corners=False: -1 and 1 are the outer edges of the map.
        y = 2 * (rows + 0.5) / (height * stride) - 1
        x = 2 * (columns + 0.5) / (width * stride) - 1
        grid = torch.stack([x.expand(len(y), -1), y[:, None].expand(-1, len(x))], dim=-1)
        sampled = F.grid_sample(
            level.unsqueeze(0),
            grid.unsqueeze(0).to(level),
            mode="bilinear",
            padding_mode="border",
            align_corners=False,
        )
        return sampled[0]

    def nearest(self, size: tuple[int, int]) -> tuple[IntArray, IntArray]:
        """Rows (h, 1) and columns (1, w) of the pixels at the cells' middles, inside the image."""
        rows, columns = self.centers()
        nearest = [
            np.clip(np.round(places.numpy()), 0, side - 1).astype(np.int64)
            for places, side in zip((rows, columns), size, strict=True)
        ]
        return nearest[0][:, None], nearest[1][None, :]
