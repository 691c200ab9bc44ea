"""One table of trained, untrained and Lab features on the same images."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from rich.console import Console
from rich.table import Table

from maskfeat.evaluate.clicking import click_score_names
from maskfeat.evaluate.hierarchies import hierarchy_scores
from maskfeat.evaluate.protocol import partition_score_names
from maskfeat.evaluate.scoring import (
    Evaluation,
    Source,
    check_contract,
    click_scores,
    few_if_tried,
    held_out_items,
    partition_scores,
    positive,
)
from maskfeat.features.color import LabEncoder
from maskfeat.files import whole_file

# Scores of hierarchies that are shown, and what they are called.
_NESTED = {
    "covering_ods": "covering, one granularity for all ↑",
    "covering_ois": "covering, the best granularity of each image ↑",
    "voi_ods": "variation of information, one granularity for all ↓",
    "ar_1000": "average recall of 1000 nodes ↑",
}
# Column of the table -> score -> mean.
Scores = Mapping[str, Mapping[str, float]]


class ComparisonTable(Callback):
    """Compares trained, untrained and Lab features when training (or a test) has ended.

    All columns see the same held-out images. "trained" is `pl_module.features`, with the weights
    as they are then (the last ones, not the best); "untrained" is
    `pl_module.untrained_encoder()`, left out where the module has none. Rank zero prints the
    table and writes `comparison.json` and `comparison.md` beside the logs; scalars go to the
    loggers as `final/trained/asa_100`. After a fit it takes no more images and objects than steps
    were made: a trial of a few steps ends soon, and `lightning test` makes the whole table.
    Cost: 6 s per image with one object on one core (481 x 321 pixels, the default net), shared
    by the processes.

    Args:
        num_images: Held-out images for partitions and pairs, evenly spaced over all.
        num_targets: Objects for clicks.
        num_segments: Segments to ask for.
        max_clicks: Clicks per object.
        source: Held-out images, a sequence of `HeldOutImage`; null asks the datamodule for
            `held_out(stage)`. In a config, a class: class_path: maskfeat.data.heldout.ShardImages.
    """

    def __init__(
        self,
        num_images: int = 20,
        num_targets: int = 20,
        num_segments: Sequence[int] = (25, 100, 400),
        max_clicks: int = 20,
        source: Source = None,
    ) -> None:
        positive(num_images=num_images, num_targets=num_targets, max_clicks=max_clicks)
        self.num_images = num_images
        self.num_targets = num_targets
        self.num_segments = tuple(num_segments)
        self.max_clicks = max_clicks
        self.source = source

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Check before training, not after it."""
        check_contract(trainer, pl_module, self.source)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Compare on the images of validation."""
        self.compare(trainer, pl_module, "val")

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Compare on the images of the test."""
        self.compare(trainer, pl_module, "test")

    def compare(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Evaluate on all ranks, print and write on rank zero."""
        images = held_out_items(trainer, stage, self.source)
        sizes = self._sizes(trainer, stage, len(images))
        models: dict[str, Any] = {"trained": pl_module}
        make_untrained: Any = getattr(pl_module, "untrained_encoder", None)
        if make_untrained is not None:
            models["untrained"] = make_untrained()
        models["Lab"] = LabEncoder()
        scores = {
            name: self._score(Evaluation(trainer, pl_module, model, images, name), *sizes)
            for name, model in models.items()
        }
        log_dir = trainer.log_dir  # asks rank zero: all ranks must come by here
        if trainer.is_global_zero:
            self._report(trainer, stage, scores, log_dir, sizes)
        trainer.strategy.barrier()  # no rank may close connections before the report

    def _score(self, evaluation: Evaluation, num_images: int, num_targets: int) -> dict[str, float]:
        partitions = partition_scores(evaluation, num_images, self.num_segments)
        nested = hierarchy_scores(evaluation, num_images)
        clicks = click_scores(evaluation, num_targets, self.max_clicks)
        return partitions | {name: nested[name] for name in _NESTED if name in nested} | clicks

    def _sizes(self, trainer: Trainer, stage: str, num_available: int) -> tuple[int, int]:
        """How many images and objects the table is made of."""
        num_images = few_if_tried(trainer, self.num_images)
        num_targets = few_if_tried(trainer, self.num_targets)
        if stage == "val":
            steps = max(1, trainer.global_step)
            num_images, num_targets = min(num_images, steps), min(num_targets, steps)
        return min(num_images, num_available), num_targets

    def _report(
        self,
        trainer: Trainer,
        stage: str,
        scores: Scores,
        log_dir: str | None,
        sizes: tuple[int, int],
    ) -> None:
        num_images, num_targets = sizes
        title = f"{num_images} {stage} images, {num_targets} objects to click"
        lines = line_names(self.num_segments, self.max_clicks)
        Console().print(rich_table(scores, lines, title))
        prefix = "final" if stage == "val" else f"final_{stage}"
        for logger in trainer.loggers:
            for column, values in scores.items():
                logged = {f"{prefix}/{column}/{name}": value for name, value in values.items()}
                logger.log_metrics(logged, step=trainer.global_step)
            logger.save()
        if log_dir is None:
            return
        name = "comparison" if stage == "val" else f"comparison_{stage}"
        record = {
            "stage": stage,
            "step": trainer.global_step,
            "num_images": num_images,
            "num_targets": num_targets,
            "max_clicks": self.max_clicks,
            "scores": scores,
        }
        for ending, text in (
            ("json", json.dumps(record, indent=2) + "\n"),
            ("md", markdown_table(scores, lines, title)),
        ):
            with whole_file(Path(log_dir) / f"{name}.{ending}") as file:
                file.write(text.encode())


def line_names(num_segments: Sequence[int], max_clicks: int) -> list[str]:
    """Scores in the order of the table's lines."""
    partitions = partition_score_names(num_segments)
    kinds = ("asa", "boundary_recall", "covering", "components")
    by_kind = [name for kind in kinds for name in partitions if name.startswith(kind)]
    return ["auc", "auc_votes", *by_kind, *_NESTED, *click_score_names(max_clicks)]


def rich_table(scores: Scores, lines: Sequence[str], title: str) -> Table:
    """The table for the terminal: the best of each line in bold, arrows show what is better.

    Args:
        scores: Column to score to mean; a score may be missing.
        lines: Names of scores, one line each.
        title: Above the table.
    """
    table = Table(title=title)
    table.add_column("")
    for column in scores:
        table.add_column(column, justify="right")
    for name in lines:
        cells = _cells(scores, name)
        table.add_row(_title(name), *(f"[bold]{text}[/]" if best else text for text, best in cells))
    return table


def markdown_table(scores: Scores, lines: Sequence[str], title: str) -> str:
    """The same table as Markdown."""
    rows = ["| | " + " | ".join(scores) + " |", "|---|" + "--:|" * len(scores)]
    for name in lines:
        cells = [f"**{text}**" if best else text for text, best in _cells(scores, name)]
        rows.append(f"| {_title(name)} | " + " | ".join(cells) + " |")
    return "\n".join([title, "", *rows]) + "\n"


def _cells(scores: Scores, name: str) -> list[tuple[str, bool]]:
    """Text of each column, and whether it is the best."""
    values = [column.get(name, math.nan) for column in scores.values()]
    known = [value for value in values if not math.isnan(value)]
    best = None
    if known and not name.startswith("components"):  # neither good nor bad
        best = min(known) if name.startswith(("noc", "voi")) else max(known)
    digits = 1 if name.startswith("components") else 2 if name.startswith("noc") else 3
    return [
        ("-", False) if math.isnan(value) else (f"{value:.{digits}f}", value == best)
        for value in values
    ]


def _title(name: str) -> str:
    """`asa_100` -> `ASA, 100 segments ↑`."""
    if name in _NESTED:
        return _NESTED[name]
    kind, _, number = name.rpartition("_")
    if name.startswith("auc"):
        return "pair AUC ↑" if name == "auc" else "pair AUC, each mask voting ↑"
    if kind == "noc":
        return f"clicks to IoU 0.{number} ↓"
    if name == "iou_mean":
        return "IoU, mean of all clicks ↑"
    if kind == "iou":
        return f"IoU after {number} click{'' if number == '1' else 's'} ↑"
    words = {"asa": "ASA", "boundary_recall": "boundary recall"}.get(kind, kind)
    arrow = "" if kind == "components" else " ↑"
    return f"{words}, {number} segments{arrow}"
