"""Seconds before the first click and for each click, at several sizes of image, on one thread.

    python experiments/interactive/speed.py

The simulated user clicks objects of coco128 train, enlarged to the size: with clicks that carry
their click radius, as those of the page do, and with places and signs alone. Times are CPU
seconds of the process, and of several turns, which play the same clicks, the least counts for each
click: a busy machine does not spoil them. Prints a table, writes speed.json.
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

import maskfeat
from maskfeat.batch import ClickTarget
from maskfeat.data.heldout import ShardImages
from maskfeat.evaluate.clicking import ClickSegmenter, ClicksWithRadius, pick_target, run_session

SIZES = ((640, 480), (1024, 768), (2048, 2048))  # width, height


class Timed:
    """A segmenter with a clock; CPU seconds."""

    def __init__(self, segmenter: ClickSegmenter) -> None:
        self.segmenter = segmenter
        self.image_s: list[float] = []
        self.click_s: list[float] = []

    def set_image(self, rgb: np.ndarray) -> None:
        """Take an image."""
        started = time.process_time()
        self.segmenter.set_image(rgb)
        self.image_s.append(time.process_time() - started)

    def predict(self, clicks_yx: np.ndarray, is_positive: np.ndarray) -> np.ndarray:
        """The mask."""
        started = time.process_time()
        mask = self.segmenter.predict(clicks_yx, is_positive)
        self.click_s.append(time.process_time() - started)
        return mask


def resized(target: ClickTarget, size: tuple[int, int]) -> ClickTarget:
    """The image and its object at another size (width, height)."""
    image = Image.fromarray(target.image).resize(size)
    mask = Image.fromarray((target.target == 1).astype(np.uint8)).resize(size, Image.NEAREST)
    return ClickTarget(target.key, np.asarray(image), np.asarray(mask).astype(np.int8))


def main() -> None:
    """Click, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="maskfeat-b0")
    parser.add_argument("--shards", default="../shared/data/coco128/train-*.tar")
    parser.add_argument("--num_targets", type=int, default=6)
    parser.add_argument("--clicks", type=int, default=20)
    parser.add_argument("--turns", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("experiments/interactive/speed.json"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    model = maskfeat.load(args.model)
    found = [pick_target(image) for image in ShardImages(args.shards, args.num_targets)]
    targets = [target for target in found if target is not None]
    rows = []
    print("| size | clicks | s/image, median | ms/click, median | ms/click, 95 % |")
    print("|---|---|--:|--:|--:|")
    for size, has_radius in itertools.product(SIZES, (True, False)):
        turns = []
        for _ in range(args.turns):
            segmenter = maskfeat.InteractiveSegmenter(model)
            turns.append(Timed(ClicksWithRadius(segmenter) if has_radius else segmenter))
            for target in targets:
                run_session(turns[-1], resized(target, size), args.clicks)
        clicks = np.min([timed.click_s for timed in turns], axis=0) * 1000
        images = np.min([timed.image_s for timed in turns], axis=0)
        row = {
            "size": list(size),
            "has_radius": has_radius,
            "image_s": round(float(np.median(images)), 3),
            "click_ms": round(float(np.median(clicks)), 1),
            "click_ms_95": round(float(np.percentile(clicks, 95)), 1),
            "num_clicks": len(clicks),
        }
        rows.append(row)
        figures = " | ".join(str(row[name]) for name in ("image_s", "click_ms", "click_ms_95"))
        kind = "with click_radius" if has_radius else "places and signs"
        print(f"| {size[0]} x {size[1]} | {kind} | {figures} |")
    args.out.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
