"""Our partitions and trees beside the classics, on the same images in one run.

    python experiments/partition/benchmark.py runs/bsds500/checkpoints/last.ckpt

Ends in a table (quality, seconds per image, ratio to SLIC's), as markdown and json, and a plot of
quality against the number of segments. Scores are means over annotators, then images. Methods are
compared at the number of segments they really give: scores at 25, 100, ... are interpolated in
its logarithm; "parts" are the 4-connected components that these segments fall into. Trees are
also cut at one threshold for all images (ODS) and at the best one for each (OIS); Felzenszwalb's
method at one scale. F ODS and OIS count boundary pixels as BSDS500 does: one to one, within 0.0075
of the diagonal, over all annotators and images. Times are CPU seconds of one thread. `--methods`
runs some of the methods alone, as "maskfeat tree".

Needs the extra "bench": OpenCV and matplotlib.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import peers
import torch
from rich.progress import track
from skimage.color import rgb2lab

import maskfeat
from maskfeat.batch import HeldOutImage
from maskfeat.data.heldout import ShardImages
from maskfeat.evaluate import metrics
from maskfeat.evaluate.hierarchies import score_tree, tree_boundary_counts
from maskfeat.evaluate.protocol import num_components
from maskfeat.segment.hierarchy import hierarchy, superpixel_tree
from maskfeat.segment.partition import EVEN_POWER, partition_superpixels
from maskfeat.segment.superpixels import superpixels
from maskfeat.segment.tree import PartitionTree

# Altitudes to cut at, the same for all images: of any tree, and of one whose altitudes are 1 - p.
WIDE_THRESHOLDS = np.geomspace(1e-5, 1e7, 240)
PROBABLE_THRESHOLDS = np.linspace(0.005, 0.995, 199)
BOUNDARY_STEP = 6  # of these thresholds, every sixth is one of boundary F
FELZENSZWALB_SCALES = np.geomspace(30, 10_000, 14)
# Scores of a label map, each the mean over annotators: name -> function(labels, target).
SCORES: dict[str, Callable[..., float]] = {
    "asa": metrics.achievable_segmentation_accuracy,
    "ue": metrics.undersegmentation_error,
    "covering": metrics.covering,
    "voi": metrics.variation_of_information,
    "pri": metrics.probabilistic_rand_index,
    "br": metrics.boundary_recall,
    "bp": metrics.boundary_precision,
    "br_strict": lambda labels, target: metrics.boundary_recall(labels, target, 0.0025),
    "f": metrics.boundary_f,
}
Row = dict[str, Any]


OURS = (
    "maskfeat tree",
    "maskfeat partition",
    "maskfeat tree, not calibrated",
    "maskfeat Ward",
    "maskfeat k-means",
)
METHODS = (*peers.PARTITIONS, *peers.TREES, *OURS)


def score_image(
    checkpoint: str, image: HeldOutImage, numbers: Sequence[int], methods: Sequence[str]
) -> dict[str, Row]:
    """Some of `METHODS` on one image, on one thread."""
    torch.set_num_threads(1)
    rows: dict[str, Row] = {}
    for name, make in peers.PARTITIONS.items():
        if name in methods:
            rows[name] = _partitions(make, image, numbers)
    if "Felzenszwalb" in rows:
        rows["Felzenszwalb"] |= _felzenszwalb_scales(image)
    for name, make_tree in peers.TREES.items():
        if name in methods:
            rows[name] = _tree(lambda make=make_tree: make(image.image), image, numbers)
    if not set(methods) & set(OURS):
        return rows

    model = maskfeat.load(checkpoint)
    started = time.process_time()
    features = model.features(image.image)
    encoder = time.process_time() - started
    started = time.process_time()
    graph = superpixels(features)
    shown = {"encoder": encoder, "superpixels": time.process_time() - started}
    trees: dict[str, Callable[[], PartitionTree]] = {
        "maskfeat tree": lambda: hierarchy(graph).tree,
        "maskfeat partition": lambda: superpixel_tree(graph, size_power=EVEN_POWER),
        "maskfeat tree, not calibrated": lambda: superpixel_tree(graph),
        "maskfeat Ward": lambda: superpixel_tree(graph, "ward"),
    }
    for name, tree in trees.items():
        if name in methods:
            thresholds = PROBABLE_THRESHOLDS if name == "maskfeat tree" else WIDE_THRESHOLDS
            made = lambda tree=tree: (graph.labels, tree())  # noqa: E731
            rows[name] = _tree(made, image, numbers, thresholds) | shown
    if "maskfeat k-means" in methods:
        by_k_means = _partitions(
            lambda rgb, k: partition_superpixels(graph, k)[graph.labels], image, numbers
        )
        rows["maskfeat k-means"] = by_k_means | shown
    return rows


def _partitions(make: peers.Partition, image: HeldOutImage, numbers: Sequence[int]) -> Row:
    cuts, seconds = {}, []
    for k in numbers:
        started = time.process_time()
        labels = np.asarray(make(image.image, k), np.int64)
        seconds.append(time.process_time() - started)
        cuts[k] = _score(labels, image)
    return {"cuts": cuts, "seconds": float(np.median(seconds))}


def _score(labels: np.ndarray, image: HeldOutImage) -> dict[str, float]:
    scores = {
        name: metrics.mean_of_counted([score(labels, target) for target in image.partitions])
        for name, score in SCORES.items()
    }
    lab = rgb2lab(image.image)
    return scores | {
        "ev": metrics.explained_variation(labels, lab),
        "compactness": metrics.compactness(labels),
        "components": float(num_components(labels)),
        "segments": float(len(np.unique(labels))),
    }


def _felzenszwalb_scales(image: HeldOutImage) -> Row:
    curves = [
        _score_regions(np.asarray(peers.felzenszwalb(image.image, scale), np.int64), image)
        for scale in FELZENSZWALB_SCALES
    ]
    return {"curves": {name: [curve[name] for curve in curves] for name in curves[0]}}


def _score_regions(labels: np.ndarray, image: HeldOutImage) -> dict[str, float]:
    return {
        name: metrics.mean_of_counted([SCORES[name](labels, t) for t in image.partitions])
        for name in ("covering", "voi", "pri")
    }


def _tree(
    make: Callable[[], tuple[np.ndarray, PartitionTree]],
    image: HeldOutImage,
    numbers: Sequence[int],
    thresholds: np.ndarray = WIDE_THRESHOLDS,
) -> Row:
    started = time.process_time()
    leaves, tree = make()
    seconds = time.process_time() - started
    cuts = {k: _score(tree.groups(k)[leaves].astype(np.int64), image) for k in numbers}
    scores = score_tree(tree, leaves, image, thresholds.tolist())
    boundaries = tree_boundary_counts(
        tree, leaves, image, thresholds[::BOUNDARY_STEP].tolist(), max_segments=1000
    )
    row = {"cuts": cuts, "seconds": seconds, "curves": scores.curves, **scores.singles}
    return row | {"boundaries": boundaries}


def summarize(rows: list[dict[str, Row]], numbers: Sequence[int]) -> dict[str, Row]:
    """Means over images, per method."""
    summary = {}
    for name in rows[0]:
        of_images = [row[name] for row in rows]
        found: Row = {"cuts": _at_numbers(of_images, numbers)}
        for scalar in of_images[0]:
            if scalar not in ("cuts", "curves", "boundaries"):
                found[scalar] = float(np.mean([image[scalar] for image in of_images]))
        for score, first in of_images[0].get("curves", {}).items():
            over = metrics.OverScales(len(first), higher_is_better=score != "voi")
            for image in of_images:
                over.update(image["curves"][score])
            best = over.compute()
            found |= {f"{score}_ods": float(best["ods"]), f"{score}_ois": float(best["ois"])}
        if "boundaries" in of_images[0]:
            best_f = metrics.boundary_fs(np.stack([image["boundaries"] for image in of_images]))
            found |= {"boundary_f_ods": best_f.ods, "boundary_f_ois": best_f.ois}
        summary[name] = found
    return summary


def _at_numbers(of_images: list[Row], numbers: Sequence[int]) -> dict[int, dict[str, float]]:
    """Mean scores at a number of segments, interpolated; none outside the range of a method."""
    means = {
        k: {
            score: float(np.nanmean([image["cuts"][k][score] for image in of_images]))
            for score in of_images[0]["cuts"][k]
        }
        for k in numbers
    }
    given = np.log([means[k]["segments"] for k in numbers])
    found = {}
    for k in numbers:
        # A few per cent short of the largest or smallest number asked for is near enough.
        if not given.min() - 0.1 <= np.log(k) <= given.max() + 0.1:
            continue
        order = np.argsort(given)
        found[k] = {
            score: float(
                np.interp(np.log(k), given[order], [means[numbers[i]][score] for i in order])
            )
            for score in means[k]
        }
    return found


def table(summary: dict[str, Row]) -> str:
    """Markdown, a line per method."""
    columns = {
        "covering ODS": lambda r: r.get("covering_ods"),
        "OIS": lambda r: r.get("covering_ois"),
        "VoI ODS": lambda r: r.get("voi_ods"),
        "PRI ODS": lambda r: r.get("pri_ods"),
        "F ODS": lambda r: r.get("boundary_f_ods"),
        "F OIS": lambda r: r.get("boundary_f_ois"),
        "F@25": lambda r: _cut(r, 25, "f"),
        "F@100": lambda r: _cut(r, 100, "f"),
        "ASA@25": lambda r: _cut(r, 25, "asa"),
        "ASA@100": lambda r: _cut(r, 100, "asa"),
        "UE@100": lambda r: _cut(r, 100, "ue"),
        "covering@25": lambda r: _cut(r, 25, "covering"),
        "parts@100": lambda r: _cut(r, 100, "components"),
        "AR@1000": lambda r: r.get("ar_1000"),
        "any node": lambda r: r.get("covering_any_node"),
    }
    lines = [
        "| method | " + " | ".join(columns) + " | s/image | x SLIC |",
        "|---|" + "--:|" * (len(columns) + 2),
    ]
    base = summary["SLIC"]["seconds"] if "SLIC" in summary else None
    for name, row in summary.items():
        values = [value(row) for value in columns.values()]
        cells = ["-" if v is None else f"{v:.3f}" for v in values]
        seconds = sum(row.get(part, 0.0) for part in ("encoder", "superpixels", "seconds"))
        cells += [f"{seconds:.3f}", f"{seconds / base:.1f}" if base else "-"]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _cut(row: Row, number: int, score: str) -> float | None:
    return row["cuts"].get(number, {}).get(score)


def plot(summary: dict[str, Row], path: Path) -> None:
    """Four scores against the number of segments."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    shown = {"asa": "ASA", "f": "boundary F, one to one", "covering": "covering", "voi": "VoI"}
    figure, axes = plt.subplots(1, len(shown), figsize=(18, 4.5), layout="constrained")
    for axis, (score, title) in zip(axes, shown.items(), strict=True):
        for name, row in summary.items():
            numbers = sorted(row["cuts"])
            values = [row["cuts"][k][score] for k in numbers]
            is_ours = name.startswith("maskfeat")
            axis.plot(numbers, values, label=name, lw=2.5 if is_ours else 1, marker=".")
        axis.set(xscale="log", xlabel="segments", title=title)
        axis.grid(alpha=0.3)
    axes[-1].legend(fontsize=7, bbox_to_anchor=(1.02, 1), loc="upper left")
    figure.savefig(path, dpi=90)


