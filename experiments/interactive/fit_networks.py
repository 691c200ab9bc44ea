"""Fit the two networks that give superpixels and pixels a logit by the clicks.

    python experiments/interactive/fit_networks.py

Objects of the train splits of BSDS500, ccp and coco128 and of drawn scenes are clicked: at random
for a start, then by simulated users against the networks fitted so far, on features of several
kinds, so that the networks are not made for one alone. Every state of these sessions is a sample:
how near superpixels and pixels are to the clicks, and whether they are the object. The networks
learn it by cross-entropy; that of pixels has weights that can only go one way
(maskfeat/segment/mlp.py). Nothing of iis/ or of BSDS500 val is read.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from click_samples import (
    STATES,
    Samples,
    Session,
    State,
    add_object_arguments,
    random_clicks,
    samples_of,
    simulate,
    targets_of,
)
from rich.progress import track
from torch import Tensor, nn
from versions import commit

from maskfeat.interactive.networks import (
    ClickNet,
    ClickNetworks,
    default_networks,
    load_networks,
    save_networks,
)
from maskfeat.interactive.refine import PIXEL_FEATURES, PIXEL_SIGNS
from maskfeat.interactive.segmenter import InteractiveSegmenter
from maskfeat.segment.mlp import CLIP, Mlp

BATCH, RATE = 6, 6e-3  # states in a step; the largest learning rate


def fit_superpixels(sessions: Sequence[Session], epochs: int, seed: int, origin: str) -> ClickNet:
    """Cross-entropy, AdamW, one cycle."""
    torch.manual_seed(seed)
    net = ClickNet(origin=origin)
    places = [(session, state) for session in sessions for state in session.states]
    contexts = [context for _, state in places for context in state.contexts]
    with torch.no_grad():
        net.standardize(
            "distances", torch.cat([session.distances.flatten(1).T[::37] for session in sessions])
        )
        net.standardize("contexts", torch.cat(contexts))
        net.standardize(
            "superpixels", torch.cat([state.click_features.T[::7] for _, state in places])
        )
    steps = epochs * (len(places) // BATCH)
    optimizer = torch.optim.AdamW(net.parameters(), RATE, weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, steps)
    for _ in track(range(epochs), f"fitting {len(places)} states of {len(sessions)} sessions"):
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
    print(f"cross-entropy of superpixels {total / (len(places) // BATCH):.4f}")
    return net.requires_grad_(False).eval()


def loss_of(net: ClickNet, session: Session, state: State) -> Tensor:
    """Weighted cross-entropy of the superpixels of one state."""
    costs = nn.functional.binary_cross_entropy_with_logits(
        session.logits(net, state), session.fraction, reduction="none"
    )
    return (costs * session.weights).mean()


class OneWay(nn.Module):
    """The network of `Mlp` while it is fitted: weights are made positive by softplus.

    Args:
        signs: Which way each input may go: 1, -1, or 0 for either, length F.
        width: Units of each hidden layer.
    """

    def __init__(self, signs: Sequence[int], width: int) -> None:
        super().__init__()
        self.register_buffer("direction", torch.tensor(signs, dtype=torch.float32))
        self.first = nn.Parameter(torch.randn(width, len(signs)) * 0.5 - 2)
        self.second = nn.Parameter(torch.randn(width, width) * 0.5 - 3)
        self.third = nn.Parameter(torch.randn(1, width) * 0.5 - 1.5)
        self.free = nn.Parameter(torch.randn(width, len(signs)) * 0.1)  # of inputs of either way
        shifts = [torch.randn(width, 1), torch.randn(width, 1) * 0.5, torch.zeros(1, 1)]
        self.shifts = nn.ParameterList(shifts)

    def layers(self) -> list[Tensor]:
        """The weights as they count."""
        one_way = nn.functional.softplus(self.first) * self.direction
        positive = [nn.functional.softplus(weights) for weights in (self.second, self.third)]
        return [torch.where(self.direction == 0, self.free, one_way), *positive]

    def forward(self, values: Tensor) -> Tensor:
        """Logits, (F, N) -> (N,)."""
        one, two, three = self.layers()
        hidden = torch.tanh(two @ torch.tanh(one @ values + self.shifts[0]) + self.shifts[1])
        return (three @ hidden + self.shifts[2])[0]


def fit_one_way(
    samples: Samples,
    names: Sequence[str],
    signs: Sequence[int],
    width: int,
    epochs: int,
    seed: int,
    origin: str,
) -> Mlp:
    """A network with weights that can only go one way: cross-entropy, Adam, one cycle."""
    values, targets, weights = (
        np.concatenate(kind, axis=-1) for kind in zip(*samples, strict=True)
    )
    mean, std = values.mean(axis=1), values.std(axis=1) + 1e-3
    scaled = np.clip((values - mean[:, None]) / std[:, None], -CLIP, CLIP)
    inputs, wanted, weighs = (
        torch.tensor(v, dtype=torch.float32) for v in (scaled, targets, weights / weights.mean())
    )
    torch.manual_seed(seed)
    net = OneWay(signs, width)
    descend(net, inputs, wanted, weighs, epochs)
    return Mlp(
        tuple(names),
        mean.astype(np.float32),
        std.astype(np.float32),
        tuple(layer.detach().numpy() for layer in net.layers()),
        tuple(shift.detach().numpy()[:, 0] for shift in net.shifts),
        origin,
        tuple(signs),
    )


def descend(net: OneWay, inputs: Tensor, wanted: Tensor, weighs: Tensor, epochs: int) -> None:
    """Fit in place, to inputs (F, N), what is wanted of them, 0 to 1 (N,), and weights (N,)."""
    batch = min(8192, inputs.shape[1])
    per_epoch = inputs.shape[1] // batch
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, epochs * per_epoch)
    for _ in track(range(epochs), f"fitting {len(wanted)} samples"):
        order = torch.randperm(inputs.shape[1])
        total = 0.0
        for chosen in order[: per_epoch * batch].split(batch):
            costs = nn.functional.binary_cross_entropy_with_logits(
                net(inputs[:, chosen]), wanted[chosen], reduction="none"
            )
            loss = (costs * weighs[chosen]).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item()
    print(f"cross-entropy {total / per_epoch:.4f}")


def flat_networks() -> ClickNetworks:
    """Networks that know nothing, to start from."""

    def flat(names: Sequence[str], signs: Sequence[int]) -> Mlp:
        count, zero = len(names), np.zeros((1, 1), np.float32)
        weights = (np.zeros((1, count), np.float32), zero, zero)
        mean, std = np.zeros(count, np.float32), np.ones(count, np.float32)
        return Mlp(tuple(names), mean, std, weights, (zero[0],) * 3, signs=tuple(signs))

    superpixels = ClickNet().requires_grad_(False)
    for values in superpixels.superpixels[-1].parameters():
        values.zero_()
    return default_networks()._replace(
        superpixels=superpixels, pixels=flat(PIXEL_FEATURES, PIXEL_SIGNS)
    )


def main() -> None:
    """Simulate, fit, simulate again, fit again, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_object_arguments(parser, num_images=90)
    parser.add_argument(
        "--clicks", type=int, nargs="+", default=[30], help="of each session, an iteration for each"
    )
    parser.add_argument(
        "--start", type=Path, help="networks to start from, instead of random sessions"
    )
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("maskfeat/interactive/clicks.safetensors"))
    args = parser.parse_args()

    torch.set_num_threads(1)
    targets = targets_of(args.play, args.num_images, args.objects, args.small_every)
    origin = (
        f"{len(targets)} objects of {', '.join(args.play)}, sessions of {args.clicks} clicks, "
        f"started from {args.start or 'random clicks'}, commit {commit()}"
    )

    def fitted(of_superpixels: list[Session], of_pixels: Samples) -> ClickNetworks:
        settings = (args.epochs, args.seed, origin)
        pixels = fit_one_way(of_pixels, PIXEL_FEATURES, PIXEL_SIGNS, 16, *settings)
        return networks._replace(
            superpixels=fit_superpixels(of_superpixels, *settings), pixels=pixels
        )

    rng = np.random.default_rng(args.seed)
    networks = flat_networks() if args.start is None else load_networks(args.start)
    for clicks in (*([None] if args.start is None else []), *args.clicks):
        of_superpixels: list[Session] = []
        of_pixels: Samples = []
        title = f"{clicks or 'random'} clicks"
        for number, (encoder, target) in enumerate(track(targets, title)):
            if clicks is None:
                segmenter = InteractiveSegmenter(encoder, networks=networks)
                segmenter.set_image(target.image)
                drawn = random_clicks(target.target, 20, rng)
                found = samples_of(segmenter, target.target, *drawn, STATES, rng)
            else:
                found = simulate(target, encoder, networks, clicks, number, rng)
            of_superpixels += found[0]
            of_pixels += found[1]
        networks = fitted(of_superpixels, of_pixels)
        save_networks(args.out, networks)
    print(f"written to {args.out}: {origin}")


if __name__ == "__main__":
    main()
