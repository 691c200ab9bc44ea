"""Images for tests: a red disc and a green square on gray; four fields of one color each."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from maskfeat.batch import HeldOutImage

SIZE = (90, 130)  # height, width
COLORS = np.array([[200, 40, 40], [40, 180, 60], [50, 60, 200], [220, 210, 60]], np.uint8)
ON_DISC, ON_SQUARE, ON_GROUND = [45, 40], [45, 100], [5, 5]


def disc() -> np.ndarray:
    rows, columns = np.mgrid[: SIZE[0], : SIZE[1]]
    return np.hypot(rows - 45, columns - 40) < 25


def square() -> np.ndarray:
    mask = np.zeros(SIZE, bool)
    mask[30:60, 85:115] = True
    return mask


def drawn() -> np.ndarray:
    rgb = np.full((*SIZE, 3), 120, np.uint8)
    rgb[disc()] = 200, 50, 40
    rgb[square()] = 40, 170, 60
    return rgb


def write_images(folder: Path, num: int = 3) -> list[Path]:
    folder.mkdir()
    paths = [folder / f"p{number}.png" for number in range(num)]
    for path in paths:
        Image.fromarray(drawn()).save(path)
    return paths


def click(place: list[int], label: int = 1, kind: str = "click", **extra: float) -> dict:
    return {"do": "prompt", "prompt": {"kind": kind, "points_yx": [place], "label": label, **extra}}


def iou(first: np.ndarray, second: np.ndarray) -> float:
    return float((first & second).sum() / (first | second).sum())


def four_fields(key: str = "fields", size: int = 48) -> HeldOutImage:
    """Four fields of one color each, a little noise, and their masks."""
    half = np.arange(size) // (size // 2)
    labels = (2 * half[:, None] + half).astype(np.int64)
    noise = np.random.default_rng(0).integers(-6, 7, (size, size, 3))
    image = (COLORS[labels].astype(int) + noise).clip(0, 255).astype(np.uint8)
    return HeldOutImage(key, image, labels == np.arange(4)[:, None, None], (labels,))
