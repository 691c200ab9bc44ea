"""What each part of the way from a click to the mask is worth: sessions without it, paired.

    python experiments/interactive/ablation.py --model FEATURES_AND_DECODER.safetensors

The standard user plays objects of train splits with clicks that carry their click radius. Rows of
the decoder need one in the model's file. Prints a table as markdown, writes every IoU as json.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch
from targets import open_targets

import maskfeat
from maskfeat.batch import ClickTarget
from maskfeat.evaluate.clicking import ClicksWithRadius, run_session
from maskfeat.evaluate.metrics import dropped_share, iou, noc
from maskfeat.interactive.feature_unary import FeatureUnary
from maskfeat.interactive.segmenter import InteractiveSegmenter

ROOM = "maskfeat.interactive."
SETS = ("bsds500", "coco_mini", "ccp")
CLICKS = (1, 2, 3, 5, 10, 20, 50, 100)


class NoTree(FeatureUnary):
    """Distances of features alone."""

    def __init__(self, graph, tree, is_learned, colors) -> None:
        super().__init__(graph, tree, False, colors)


# What each row is played without.
WITHOUT: dict[str, Callable[[], AbstractContextManager[object]]] = {
    "": nullcontext,
    "progressive merge": lambda: patch(ROOM + "update.BROAD_SHARE", 0.0),
    "cut of pixels": lambda: patch(ROOM + "cut.BAND_PX", 0),
    "tree": lambda: patch(ROOM + "image.FeatureUnary", NoTree),
}
ROWS = (
    *(("decoder", part) for part in ("", "progressive merge", "cut of pixels")),
    *(("features", part) for part in WITHOUT),
)


class Timed:
    """A segmenter whose clicks are timed, CPU milliseconds of one thread."""

    def __init__(self, segmenter: ClicksWithRadius) -> None:
        self.set_image = segmenter.set_image
        self._predict = segmenter.predict
        self.click_ms: list[float] = []

    def predict(self, clicks_yx: np.ndarray, is_positive: np.ndarray) -> np.ndarray:
        """The mask."""
        started = time.process_time()
        mask = self._predict(clicks_yx, is_positive)
        self.click_ms.append(1000 * (time.process_time() - started))
        return mask


def played(
    net: maskfeat.FeaturePyramid, unary: str, targets: Sequence[ClickTarget], num_clicks: int
) -> tuple[list[list[float]], list[float]]:
    """IoU after each click of each target, and milliseconds of all clicks."""
    decoder = None if unary == "decoder" else False
    player = Timed(ClicksWithRadius(InteractiveSegmenter(net, decoder=decoder)))
    ious = []
    for target in targets:
        found = [iou(s.mask, target.target) for s in run_session(player, target, num_clicks)]
        ious.append([round(value, 5) for value in found + found[-1:] * (num_clicks - len(found))])
    return ious, player.click_ms


def main() -> None:
    """Play, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="maskfeat-b0")
    parser.add_argument("--root", default="../shared/data")
    parser.add_argument("--num_targets", type=int, default=9, help="of each set")
    parser.add_argument("--clicks", type=int, default=20)
    parser.add_argument("--rows", nargs="+", type=int, default=range(len(ROWS)))
    parser.add_argument("--out", type=Path, default=Path("experiments/interactive/ablation.json"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    net = maskfeat.load(args.model)
    sets = [open_targets(f"{args.root}/{s}/train-*.tar", None, args.num_targets)[1] for s in SETS]
    targets = [t for found in sets for t in found if t is not None and (t.target == 1).any()]
    counts = [count for count in CLICKS if count <= args.clicks]
    at = " / ".join(map(str, counts))
    print(f"| unary | without | IoU@{at} | NoC@85 / 90 | drops | ms/click, median (95 %) |")
    print("|---|---|--:|--:|--:|--:|", flush=True)
    rows = {}
    for unary, part in [ROWS[number] for number in args.rows]:
        with WITHOUT[part]():
            ious, times = played(net, unary, targets, args.clicks)
        rows[f"{unary}, without {part}" if part else unary] = ious
        means = np.mean(ious, axis=0)
        nocs = [np.mean([noc(one, least, args.clicks) for one in ious]) for least in (0.85, 0.9)]
        print(
            f"| {unary} | {part} | {' / '.join(f'{means[c - 1]:.3f}' for c in counts)} | "
            f"{nocs[0]:.2f} / {nocs[1]:.2f} | {np.mean([dropped_share(one) for one in ious]):.3f} "
            f"| {np.median(times):.1f} ({np.percentile(times, 95):.1f}) |",
            flush=True,
        )
    args.out.write_text(json.dumps(rows) + "\n")


if __name__ == "__main__":
    main()
