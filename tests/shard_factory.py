"""Tiny shards in the exact layout of SA-1B, sound or with any fault, for everybody's tests."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from pycocotools import mask as coco

Rgb = npt.NDArray[np.uint8]
Masks = npt.NDArray[np.bool_]

# What each fault leads to when the sample is read; None: it must be read well all the same.
FAULTS: dict[str, str | None] = {
    "truncated jpg": "bad jpg",
    "not a jpg": "bad jpg",
    "empty jpg": "bad jpg",
    "bad json": "bad json",
    "json not utf-8": "bad json",
    "json too deep": "bad json",
    "json without annotations": "bad json",
    "rle of another size": "size mismatch",
    "rle of two sizes": "size mismatch",
    "rle garbage": "bad rle",
    "rle too short": "bad rle",
    "no masks": "no masks",
    "one-pixel masks": "no masks",
    "missing json": "incomplete",
    "missing jpg": "incomplete",
    "gray": None,
    "cmyk": None,
    "palette": None,
    "exif rotated": None,
    "exif half turn": None,
    "some one-pixel masks": None,
}


@dataclass(frozen=True)
class Scene:
    """What was put into a sample; `rgb` lies as its masks do."""

    key: str
    rgb: Rgb
    masks: Masks  # (N, H, W), one per annotation
    fault: str | None = None


def draw_scene(
    rng: np.random.Generator, size: tuple[int, int], num_masks: int = 4
) -> tuple[Rgb, Masks]:
    """Soft background and colored rectangles and discs, each one a mask; they overlap."""
    height, width = size
    y, x = np.mgrid[:height, :width]
    rgb = np.stack([60 + 80 * y / height, 90 + 60 * x / width, 100 + 0 * y], -1)
    masks = []
    for number in range(num_masks):
        cy, cx = rng.uniform(0.2, 0.8) * height, rng.uniform(0.2, 0.8) * width
        ry, rx = rng.uniform(0.1, 0.3, 2) * (height, width)
        if number % 2:
            mask = (np.abs(y - cy) <= ry) & (np.abs(x - cx) <= rx)
        else:
            mask = ((y - cy) / ry) ** 2 + ((x - cx) / rx) ** 2 <= 1
        mask[int(cy), int(cx) : int(cx) + 2] = True
        rgb[mask] = rng.uniform(0, 255, 3)
        masks.append(mask)
    return rgb.astype(np.uint8), np.array(masks, bool)


def jpg_bytes(rgb: Rgb, mode: str = "RGB", orientation: int | None = None) -> bytes:
    """A JPEG; with an orientation, stored so that a viewer shows `rgb`."""
    image = Image.fromarray(rgb).convert(mode, palette=Image.Palette.ADAPTIVE)
    file = io.BytesIO()
    options: dict[str, Any] = {"subsampling": 0} if mode == "RGB" else {}
    if orientation is not None:
        undo = {3: Image.Transpose.ROTATE_180, 6: Image.Transpose.ROTATE_90}[orientation]
        image = image.transpose(undo)
        exif = Image.Exif()
        exif[0x0112] = orientation
        options["exif"] = exif
    image.save(file, "PNG" if mode == "P" else "JPEG", quality=95, **options)
    return file.getvalue()


def annotation_of(
    masks: Masks, key: str = "sa_1", extra: Sequence[Mapping[str, Any]] = ()
) -> dict[str, Any]:
    """The content of a json, with float boxes and scores above 1 as SA-1B has them.

    Args:
        masks: One per annotation.
        key: Name of the sample.
        extra: More entries for each annotation, e.g. {"level": "part"}.
    """
    height, width = masks.shape[1:]
    annotations = []
    for number, mask in enumerate(masks):
        rle = coco.encode(np.asfortranarray(mask))
        box = [float(v) + 0.25 for v in coco.toBbox(rle)]
        entry: dict[str, Any] = {
            "bbox": box,
            "area": int(mask.sum()),
            "segmentation": {"size": [height, width], "counts": rle["counts"].decode()},
            "predicted_iou": 1.03,
            "point_coords": [[box[0] + 0.5, box[1] + 0.5]],
            "crop_box": [0.0, 0.0, float(width), float(height)],
            "id": 1000 + number,
            "stability_score": 0.97,
        }
        annotations.append({**entry, **(extra[number] if number < len(extra) else {})})
    image = {"image_id": 1, "width": width, "height": height, "file_name": f"{key}.jpg"}
    return {"annotations": annotations, "image": image}


def sample_files(scene: Scene, flip_keys: bool = False) -> dict[str, bytes]:
    """The files of a sample by extension, with the scene's fault.

    Args:
        scene: What the sample shows.
        flip_keys: Write the keys of the json in the other order.
    """
    rgb, masks, fault = scene.rgb, scene.masks, scene.fault
    mode = {"gray": "L", "cmyk": "CMYK", "palette": "P"}.get(fault or "", "RGB")
    jpg = jpg_bytes(rgb, mode, {"exif rotated": 6, "exif half turn": 3}.get(fault or ""))
    if fault in ("one-pixel masks", "some one-pixel masks"):
        masks = masks.copy()
        masks[: 1 if fault.startswith("some") else None] = False
        masks[: 1 if fault.startswith("some") else None, 3, 5] = True
    content = annotation_of(masks, scene.key)
    first = content["annotations"][0]["segmentation"]
    if fault == "rle of another size":
        content = annotation_of(np.pad(masks, ((0, 0), (0, 1), (0, 0))), scene.key)
    elif fault == "rle of two sizes":
        first["size"] = first["size"][::-1]
    elif fault == "rle garbage":
        first["counts"] = "\x7f\u00fc!"
    elif fault == "rle too short":
        first["counts"] = first["counts"][:-1]
    elif fault == "no masks":
        content["annotations"] = []
    elif fault == "json without annotations":
        del content["annotations"]
    if flip_keys:
        content = {name: content[name] for name in reversed(content)}
    text = json.dumps(content).encode()
    text = {
        "bad json": text[:-20],
        "json not utf-8": text.replace(b"sa_", b"\xff\xfe\xfa"),
        "json too deep": b"[" * 200_000 + b"]" * 200_000,
    }.get(fault or "", text)
    jpg = {
        "truncated jpg": jpg[: len(jpg) * 2 // 3],
        "not a jpg": b"this is no image",
        "empty jpg": b"",
    }.get(fault or "", jpg)
    files = {"jpg": jpg, "json": text}
    if fault in ("missing json", "missing jpg"):
        del files[fault.removeprefix("missing ")]
    return files


def write_members(
    path: Path, members: Sequence[tuple[str, bytes]], tar_format: int = tarfile.PAX_FORMAT
) -> Path:
    """A tar of these members, in this order."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=tar_format) as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def write_shard(
    path: Path,
    num_samples: int = 3,
    seed: int = 0,
    order: str = "sorted",
    prefix: str = "",
    dotted: bool = False,
    faults: Mapping[int, str] | None = None,
    size: tuple[int, int] = (40, 56),
    num_masks: int = 4,
    first_id: int = 100,
) -> list[Scene]:
    """A shard of drawn scenes.

    Args:
        path: The tar.
        num_samples: Samples, faulty ones included.
        seed: Of the scenes and of the random order.
        order: "sorted", "random" (as in the genuine SA-1B tars) or "halves" (all jpg, then all
            json, so that no half is next to its other).
        prefix: Before each name, e.g. "./".
        dotted: Put dots in the keys.
        faults: Sample number to one of `FAULTS`.
        size: Height and width of the images.
        num_masks: Masks of each image.
        first_id: Keys are sa_<first_id>, and so on.

    Returns:
        The scenes, in the order of their keys.
    """
    rng = np.random.default_rng(seed)
    scenes, members = [], []
    for number in range(num_samples):
        key = f"sa_{first_id + number}" + (".5_0.x" if dotted else "")
        rgb, masks = draw_scene(rng, size, num_masks)
        scene = Scene(key, rgb, masks, (faults or {}).get(number))
        scenes.append(scene)
        files = sample_files(scene, flip_keys=number % 2 == 1)
        members += [(f"{prefix}{key}.{kind}", data) for kind, data in files.items()]
    if order == "random":
        members = [members[i] for i in rng.permutation(len(members))]
    elif order == "halves":
        members.sort(key=lambda member: member[0].endswith("json"))
    write_members(path, members)
    return scenes


def files_of(folder: Path) -> dict[str, str]:
    """Checksums of the files of a folder, by name."""
    paths = [path for path in folder.iterdir() if path.is_file()]
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def killed_after(shard: str) -> str:
    """A program as maskfeat that names its children after a shard, then ends as by kill -9."""
    return f"""
import os, signal
from pathlib import Path
from maskfeat.cli import main
from maskfeat.data.convert.state import ConvertState
note_shard = ConvertState.note_shard

def note_and_die(self, note):
    note_shard(self, note)
    if note["shard"] == {shard!r}:
        for listed in Path("/proc/self/task").glob("*/children"):
            print(listed.read_text(), flush=True)
        os.kill(os.getpid(), signal.SIGKILL)

ConvertState.note_shard = note_and_die
main()
"""
