"""Tars as SA-1B's own: images of 1500 x 2250, about 100 nested masks each, any order.

Images are enlarged and given a fine grain, so that a sample weighs about as much as the
genuine ones do (10.5 GB over 11,186 samples: 0.94 MB; of the eight images 1.28 MB). Of the
masks a third are things anywhere, the others lie in one of those before: parts, and parts of parts.
"""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFilter

from maskfeat.data.annotations.painting import encode
from maskfeat.data.synth import draw_scene

SIZE = (1500, 2250)
_GRAIN = 7.5  # standard deviation of the grain, of 255
_QUALITY = 90


def make_tars(
    folder: Path,
    num_images: int,
    photos: Path | None,
    num_tars: int = 2,
    size: tuple[int, int] = SIZE,
    num_masks: int = 100,
    seed: int = 0,
) -> list[Path]:
    """Write tars in the layout of SA-1B, members in random order.

    Args:
        folder: Where to; made if absent.
        num_images: In all tars together.
        photos: Folder of JPEGs to enlarge, each used again with another cut; None draws scenes.
        num_tars: How many tars.
        size: Height and width of the images, pixels.
        num_masks: Masks of each image.
        seed: Of everything.

    Returns:
        The tars.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    files = sorted(photos.glob("**/*.jpg")) if photos is not None else []
    paths = []
    for number in range(num_tars):
        members = []
        for image in range(number, num_images, num_tars):
            key = f"sa_{223750 + 7 * image}"
            content = annotate(nested_masks(size, num_masks, rng), key)
            members.append((f"{key}.jpg", _image(files, image, size, rng)))
            members.append((f"{key}.json", json.dumps(content).encode()))
        paths.append(folder / f"sa_{number:06d}.tar")
        with tarfile.open(paths[-1], "w") as tar:
            for place in rng.permutation(len(members)):
                name, data = members[place]
                entry = tarfile.TarInfo(f"./{name}")
                entry.size = len(data)
                tar.addfile(entry, io.BytesIO(data))
    return paths


def nested_masks(
    size: tuple[int, int], num: int, rng: np.random.Generator
) -> list[npt.NDArray[np.bool_]]:
    """Blobs with wavy outlines; two in three lie in one of those before them.

    Areas of things are log-uniform from 0.02 % to 25 % of the image, cut where they leave it.
    """
    masks: list[npt.NDArray[np.bool_]] = []
    height, width = size
    while len(masks) < num:
        if len(masks) < max(1, num // 3):
            area = np.exp(rng.uniform(np.log(2e-4), np.log(0.25))) * height * width
            middle = rng.uniform(0, (height, width))
            masks.append(_blob(size, middle, area, rng))
            continue
        around = masks[rng.integers(len(masks))]
        pixels = np.argwhere(around[::4, ::4]) * 4
        if len(pixels) < 20:
            continue
        area = 16 * len(pixels) * np.exp(rng.uniform(np.log(0.02), np.log(0.6)))
        inside = _blob(size, pixels[rng.integers(len(pixels))], area, rng) & around
        if inside.sum() > 100:
            masks.append(inside)
    return masks


def _blob(
    size: tuple[int, int], middle: npt.NDArray[Any], area: float, rng: np.random.Generator
) -> npt.NDArray[np.bool_]:
    radius = np.sqrt(area / np.pi)
    waves = np.arange(2, 24)
    heights = rng.normal(0, 0.25, len(waves)) / waves
    phases, stretch = rng.uniform(0, 2 * np.pi, len(waves)), np.exp(rng.uniform(-0.4, 0.4))
    reach = 2.2 * radius * max(stretch, 1 / stretch) + 2
    low = np.clip(np.floor(middle - reach), 0, size).astype(int)
    high = np.clip(np.ceil(middle + reach), 0, size).astype(int)
    y, x = np.ogrid[low[0] : high[0], low[1] : high[1]]
    y, x = (y - middle[0]) / stretch, (x - middle[1]) * stretch
    angles = np.linspace(-np.pi, np.pi, 721)
    edge = radius * (1 + (heights * np.cos(waves * angles[:, None] + phases)).sum(1))
    step = (np.arctan2(y, x) + np.pi) * (720 / (2 * np.pi))
    mask = np.zeros(size, bool)
    mask[low[0] : high[0], low[1] : high[1]] = np.hypot(y, x) < edge[np.rint(step).astype(int)]
    if not mask.any():
        mask[tuple(np.clip(middle, 0, np.array(size) - 1).astype(int))] = True
    return mask


def annotate(masks: list[npt.NDArray[np.bool_]], key: str) -> dict[str, Any]:
    """The json of a sample, with every entry that the genuine ones have."""
    height, width = masks[0].shape
    annotations = []
    for number, mask in enumerate(masks):
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        left, top = float(columns[0]), float(rows[0])
        box = [left, top, float(columns[-1]) - left, float(rows[-1]) - top]
        annotations.append(
            {
                "segmentation": {"size": [height, width], "counts": encode(mask)},
                "bbox": box,
                "area": int(mask.sum()),
                "predicted_iou": 0.9512345790863037,
                "point_coords": [[left + box[2] / 2 + 0.5, top + box[3] / 2 + 0.5]],
                "crop_box": [0.0, 0.0, float(width), float(height)],
                "id": 532000000 + number,
                "stability_score": 0.9712345600128174,
            }
        )
    image = {"image_id": 223750, "width": width, "height": height, "file_name": f"{key}.jpg"}
    return {"image": image, "annotations": annotations}


def _image(
    files: list[Path], number: int, size: tuple[int, int], rng: np.random.Generator
) -> bytes:
    """One image, enlarged and grained, as a JPEG."""
    if files:
        with Image.open(files[number % len(files)]) as opened:
            image = opened.convert("RGB")
    else:
        image = Image.fromarray(draw_scene(0, number, (480, 720)).image)
    width, height = image.size
    scale = min(width / size[1], height / size[0]) * rng.uniform(0.8, 1.0)
    left = rng.uniform(0, width - scale * size[1])
    top = rng.uniform(0, height - scale * size[0])
    box = (left, top, left + scale * size[1], top + scale * size[0])
    image = image.resize(size[::-1], Image.Resampling.BICUBIC, box=box)
    image = image.filter(ImageFilter.UnsharpMask(2, 120, 0))
    grain = rng.normal(0, _GRAIN, (*size, 1)).astype(np.float32)
    pixels = np.clip(np.asarray(image, np.float32) + grain, 0, 255).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=_QUALITY)
    return file.getvalue()
