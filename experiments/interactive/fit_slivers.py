"""Fit the network that says what a prompt near the outline means, to sessions of many clicks.

    python experiments/interactive/fit_slivers.py

The simulated user clicks objects of the train splits a hundred times, with clicks that carry their
reach, as those of the page do. Whenever a click near the outline is read, what was measured of the
pixels around it becomes samples. The other networks in the file stay as they are.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from click_samples import targets_of
from rich.progress import track
from small_fits import fit, fit_parser
from versions import commit

from maskfeat.batch import ClickTarget
from maskfeat.evaluate.clicking import run_session
from maskfeat.evaluate.clicks_with_radius import ClicksWithRadius
from maskfeat.interactive.narrow_band import SLIVER_MEASURES, SliverReader
from maskfeat.interactive.networks import ClickNetworks, load_networks, save_networks
from maskfeat.interactive.segmenter import InteractiveSegmenter

MOST_SAMPLES = 40_000  # of one session


class Listening(SliverReader):
    """A reader of slivers that keeps what its network was asked about."""

    def __init__(self, reader: SliverReader) -> None:
        super().__init__(reader.network, reader.fine, reader.colors)
        self.heard: list[tuple[bool, Any, np.ndarray]] = []

    def read(self, prompt: Any, mask: Any, others: Any, window: Any) -> Any:
        """What is measured, kept with the places in the image and the sign of the prompt."""
        asked, measures = super().read(prompt, mask, others, window)
        places = tuple(axis + side.start for axis, side in zip(asked, window, strict=True))
        self.heard.append((prompt.is_object, places, measures))
        return asked, measures


def samples_of(
    target: ClickTarget, encoder: Any, networks: ClickNetworks, clicks: int, rng: Any
) -> tuple[np.ndarray, np.ndarray]:
    """Measures of pixels, float32, (F, N), and whether they were to change, bool, (N,)."""
    segmenter = InteractiveSegmenter(encoder, networks=networks)
    player = ClicksWithRadius(segmenter)
    player.set_image(target.image)
    listening = segmenter.scene.slivers = Listening(segmenter.scene.slivers)
    run_session(player, target, clicks)
    measures, wanted = [np.empty((len(SLIVER_MEASURES), 0), np.float32)], [np.empty(0, bool)]
    for is_object, places, values in listening.heard:
        truth = target.target[places]
        measures.append(values[:, truth >= 0])
        wanted.append((truth == int(is_object))[truth >= 0])
    values, changes = np.concatenate(measures, axis=1), np.concatenate(wanted)
    chosen = rng.permutation(len(changes))[:MOST_SAMPLES]
    return values[:, chosen], changes[chosen]


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
        slivers = fit(
            SLIVER_MEASURES, inputs, truth, steps=args.steps, seed=args.seed, origin=origin
        )
        networks = networks._replace(slivers=slivers)
        save_networks(args.out, networks)
    print(f"written to {args.out}: {origin}")


if __name__ == "__main__":
    main()
