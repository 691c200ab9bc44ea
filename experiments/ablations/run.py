"""Train each variant of a table for the same small budget, and score it on held-out images.

    python experiments/ablations/run.py --data_root ../shared/data

The table is variants.yaml: what differs from its `base`. Each finished run appends one line to
results.jsonl; a run whose line is there, with the same settings, is passed over, so a queue that
was stopped goes on where it stood. `report.py` makes tables and plots of the lines.

One process on one core: images are read in the training process, and times are CPU seconds.
"""

from __future__ import annotations

import argparse
import copy
import json
import subprocess
import time
import warnings
from collections import Counter
from functools import cache
from pathlib import Path
from pydoc import locate
from typing import Any

import lightning as L
import numpy as np
import torch
import yaml

from maskfeat.batch import HeldOutImage
from maskfeat.data.datamodule import ShardDataModule
from maskfeat.data.heldout import ShardImages, to_held_out
from maskfeat.data.settings import Augmentation, ExampleSettings
from maskfeat.data.shards.indexed import IndexedShards
from maskfeat.evaluate import metrics
from maskfeat.evaluate.hierarchies import score_tree, tree_boundary_counts
from maskfeat.evaluate.protocol import score_pairs
from maskfeat.features.color import LabEncoder
from maskfeat.features.pyramid import FeaturePyramid
from maskfeat.features.reading import FeatureModel
from maskfeat.features.task import FeatureTask
from maskfeat.segment.hierarchy import Hierarchy, superpixel_tree
from maskfeat.segment.partition import partition_superpixels
from maskfeat.segment.superpixels import superpixels

HERE = Path(__file__).parent
Settings = dict[str, Any]
# Levels of trees to cut at: feature distances, whose unit is each network's own. Steps of 10 %.
THRESHOLDS = np.geomspace(1e-4, 1e4, 193)


def resolved(base: Settings, variant: Settings) -> Settings:
    """Base settings with those of the variant put over them, group by group."""
    found = copy.deepcopy(base)
    for group, values in variant.items():
        if group in ("net", "model", "data", "augmentation"):
            found[group] = found.get(group, {}) | values
        else:
            found[group] = values
    return found


def runs_of(table: Settings, steps: int, seeds: list[int], only: list[str]) -> list[Settings]:
    """What is to be run, in an order that gives each question some result if the queue is stopped.

    The base comes first, with all seeds, for everything is compared with it. Then the first
    variant of each question, the second of each, ..., and all that again with the next seed.
    """
    count: Counter[str] = Counter()
    turns = {}
    for name, variant in table["variants"].items():
        turns[name] = count[variant["question"]]
        count[variant["question"]] += 1
    names = ["base", *sorted(turns, key=lambda name: turns[name])]
    runs = []
    for seed in seeds:
        for name in names:
            variant = table["variants"].get(name, {"question": "base"})
            if seed >= variant.get("seeds", max(seeds) + 1):
                continue
            if only and name not in only and variant["question"] not in only:
                continue
            rest = {k: v for k, v in variant.items() if k not in ("question", "seeds", "text")}
            settings = resolved(table["base"], rest) | {"steps": steps, "seed": seed}
            runs.append({"variant": name, "settings": settings})
    return sorted(runs, key=lambda one: one["variant"] != "base")


def train(settings: Settings, data_root: str) -> tuple[FeatureTask, float]:
    """Train the network; its stages share the steps. Also: CPU seconds per step."""
    L.seed_everything(settings["seed"], verbose=False)
    loss = locate(settings["loss"]["class_path"])(**settings["loss"].get("init_args", {}))
    task = FeatureTask(FeaturePyramid(**settings["net"]), loss, **settings["model"])
    started = time.process_time()
    for stage in settings["stages"]:
        steps = round(settings["steps"] * stage.get("share", 1))
        sets = {
            name: {"shards": pattern.format(root=data_root), "weight": weight}
            for name, (pattern, weight) in stage["sets"].items()
        }
        data = ShardDataModule(
            train=sets,
            batch_size=settings["data"]["batch_size"],
            epoch_images=steps * settings["data"]["batch_size"],
            seed=settings["seed"],
            num_workers=0,
            examples=_examples(settings),
        )
        trainer = L.Trainer(
            max_steps=steps,
            accelerator="auto",
            devices=1,
            logger=False,
            gradient_clip_val=1.0,
            limit_val_batches=0,
            enable_checkpointing=False,
            enable_model_summary=False,
            enable_progress_bar=False,
            use_distributed_sampler=False,
        )
        trainer.fit(task, data)
    seconds = (time.process_time() - started) / max(1, settings["steps"])
    return task.eval(), seconds


def _examples(settings: dict[str, Any]) -> ExampleSettings:
    sizes = {name: value for name, value in settings["data"].items() if name != "batch_size"}
    return ExampleSettings(**sizes, augmentation=Augmentation(**settings["augmentation"]))


@cache
def held_out_images(shards: str, num_images: int) -> list[HeldOutImage]:
    """The images that all runs are scored on, decoded once."""
    return list(ShardImages(shards, num_images))


