"""Tables and plots of the runs that are finished; the tables go into NOTES.md between its comments.

    python experiments/ablations/report.py
    python experiments/ablations/report.py --only g --results results_borders.jsonl

Each cell is the mean over seeds, with its standard error where there is more than one seed. Bold
is what differs from the first row, which is the baseline, by more than chance would in 19 of 20
cases: a t-test with the std between seeds pooled over all variants on the same images. Of
some hundred cells a few are bold by chance.

Needs the extra "bench": matplotlib.
"""

from __future__ import annotations

import argparse
import re
from collections import defaultdict
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import run
import yaml
from scipy import stats

mpl.use("Agg")
Line = dict[str, Any]
# Column of a table -> key of the scores, and digits.
SCORES = {
    "AUC": ("auc", 3),
    "covering ODS": ("covering_ods", 3),
    "OIS": ("covering_ois", 3),
    "AR@1000": ("ar_1000", 3),
    "F@25": ("f_25", 3),
    "F ODS": ("boundary_f_ods", 3),
    "F OIS": ("boundary_f_ois", 3),
    "ASA@25": ("asa_25", 3),
    "ASA@100": ("asa_100", 3),
    "object": ("recall_object", 3),
    "part": ("recall_part", 3),
    "subpart": ("recall_subpart", 3),
}
SHOWN = (
    "AUC",
    "covering ODS",
    "AR@1000",
    "F@25",
    "F ODS",
    "ASA@25",
    "object",
    "part",
    "subpart",
)


class Row(NamedTuple):
    """The finished runs of one variant."""

    text: str
    lines: list[Line]

    def values(self, key: str) -> np.ndarray:
        """One score of each seed."""
        return np.array([line["scores"][key] for line in self.lines])


class Noise(NamedTuple):
    """Std of one score between seeds, and how many degrees of freedom it was estimated with."""

    deviation: float
    freedom: int

    def margin(self, first: int, second: int) -> float:
        """The most by which means of `first` and `second` seeds differ in 19 of 20 cases."""
        if not self.freedom:
            return float("inf")
        quantile = float(stats.t.ppf(0.975, self.freedom))
        return quantile * self.deviation * float(np.sqrt(1 / first + 1 / second))


def rows_of(table: Line, lines: list[Line], steps: int) -> dict[str, dict[str, list[Row]]]:
    """Question -> held-out set -> rows, the baseline first; what has not finished is left out."""
    by_variant = defaultdict(list)
    seeds = sorted({line["settings"]["seed"] for line in lines})
    for one in run.runs_of(table, steps, seeds or [0], []):
        match = [line for line in lines if one.items() <= line.items()]
        by_variant[one["variant"]] += match[-1:]
    found: dict[str, dict[str, list[Row]]] = {}
    variants = {"base": {"question": "base", "text": "baseline"}} | table["variants"]
    for name, variant in variants.items():
        if by_variant[name]:
            question, held_out = variant["question"], by_variant[name][0]["settings"]["held_out"]
            row = Row(variant["text"], by_variant[name])
            found.setdefault(question, {}).setdefault(held_out, []).append(row)
    for question, sets in found.items():
        common = found.get("base", {})
        for held_out in sets:
            if question != "base":
                sets[held_out] = common.get(held_out, [])[:1] + sets[held_out]
    return found


def noise_of(rows: list[Row], key: str) -> Noise:
    """The std between seeds, pooled over variants."""
    groups = [row.values(key) for row in rows if len(row.lines) > 1]
    freedom = sum(len(values) - 1 for values in groups)
    squares = sum(float(np.square(values - values.mean()).sum()) for values in groups)
    return Noise(float(np.sqrt(squares / freedom)) if freedom else 0.0, freedom)


def noises_of(found: dict[str, dict[str, list[Row]]]) -> dict[tuple[str, str], Noise]:
    """For each held-out set and score."""
    by_set: dict[str, dict[str, Row]] = defaultdict(dict)
    for sets in found.values():
        for held_out, rows in sets.items():
            by_set[held_out] |= {row.text: row for row in rows}
    return {
        (held_out, key): noise_of(list(rows.values()), key)
        for held_out, rows in by_set.items()
        for key, _ in SCORES.values()
        if all(key in row.lines[0]["scores"] for row in rows.values())
    }


