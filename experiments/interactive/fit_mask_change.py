"""Fit the network that says what a prompt changes of the mask that it was made on.

    python experiments/interactive/fit_mask_change.py

Simulated users click objects of the train splits: anywhere in errors, near their middle, and in it.
Their clicks carry their click radius, as those of the page do. Whenever it is asked whether
superpixels change their label, what was measured of some of them becomes samples: whether they
ought to is known. The other networks in the file stay as they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from click_samples import LEAST_AREA, targets_of
from mlp_fits import fit, fit_parser
from rich.progress import track
from versions import commit

from maskfeat.batch import ClickTarget
from maskfeat.evaluate.clicking import run_session
from maskfeat.evaluate.clicks_with_radius import ClicksWithRadius
from maskfeat.evaluate.simulated_users import next_click, random_click, realistic_click
from maskfeat.interactive.mask_change import CHANGE_FEATURES, MaskChangeReader
from maskfeat.interactive.networks import ClickNetworks, load_networks, save_networks
from maskfeat.interactive.segmenter import InteractiveSegmenter

# The users, and how many clicks: those that reach far are made early.
SESSIONS = ((random_click, 8), (random_click, 8), (next_click, 16), (realistic_click, 12))
SUPERPIXELS_PER_STEP = 200
MOST_WEIGHT = 20.0  # of the mean: small objects' superpixels weigh much
WIDTH = 12

Sample = tuple[np.ndarray, np.ndarray, np.ndarray]  # (F, N), (N,), (N,)


class Listening(MaskChangeReader):
    """A reader of changes that keeps what its network was asked about."""

    def __init__(self, reader: MaskChangeReader) -> None:
        super().__init__(reader.network, reader.graph)
        self.heard: list[tuple[bool, np.ndarray, np.ndarray]] = []

    def click_features(
        self,
        logits: Any,
        by_prompts: Any,
        superpixels: np.ndarray,
        to_object: bool,
        step: Any,
        windows: Any,
    ) -> np.ndarray:
        """What is measured, kept with the superpixels and the label they may get."""
        click_features = super().click_features(
            logits, by_prompts, superpixels, to_object, step, windows
        )
        self.heard.append((to_object, superpixels, click_features))
        return click_features


def samples_of(
    target: ClickTarget, encoder: Any, networks: ClickNetworks, rng: np.random.Generator
) -> list[Sample]:
    """Features of superpixels, the share of each that ought to change, and its weight."""
    segmenter = InteractiveSegmenter(encoder, networks=networks)
    player = ClicksWithRadius(segmenter)
    player.set_image(target.image)
    listening = segmenter.image_state.mask_change = Listening(segmenter.image_state.mask_change)
    for seed, (user, clicks) in enumerate(SESSIONS):
        run_session(player, target, clicks, user, seed)
    labels, count = listening.graph.labels, listening.graph.num_superpixels
    pixels = np.bincount(labels[target.target >= 0], minlength=count)
    objects = np.bincount(labels[target.target == 1], minlength=count)
    share = objects.sum() / labels.size + LEAST_AREA
    samples = []
    for to_object, superpixels, click_features in listening.heard:
        asked = np.flatnonzero(pixels[superpixels])
        chosen = rng.choice(asked, min(SUPERPIXELS_PER_STEP, len(asked)), replace=False)
        wanted = objects[superpixels[chosen]] / pixels[superpixels[chosen]]
        weights = (
            pixels[superpixels[chosen]] / labels.size / share * len(asked) / max(1, len(chosen))
        )
        samples.append((click_features[:, chosen], wanted if to_object else 1 - wanted, weights))
    return samples


def joined(samples: Sequence[Sample]) -> list[torch.Tensor]:
    """Values (F, N), what is wanted (N,) and weights of mean 1 (N,), float32."""
    values, wanted, weights = (
        torch.from_numpy(np.concatenate(kind, axis=-1).astype(np.float32))
        for kind in zip(*samples, strict=True)
    )
    weights = weights / weights.mean()
    return [values, wanted, weights.clamp(max=MOST_WEIGHT)]


def main() -> None:
    """Simulate, fit, write, in iterations."""
    args = fit_parser(__doc__, num_images=90).parse_args()

    torch.set_num_threads(1)
    targets = targets_of(args.play, args.num_images, args.objects, args.small_every)
    networks = load_networks(args.start)
    origin = (
        f"{len(targets)} objects of {', '.join(args.play)}, {args.iterations} iterations, "
        f"commit {commit()}"
    )
    rng = np.random.default_rng(args.seed)
    samples: list[Sample] = []
    for number in range(args.iterations):
        for encoder, target in track(targets, f"iteration {number + 1}"):
            samples += samples_of(target, encoder, networks, rng)
        if not samples:
            raise SystemExit(f"no click of {len(targets)} sessions was cut for; take more objects")
        values, wanted, weights = joined(samples)
        mask_change = fit(
            CHANGE_FEATURES,
            values,
            wanted,
            weights=weights,
            width=WIDTH,
            steps=args.steps,
            seed=args.seed,
            origin=origin,
        )
        networks = networks._replace(mask_change=mask_change)
        save_networks(args.out, networks)
    print(f"written to {args.out}: {origin}")


if __name__ == "__main__":
    main()
