"""Tiny data sets in the layouts that `maskfeat shards convert` reads."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from scipy.io import savemat
from shard_factory import jpg_bytes

SIZE = (48, 64)


def save(path: Path, values: np.ndarray, mode: str | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values, mode).save(path)


def write_jpg(path: Path, rgb: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(jpg_bytes(rgb))


def blocks(*values: int) -> np.ndarray:
    """A label map of upright stripes, one for each value."""
    return np.repeat(np.array(values), SIZE[1] // len(values))[None].repeat(SIZE[0], 0)


def write_coco(root: Path, images: dict[str, Sequence[dict[str, Any]]], rgb: np.ndarray) -> Path:
    """`annotations/instances_val2017.json` and `val2017/`, as they are unpacked."""
    content: dict[str, Any] = {
        "info": {},
        "licenses": [],
        "categories": [{"id": 3, "name": "car", "supercategory": "vehicle"}],
        "images": [],
        "annotations": [],
    }
    for number, (name, instances) in enumerate(images.items(), 7):
        write_jpg(root / "val2017" / name, rgb)
        entry = {"id": number, "file_name": name, "height": SIZE[0], "width": SIZE[1]}
        content["images"].append({**entry, "license": 1, "coco_url": "http://x"})
        for one in instances:
            more = {"id": 900 + len(content["annotations"]), "image_id": number, "category_id": 3}
            content["annotations"].append({"iscrowd": 0, **more, **one})
    path = root / "annotations/instances_val2017.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


def write_bsds(root: Path, rgb: np.ndarray, people: Sequence[np.ndarray], key: str) -> None:
    """`images/train/KEY.jpg` and `groundTruth/train/KEY.mat`, the cells that MATLAB wrote."""
    write_jpg(root / f"images/train/{key}.jpg", rgb)
    cells = np.empty((1, len(people)), object)
    for number, labels in enumerate(people):
        cells[0, number] = {
            "Segmentation": labels.astype(np.uint16),
            "Boundaries": np.zeros(SIZE, np.uint8),
        }
    path = root / f"groundTruth/train/{key}.mat"
    path.parent.mkdir(parents=True, exist_ok=True)
    savemat(path, {"groundTruth": cells}, do_compression=True)


def ade_map(category: np.ndarray, instance: np.ndarray) -> np.ndarray:
    return np.stack([category // 256 * 10, category % 256, instance], -1).astype(np.uint8)
