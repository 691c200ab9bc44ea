"""What the commands print and write about shards."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw
from rich import box
from rich.console import Console
from rich.table import Table

from maskfeat.arrays import RgbImage
from maskfeat.data.annotations.image import SampleError
from maskfeat.data.annotations.sample import AnnotatedImage
from maskfeat.data.convert import stats
from maskfeat.data.convert.state import INDEX_NAME, ConvertState
from maskfeat.data.convert.verify import Problem

_SHOWN = (
    ("0", "least"),
    ("0.05", "5 %"),
    ("0.5", "median"),
    ("0.95", "95 %"),
    ("1", "most"),
    ("mean", "mean"),
)
_CELL = 320  # pixels: the long side of an image on the sheet
_GAP = 6
_LINE = 14  # height of the text under an image


def print_summary(state: ConvertState) -> None:
    """Tell what a folder of shards holds.

    Raises:
        ValueError: If all inputs are done and not one sample could be converted.
    """
    summary = state.summary()
    num_done = len(summary["inputs"]) - len(state.undone())
    table = _table("", "number")
    table.add_row("inputs done", f"{num_done:,} of {len(summary['inputs']):,}")
    table.add_row("shards", f"{len(summary['shards']):,}")
    for what in ("samples", "masks"):
        table.add_row(what, f"{summary[what]:,}")
    table.add_row("megabytes", f"{summary['bytes'] / 1e6:,.1f}")
    for reason, num in summary["skipped"].items():
        table.add_row(f"skipped: {reason}", f"{num:,}")
    for reason, num in summary["masks_left_out"].items():
        table.add_row(f"masks left out: {reason}", f"{num:,}")
    Console().print(table)
    if num_done < len(summary["inputs"]):
        print(f"{INDEX_NAME} is written when all inputs are done")
    elif not summary["samples"]:
        raise ValueError(f"no sample could be converted to '{state.folder}'; see the log for why")


def print_problems(problems: Sequence[Problem]) -> None:
    """Tell what is wrong, one row for each problem of a shard."""
    table = _table("shard", "what is wrong", "times", "for instance")
    for problem in problems:
        table.add_row(problem.shard, problem.what, f"{problem.num:,}", problem.example)
    Console(soft_wrap=True).print(table)


def print_stats(found: dict[str, Any]) -> None:
    """Tell what is in shards, in the words of the JSON file of `maskfeat shards stats`."""
    counted = found["counted"]
    numbers = _table("", "number")
    numbers.add_row("shards", f"{found['shards']:,}")
    numbers.add_row("samples", f"{found['samples_in_all']:,}")
    numbers.add_row("samples counted here", f"{counted['samples']:,}")
    numbers.add_row("masks in these", f"{counted['masks']:,}")
    if counted["crowds_left_out"]:
        numbers.add_row("crowds left out of these", f"{counted['crowds_left_out']:,}")
    for level, num in counted["masks_by_level"].items():
        numbers.add_row(f"of level {level}", f"{num:,}")
    for name in ("skipped", "skipped_at_conversion"):
        for reason, num in found[name].items():
            numbers.add_row(f"{name.replace('_', ' ')}: {reason}", f"{num:,}")
    quantiles = _table("", *(name for _, name in _SHOWN))
    quantiles.columns[0].no_wrap = True
    for name, values in counted.items():
        if isinstance(values, dict) and "0.5" in values:
            percent = 100 if name.endswith("share") else 1
            numbers_shown = [percent * values[quantile] for quantile, _ in _SHOWN]
            row = [f"{one:,.0f}" if one >= 100 else f"{one:.3g}" for one in numbers_shown]
            quantiles.add_row(name.replace("_", " ").replace("share", "% of image"), *row)
    Console().print(numbers, quantiles)


def _table(*heads: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD)
    for number, head in enumerate(heads):
        is_text = number == 0 or head in ("what is wrong", "for instance")
        table.add_column(head, justify="left" if is_text else "right", overflow="fold")
    return table


def draw_sheet(places: Sequence[stats.Place], num: int = 12, seed: int = 0) -> RgbImage:
    """Draw `num` random samples, each as it is and covered by its masks, two in a row; RGB, uint8.

    Those that cannot be read are passed over. The same seed gives the same choice and colors.

    Raises:
        ValueError: If no sample can be read.
    """
    cells: list[Image.Image] = []
    for number in np.random.default_rng(seed).permutation(len(places)):
        with contextlib.suppress(SampleError):
            cells.append(_cell(stats.read_place(places[number]), seed))
        if len(cells) == num:
            break
    if not cells:
        raise ValueError("there is no sample that can be read, and so none to be drawn")
    width, height = max(cell.width for cell in cells), max(cell.height for cell in cells)
    num_rows = -(-len(cells) // 2)
    sheet = Image.new("RGB", (min(2, len(cells)) * width, num_rows * height), "white")
    for number, cell in enumerate(cells):
        sheet.paste(cell, (number % 2 * width, number // 2 * height))
    return np.asarray(sheet)


def _cell(sample: AnnotatedImage, seed: int) -> Image.Image:
    """A sample beside itself, tinted by its masks, small ones over large ones, borders darkened."""
    rgb, runs = sample.decode(), sample.runs
    colors = np.random.default_rng(seed).uniform(30, 255, (runs.num_masks, 3))
    top = np.full(runs.size[0] * runs.size[1], -1, np.int64)  # column by column, as runs are
    bounds = np.searchsorted(runs.mask_of_run, np.arange(runs.num_masks + 1))
    for number in np.argsort(-runs.areas, kind="stable"):
        mine = slice(bounds[number], bounds[number + 1])
        for start, stop in zip(runs.starts[mine], runs.stops[mine], strict=True):
            top[start:stop] = number
    labels = top.reshape(runs.size[1], runs.size[0]).T
    tinted = np.where(
        (labels >= 0)[..., None], 0.4 * rgb + 0.6 * colors[labels], 0.4 * rgb.astype(float)
    )
    is_border = np.zeros(labels.shape, bool)
    is_border[1:] |= labels[1:] != labels[:-1]
    is_border[:, 1:] |= labels[:, 1:] != labels[:, :-1]
    tinted[is_border] *= 0.3
    images = [Image.fromarray(one) for one in (rgb, tinted.astype(np.uint8))]
    for image in images:
        image.thumbnail((_CELL, _CELL))
    width, height = images[0].size
    cell = Image.new("RGB", (2 * width + 2 * _GAP, height + _LINE + _GAP), "white")
    for number, image in enumerate(images):
        cell.paste(image, (number * (width + _GAP // 2), 0))
    text = f"{sample.key[:40]}  {runs.size[1]} x {runs.size[0]}, {runs.num_masks} masks"
    ImageDraw.Draw(cell).text((2, height + 1), text, fill="black")
    return cell