def score(encoder: FeatureModel, shards: str, num_images: int) -> dict[str, float]:
    """Scores on held-out images, each the mean over annotators, then images."""
    found: dict[str, list[float]] = {}
    curves = metrics.OverScales(len(THRESHOLDS))
    trees = []
    for image in held_out_images(shards, num_images):
        started = time.process_time()
        features = encoder.features(image.image)
        one = {"features_ms": 1000 * (time.process_time() - started)}
        one["auc"] = score_pairs(features, image, num_pairs=10_000)["auc"]
        graph = superpixels(features)
        tree = superpixel_tree(graph)
        scores = score_tree(tree, graph.labels, image, THRESHOLDS.tolist())
        curves.update(scores.curves["covering"])
        trees.append((tree, graph.labels, image))
        one["ar_1000"] = scores.singles["ar_1000"]
        one["any_node"] = scores.singles["covering_any_node"]
        cut = Hierarchy(graph.labels, tree).cut(25)
        one["f_25"] = _mean([metrics.boundary_f(cut, t) for t in image.partitions])
        for k in (25, 100):
            labels = partition_superpixels(graph, k)[graph.labels]
            asa = metrics.achievable_segmentation_accuracy
            one[f"asa_{k}"] = _mean([asa(labels, t) for t in image.partitions])
        for name, value in one.items():
            found.setdefault(name, []).append(value)
    means = {name: _mean(values) for name, values in found.items()}
    means["features_ms"] = float(np.median(found["features_ms"]))
    best = curves.compute()
    # Boundaries at twelve thresholds around the one that is best for covering.
    around = THRESHOLDS[int(best["scale"])] * 2.0 ** (np.arange(-8, 4) / 2)
    counts = [tree_boundary_counts(*tree, around.tolist()) for tree in trees]
    best_f = metrics.boundary_fs(np.stack(counts))
    means |= {"boundary_f_ods": best_f.ods, "boundary_f_ois": best_f.ois}
    return means | {f"covering_{kind}": best[kind].item() for kind in ("ods", "ois")}


def recall_of_levels(encoder: FeatureModel, shards: str, num_images: int) -> dict[str, float]:
    """Share of true masks of each level for which the tree has a node of IoU 0.5 or more.

    Only of sets that name levels (drawn scenes); masks of at least 0.01 % of the image.
    """
    found: dict[str, list[bool]] = {}
    samples = IndexedShards(shards)
    for number in range(min(num_images, len(samples))):
        sample = samples[number]
        if not any(sample.levels):
            return {}
        image = to_held_out(sample)
        graph = superpixels(encoder.features(image.image))
        tree = superpixel_tree(graph)
        areas = image.masks.sum(axis=(1, 2))
        iou = metrics.best_node_ious(tree, graph.labels, image.masks)
        for index, annotation in enumerate(sample.runs.annotation):
            if areas[index] >= 1e-4 * graph.labels.size:
                level = sample.levels[annotation]
                found.setdefault(f"recall_{level}", []).append(bool(iou[index] >= 0.5))
    return {level: _mean(hits) for level, hits in found.items()}


def run(settings: Settings, data_root: str, num_images: int) -> Settings:
    """Train and score: one line of results."""
    if settings.get("encoder") == "lab":
        encoder, seconds, num_values, num_weights = LabEncoder(sigma=1.0), 0.0, 3, 0
    else:
        encoder, seconds = train(settings, data_root)
        # Per pixel of the image, if every level had its channels there.
        num_values = sum(head.out_channels for head in encoder.net.heads)
        num_weights = sum(p.numel() for p in encoder.net.parameters())
    shards = settings["held_out"].format(root=data_root)
    scores = score(encoder, shards, num_images) | recall_of_levels(encoder, shards, num_images)
    return {
        "scores": scores,
        "step_seconds": seconds,
        "values": num_values,
        "weights": num_weights,
    }


def finished(path: Path) -> list[Settings]:
    """The lines that were written; one that a kill cut short is left out."""
    lines = []
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            lines.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return lines


def append(path: Path, line: Settings) -> None:
    """Write one line, after the end of whatever is there."""
    is_cut = path.exists() and path.stat().st_size and not path.read_bytes().endswith(b"\n")
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.write(("\n" if is_cut else "") + json.dumps(line) + "\n")


def _mean(values: list[Any]) -> float:
    return metrics.mean_of_counted([float(v) for v in values])


def main() -> None:
    """Run what has not been run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data_root", default="../shared/data", help="folder of the images")
    parser.add_argument("--table", type=Path, default=HERE / "variants.yaml")
    parser.add_argument("--out", type=Path, default=HERE / "results.jsonl")
    parser.add_argument("--only", nargs="*", default=[], help="questions (a to h) or variants")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=200, help="of the optimizer, per run")
    parser.add_argument("--num_images", type=int, default=16, help="held-out images")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()

    warnings.filterwarnings("ignore", module="lightning")
    torch.set_num_threads(args.threads)
    describe = ["git", "describe", "--always", "--dirty"]
    commit = subprocess.run(describe, cwd=HERE, capture_output=True, text=True).stdout.strip()
    runs = runs_of(yaml.safe_load(args.table.read_text()), args.steps, args.seeds, args.only)
    for number, one in enumerate(runs):
        name = f"{one['variant']} with seed {one['settings']['seed']}, {number + 1} of {len(runs)}"
        one["num_images"] = args.num_images
        # Read anew each time: a second reader of the table may have done it meanwhile.
        if any(one.items() <= line.items() for line in finished(args.out)):
            print(f"{name}: finished before", flush=True)
            continue
        started = time.monotonic()
        try:
            found = run(one["settings"], args.data_root, args.num_images)
        except RuntimeError as error:  # e.g. the loss became infinite; the queue goes on
            print(f"{name}: failed, {error}", flush=True)
            continue
        append(args.out, one | {"commit": commit} | found)
        shown = {k: round(v, 4) for k, v in found["scores"].items()}
        print(f"{name}: {time.monotonic() - started:.0f} s, {shown}", flush=True)


if __name__ == "__main__":
    main()
