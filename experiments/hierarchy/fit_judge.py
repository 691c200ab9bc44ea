"""Fit the judge of merges that comes with the package.

    python experiments/hierarchy/fit_judge.py runs/bsds500/checkpoints/last.ckpt

For each merge of the trees of BSDS500's train images the target is the share of pixel pairs, one
pixel from either side, that one true segment holds, averaged over annotators. A small network
learns it by cross-entropy, a merge weighing as the root of its smaller side. Nothing of val or test
is read.
"""

from __future__ import annotations

import argparse
import subprocess
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import torch
from rich.progress import track
from torch import nn

import maskfeat
from maskfeat.batch import HeldOutImage
from maskfeat.data.heldout import ShardImages
from maskfeat.evaluate.metrics.nested import NestedOverlap
from maskfeat.segment.atoms import atoms
from maskfeat.segment.hierarchy import BORDER_WEIGHT, SIZE_POWER, atom_tree
from maskfeat.segment.judge import MergeJudge, merge_measures
from maskfeat.segment.tree import MergeTree

Samples = tuple[np.ndarray, np.ndarray, np.ndarray]


def samples_of(
    checkpoint: str, image: HeldOutImage, border_weight: float, size_power: float
) -> Samples:
    """Measures (M, 15), targets (M,) and weights (M,) of the merges of one image."""
    torch.set_num_threads(1)
    graph = atoms(maskfeat.load(checkpoint).features(image.image))
    tree = atom_tree(graph, border_weight=border_weight, size_power=size_power)
    targets = np.mean([share_together(tree, graph.labels, t) for t in image.partitions], axis=0)
    smaller = tree.sizes[tree.children].min(axis=1) / tree.sizes[-1]
    return merge_measures(tree, graph), targets, np.sqrt(smaller)


def share_together(tree: MergeTree, labels: np.ndarray, target: np.ndarray) -> np.ndarray:
    """For each merge, how many pixel pairs across it lie in one true segment, as a share."""
    overlap = NestedOverlap(tree, labels, target)
    shares = overlap.shared / np.maximum(overlap.sizes, 1)[:, None]
    first, second = tree.children.T
    return (shares[first] * shares[second]).sum(axis=1)


def fit(samples: Samples, width: int, steps: int, seed: int, origin: str) -> MergeJudge:
    """Cross-entropy, AdamW, a cosine."""
    measures, targets, weights = samples
    mean, spread = measures.mean(axis=0), measures.std(axis=0) + 1e-6
    inputs = torch.tensor((measures - mean) / spread, dtype=torch.float32).clamp(-4, 4)
    wanted, weighs = (torch.tensor(v, dtype=torch.float32) for v in (targets, weights))
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    net = nn.Sequential(
        nn.Linear(inputs.shape[1], width),
        nn.Tanh(),
        nn.Linear(width, width),
        nn.Tanh(),
        nn.Linear(width, 1),
    )
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-2, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in track(range(steps), "fitting"):
        chosen = torch.randint(len(inputs), (4096,), generator=generator)
        costs = nn.functional.binary_cross_entropy_with_logits(
            net(inputs[chosen])[:, 0], wanted[chosen], reduction="none"
        )
        loss = (costs * weighs[chosen]).sum() / weighs[chosen].sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    layers = [layer for layer in net if isinstance(layer, nn.Linear)]
    return MergeJudge(
        mean,
        spread,
        tuple(layer.weight.detach().double().numpy().T for layer in layers),
        tuple(layer.bias.detach().double().numpy() for layer in layers),
        origin,
    )


def main() -> None:
    """Collect, fit, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", help="a .ckpt of lightning fit, or .safetensors")
    parser.add_argument("--shards", default="../shared/data/bsds500/train-*.tar")
    parser.add_argument("--num_images", type=int, help="at most so many, evenly spread")
    parser.add_argument("--border_weight", type=float, default=BORDER_WEIGHT)
    parser.add_argument("--size_power", type=float, default=SIZE_POWER)
    parser.add_argument("--width", type=int, default=24)
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("maskfeat/segment/judge.json"))
    args = parser.parse_args()

    images = ShardImages(args.shards, args.num_images)
    with ProcessPoolExecutor(args.processes) as pool:
        jobs = [
            pool.submit(samples_of, args.checkpoint, image, args.border_weight, args.size_power)
            for image in track(images, "reading")
        ]
        parts = [job.result() for job in track(jobs, "merging")]
    measures, targets, weights = (np.concatenate(kind) for kind in zip(*parts, strict=True))
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True
    ).stdout.strip()
    origin = (
        f"{len(images)} images of {args.shards}, features of {args.checkpoint}, border weight "
        f"{args.border_weight}, size power {args.size_power}, commit {commit}"
    )
    judge = fit((measures, targets, weights), args.width, args.steps, args.seed, origin)
    judge.save(args.out)
    found = judge(measures)
    explained = (
        1
        - ((found - targets) ** 2 * weights).sum()
        / ((targets - np.average(targets, weights=weights)) ** 2 * weights).sum()
    )
    print(f"{len(targets)} merges, share of variance explained {explained:.3f}, in {args.out}")


if __name__ == "__main__":
    main()
