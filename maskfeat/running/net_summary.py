"""What is trained, in a few lines before training."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import RichModelSummary
from lightning.pytorch.utilities.model_summary.model_summary import get_human_readable_count
from rich.console import Console
from rich.table import Table

_SHOWN = ("Name", "Type", "Params")


def shorten_summary(trainer: Trainer) -> None:
    """Print Lightning's summary without FLOPs and modes.

    FLOPs would be 0, as no forward is made; modes are those before training begins.
    """
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if type(callback) is RichModelSummary:
            callback.summarize = _print_summary  # type: ignore[method-assign]


def _print_summary(
    summary_data: list[tuple[str, list[str]]],
    total_parameters: int,
    trainable_parameters: int,
    model_size: float,
    *_: Any,  # noqa: ANN401 - modes
    **__: Any,  # noqa: ANN401 - FLOPs, styles
) -> None:
    """In place of `RichModelSummary.summarize`."""
    columns = {name: values for name, values in summary_data if name in _SHOWN}
    table = Table()
    for name in _SHOWN:
        table.add_column(name, justify="right" if name == "Params" else "left")
    for row in zip(*(columns[name] for name in _SHOWN), strict=True):
        table.add_row(*row)
    console = Console()
    console.print(table)
    trained, whole = (
        get_human_readable_count(int(count)).strip()
        for count in (trainable_parameters, total_parameters)
    )
    console.print(f"{trained} of {whole} parameters are trained, {model_size:.1f} MB in all")
