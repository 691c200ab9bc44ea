"""Fit the merge classifier that comes with the package.

    python experiments/hierarchy/fit_merge_classifier.py runs/all_further/checkpoints/last.ckpt

Images are BSDS500's train set, those of other sets where `--more` names some, some of all again in
grey, inverted or recolored, and drawn scenes, whose things have textures, so that the classifier
does not know daylight images alone. For two regions of an image the target is the share of pixel
pairs, one pixel from either side, that one true segment holds, averaged over annotators, or over
levels of masks (object, part) where a set has those. Regions whose pixels no mask holds do not
count. Samples are all pairs of regions that come up while a tree is merged, first in the order of
the fixed cost, then in that of the classifiers fitted so far, so that a merge classifier knows the
regions that it makes itself. A small network learns it by cross-entropy; the weight of a pair is
the root of the smaller side, times the share of both sides that masks hold. Nothing of val or test
is read.
"""

from __future__ import annotations

import argparse
import subprocess
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from rich.progress import track
from torch import nn

import maskfeat
from maskfeat.batch import HeldOutImage
from maskfeat.data.augment import jitter_color
from maskfeat.data.heldout import ShardImages
from maskfeat.data.order.schedule import evenly_spaced
from maskfeat.data.settings import Augmentation
from maskfeat.evaluate.metrics.nested import NestedOverlap
from maskfeat.segment.hierarchy import superpixel_tree
from maskfeat.segment.merge_classifier import (
    CLIP,
    NUM_REGIONS,
    MergeClassifier,
    Mlp,
    merge_by_classifier,
    merge_features,
    reagglomerated,
)
from maskfeat.segment.regions import NUM_WITHOUT_BOUNDARIES, PAIR_FEATURES, Regions
from maskfeat.segment.superpixels import RegionGraph, superpixels
from maskfeat.segment.tree import PartitionTree

Samples = tuple[np.ndarray, np.ndarray, np.ndarray]

# A third each, about: without color, inverted, with any colors.
OTHER_COLORS = Augmentation(grey=0.4, invert=0.4, recolor=0.4)


@dataclass(frozen=True)
class WatchedRegions(Regions):
    """Regions with their true segments, which note each pair whose features are computed.

    Attributes:
        shared: Pixels of each region in each true segment of all annotators, shape (R, S).
        num_annotators: Number of annotators.
        noted: Features, targets and weights of the pairs so far; one list for all iterations.
    """

    shared: np.ndarray
    num_annotators: int
    noted: list[Samples]

    def pair_features(self, which: np.ndarray) -> np.ndarray:
        """As `Regions.pair_features`, and noted."""
        found = super().pair_features(which)
        sizes, pairs = self.sums.sizes, self.pairs[which]
        together = share_together(self.shared, pairs, self.num_annotators)
        weights = pair_weights(self.shared, sizes, pairs, self.num_annotators, self.num_pixels)
        self.noted.append(_in_single(found.T, together, weights))
        return found

    def grouped(self, groups: np.ndarray) -> WatchedRegions:
        """As `Regions.grouped`."""
        shared = np.zeros((int(groups.max()) + 1, self.shared.shape[1]))
        np.add.at(shared, groups, self.shared)
        fields = vars(self) | vars(super().grouped(groups)) | {"shared": shared}
        return WatchedRegions(**fields)


@dataclass(frozen=True)
class KnownImage:
    """Superpixels, their tree by the fixed cost, and the true segments of all annotators.

    Attributes:
        graph: The superpixels.
        tree: Their merges.
        shared: Pixels of each node in each true segment of all annotators, shape (2 K - 1, S).
        num_annotators: How many annotators.
    """

    graph: RegionGraph
    tree: PartitionTree
    shared: np.ndarray
    num_annotators: int


def scenes(args: argparse.Namespace) -> Iterator[HeldOutImage]:
    """Images, a share of them again in other colors, drawn scenes."""
    rng = np.random.default_rng(args.seed)
    images = [*ShardImages(args.shards, args.num_images)]
    for shards in args.more:
        images += ShardImages(shards, args.num_more)
    for number, image in enumerate(images):
        yield turned(image, 1 + number % 3) if args.turned else image
    if args.recolored:
        for number in evenly_spaced(len(images), max(1, round(args.recolored * len(images)))):
            image = turned(images[number], number % 4) if args.turned else images[number]
            yield replace(image, image=jitter_color(image.image, OTHER_COLORS, rng))
    if args.num_drawn:
        yield from ShardImages(args.drawn, args.num_drawn)


