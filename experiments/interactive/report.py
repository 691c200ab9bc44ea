"""From sessions to means, one table and one plot."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from maskfeat.evaluate.clicking import IOU_CLICKS, NOC_THRESHOLDS, summarize_clicks
from maskfeat.evaluate.metrics import (
    is_reached,
    mean_of_counted,
    noc,
    standard_error,
    std_over_seeds,
)

Row = dict[str, Any]
Summary = dict[str, Any]


def summarize(rows: dict[str, Row], reference: dict[str, Row], clicks: int) -> Summary:
    """Means of one method over the targets of one set.

    Args:
        rows: What `sessions.simulate` gave, by target.
        reference: The same of the method that all are compared with.
        clicks: Of the main session; what follows in a long session counts for `iou_50`, `iou_100`
            and `long_curve` alone.

    Returns:
        `num_targets`, `num_long`; for each IoU t `noc_t`, its standard error `noc_t_se` and
        `nof_t`, the share that is never reached; `iou_n`; `noc_90_less`, by how many clicks
        `noc_90` is less (-) or more than the reference's on the same targets, and its standard
        error; `obeyed`, `order_iou`, `dropped`; `click_s` and `click_s_95`, median and 95th
        percentile over all clicks; `set_image_s`, the median; `users`, see `summarize_user`;
        `curve` and `long_curve`, the mean IoU after each click, over all and over long sessions.
    """
    main = {key: row["ious"][:clicks] for key, row in rows.items()}
    longest = max(len(row["ious"]) for row in rows.values())
    long = [row["ious"] for row in rows.values() if len(row["ious"]) == longest > clicks]
    found: Summary = {"num_targets": len(rows), "num_long": len(long)}
    for threshold in NOC_THRESHOLDS:
        name, numbers = f"{round(100 * threshold)}", _nocs(main, threshold, clicks)
        found |= {f"noc_{name}": _mean(numbers), f"noc_{name}_se": standard_error(numbers)}
        reached = [is_reached(ious, threshold, clicks) for ious in main.values()]
        found[f"nof_{name}"] = 1 - _mean(reached)
    for n in IOU_CLICKS:
        sessions = list(main.values()) if n <= clicks else [ious for ious in long if n <= len(ious)]
        if sessions and n <= len(sessions[0]):
            found[f"iou_{n}"] = _mean([ious[n - 1] for ious in sessions])
    found |= _paired(main, {key: row["ious"][:clicks] for key, row in reference.items()}, clicks)
    for name in ("obeyed", "order_iou", "dropped"):
        found[name] = mean_of_counted([row[name] for row in rows.values()])
    seconds = np.concatenate([row["click_s"] for row in rows.values()])
    found |= {"click_s": np.median(seconds), "click_s_95": np.quantile(seconds, 0.95)}
    found["set_image_s"] = np.median([row["set_image_s"] for row in rows.values()])
    found["users"] = {
        name: summarize_user([row["users"][name] for row in rows.values()])
        for name in next(iter(rows.values()))["users"]
    }
    found["curve"] = np.mean(list(main.values()), axis=0).tolist()
    found["long_curve"] = np.mean(long, axis=0).tolist() if long else []
    return found


def summarize_user(sessions: Sequence[Sequence[Sequence[float]]]) -> dict[str, float]:
    """One user: by target and seed the IoU after each click.

    Returns:
        The means of `summarize_clicks` over targets and seeds; `std`, the standard deviation
        over seeds of the IoU after 5 clicks (the last, if fewer were played), mean over targets,
        and its standard error.
    """
    scores = [summarize_clicks(ious) for seeds in sessions for ious in seeds]
    means = {name: _mean([score[name] for score in scores]) for name in scores[0]}
    last = min(5, len(sessions[0][0])) - 1
    stds = [std_over_seeds([ious[last] for ious in seeds]) for seeds in sessions]
    return means | {"std": mean_of_counted(stds), "std_se": standard_error(stds)}


def _paired(
    main: dict[str, list[float]], reference: dict[str, list[float]], clicks: int
) -> dict[str, float]:
    shared = [key for key in main if key in reference]
    less = [noc(main[key], 0.9, clicks) - noc(reference[key], 0.9, clicks) for key in shared]
    return {"noc_90_less": _mean(less), "noc_90_less_se": standard_error(less)}


def _nocs(main: dict[str, list[float]], threshold: float, clicks: int) -> list[int]:
    return [noc(ious, threshold, clicks) for ious in main.values()]


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if len(values) else math.nan


def table(sets: dict[str, dict[str, Summary]], reference: str, clicks: int) -> str:
    """Markdown, a line per set and method."""

    def number(name: str, digits: int = 3) -> Callable[[Summary], str]:
        return lambda row: _number(row.get(name), digits)

    def with_error(name: str) -> Callable[[Summary], str]:
        return lambda row: f"{_number(row[name], 2)} ± {_number(row[name + '_se'], 2)}"

    rows = [row for methods in sets.values() for row in methods.values()]
    users = list(dict.fromkeys(name for row in rows for name in row["users"]))
    columns: dict[str, Callable[[Summary], str]] = {
        "targets": lambda row: f"{row['num_targets']}",
        **{f"NoC@{t}": with_error(f"noc_{t}") for t in _percents()},
        f"NoC@90 less {reference}'s": with_error("noc_90_less"),
        "never 90": number("nof_90", 2),
        **{f"IoU@{n}": number(f"iou_{n}") for n in IOU_CLICKS if n <= clicks},
        "long": lambda row: f"{row['num_long']}",
        **{f"IoU@{n}": number(f"iou_{n}") for n in IOU_CLICKS if n > clicks},
        "obeyed": number("obeyed"),
        "order": number("order_iou"),
        "drops": number("dropped"),
        **{f"IoU@5 {name} ± std": _user_cell(name) for name in users},
        "s/click": number("click_s"),
        "95 %": number("click_s_95"),
        "s/image": number("set_image_s"),
    }
    lines = [
        "| set | method | " + " | ".join(columns) + " |",
        "|---|---|" + "--:|" * len(columns),
    ]
    for name, methods in sets.items():
        for method, row in methods.items():
            cells = [cell(row) for cell in columns.values()]
            lines.append(f"| {name} | {method} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _user_cell(name: str) -> Callable[[Summary], str]:
    def cell(row: Summary) -> str:
        user = row["users"].get(name)
        if user is None:
            return "-"
        return f"{_number(user.get('iou_5'), 3)} ± {_number(user['std'], 3)}"

    return cell


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None or math.isnan(value) else f"{value:.{digits}f}"


def _percents() -> list[int]:
    return [round(100 * threshold) for threshold in NOC_THRESHOLDS]


def plot(sets: dict[str, dict[str, Summary]], ours: Sequence[str], path: Path) -> None:
    """Mean IoU against clicks: a row per set, all targets at the left, long ones at the right."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(
        len(sets), 2, figsize=(14, 4.5 * len(sets)), layout="constrained", squeeze=False
    )
    colors = plt.get_cmap("tab20").colors
    for (name, methods), pair in zip(sets.items(), axes, strict=True):
        counts = [max(row[n] for row in methods.values()) for n in ("num_targets", "num_long")]
        for axis, curve, count in zip(pair, ("curve", "long_curve"), counts, strict=True):
            for i, (method, row) in enumerate(methods.items()):
                clicks = np.arange(1, len(row[curve]) + 1)
                width = 2.5 if method in ours else 1
                axis.plot(clicks, row[curve], label=method, lw=width, color=colors[i % 20])
            axis.set(xlabel="clicks", ylabel="IoU", ylim=(0, 1), title=f"{name}, targets: {count}")
            axis.grid(alpha=0.3)
        ticks = [
            n for n in IOU_CLICKS if n <= max(len(row["long_curve"]) for row in methods.values())
        ]
        pair[1].set(xscale="log")
        pair[1].set_xticks(ticks, [str(n) for n in ticks])
        pair[1].minorticks_off()
    axes[0, 1].legend(fontsize=8, bbox_to_anchor=(1.02, 1), loc="upper left")
    figure.savefig(path, dpi=90)
    plt.close(figure)
