"""The table and the picture of the study: before, and after tuning to so many images."""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from maskfeat.evaluate.metrics import standard_error

TITLES = {
    "iou_1": "IoU after 1 click",
    "iou_5": "after 5",
    "noc_85": "clicks to IoU 0.85",
    "noc_90": "to 0.90",
}
Row = dict[str, Any]


def grouped(rows: list[Row]) -> dict[str, dict[int, list[Row]]]:
    """The rows by set and number of images, those of all seeds together.

    Raises:
        ValueError: If rows of one set differ in another setting, so that no mean is of one thing.
    """
    found: dict[str, dict[int, list[Row]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        found[row["set"]][row["images"]].append(row)
    for name, numbers in found.items():
        for setting in ("epochs", "num_scored", "weights"):
            values = {row[setting] for number in numbers if number for row in numbers[number]}
            if len(values) > 1:
                raise ValueError(f"the rows of {name} differ in {setting}: {sorted(values)}")
    return found


def table(groups: dict[str, dict[int, list[Row]]]) -> str:
    """Means over seeds with their standard errors, Markdown."""
    lines = [f"| set | images | seeds | {' | '.join(TITLES.values())} |"]
    lines.append("|---|--:|--:|" + "--:|" * len(TITLES))
    for name, numbers in groups.items():
        for number, rows in sorted(numbers.items()):
            cells = [_shown([row[score] for row in rows]) for score in TITLES]
            seeds = len(rows) if number else "-"
            lines.append(f"| {name} | {number} | {seeds} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _shown(values: list[float]) -> str:
    """A mean, and its standard error if there are several values."""
    digits = 2 if max(values) > 1 else 3
    error = f" ± {standard_error(values):.{digits}f}" if len(values) > 1 else ""
    return f"{np.mean(values):.{digits}f}{error}"


def plot(groups: dict[str, dict[int, list[Row]]], path: Path) -> None:
    """Each score against the number of images: a line for each set, a dot for each seed."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(TITLES), figsize=(15, 3.6), layout="constrained")
    for (score, title), axis in zip(TITLES.items(), axes, strict=True):
        for name, numbers in groups.items():
            counts = sorted(numbers)
            means = [np.mean([row[score] for row in numbers[n]]) for n in counts]
            (line,) = axis.plot(counts, means, label=name)
            dots = [(n, row[score]) for n in counts for row in numbers[n]]
            axis.plot(*zip(*dots, strict=True), "o", ms=4, alpha=0.6, color=line.get_color())
        axis.set(xlabel="annotated images", title=title)
        axis.grid(alpha=0.3)
    axes[0].legend()
    figure.savefig(path, dpi=90)
    plt.close(figure)


def main() -> None:
    """Print the table, and draw result.png beside the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--results", type=Path, default=Path("experiments/tune/results.jsonl"))
    args = parser.parse_args()
    groups = grouped([json.loads(line) for line in args.results.read_text().splitlines()])
    print(table(groups))
    plot(groups, args.results.with_name("result.png"))


if __name__ == "__main__":
    main()