def turned(image: HeldOutImage, quarters: int) -> HeldOutImage:
    """An image and its partitions, turned by a number of quarters; without masks."""
    partitions = tuple(np.rot90(labels, quarters).copy() for labels in image.partitions)
    rgb = np.rot90(image.image, quarters).copy()
    return replace(
        image, image=rgb, masks=np.zeros((0, *rgb.shape[:2]), bool), partitions=partitions
    )


def known_image(checkpoint: str, image: HeldOutImage) -> KnownImage:
    """The features of a checkpoint, in superpixels."""
    torch.set_num_threads(1)
    graph = superpixels(maskfeat.load(checkpoint).features(image.image))
    tree = superpixel_tree(graph)
    shared = [NestedOverlap(tree, graph.labels, target).shared for target in image.partitions]
    return KnownImage(graph, tree, np.concatenate(shared, axis=1), len(shared))


def first_samples(known: KnownImage) -> Samples:
    """Features (M, 14), targets (M,) and weights (M,) of the merges of the fixed cost."""
    return _of_tree(known.tree, known.shared, known)


def next_samples(known: KnownImage, merge_classifier: MergeClassifier) -> Samples:
    """Those of all pairs that come up while merging, and of the merges of the whole tree."""
    graph, tree = known.graph, known.tree
    shared = known.shared[: graph.num_superpixels]
    watched = WatchedRegions(
        **vars(Regions.of_superpixels(graph)),
        shared=shared,
        num_annotators=known.num_annotators,
        noted=[],
    )
    merge_by_classifier(
        watched.grouped(tree.groups(min(NUM_REGIONS, graph.num_superpixels))), merge_classifier
    )
    merged = reagglomerated(tree, graph, merge_classifier)
    noted = [*watched.noted, _of_tree(merged, merged.sums(shared), known)]
    features, targets, weights = (np.concatenate(kind) for kind in zip(*noted, strict=True))
    return features, targets, weights


def share_together(shared: np.ndarray, pairs: np.ndarray, num_annotators: int) -> np.ndarray:
    """For pairs of regions, (M, 2), how many pixel pairs across them a true segment holds.

    Args:
        shared: Pixels of each region in each true segment of all annotators, shape (R, S).
        pairs: Two regions each.
        num_annotators: The share is the mean over them.
    """
    shares = shared * num_annotators / shared.sum(axis=1, keepdims=True).clip(min=1)
    first, second = pairs.T
    return (shares[first] * shares[second]).sum(axis=1) / num_annotators


def pair_weights(
    shared: np.ndarray, sizes: np.ndarray, pairs: np.ndarray, num_annotators: int, num_pixels: int
) -> np.ndarray:
    """For pairs of regions, (M, 2): the root of the smaller side, times what masks hold of both.

    Args:
        shared: See `share_together`.
        sizes: Pixels of each region, shape (R,).
        pairs: Two regions each.
        num_annotators: The masks of each hold at most the whole region.
        num_pixels: Of the image.
    """
    held = shared.sum(axis=1) / (num_annotators * sizes)
    return np.sqrt(sizes[pairs].min(axis=1) / num_pixels) * held[pairs].prod(axis=1)


def _of_tree(tree: PartitionTree, shared: np.ndarray, known: KnownImage) -> Samples:
    """Samples of all merges of a tree, from the true segments of its nodes."""
    pairs, annotators = tree.children, known.num_annotators
    together = share_together(shared, pairs, annotators)
    weights = pair_weights(shared, tree.sizes, pairs, annotators, int(tree.sizes[-1]))
    return _in_single(merge_features(tree, known.graph).T, together, weights)


def _in_single(features: np.ndarray, targets: np.ndarray, weights: np.ndarray) -> Samples:
    """In single precision: there are ten million of them."""
    return features.astype(np.float32), targets.astype(np.float32), weights.astype(np.float32)


