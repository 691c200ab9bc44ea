"""What the commands print and write about shards."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image
from rich import box
from rich.console import Console
from rich.table import Table

from maskfeat.data.annotations.limits import Limits
from maskfeat.data.convert import sheet, stats
from maskfeat.data.convert.state import INDEX_NAME, ConvertState, write_json
from maskfeat.data.convert.verify import Problem
from maskfeat.data.order.schedule import evenly_spaced
from maskfeat.files import whole_file

_SHOWN = (
    ("0", "least"),
    ("0.05", "5 %"),
    ("0.5", "median"),
    ("0.95", "95 %"),
    ("1", "most"),
    ("mean", "mean"),
)


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


def write_stats(
    shards: Sequence[str],
    json: str | None,
    image: str | None,
    num: int | None,
    num_imaged: int,
    seed: int,
    num_workers: int | None,
    index_dir: str | None,
    limits: Limits,
) -> None:
    """Count, print and draw; the arguments are those of `maskfeat shards stats`.

    Raises:
        FileNotFoundError: If a name stands for no tar.
        ValueError: If a number is out of range or no sample can be read.
    """
    if num_imaged < 1 or (num is not None and num < 1):
        raise ValueError(f"num and num_imaged must be at least 1, got {num} and {num_imaged}")
    places, paths, num_incomplete = stats.find_places(shards, index_dir, limits)
    total = len(places)
    chosen = [places[number] for number in evenly_spaced(total, num)]
    facts, skipped = stats.count_up(chosen, num_workers, show_progress=True)
    if not facts:
        raise ValueError(f"none of the {total} samples can be read")
    skipped["incomplete"] += num_incomplete
    found = {
        "shards": len(paths),
        "samples_in_all": total,
        "counted": stats.summarize(facts),
        "skipped": {reason: n for reason, n in sorted(skipped.items()) if n},
        "skipped_at_conversion": stats.skipped_at_conversion(shards),
    }
    _print_stats(found)
    if json is not None:
        write_json(Path(json), found)
    if image is not None:
        drawn = Image.fromarray(sheet.draw_sheet(places, num_imaged, seed))
        with whole_file(image) as file:
            drawn.save(file, "PNG")


def _print_stats(found: dict[str, Any]) -> None:
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
            row = [_short(percent * values[quantile]) for quantile, _ in _SHOWN]
            text = name.replace("_", " ").replace("share", "% of image")
            quantiles.add_row(text, *row)
    Console().print(numbers, quantiles)


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _table(*heads: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD)
    for number, head in enumerate(heads):
        is_text = number == 0 or head in ("what is wrong", "for instance")
        table.add_column(head, justify="left" if is_text else "right", overflow="fold")
    return table
