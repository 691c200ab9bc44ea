"""A sheet of random samples: the image, and beside it its masks."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from maskfeat.arrays import RgbImage
from maskfeat.data.annotations.rle import Runs
from maskfeat.data.annotations.sample import AnnotatedImage, SampleError
from maskfeat.data.convert.stats import Place, read_place

_CELL = 320  # pixels: the long side of an image on the sheet
_GAP = 6
_LINE = 14  # height of the text under an image


def draw_sheet(places: Sequence[Place], num: int = 12, seed: int = 0) -> RgbImage:
    """Draw random samples, each as it is and covered by its masks.

    Args:
        places: The samples; those that cannot be read are passed over.
        num: How many to draw.
        seed: Of the choice and of the colors; the same one gives the same image.

    Returns:
        RGB, uint8, two samples in a row.

    Raises:
        ValueError: If no sample can be read.
    """
    order = np.random.default_rng(seed).permutation(len(places))
    cells: list[Image.Image] = []
    for number in order:
        if len(cells) == num:
            break
        try:
            cells.append(_cell(read_place(places[number]), seed))
        except SampleError:
            continue
    if not cells:
        raise ValueError("there is no sample that can be read, and so none to be drawn")
    width, height = max(cell.width for cell in cells), max(cell.height for cell in cells)
    num_rows = -(-len(cells) // 2)
    sheet = Image.new("RGB", (min(2, len(cells)) * width, num_rows * height), "white")
    for number, cell in enumerate(cells):
        sheet.paste(cell, (number % 2 * width, number // 2 * height))
    return np.asarray(sheet)


def paint_masks(rgb: RgbImage, runs: Runs, seed: int = 0) -> RgbImage:
    """Tint each mask, small ones over large ones, and darken its border.

    Args:
        rgb: The image, uint8, shape (H, W, 3).
        runs: Its masks.
        seed: Of the colors.

    Returns:
        RGB, uint8, same shape.
    """
    colors = np.random.default_rng(seed).uniform(30, 255, (runs.num_masks, 3))
    top = np.full(runs.size[0] * runs.size[1], -1, np.int64)  # column by column, as runs are
    bounds = np.searchsorted(runs.mask_of_run, np.arange(runs.num_masks + 1))
    for mask in np.argsort(-runs.areas, kind="stable"):
        mine = slice(bounds[mask], bounds[mask + 1])
        for start, stop in zip(runs.starts[mine], runs.stops[mine], strict=True):
            top[start:stop] = mask
    labels = top.reshape(runs.size[1], runs.size[0]).T
    tinted = np.where(
        (labels >= 0)[..., None], 0.4 * rgb + 0.6 * colors[labels], 0.4 * rgb.astype(float)
    )
    is_border = np.zeros(labels.shape, bool)
    is_border[1:] |= labels[1:] != labels[:-1]
    is_border[:, 1:] |= labels[:, 1:] != labels[:, :-1]
    tinted[is_border] *= 0.3
    return tinted.astype(np.uint8)


def _cell(sample: AnnotatedImage, seed: int) -> Image.Image:
    rgb = sample.decode()
    images = [Image.fromarray(one) for one in (rgb, paint_masks(rgb, sample.runs, seed))]
    for image in images:
        image.thumbnail((_CELL, _CELL))
    width, height = images[0].size
    cell = Image.new("RGB", (2 * width + 2 * _GAP, height + _LINE + _GAP), "white")
    for number, image in enumerate(images):
        cell.paste(image, (number * (width + _GAP // 2), 0))
    size = f"{sample.runs.size[1]} x {sample.runs.size[0]}"
    text = f"{sample.key[:40]}  {size}, {sample.runs.num_masks} masks"
    ImageDraw.Draw(cell).text((2, height + 1), text, fill="black")
    return cell
