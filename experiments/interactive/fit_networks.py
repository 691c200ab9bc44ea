"""Fit the two small networks that judge atoms and pixels by the clicks.

    python experiments/interactive/fit_networks.py

Objects of the train splits of BSDS500, ccp and coco128 and of drawn scenes are clicked: at random
for a start, then by robot users against the networks fitted so far, on features of several kinds,
so that the networks are not made for one alone. Every state of these games is a sample: how near
atoms and pixels are to the clicks, and whether they are the object. The networks learn it by
cross-entropy; that of pixels has weights that can only go one way (maskfeat/segment/monotone.py).
Nothing of iis/ or of BSDS500 val is read.
"""

from __future__ import annotations

import argparse
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from rich.progress import track
from torch import Tensor, nn

import maskfeat
from maskfeat.batch import ClickTarget
from maskfeat.data.heldout import ShardImages
from maskfeat.evaluate.baselines import LabEncoder
from maskfeat.evaluate.clicking import pick_target, played_rounds
from maskfeat.evaluate.robots import DeepestRobot, RandomRobot
from maskfeat.segment.click_net import ClickNet
from maskfeat.segment.interactive import InteractiveSegmenter
from maskfeat.segment.monotone import CLIP, MonotoneNet
from maskfeat.segment.networks import ClickNetworks, load_networks, save_networks
from maskfeat.segment.refine import PIXEL_MEASURES, PIXEL_SIGNS
from maskfeat.segment.scene import Scene

BATCH, RATE = 6, 6e-3  # states in a step; the largest learning rate
# States of a game that become samples, by number of clicks.
STATES = (1, 2, 3, 4, 5, 6, 8, 10, 12, 15, 20, 26, 34, 45, 60)
RANDOM_STATES = (1, 3, 6, 12, 20)
ATOMS_PER_GAME, PIXELS_PER_STATE = 400, 500
# Background far from the object weighs less in small objects: shares are of object + this.
LEAST_AREA = 0.05
PHOTOS = "../shared/data"
PLAYED = [
    *(f"maskfeat-b0={PHOTOS}/{name}/train-*.tar" for name in ("bsds500", "ccp", "coco128")),
    *(f"lab={PHOTOS}/{name}/train-*.tar" for name in ("bsds500", "coco128")),
    *(
        f"runs/bsds500.safetensors={PHOTOS}/{name}/train-*.tar"
        for name in ("bsds500", "ccp", "coco128")
    ),
    "runs/base/checkpoints/last.ckpt=data_shards/train-*.tar",
    "lab=data_shards/train-*.tar",
]

Samples = list[tuple[np.ndarray, np.ndarray, np.ndarray]]  # (F, N), (N,), (N,)


class State(NamedTuple):
    """A moment of a game, for `ClickNet.forward`: of clicks on background, then on object.

    Attributes:
        rows: Places of the clicks in `Game.clicked`, (N,) and (M,).
        contexts: Of these clicks, (N, C) and (M, C).
        measures: Of the atoms of the game, (A, F).
    """

    rows: list[Tensor]
    contexts: list[Tensor]
    measures: Tensor


class Game(NamedTuple):
    """A game as examples for the network of atoms.

    Attributes:
        atoms: Some atoms of the image, (A,).
        clicked: All that were clicked, each once, rising, (N,).
        ways: From each of these to each of those, (N, A, W).
        fraction: Share of object in each atom, (A,).
        weights: Of each atom in the loss, (A,).
        states: Moments of the game.
    """

    atoms: np.ndarray
    clicked: np.ndarray
    ways: Tensor
    fraction: Tensor
    weights: Tensor
    states: list[State]

    def odds(self, net: ClickNet, state: State) -> Tensor:
        """Log odds of the atoms in a state, (A,)."""
        return net([self.ways[rows] for rows in state.rows], state.contexts, state.measures)


def targets_of(played: Sequence[str], num_images: int) -> list[tuple[Any, ClickTarget]]:
    """One object of each image, with what gives the features it is clicked on."""
    found = []
    for model, _, shards in (text.partition("=") for text in played):
        encoder = LabEncoder(sigma=1.0) if model == "lab" else maskfeat.load(model)
        targets = [pick_target(image) for image in ShardImages(shards, num_images)]
        found += [(encoder, target) for target in targets if target is not None]
    return found


