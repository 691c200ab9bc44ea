"""Images for the tests of `maskfeat annotate`: a red disc and a green square on gray."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

SIZE = (90, 130)  # height, width
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
