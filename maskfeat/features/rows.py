"""Maps of a pyramid read by rows of pixels, so that no level is enlarged as a whole."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from scipy import sparse
from torch import Tensor

from maskfeat.arrays import FloatArray

# Numbers that a block of rows holds while it is read: 4 MB.
_BLOCK_VALUES = 1_000_000


def row_blocks(level: Tensor, stride: int, height: int, width: int) -> list[slice]:
    """Rows of pixels in blocks whose enlarged features take about `_BLOCK_VALUES` numbers.

    What does not fit into the cache, or is so large that memory for it is asked for anew each time,
    takes twice as long per pixel.
    """
    per_row = level.shape[0] * (width + 1) / stride
    step = max(stride, int(_BLOCK_VALUES / per_row))
    return [slice(start, min(start + step, height)) for start in range(0, height, step)]


def steps_to_the_right(level: Tensor, stride: int, rows: slice, width: int) -> FloatArray:
    """Squared steps between horizontal neighbors of an enlarged map, (C, h, w) -> (rows, W - 1).

    Along a row of cells, enlarged bilinearly, a step from pixel to pixel has 1 / stride of the
    difference of two adjacent cells, or, where it crosses the middle of a cell, of the mean of the
    differences on both sides of it. A row of pixels between two rows of cells is (1 - v) * upper +
    v * lower, and so are its steps, whose squared length is (1 - v)^2 |upper|^2 + 2 v (1 - v) upper
    . lower + v^2 |lower|^2. So channels are summed on cells alone, and no map is enlarged.
    """
    upper, lower, v, cells = _cell_rows(rows, stride, level)
    steps = cells.diff(dim=2)
    if stride == 1:  # pixel by pixel, and one row more than is asked for
        return to_numpy(steps[:, : rows.stop - rows.start, : width - 1].square().sum(dim=0))
    steps = F.pad(steps / stride, (1, 1))  # beyond the outer middles the map is flat
    steps = torch.cat([steps, (steps[..., :-1] + steps[..., 1:]) / 2], dim=2)  # (C, h, 2 w + 1)
    squares = steps.square().sum(dim=0)
    products = (steps[:, :-1] * steps[:, 1:]).sum(dim=0)
    products = torch.cat([products, squares[-1:]])  # the last row has no row below it
    mixed = (1 - v).square() * squares[upper] + v.square() * squares[lower]
    mixed += 2 * v * (1 - v) * products[upper]
    from_middle = torch.arange(width - 1, device=level.device) - (stride - 1) // 2
    cell = from_middle.div(stride, rounding_mode="floor")
    is_across = (from_middle % stride == 0) & (stride % 2 == 0)
    found = mixed[:, torch.where(is_across, level.shape[2] + 1 + cell, cell + 1)]
    return to_numpy(found.clamp_(min=0))


def region_sums(
    level: Tensor,
    stride: int,
    rows: slice,
    regions: npt.NDArray[np.int32],
    num_regions: int,
    width: int,
) -> FloatArray:
    """Sum of some rows of an enlarged map over the pixels of each region, -> (K, C)."""
    upper, lower, v, cells = _cell_rows(rows, stride, level)
    enlarged = _enlarged_rows(cells, stride, width)
    values = to_numpy(enlarged.permute(1, 2, 0).reshape(-1, level.shape[0]))  # (h * W, C)
    columns = np.arange(width, dtype=np.int32)
    places = [
        row.cpu().numpy().astype(np.int32)[:, None] * width + columns for row in (upper, lower)
    ]
    weights = [np.broadcast_to(to_numpy(share), regions.shape) for share in (1 - v, v)]
    if stride == 1:
        places, weights = places[:1], weights[:1]
    holds = sparse.coo_matrix(
        (
            np.concatenate([w.ravel() for w in weights]),
            (np.tile(regions.ravel(), len(places)), np.concatenate([p.ravel() for p in places])),
        ),
        (num_regions, len(values)),
    )
    sums: FloatArray = holds @ values
    return sums


def _enlarged_rows(level: Tensor, stride: int, width: int) -> Tensor:
    """A map enlarged along its rows alone, bilinearly, (C, h, w) -> (C, h, W)."""
    if stride > 1:
        size = (level.shape[1], level.shape[2] * stride)
        level = F.interpolate(level.unsqueeze(0), size, mode="bilinear", align_corners=False)[0]
    return level[:, :, :width]


def _cell_rows(rows: slice, stride: int, level: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Between which rows of cells some rows of pixels lie.

    Returns:
        The rows above and below, int64 (rows,), and the share (rows, 1) of the one below; they
        count from the first of the rows of cells that are needed, which come last, (C, h, w).
    """
    last = level.shape[1] - 1
    pixels = torch.arange(rows.start, rows.stop, device=level.device)
    places = ((pixels + 0.5) / stride - 0.5).clamp(min=0, max=last)
    upper = places.floor().long()
    lower = (upper + 1).clamp(max=last)
    cells = level[:, int(upper[0]) : int(lower[-1]) + 1]
    return upper - upper[0], lower - upper[0], (places - upper).unsqueeze(1), cells


def to_numpy(tensor: Tensor) -> FloatArray:
    """A tensor of any device as an array."""
    array: FloatArray = tensor.detach().cpu().numpy()
    return array