def main() -> None:
    """Score, print, save."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", help="a .ckpt of lightning fit, or .safetensors")
    parser.add_argument("--shards", default="../shared/data/bsds500/val-*.tar")
    parser.add_argument("--num_images", type=int, help="at most this number, at regular steps")
    parser.add_argument("--num_segments", type=int, nargs="+", default=[25, 50, 100, 200])
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS, metavar="NAME")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("experiments/partition"))
    args = parser.parse_args()

    os.environ["OMP_NUM_THREADS"] = "1"  # of the processes started below
    images = ShardImages(args.shards, args.num_images)
    with ProcessPoolExecutor(args.processes, mp_context=get_context("spawn")) as pool:
        jobs = [
            pool.submit(score_image, args.checkpoint, image, args.num_segments, args.methods)
            for image in track(images, "reading")
        ]
        rows = [job.result() for job in track(jobs, "scoring")]
    summary = summarize(rows, args.num_segments)
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True
    ).stdout.strip()
    record = {
        "checkpoint": args.checkpoint,
        "shards": args.shards,
        "num_images": len(images),
        "commit": commit,
        "methods": summary,
    }
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "result.json").write_text(json.dumps(record, indent=1) + "\n")
    (args.out / "result.md").write_text(table(summary))
    plot(summary, args.out / "result.png")
    print(table(summary))


if __name__ == "__main__":
    main()
