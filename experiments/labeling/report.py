"""Curves of many sessions become a table and a plot."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

Row = tuple[dict[str, Any], list[dict[str, float]]]
# The method whose mIoU after so many clicks per image the others are to reach.
REFERENCE, REFERENCE_CLICKS = "upsampled", 10


def write(rows: list[Row], out: Path) -> str:
    """Write result.md, result.json and, with matplotlib, result.png; the table."""
    groups: dict[str, dict[str, list[list[dict[str, float]]]]] = defaultdict(dict)
    settings = {}
    for session, curve in rows:
        groups[session["data"]].setdefault(session["method"], []).append(curve)
        settings[session["data"], session["method"]] = session["settings"]
    lines = [
        "| set | method | settings | seeds | "
        + " | ".join(f"mIoU@{n}" for n in _shown_clicks(rows))
        + f" | clicks per image to {REFERENCE}'s mIoU@{REFERENCE_CLICKS} | less than {REFERENCE} |",
        "|---|---|---|--:|" + "--:|" * (len(_shown_clicks(rows)) + 2),
    ]
    record = []
    for data, methods in groups.items():
        goal = _goal(methods.get(REFERENCE))
        for method, curves in methods.items():
            mious = np.array([[point["miou"] for point in curve] for curve in curves])
            needed = [_clicks_to(curve, goal) for curve in mious]
            cells = [
                f"{mious[:, n - 1].mean():.3f} ± {_std(mious[:, n - 1])}"
                for n in _shown_clicks(rows)
            ]
            clicks = float(np.mean(needed))
            less = "-" if not np.isfinite(clicks) else f"{1 - clicks / REFERENCE_CLICKS:.0%}"
            shown = f"{clicks:.1f}" if np.isfinite(clicks) else f"over {mious.shape[1]}"
            shown = ", ".join(f"{k} {v}" for k, v in settings[data, method].items())
            lines.append(
                f"| {data} | {method} | {shown} | {len(curves)} | "
                + " | ".join(cells)
                + f" | {shown} | {less} |"
            )
            record.append(
                {
                    "data": data,
                    "method": method,
                    "settings": settings[data, method],
                    "miou": mious.tolist(),
                    "needed": [n if np.isfinite(n) else None for n in needed],
                }
            )
    text = "\n".join(lines) + "\n"
    (out / "result.md").write_text(text)
    (out / "result.json").write_text(json.dumps(record, indent=1) + "\n")
    plot(groups, out / "result.png")
    return text


def _shown_clicks(rows: list[Row]) -> list[int]:
    last = min(len(curve) for _, curve in rows)
    return [n for n in (1, 2, 5, 10, 15, 20) if n <= last]


def _goal(curves: list[list[dict[str, float]]] | None) -> float:
    """MIoU of the reference after `REFERENCE_CLICKS` clicks per image, mean over seeds."""
    if not curves or len(curves[0]) < REFERENCE_CLICKS:
        return np.inf
    return float(np.mean([curve[REFERENCE_CLICKS - 1]["miou"] for curve in curves]))


def _clicks_to(curve: np.ndarray, goal: float) -> float:
    """Clicks per image to a goal, interpolated from 0 at 0 clicks; inf if never."""
    over = np.flatnonzero(curve >= goal)
    if not over.size:
        return np.inf
    place = int(over[0])
    before = curve[place - 1] if place else 0.0
    return place + float((goal - before) / max(curve[place] - before, 1e-9))


def _std(values: np.ndarray) -> str:
    return f"{values.std(ddof=1):.3f}" if len(values) > 1 else "-"


def plot(groups: dict[str, dict[str, list[list[dict[str, float]]]]], path: Path) -> None:
    """MIoU against clicks per image, a panel for each set; bands are the range over seeds."""
    try:
        import matplotlib
    except ModuleNotFoundError:
        print("no plot: matplotlib is not installed")
        return
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(
        1, len(groups), figsize=(6.5 * len(groups), 4.5), layout="constrained", squeeze=False
    )
    for (data, methods), axis in zip(groups.items(), axes[0], strict=True):
        for method, curves in methods.items():
            mious = np.array([[point["miou"] for point in curve] for curve in curves])
            clicks = np.arange(1, mious.shape[1] + 1)
            (line,) = axis.plot(clicks, mious.mean(axis=0), label=method)
            axis.fill_between(
                clicks, mious.min(axis=0), mious.max(axis=0), alpha=0.15, color=line.get_color()
            )
        axis.set(xlabel="clicks per image", ylabel="mIoU", title=data)
        axis.grid(alpha=0.3)
    axes[0, -1].legend()
    figure.savefig(path, dpi=90)
    plt.close(figure)
