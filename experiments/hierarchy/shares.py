"""What superpixels follow and what borders are measured by: features, predicted boundaries, color.

    python experiments/hierarchy/shares.py runs/all_further/checkpoints/last.ckpt

The boundary map of a network with a boundary head can count where superpixels run (slope) and how
strong their borders are, for the tree and for cuts (strength); so can the color of the image. For
each mix the tree with its merge classifier on every second image of BSDS500 val, which selects.
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

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
from maskfeat.features.reading import COLOR_SHARE, Features
from maskfeat.segment.hierarchy import hierarchy
from maskfeat.segment.merge_classifier import MergeClassifier
from maskfeat.segment.partition import partition_superpixels
from maskfeat.segment.superpixels import RegionGraph, graph_of_labels, superpixels

THRESHOLDS = np.linspace(0.02, 0.98, 25).tolist()


class Mix(NamedTuple):
    """How much boundaries and color count in the slope of superpixels and the strength of borders.

    Attributes:
        slope: Share of boundaries in the slope.
        strength: And in the strength.
        color_slope: Share of color in the slope.
        color_strength: And in the strength.
    """

    slope: float
    strength: float
    color_slope: float = COLOR_SHARE
    color_strength: float = 0.0


def mixes(shares: Sequence[float], has_boundaries: bool) -> list[Mix]:
    """All pairs of shares of color, then of boundaries; what is not varied has its default."""
    pairs = list(itertools.product(shares, shares))
    color = [Mix(0.0, 0.0, *pair) for pair in pairs]
    boundaries = [Mix(*pair) for pair in pairs] if has_boundaries else []
    return list(dict.fromkeys([*color, *boundaries]))


def with_boundaries(features: Features, share: float) -> tuple[np.ndarray, np.ndarray]:
    """Distances of neighbors, a share of them those at which p is that of no boundary."""
    predicted = features.boundary_probabilities() if share else None
    if predicted is None:
        return features.neighbor_distances()
    right, below = (
        # 2 / (1 + exp(scale * d2)) = 1 - b, solved for d2.
        share * 2 * np.arctanh(b.clip(max=1 - 1e-5)) / features.scale + (1 - share) * d2
        for b, d2 in zip(predicted, features.neighbor_distances(), strict=True)
    )
    return right, below


def mixed_graph(features: Features, mix: Mix) -> RegionGraph:
    """Superpixels and their graph by one mix."""
    slope, strength = (
        features.followed_distances(with_boundaries(features, share), color)
        for share, color in ((mix.slope, mix.color_slope), (mix.strength, mix.color_strength))
    )
    labels = superpixels(features, neighbor_distances=slope).labels
    return graph_of_labels(features, labels, strength)


def scores(
    images: list[tuple[HeldOutImage, Features]],
    mix: Mix,
    classifier: MergeClassifier | Literal["default"],
) -> dict[str, float]:
    """Means over images."""
    curves, counts = metrics.OverScales(len(THRESHOLDS)), []
    found: dict[str, list[float]] = {"best IoU": [], "ASA@25": [], "ASA@100": []}
    for image, features in images:
        graph = mixed_graph(features, mix)
        tree = hierarchy(graph, merge_classifier=classifier).tree
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
    parser.add_argument(
        "--shares", type=float, nargs="+", default=[0.0, 0.25, 0.5, 0.75, 1.0], help="to compare"
    )
    parser.add_argument("--step", type=int, default=2, help="every second image, from the first")
    parser.add_argument("--out", type=Path, default=Path("experiments/hierarchy/shares.json"))
    args = parser.parse_args()

    torch.set_num_threads(1)
    net = maskfeat.load(args.model)
    classifier = MergeClassifier.load(args.classifier) if args.classifier else "default"
    held_out = ShardImages(args.shards)
    images = []
    for number in track(range(0, len(held_out), args.step), "features"):
        image = held_out[number]
        features = net.features(image.image)
        features.color_distances = color_distances(torch.tensor(image.image).permute(2, 0, 1))
        images.append((image, features))
    table = Table(*Mix._fields, title=f"{len(images)} images")
    record = []
    for mix in track(mixes(args.shares, bool(net.boundary_heads)), "mixes"):
        found = scores(images, mix, classifier)
        if not record:
            for name in found:
                table.add_column(name)
        table.add_row(*[f"{s:g}" for s in mix], *[f"{value:.3f}" for value in found.values()])
        record.append(mix._asdict() | found)
        args.out.write_text(json.dumps(record, indent=1) + "\n")
    Console(width=110).print(table)


if __name__ == "__main__":
    main()
