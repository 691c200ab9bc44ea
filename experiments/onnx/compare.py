"""A model by PyTorch and by onnxruntime: are features and masks equal, and what do they cost?

    maskfeat export maskfeat-b0 maskfeat-b0.onnx
    python experiments/onnx/compare.py maskfeat-b0 maskfeat-b0.onnx

Both take turns on the same images, on one thread. Of each image: the largest difference of a
feature, the label map at the default granularity, and the masks of three clicks on one object, by a
simulated user who sees the masks of PyTorch. Times are CPU seconds of the process. Prints a table,
writes result.json.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from rich.progress import track

import maskfeat
from maskfeat.app.segment_command import DEFAULT_GRANULARITY
from maskfeat.batch import HeldOutImage
from maskfeat.data.heldout import ShardImages
from maskfeat.evaluate.clicking import pick_target, run_session
from maskfeat.interactive.segmenter import InteractiveSegmenter

CLICKS = 3
Found = TypeVar("Found")


class Timed:
    """A model with its segmenter, and the CPU seconds of each kind of work."""

    def __init__(self, path: str) -> None:
        self.model = maskfeat.load(path)
        self.segmenter = InteractiveSegmenter(self.model)
        self.seconds: dict[str, list[float]] = {"features": [], "set_image": [], "click": []}

    def features(self, rgb: np.ndarray) -> maskfeat.Features:
        """Features of an image."""
        return self._timed("features", lambda: self.model.features(rgb))

    def set_image(self, rgb: np.ndarray) -> None:
        """Take an image to click on."""
        self._timed("set_image", lambda: self.segmenter.set_image(rgb))

    def predict(self, clicks_yx: np.ndarray, is_positive: np.ndarray) -> np.ndarray:
        """The mask."""
        return self._timed("click", lambda: self.segmenter.predict(clicks_yx, is_positive))

    def _timed(self, name: str, call: Callable[[], Found]) -> Found:
        started = time.process_time()
        found = call()
        self.seconds[name].append(time.process_time() - started)
        return found


def compare(first: Timed, second: Timed, image: HeldOutImage) -> dict[str, float]:
    """What differs on one image."""
    both = [timed.features(image.image) for timed in (first, second)]
    cuts = [maskfeat.hierarchy(one).cut(granularity=DEFAULT_GRANULARITY) for one in both]
    row = {
        "feature": float(np.abs(both[0].dense() - both[1].dense()).max()),
        "labels": float((cuts[0] != cuts[1]).mean()),
    }
    target = pick_target(image)
    if target is None:
        return row
    steps = run_session(first, target, CLICKS)
    second.set_image(image.image)
    masks = [second.predict(step.clicks_yx, step.is_positive) for step in steps]
    differing = [float((step.mask != mask).mean()) for step, mask in zip(steps, masks, strict=True)]
    return row | {"mask": max(differing)}


def main() -> None:
    """Compare, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="a .safetensors file, or a name")
    parser.add_argument("graph", help="the .onnx file that was made of it")
    parser.add_argument("--shards", default="../shared/data/bsds500/val-*.tar")
    parser.add_argument("--num_images", type=int, default=50)
    parser.add_argument("--out", type=Path, default=Path("experiments/onnx/result.json"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    runtimes = [Timed(args.model), Timed(args.graph)]
    images = ShardImages(args.shards, args.num_images)
    rows = [compare(*runtimes, image) for image in track(list(images), "images")]
    seconds = [
        {name: float(np.median(values)) for name, values in runtime.seconds.items()}
        for runtime in runtimes
    ]
    masks = [row["mask"] for row in rows if "mask" in row]
    result = {
        "images": len(rows),
        "largest difference of a feature": max(row["feature"] for row in rows),
        "equal label maps": sum(row["labels"] == 0 for row in rows),
        "largest share of pixels of another label": max(row["labels"] for row in rows),
        "objects clicked": len(masks),
        "equal masks": sum(value == 0 for value in masks),
        "largest share of pixels of another side": max(masks, default=0),
        "CPU seconds by PyTorch": seconds[0],
        "CPU seconds by onnxruntime": seconds[1],
    }
    for name, value in result.items():
        if not isinstance(value, dict):
            print(f"{name}: {value:.3g}")
    print("\n| CPU seconds, median | PyTorch | onnxruntime | ratio |\n|---|--:|--:|--:|")
    for name, first in seconds[0].items():
        second = seconds[1][name]
        print(f"| {name} | {first:.4f} | {second:.4f} | {second / first:.2f} |")
    args.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
