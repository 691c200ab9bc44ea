"""Objects, parts and subparts: does one hierarchy per image hold them all?

    python experiments/hierarchy/levels.py
    python experiments/hierarchy/levels.py --model maskfeat-b0 other.safetensors

For each true mask the best node of the tree; recall is the share of masks whose best node has
IoU 0.5. Masks of less than 0.01 % of the image are left out. On ade20k_sample (train is all there
is; none of it was trained on), CamVid, car parts, ccp, facades and the drawn scenes, all val;
beside the trees of the models Ward's tree on Lab color. maskfeat-b0 was trained on the train split
of ccp and on nothing of the others.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table

import maskfeat
from maskfeat.arrays import RgbImage
from maskfeat.data.annotations.painting import decode
from maskfeat.data.annotations.sample import AnnotatedImage
from maskfeat.data.shards.indexed import IndexedShards
from maskfeat.evaluate.metrics import best_node_ious
from maskfeat.features.color import LabEncoder
from maskfeat.features.reading import FeatureModel
from maskfeat.segment.hierarchy import Hierarchy, hierarchy

SETS = {
    "ade20k_sample": "{root}/ade20k_sample/train-*.tar",
    "camvid val": "{root}/camvid/val-*.tar",
    "carparts val": "{root}/carparts/val-*.tar",
    "ccp val": "{root}/ccp/val-*.tar",
    "facades val": "{root}/facades/val-*.tar",
    "drawn val": "data_shards/val-*.tar",
}
MIN_SHARE = 0.0001


def best_ious(found: Hierarchy, sample: AnnotatedImage) -> dict[str, list[float]]:
    """Level -> IoU of the best node for each of its masks."""
    masks = decode(sample.runs)
    areas = masks.sum(axis=(1, 2))
    iou = best_node_ious(found.tree, found.superpixel_labels, masks)
    by_level = defaultdict(list)
    for number, annotation in enumerate(sample.runs.annotation):
        if areas[number] >= MIN_SHARE * masks[0].size:
            by_level[sample.levels[annotation] or "object"].append(float(iou[number]))
    return by_level


def trees_of(rgb: RgbImage, models: Sequence[FeatureModel], lab: LabEncoder) -> Iterator[Hierarchy]:
    """The hierarchy of each model, and Ward's tree on Lab color last."""
    for model in models:
        yield hierarchy(model.features(rgb))
    yield hierarchy(lab.features(rgb), linkage="ward", merge_classifier=None)


def main() -> None:
    """Measure, print, save."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--model", nargs="+", default=["maskfeat-b0"], help="names, .ckpt or .safetensors"
    )
    parser.add_argument("--root", default="../shared/data", help="folder of the data sets")
    parser.add_argument("--out", type=Path, default=Path("experiments/hierarchy"))
    args = parser.parse_args()

    torch.set_num_threads(1)
    models, lab = [maskfeat.load(one) for one in args.model], LabEncoder(sigma=1.0)
    table = Table(title="share of masks with a node of IoU 0.5 or more; mean best IoU")
    for column in ("set", "level", "masks", *args.model, "Ward on Lab"):
        table.add_column(column)
    record = []
    for name, pattern in SETS.items():
        shards = IndexedShards(pattern.format(root=args.root))
        columns = [defaultdict(list) for _ in (*models, lab)]
        for number in track(range(len(shards)), name):
            sample = shards[number]
            for column, tree in zip(columns, trees_of(sample.decode(), models, lab), strict=True):
                for level, values in best_ious(tree, sample).items():
                    column[level] += values
        for level in sorted(columns[0], key=["object", "region", "part", "subpart"].index):
            found = [np.array(column[level]) for column in columns]
            cells = [f"{(v >= 0.5).mean():.3f}; {v.mean():.3f}" for v in found]
            table.add_row(name, level, str(len(found[0])), *cells)
            record.append(
                {
                    "set": name,
                    "level": level,
                    "masks": len(found[0]),
                    "recall": [float((v >= 0.5).mean()) for v in found],
                    "mean_best_iou": [float(v.mean()) for v in found],
                }
            )
    Console(width=110).print(table)
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "levels.json").write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
