"""Fit the network that says what a prompt near the outline means, to sessions of many clicks.

    python experiments/interactive/fit_narrow_band.py

The simulated user clicks objects of the train splits a hundred times, with clicks that have a
click radius, as those of the page. Whenever a click near the outline is read, what was measured of
the pixels around it becomes samples. The other networks in the file stay as they are.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from click_samples import targets_of
from mlp_fits import fit, fit_parser
from rich.progress import track
from versions import commit

from maskfeat.batch import ClickTarget
from maskfeat.evaluate.clicking import run_session
from maskfeat.evaluate.clicks_with_radius import ClicksWithRadius
from maskfeat.interactive.narrow_band import NARROW_BAND_FEATURES, NarrowBandReader
from maskfeat.interactive.networks import ClickNetworks, load_networks, save_networks
from maskfeat.interactive.segmenter import InteractiveSegmenter

MOST_SAMPLES = 40_000  # of one session


class Listening(NarrowBandReader):
    """A reader of narrow_band that keeps what its network was asked about."""

    def __init__(self, reader: NarrowBandReader) -> None:
        super().__init__(reader.network, reader.fine, reader.colors)
        self.heard: list[tuple[bool, Any, np.ndarray]] = []

    def read(self, prompt: Any, mask: Any, others: Any, window: Any) -> Any:
        """What is measured, kept with the places in the image and the sign of the prompt."""
        asked, click_features = super().read(prompt, mask, others, window)
        places = tuple(axis + side.start for axis, side in zip(asked, window, strict=True))
        self.heard.append((prompt.is_object, places, click_features))
        return asked, click_features


def samples_of(
    target: ClickTarget, encoder: Any, networks: ClickNetworks, clicks: int, rng: Any
) -> tuple[np.ndarray, np.ndarray]:
    """Features of pixels, float32, (F, N), and whether they were to change, bool, (N,)."""
    segmenter = InteractiveSegmenter(encoder, networks=networks)
    player = ClicksWithRadius(segmenter)
    player.set_image(target.image)
    listening = segmenter.image_state.narrow_band = Listening(segmenter.image_state.narrow_band)
    run_session(player, target, clicks)
    click_features, wanted = (
        [np.empty((len(NARROW_BAND_FEATURES), 0), np.float32)],
        [np.empty(0, bool)],
    )
    for is_object, places, values in listening.heard:
        truth = target.target[places]
        click_features.append(values[:, truth >= 0])
        wanted.append((truth == int(is_object))[truth >= 0])
    values, mask_change = np.concatenate(click_features, axis=1), np.concatenate(wanted)
    chosen = rng.permutation(len(mask_change))[:MOST_SAMPLES]
    return values[:, chosen], mask_change[chosen]


def main() -> None:
    """Simulate, fit, write, in iterations."""
    parser = fit_parser(__doc__, num_images=12)
    parser.add_argument("--clicks", type=int, default=100, help="of each session")
    args = parser.parse_args()

    torch.set_num_threads(1)
    targets = targets_of(args.play, args.num_images, args.objects, args.small_every)
    networks = load_networks(args.start)
    origin = (
        f"{len(targets)} objects of {', '.join(args.play)}, {args.clicks} clicks, "
        f"{args.iterations} iterations, commit {commit()}"
    )
    rng = np.random.default_rng(args.seed)
    for _ in range(args.iterations):
        samples = [
            samples_of(target, encoder, networks, args.clicks, rng)
            for encoder, target in track(targets, f"{args.clicks} clicks")
        ]
        values, wanted = (np.concatenate(kind, axis=-1) for kind in zip(*samples, strict=True))
        if not len(wanted):
            raise SystemExit(
                f"no click of {len(targets)} sessions came near an outline; take more (--clicks)"
            )
        inputs, truth = torch.from_numpy(values), torch.from_numpy(wanted).float()
        narrow_band = fit(
            NARROW_BAND_FEATURES, inputs, truth, steps=args.steps, seed=args.seed, origin=origin
        )
        networks = networks._replace(narrow_band=narrow_band)
        save_networks(args.out, networks)
    print(f"written to {args.out}: {origin}")


if __name__ == "__main__":
    main()
