"""Trained, untrained and Lab features, and SLIC, on held-out images, in one run.

    python experiments/bsds500/compare.py runs/bsds500/checkpoints/last.ckpt --num_images 100

Every column sees the same images and, for clicks, the same objects, user and graph cut. Prints
a table and saves it as result.json and result.md.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import torch
from rich.progress import track
from skimage.segmentation import slic

import maskfeat
from maskfeat.batch import HeldOutImage
from maskfeat.data.heldout import ShardImages
from maskfeat.evaluate.clicking import pick_target, session_ious, summarize_clicks
from maskfeat.evaluate.protocol import score_labels, score_pairs, score_partition
from maskfeat.features.color import LabEncoder
from maskfeat.features.reading import FeatureModel
from maskfeat.interactive.segmenter import InteractiveSegmenter

Scores = dict[str, float]


def score_encoder(
    encoder: FeatureModel, image: HeldOutImage, num_segments: Sequence[int]
) -> Scores:
    """Pairs, partitions and clicks of one image."""
    features = encoder.features(image.image)
    scores = score_pairs(features, image) | score_partition(features, image, num_segments)
    target = pick_target(image)
    if target is not None:
        scores |= summarize_clicks(session_ious(InteractiveSegmenter(encoder), target))
    return scores


def score_slic(image: HeldOutImage, num_segments: Sequence[int]) -> Scores:
    """SLIC with scikit-image's defaults (connected segments), at least as many as asked."""
    scores: Scores = {}
    for k in num_segments:
        labels = slic_segments(image, k)
        scores |= {f"{name}_{k}": value for name, value in score_labels(labels, image).items()}
    return scores


def slic_segments(image: HeldOutImage, num_segments: int) -> np.ndarray:
    """Labels with at least as many segments as asked: SLIC itself gives a third fewer."""
    asked = num_segments
    while True:
        labels = slic(image.image, n_segments=asked, start_label=0).astype(np.int64)
        if labels.max() + 1 >= num_segments:
            return labels
        asked = max(asked + 1, round(asked * num_segments / (labels.max() + 1)))


def score_image(
    checkpoint: str, image: HeldOutImage, num_segments: Sequence[int]
) -> dict[str, Scores]:
    """All columns for one image; runs in a process of its own, on one thread."""
    torch.set_num_threads(1)
    trained = maskfeat.load(checkpoint)
    torch.manual_seed(0)
    untrained = maskfeat.FeaturePyramid(**trained.config)
    encoders: dict[str, FeatureModel] = {
        "trained": trained,
        "untrained": untrained,
        "Lab": LabEncoder(),
        "Lab, smoothed": LabEncoder(sigma=1.0),  # needs fewer clicks than unsmoothed
    }
    scores = {name: score_encoder(e, image, num_segments) for name, e in encoders.items()}
    return scores | {"SLIC": score_slic(image, num_segments)}


def main() -> None:
    """Score, print, save."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", help="a .ckpt of lightning fit, or .safetensors")
    parser.add_argument("--shards", default="../shared/data/bsds500/val-*.tar")
    parser.add_argument("--num_images", type=int, default=100)
    parser.add_argument("--num_segments", type=int, nargs="+", default=[25, 100])
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("experiments/bsds500"))
    args = parser.parse_args()

    started = time.monotonic()
    images = ShardImages(args.shards, args.num_images)
    with ProcessPoolExecutor(args.processes) as pool:
        jobs = [
            pool.submit(score_image, args.checkpoint, image, args.num_segments)
            for image in track(images, "reading")
        ]
        rows = [job.result() for job in track(jobs, "scoring")]
    names = list(dict.fromkeys(name for row in rows for name in row["trained"]))
    means = {
        column: {
            name: float(np.nanmean([row[column].get(name, np.nan) for row in rows]))
            for name in names
            if any(name in row[column] for row in rows)
        }
        for column in rows[0]
    }
    record = {
        "checkpoint": args.checkpoint,
        "step": checkpoint_step(args.checkpoint),
        "shards": args.shards,
        "num_images": len(images),
        "commit": commit(),
        "minutes": (time.monotonic() - started) / 60,
        "scores": means,
    }
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "result.json").write_text(json.dumps(record, indent=2) + "\n")
    table = markdown(means, names)
    (args.out / "result.md").write_text(table)
    print(table)


def markdown(means: dict[str, Scores], names: Sequence[str]) -> str:
    """The table, a line per score."""
    lines = ["| | " + " | ".join(means) + " |", "|---|" + "--:|" * len(means)]
    shown: Callable[[float | None], str] = lambda v: "-" if v is None else f"{v:.3f}"  # noqa: E731
    for name in names:
        cells = [shown(column.get(name)) for column in means.values()]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def checkpoint_step(path: str) -> int | None:
    """Optimizer steps of a checkpoint, None for other files."""
    if not path.endswith(".ckpt"):
        return None
    return int(torch.load(path, map_location="cpu", weights_only=True)["global_step"])


def commit() -> str:
    """The commit that ran."""
    done = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    return done.stdout.strip()


if __name__ == "__main__":
    main()
