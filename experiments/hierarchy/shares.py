"""What superpixels follow and what borders are measured by: features, predicted boundaries, color.

    python experiments/hierarchy/shares.py runs/all_further/checkpoints/last.ckpt

The boundary map of a network with a boundary head can count where superpixels run (slope) and how
strong their borders are, for the tree and for cuts (strength); color where superpixels run. For
each mix the tree with its merge classifier on every second image of BSDS500 val, which selects.
"""

from __future__ import annotations

import argparse
import itertools
import json
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table

import maskfeat
from maskfeat.batch import HeldOutImage
from maskfeat.data.heldout import ShardImages
from maskfeat.evaluate import metrics
from maskfeat.evaluate.hierarchies import score_tree, tree_boundary_counts
from maskfeat.features.color import color_distances
from maskfeat.features.reading import Features
from maskfeat.segment.hierarchy import superpixel_hierarchy
from maskfeat.segment.merge_classifier import MergeClassifier, default_merge_classifier
from maskfeat.segment.partition import partition_superpixels
from maskfeat.segment.superpixels import RegionGraph, graph_of_labels, superpixels

SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)
THRESHOLDS = np.linspace(0.02, 0.98, 25).tolist()
Mix = tuple[float, float, float]  # boundaries in the slope, in the strength, color in the slope


def mixes(has_boundaries: bool) -> list[Mix]:
    """One share is varied at a time, the others are at their defaults or 0."""
    color = [(0.5 * has_boundaries, 0.5 * has_boundaries, share) for share in SHARES]
    if not has_boundaries:
        return color
    both = [(slope, strength, 0.5) for slope, strength in itertools.product(SHARES, SHARES)]
    return [*color, *(one for one in both if one not in color)]


def mixed_graph(features: Features, mix: Mix) -> RegionGraph:
    """Superpixels and their graph by one mix."""
    slope, strength, color = mix
    followed = features.followed_distances(features.neighbor_distances(slope), color)
    labels = superpixels(features, neighbor_distances=followed).labels
    return graph_of_labels(features, labels, features.neighbor_distances(strength))


def scores(
    images: list[tuple[HeldOutImage, Features]], mix: Mix, classifier: MergeClassifier
) -> dict[str, float]:
    """Means over images."""
    curves, counts = metrics.OverScales(len(THRESHOLDS)), []
    found: dict[str, list[float]] = {"best IoU": [], "ASA@25": [], "ASA@100": []}
    for image, features in images:
        graph = mixed_graph(features, mix)
        tree = superpixel_hierarchy(graph, merge_classifier=classifier).tree
        curves.update(score_tree(tree, graph.labels, image, THRESHOLDS).curves["covering"])
        counts.append(tree_boundary_counts(tree, graph.labels, image, THRESHOLDS[2:22:2]))
        best = metrics.best_node_ious(tree, graph.labels, image.masks)
        found["best IoU"].append(float(best.mean()))
        for count in (25, 100):
            labels = partition_superpixels(graph, count)[graph.labels]
            asa = metrics.achievable_segmentation_accuracy
            values = [asa(labels, target) for target in image.partitions]
            found[f"ASA@{count}"].append(metrics.mean_of_counted(values))
    best_f, covering = metrics.boundary_fs(np.stack(counts)), curves.compute()
    return {
        "F ODS": best_f.ods,
        "F OIS": best_f.ois,
        "covering ODS": float(covering["ods"]),
        "OIS": float(covering["ois"]),
        **{name: float(np.mean(values)) for name, values in found.items()},
    }


def main() -> None:
    """Measure, print, save."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="a name, .ckpt or .safetensors")
    parser.add_argument("--classifier", type=Path, help="a merge classifier; else the packaged one")
    parser.add_argument("--shards", default="../shared/data/bsds500/val-*.tar")
    parser.add_argument("--step", type=int, default=2, help="every second image, from the first")
    parser.add_argument("--out", type=Path, default=Path("experiments/hierarchy/shares.json"))
    args = parser.parse_args()

    torch.set_num_threads(1)
    net = maskfeat.load(args.model)
    fitted = MergeClassifier.load(args.classifier) if args.classifier else None
    classifier = fitted or default_merge_classifier()
    held_out = ShardImages(args.shards)
    images = []
    for number in track(range(0, len(held_out), args.step), "features"):
        image = held_out[number]
        features = net.features(image.image)
        features.color_distances = color_distances(torch.tensor(image.image).permute(2, 0, 1))
        images.append((image, features))
    table = Table("slope", "strength", "color", title=f"{len(images)} images")
    record = []
    for mix in track(mixes(bool(net.boundary_heads)), "mixes"):
        found = scores(images, mix, classifier)
        if not record:
            for name in found:
                table.add_column(name)
        table.add_row(*[f"{s:g}" for s in mix], *[f"{value:.3f}" for value in found.values()])
        record.append({"slope": mix[0], "strength": mix[1], "color": mix[2], **found})
        args.out.write_text(json.dumps(record, indent=1) + "\n")
    Console(width=110).print(table)


if __name__ == "__main__":
    main()