def fit(parts: Sequence[Samples], args: argparse.Namespace, origin: str) -> MergeClassifier:
    """Cross-entropy, AdamW, a cosine."""
    features, targets, weights = (np.concatenate(kind) for kind in zip(*parts, strict=True))
    names = PAIR_FEATURES if args.boundaries else PAIR_FEATURES[:NUM_WITHOUT_BOUNDARIES]
    features = features[:, : len(names)]
    mean = features.mean(axis=0, dtype=np.float64)
    std = features.std(axis=0, dtype=np.float64) + 1e-6
    inputs = torch.from_numpy((features - mean.astype(np.float32)) / std.astype(np.float32))
    inputs = inputs.clamp_(-CLIP, CLIP)
    wanted, weighs = torch.from_numpy(targets), torch.from_numpy(weights)
    generator = torch.Generator().manual_seed(args.seed)
    torch.manual_seed(args.seed)
    net = nn.Sequential(
        nn.Linear(inputs.shape[1], args.width),
        nn.Tanh(),
        nn.Linear(args.width, args.width),
        nn.Tanh(),
        nn.Linear(args.width, 1),
    )
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-2, weight_decay=0.1)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, args.steps)
    for _ in track(range(args.steps), f"fitting {len(inputs)} pairs"):
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
    merge_classifier = MergeClassifier(
        Mlp(
            names,
            mean,
            std,
            tuple(layer.weight.detach().double().numpy() for layer in layers),
            tuple(layer.bias.detach().double().numpy() for layer in layers),
            origin,
        )
    )
    some = slice(None, None, 1 + len(targets) // 1_000_000)  # of all the net takes gigabytes
    features, targets, weights = features[some], targets[some], weights[some]
    missed = np.average((merge_classifier(features.T) - targets) ** 2, weights=weights)
    variance = np.average((targets - np.average(targets, weights=weights)) ** 2, weights=weights)
    print(f"{len(inputs)} pairs, share of variance explained {1 - missed / variance:.3f}")
    return merge_classifier


def main() -> None:
    """Collect, fit, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", help="a .ckpt of lightning fit, or .safetensors")
    parser.add_argument("--shards", default="../shared/data/bsds500/train-*.tar")
    parser.add_argument("--num_images", type=int, help="at most this number, at regular steps")
    parser.add_argument("--more", nargs="*", default=[], help="shards of other sets")
    parser.add_argument("--num_more", type=int, default=25, help="images of each of these")
    parser.add_argument("--recolored", type=float, default=0.5, help="share of images used again")
    parser.add_argument(
        "--turned",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="turn images: features know the upright ones, which they were trained on, by heart",
    )
    parser.add_argument("--drawn", default="data_shards/train-*.tar", help="drawn scenes")
    parser.add_argument("--num_drawn", type=int, default=60, help="at most this number of these")
    parser.add_argument("--width", type=int, default=32)
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument(
        "--iterations", type=int, default=2, help="of merging by the merge_classifier so far"
    )
    parser.add_argument(
        "--boundaries",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="read predicted boundaries, too",
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--out", type=Path, help="else the file of the package")
    args = parser.parse_args()

    # Partitions say all; a hundred masks of an image take as many times its memory.
    images = [replace(image, masks=image.masks[:0].copy()) for image in scenes(args)]
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True
    ).stdout.strip()
    sets = ", ".join([args.shards, *args.more])
    origin = (
        f"{len(images)} images of {sets}, in part recolored, and of {args.drawn}, "
        f"features of {Path(args.checkpoint).name}, commit {commit}"
    )
    with ProcessPoolExecutor(args.processes) as pool:
        jobs = [pool.submit(known_image, args.checkpoint, image) for image in images]
        known = [job.result() for job in track(jobs, "superpixels")]
        args.boundaries &= known[0].graph.boundary_probabilities is not None
        parts = list(pool.map(first_samples, known))
        merge_classifier = fit(parts, args, origin)
        for number in range(args.iterations):
            jobs = [pool.submit(next_samples, image, merge_classifier) for image in known]
            parts += [job.result() for job in track(jobs, f"merging, iteration {number + 1}")]
            merge_classifier = fit(parts, args, origin)
    kind = "merge_classifier_boundaries" if args.boundaries else "merge_classifier"
    out = args.out or Path(f"maskfeat/segment/{kind}.safetensors")
    merge_classifier.save(out)
    print(f"in {out}")


if __name__ == "__main__":
    main()