def random_clicks(target: np.ndarray, count: int, rng: np.random.Generator) -> Any:
    """Different pixels of the object and of the background, the first on the object."""
    signs = rng.random(count) < 0.5
    signs[0] = True
    places = []
    for is_object in (True, False):
        pixels = np.flatnonzero(target.ravel() == int(is_object))
        chosen = rng.choice(pixels, min(len(pixels), int((signs == is_object).sum())), False)
        places.append(chosen)
    signs = np.repeat([True, False], [len(p) for p in places])
    order = np.append(0, 1 + rng.permutation(len(signs) - 1))
    pixels = np.concatenate(places)[order]
    return np.stack(np.divmod(pixels, target.shape[1]), axis=1), signs[order]


def game_of_atoms(
    scene: Scene, target: np.ndarray, clicks_yx: np.ndarray, rng: np.random.Generator
) -> Game:
    """Some atoms of an image, and what all clicks of a game are to them, without states yet."""
    labels, count = scene.graph.labels, scene.graph.num_atoms
    is_counted = target >= 0
    pixels = np.bincount(labels[is_counted], minlength=count)
    objects = np.bincount(labels[target == 1], minlength=count)
    share = pixels / pixels.sum()
    fraction = objects / np.maximum(pixels, 1)
    on, off = share * fraction, share * (1 - fraction)
    probability = 0.5 * on / on.sum() + 0.5 * off / off.sum()
    chosen = rng.choice(count, ATOMS_PER_GAME, p=probability)
    weights = (share / np.maximum(probability, 1e-12))[chosen] / (on.sum() + LEAST_AREA)
    clicked = np.unique(labels[tuple(clicks_yx.T)]).astype(np.int64)
    ways = np.stack([scene.cutter.evidence.ways(int(atom))[:, chosen].T for atom in clicked])
    tensors = (torch.from_numpy(v.astype(np.float32)) for v in (ways, fraction[chosen], weights))
    return Game(chosen, clicked, *tensors, [])


def state_of_atoms(scene: Scene, game: Game, clicks: Any) -> State:
    """What is known after some clicks, on the object and on the background."""
    evidence, labels = scene.cutter.evidence, scene.graph.labels
    inside, outside = (np.unique(labels[tuple(c.T)]).astype(np.int64) for c in clicks)
    measures = evidence.measures(inside, outside)[:, game.atoms].T
    rows, contexts = [], []
    for own, other in ((outside, inside), (inside, outside)):
        rows.append(torch.from_numpy(np.searchsorted(game.clicked, own)))
        contexts.append(torch.from_numpy(evidence.contexts(own, other)))
    return State(rows, contexts, torch.from_numpy(np.ascontiguousarray(measures)))


def pixel_samples(scene: Scene, target: np.ndarray, clicks: Any, rng: np.random.Generator) -> Any:
    """Measures of some pixels in doubt, whether they are object, and their weight."""
    labels, width = scene.graph.labels, target.shape[1]
    cut = scene.cutter.cut(*(labels[tuple(c.T)] for c in clicks))
    pixels = [c @ (width, 1) for c in clicks]
    places, measures = scene.refiner.measures(cut.is_object[labels], cut.odds, *pixels)
    chosen = rng.choice(len(places), min(PIXELS_PER_STATE, len(places)), replace=False)
    chosen = chosen[target.ravel()[places[chosen]] >= 0]
    is_object = (target.ravel()[places[chosen]] == 1).astype(np.float64)
    return measures[:, chosen], is_object, np.ones(len(chosen))


