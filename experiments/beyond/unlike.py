"""Trees of images unlike the training set: with the merge classifier, without, and by color alone.

    python experiments/beyond/unlike.py

For each true mask the IoU of the best node, averaged over masks, then images: BSDS500 val as it is,
grey and inverted, and microscope images of nuclei. Nothing is trained or chosen on the nuclei.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table

import maskfeat
from maskfeat.arrays import RgbImage
from maskfeat.batch import HeldOutImage
from maskfeat.data.heldout import ShardImages
from maskfeat.evaluate.metrics import best_node_ious
from maskfeat.features.color import LabEncoder
from maskfeat.features.reading import FeatureModel
from maskfeat.segment.hierarchy import hierarchy
from maskfeat.segment.merge_classifier import MergeClassifier
from maskfeat.segment.superpixels import superpixels

LUMA = (0.299, 0.587, 0.114)


def grey(rgb: RgbImage) -> RgbImage:
    """The luminance in all three channels."""
    luminance = np.rint(rgb @ np.array(LUMA)).astype(np.uint8)
    return np.repeat(luminance[..., None], 3, axis=2)


def inverted(rgb: RgbImage) -> RgbImage:
    """The negative."""
    return 255 - rgb


def same(rgb: RgbImage) -> RgbImage:
    """As it is."""
    return rgb


SETS: dict[str, tuple[str, Callable[[RgbImage], RgbImage]]] = {
    "BSDS500 val": ("{root}/bsds500/val-*.tar", same),
    "BSDS500 val, grey": ("{root}/bsds500/val-*.tar", grey),
    "BSDS500 val, inverted": ("{root}/bsds500/val-*.tar", inverted),
    "nuclei": ("{root}/dev_nuclei/*.tar", same),
}
COLUMNS = ("merge classifier", "without", "Ward", "Ward on Lab")


def scores(
    model: FeatureModel,
    image: HeldOutImage,
    rgb: RgbImage,
    classifier: MergeClassifier | Literal["default"],
) -> list[float]:
    """Mean best IoU of the true masks of one image, for each of `COLUMNS`."""
    ours = superpixels(model.features(rgb))
    lab = superpixels(LabEncoder(sigma=1.0).features(rgb))
    trees = [
        hierarchy(ours, merge_classifier=classifier),
        hierarchy(ours, merge_classifier=None),
        hierarchy(ours, linkage="ward", merge_classifier=None),
        hierarchy(lab, linkage="ward", merge_classifier=None),
    ]
    return [
        float(best_node_ious(one.tree, one.superpixel_labels, image.masks).mean()) for one in trees
    ]


def main() -> None:
    """Measure, print, save."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="maskfeat-b0", help="a name, .ckpt or .safetensors")
    parser.add_argument("--classifier", type=Path, help="a merge classifier; else the packaged one")
    parser.add_argument("--root", default="../shared/data", help="folder of the data sets")
    parser.add_argument("--num_images", type=int, help="most images of each set, evenly spaced")
    parser.add_argument("--out", type=Path, default=Path("experiments/beyond/unlike.json"))
    args = parser.parse_args()

    torch.set_num_threads(1)
    model = maskfeat.load(args.model)
    classifier = MergeClassifier.load(args.classifier) if args.classifier else "default"
    table = Table("set", "images", *COLUMNS, title="mean best IoU of the nodes of a tree")
    record = []
    for name, (pattern, change) in SETS.items():
        images = ShardImages(pattern.format(root=args.root), args.num_images)
        found = [
            scores(model, image, change(image.image), classifier) for image in track(images, name)
        ]
        means = np.mean(found, axis=0).tolist()
        table.add_row(name, str(len(found)), *[f"{value:.3f}" for value in means])
        record.append({"set": name, "images": len(found), **dict(zip(COLUMNS, means, strict=True))})
    Console(width=110).print(table)
    args.out.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
