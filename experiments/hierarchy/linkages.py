"""Which linkage, mix of means and borders and power of size; what the merge classifier gives.

    python experiments/hierarchy/linkages.py runs/bsds500/checkpoints/last.ckpt --half even

"even" is the half of BSDS500 val that the defaults were chosen on, "odd" the half that was not
looked at. Prints a table and saves it as json. Covering by trees cut at one altitude for all images
(ODS) and at the best for each (OIS); by any node; accuracy with 25 and 100 segments.
"""

from __future__ import annotations

import argparse
import json
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table

import maskfeat
from maskfeat.batch import HeldOutImage
from maskfeat.data.heldout import ShardImages
from maskfeat.evaluate.metrics import (
    NestedOverlap,
    OverScales,
    achievable_segmentation_accuracy,
    boundary_f,
)
from maskfeat.segment.hierarchy import BORDER_WEIGHT, SIZE_POWER, superpixel_tree
from maskfeat.segment.merge_classifier import (
    calibrated,
    default_merge_classifier,
    reagglomerated,
)
from maskfeat.segment.partition import EVEN_POWER
from maskfeat.segment.superpixels import RegionGraph, superpixels
from maskfeat.segment.tree import PartitionTree

# Linkage, border weight, size power; what the merge classifier decides: nothing, altitudes, the
# order too.
VARIANTS = [
    ("ward", 0.0, 0.0, ""),
    ("nearest", 0.0, 0.08, ""),
    ("nearest", 0.0, 0.15, ""),
    ("nearest", 1.0, 0.1, ""),
    ("average", 1.0, 0.1, ""),
    ("average", 0.5, 0.1, ""),
    ("nearest", 0.3, 0.1, ""),
    ("nearest", 0.45, 0.0, ""),
    ("nearest", 0.45, 0.05, ""),
    ("nearest", BORDER_WEIGHT, SIZE_POWER, ""),
    ("nearest", 0.45, 0.15, ""),
    ("nearest", 0.45, 0.22, ""),
    ("nearest", 0.45, EVEN_POWER, ""),
    ("nearest", 0.6, 0.1, ""),
    ("nearest", 0.45, 0.4, ""),
    ("nearest", BORDER_WEIGHT, SIZE_POWER, "altitudes"),
    ("nearest", BORDER_WEIGHT, SIZE_POWER, "order"),
]
LEVELS = np.geomspace(0.01, 5, 160)
DOUBTS = np.linspace(0.01, 0.99, 99)
Scores = dict[str, list[float] | float]


def score_image(checkpoint: str, image: HeldOutImage) -> list[Scores]:
    """All variants on one image, on one thread."""
    torch.set_num_threads(1)
    graph = superpixels(maskfeat.load(checkpoint).features(image.image))
    return [score_tree(*variant_tree(graph, *variant), graph, image) for variant in VARIANTS]


def variant_tree(
    graph: RegionGraph, linkage: str, border_weight: float, size_power: float, classifiers: str
) -> tuple[PartitionTree, np.ndarray]:
    """The tree, and the altitudes to cut it at."""
    tree = superpixel_tree(graph, linkage, border_weight, size_power)
    if not classifiers:
        return tree, LEVELS
    if classifiers == "order":
        tree = reagglomerated(tree, graph, default_merge_classifier())
    return calibrated(tree, graph, default_merge_classifier()), DOUBTS


def score_tree(
    tree: PartitionTree, altitudes: np.ndarray, graph: RegionGraph, image: HeldOutImage
) -> Scores:
    """Means over annotators."""
    overlaps = [NestedOverlap(tree, graph.labels, target) for target in image.partitions]
    curves = [
        [overlap.scores_at(altitude)["covering"] for altitude in altitudes] for overlap in overlaps
    ]
    scores: Scores = {
        "covering": np.mean(curves, axis=0).tolist(),
        "any node": float(np.mean([overlap.best_covering() for overlap in overlaps])),
    }
    for k in (25, 100):
        labels = tree.groups(k)[graph.labels].astype(np.int64)
        scores[f"ASA@{k}"] = float(
            np.mean([achievable_segmentation_accuracy(labels, t) for t in image.partitions])
        )
        if k == 25:
            scores["F@25"] = float(np.mean([boundary_f(labels, t) for t in image.partitions]))
    return scores


def main() -> None:
    """Score, print, save."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", help="a .ckpt of lightning fit, or .safetensors")
    parser.add_argument("--shards", default="../shared/data/bsds500/val-*.tar")
    parser.add_argument("--half", choices=["even", "odd"], default="even")
    parser.add_argument("--num_images", type=int, help="at most this number, at regular steps")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("experiments/hierarchy"))
    args = parser.parse_args()

    images = list(ShardImages(args.shards, args.num_images))[args.half == "odd" :: 2]
    with ProcessPoolExecutor(args.processes) as pool:
        jobs = [pool.submit(score_image, args.checkpoint, image) for image in images]
        rows = [job.result() for job in track(jobs, "scoring")]
    table = Table(title=f"{len(images)} images of val, {args.half}")
    names = ["covering ODS", "OIS", "any node", "F@25", "ASA@25", "ASA@100"]
    for column in ("linkage", "border weight", "size power", "merge_classifier", *names):
        table.add_column(column)
    record = []
    for number, variant in enumerate(VARIANTS):
        over = OverScales(len(rows[0][number]["covering"]))
        for row in rows:
            over.update(row[number]["covering"])
        found = over.compute()
        values = [found["ods"].item(), found["ois"].item()]
        values += [float(np.mean([row[number][name] for row in rows])) for name in names[2:]]
        table.add_row(*map(str, variant), *(f"{value:.4f}" for value in values))
        record.append({"variant": variant, **dict(zip(names, values, strict=True))})
    Console(width=140).print(table)
    (args.out / f"linkages_{args.half}.json").write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