def markdown(rows: list[Row], noises: dict[str, Noise]) -> str:
    """One table."""
    columns = {name: SCORES[name] for name in SCORES if SCORES[name][0] in noises}
    extra = ("values per pixel", "weights, M", "s per step", "ms per image")
    heads = ["variant", "seeds", *columns, *extra]
    table = ["| " + " | ".join(heads) + " |", "|---|" + "--:|" * (len(heads) - 1)]
    for row in rows:
        cells = [row.text, str(len(row.lines))]
        for key, digits in columns.values():
            cells.append(_cell(row, rows[0], key, digits, noises[key]))
        first = row.lines[0]
        seconds = np.median([line["step_seconds"] for line in row.lines])
        milliseconds = np.median([line["scores"]["features_ms"] for line in row.lines])
        cells += [str(first["values"]), f"{first['weights'] / 1e6:.2f}"]
        cells += [f"{seconds:.2f}" if seconds else "-", f"{milliseconds:.0f}"]
        table.append("| " + " | ".join(cells) + " |")
    return "\n".join(table)


def _cell(row: Row, reference: Row, key: str, digits: int, noise: Noise) -> str:
    values, others = row.values(key), reference.values(key)
    text = f"{values.mean():.{digits}f}"
    differs = abs(values.mean() - others.mean()) > noise.margin(len(values), len(others))
    if row is not reference and differs:
        text = f"**{text}**"
    if len(values) > 1:
        text += f" ± {values.std(ddof=1) / np.sqrt(len(values)):.{digits}f}"
    return text


def plot(sets: dict[str, list[Row]], noises: dict[tuple[str, str], Noise], path: Path) -> None:
    """Scores of one question, a panel for each: seeds as points, their mean as a line.

    The grey band is the baseline's mean, give or take what one run differs from it by chance.
    """
    shown = {s: [n for n in SHOWN if (s, SCORES[n][0]) in noises] for s in sets}
    width = max(len(names) for names in shown.values())
    heights = [1.2 + 0.32 * len(rows) for rows in sets.values()]
    figure, axes = plt.subplots(
        len(sets),
        width,
        figsize=(2.4 + 1.7 * width, sum(heights)),
        squeeze=False,
        height_ratios=heights,
        layout="constrained",
    )
    for line, (held_out, rows) in zip(axes, sets.items(), strict=True):
        for place, axis in enumerate(line):
            if place >= len(shown[held_out]):
                axis.set_axis_off()
                continue
            name = shown[held_out][place]
            key = SCORES[name][0]
            base = rows[0].values(key)
            margin = noises[held_out, key].margin(1, len(base))
            if np.isfinite(margin):
                axis.axvspan(base.mean() - margin, base.mean() + margin, color="0.92")
            for y, row in enumerate(rows):
                values = row.values(key)
                axis.plot(values, [y] * len(values), "o", ms=4, mec="none", alpha=0.7)
                axis.plot([values.mean()] * 2, [y - 0.3, y + 0.3], "k-", lw=1.2)
            axis.set_title(name, fontsize=9)
            axis.set_yticks(range(len(rows)), [row.text for row in rows] if not place else [])
            axis.set_ylim(len(rows) - 0.5, -0.5)
            axis.tick_params(labelsize=8)
            axis.locator_params(axis="x", nbins=4)
    figure.savefig(path, dpi=90)
    plt.close(figure)


def main() -> None:
    """Write all that can be written."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--table", type=Path, default=run.HERE / "variants.yaml")
    parser.add_argument("--results", type=Path, default=run.HERE / "results.jsonl")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--only", nargs="*", default=[], help="questions (base, a to h)")
    parser.add_argument("--out", type=Path, default=run.HERE, help="folder with NOTES.md")
    args = parser.parse_args()

    table = yaml.safe_load(args.table.read_text())
    found = rows_of(table, run.finished(args.results), args.steps)
    noises = noises_of(found)
    args.out.mkdir(parents=True, exist_ok=True)
    notes = args.out / "NOTES.md"
    text = notes.read_text() if notes.exists() else ""
    for question, sets in found.items():
        if args.only and question not in args.only:
            continue
        parts = []
        for held_out, rows in sets.items():
            of_set = {key: noise for (s, key), noise in noises.items() if s == held_out}
            parts.append(markdown(rows, of_set))
        marked = re.compile(rf"(<!-- table {question} -->\n).*?(<!-- end -->)", re.DOTALL)
        body = "\n\n".join(parts) + "\n"
        text = marked.sub(lambda mark, body=body: mark[1] + "\n" + body + "\n" + mark[2], text)
        plot(sets, noises, args.out / f"{question}.png")
        print(f"## {question}\n\n{body}")
    if text:
        notes.write_text(text)


if __name__ == "__main__":
    main()