def fit_atoms(games: Sequence[Game], epochs: int, seed: int, origin: str) -> ClickNet:
    """Cross-entropy, AdamW, one cycle."""
    torch.manual_seed(seed)
    net = ClickNet(origin=origin)
    places = [(game, state) for game in games for state in game.states]
    contexts = [context for _, state in places for context in state.contexts]
    with torch.no_grad():
        net.standardize("ways", torch.cat([game.ways.flatten(0, 1)[::37] for game in games]))
        net.standardize("contexts", torch.cat(contexts))
        net.standardize("measures", torch.cat([state.measures[::7] for _, state in places]))
    steps = epochs * (len(places) // BATCH)
    optimizer = torch.optim.AdamW(net.parameters(), RATE, weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, steps)
    for _ in track(range(epochs), f"fitting {len(places)} states of {len(games)} games"):
        order = torch.randperm(len(places))
        total = 0.0
        for chosen in order[: len(places) // BATCH * BATCH].split(BATCH):
            loss = torch.stack([loss_of(net, *places[i]) for i in chosen.tolist()]).mean()
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(net.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            total += loss.item()
    print(f"cross-entropy of atoms {total / (len(places) // BATCH):.4f}")
    return net.requires_grad_(False).eval()


def loss_of(net: ClickNet, game: Game, state: State) -> Tensor:
    """Weighted cross-entropy of the atoms of one state."""
    costs = nn.functional.binary_cross_entropy_with_logits(
        game.odds(net, state), game.fraction, reduction="none"
    )
    return (costs * game.weights).mean()


def fit(
    samples: Samples,
    measures: Sequence[str],
    signs: Sequence[int],
    width: int,
    epochs: int,
    seed: int,
    origin: str,
) -> MonotoneNet:
    """Cross-entropy, Adam, one cycle; weights are made positive by softplus."""
    values, targets, weights = (
        np.concatenate(kind, axis=-1) for kind in zip(*samples, strict=True)
    )
    mean, spread = values.mean(axis=1), values.std(axis=1) + 1e-3
    scaled = np.clip((values - mean[:, None]) / spread[:, None], -CLIP, CLIP)
    inputs, wanted, weighs = (
        torch.tensor(v, dtype=torch.float32) for v in (scaled, targets, weights / weights.mean())
    )
    torch.manual_seed(seed)
    direction = torch.tensor(signs, dtype=torch.float32)
    raw = [torch.randn(width, len(signs)) * 0.5 - 2, torch.randn(width, width) * 0.5 - 3]
    raw += [torch.randn(1, width) * 0.5 - 1.5, torch.randn(width, len(signs)) * 0.1]
    biases = [torch.randn(width, 1), torch.randn(width, 1) * 0.5, torch.zeros(1, 1)]
    parameters = [nn.Parameter(p) for p in (*raw, *biases)]
    first, second, third, free, *shifts = parameters

    def layers() -> list[torch.Tensor]:
        one_way = nn.functional.softplus(first) * direction
        positive = [nn.functional.softplus(p) for p in (second, third)]
        return [torch.where(direction == 0, free, one_way), *positive]

    def odds(values: torch.Tensor) -> torch.Tensor:
        one, two, three = layers()
        hidden = torch.tanh(two @ torch.tanh(one @ values + shifts[0]) + shifts[1])
        return (three @ hidden + shifts[2])[0]

    batch = min(8192, inputs.shape[1])
    per_epoch = inputs.shape[1] // batch
    optimizer = torch.optim.Adam(parameters, lr=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, epochs * per_epoch)
    for _ in track(range(epochs), f"fitting {len(targets)} samples"):
        order = torch.randperm(inputs.shape[1])
        total = 0.0
        for chosen in order[: per_epoch * batch].split(batch):
            costs = nn.functional.binary_cross_entropy_with_logits(
                odds(inputs[:, chosen]), wanted[chosen], reduction="none"
            )
            loss = (costs * weighs[chosen]).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item()
    print(f"cross-entropy {total / per_epoch:.4f}")
    return MonotoneNet(
        tuple(measures),
        tuple(signs),
        mean.astype(np.float32),
        spread.astype(np.float32),
        tuple(layer.detach().numpy() for layer in layers()),
        tuple(shift.detach().numpy() for shift in shifts),
        origin,
    )


def play(
    target: ClickTarget,
    encoder: Any,
    networks: ClickNetworks,
    clicks: int,
    number: int,
    rng: np.random.Generator,
) -> tuple[list[Game], Samples]:
    """Samples of one game; every second one is played by the robot that clicks at random."""
    segmenter = InteractiveSegmenter(encoder, networks=networks)
    robot = (RandomRobot(), DeepestRobot())[number % 2]
    *_, last = played_rounds(segmenter, target, clicks, robot=robot, seed=number)
    game = samples_of(segmenter, target.target, last.clicks_yx, last.is_positive, STATES, rng)
    # Users do not click at errors alone.
    drawn = random_clicks(target.target, max(RANDOM_STATES), rng)
    anywhere = samples_of(segmenter, target.target, *drawn, RANDOM_STATES, rng)
    return game[0] + anywhere[0], game[1] + anywhere[1]


def samples_of(
    segmenter: InteractiveSegmenter,
    target: np.ndarray,
    clicks_yx: np.ndarray,
    is_positive: np.ndarray,
    states: Sequence[int],
    rng: np.random.Generator,
) -> tuple[list[Game], Samples]:
    """Samples of atoms and of pixels, after so many of the clicks."""
    scene = segmenter.scene
    game = game_of_atoms(scene, target, clicks_yx, rng)
    of_pixels = []
    for count in states:
        if count > len(clicks_yx):
            break
        signs = is_positive[:count]
        clicks = clicks_yx[:count][signs], clicks_yx[:count][~signs]
        game.states.append(state_of_atoms(scene, game, clicks))
        of_pixels.append(pixel_samples(scene, target, clicks, rng))
    return [game], of_pixels


def flat_networks() -> ClickNetworks:
    """Networks that know nothing, to start from."""

    def flat(measures: Sequence[str], signs: Sequence[int]) -> MonotoneNet:
        count = len(measures)
        zero = np.zeros((1, 1), np.float32)
        weights = (np.zeros((1, count), np.float32), zero, zero)
        mean, spread = np.zeros(count, np.float32), np.ones(count, np.float32)
        return MonotoneNet(tuple(measures), tuple(signs), mean, spread, weights, (zero,) * 3)

    atoms = ClickNet().requires_grad_(False)
    for values in atoms.atoms[-1].parameters():
        values.zero_()
    return ClickNetworks(atoms, flat(PIXEL_MEASURES, PIXEL_SIGNS))


def main() -> None:
    """Play, fit, play again, fit again, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--play",
        nargs="+",
        default=PLAYED,
        help="MODEL=SHARDS: a name, a path, or lab for plain color, and the images to play on",
    )
    parser.add_argument("--num_images", type=int, default=30, help="of each of these")
    parser.add_argument("--clicks", type=int, nargs="+", default=[20], help="of each round")
    parser.add_argument(
        "--start", type=Path, help="networks to start from, instead of a round at random"
    )
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("maskfeat/segment/clicks.json"))
    args = parser.parse_args()

    torch.set_num_threads(1)
    targets = targets_of(args.play, args.num_images)
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"], capture_output=True, text=True
    ).stdout.strip()
    origin = (
        f"{len(targets)} objects of {', '.join(args.play)}, rounds of {args.clicks} clicks, "
        f"started from {args.start or 'random clicks'}, commit {commit}"
    )

    def fitted(of_atoms: list[Game], of_pixels: Samples) -> ClickNetworks:
        settings = (args.epochs, args.seed, origin)
        pixels = fit(of_pixels, PIXEL_MEASURES, PIXEL_SIGNS, 16, *settings)
        return ClickNetworks(fit_atoms(of_atoms, *settings), pixels)

    rng = np.random.default_rng(args.seed)
    networks = flat_networks() if args.start is None else load_networks(args.start)
    for clicks in (*([None] if args.start is None else []), *args.clicks):
        of_atoms: list[Game] = []
        of_pixels: Samples = []
        title = f"{clicks or 'random'} clicks"
        for number, (encoder, target) in enumerate(track(targets, title)):
            if clicks is None:
                segmenter = InteractiveSegmenter(encoder, networks=networks)
                segmenter.set_image(target.image)
                drawn = random_clicks(target.target, 20, rng)
                found = samples_of(segmenter, target.target, *drawn, STATES, rng)
            else:
                found = play(target, encoder, networks, clicks, number, rng)
            of_atoms += found[0]
            of_pixels += found[1]
        networks = fitted(of_atoms, of_pixels)
        save_networks(args.out, networks)
    print(f"written to {args.out}: {origin}")


if __name__ == "__main__":
    main()
