"""What `maskfeat segment` does: to one image, and to all of a run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from maskfeat.data.annotations.read_as import ReadAs

OUTPUTS = ("labels", "overlay", "contours")  # images that may be written beside KEY.json


@dataclass(frozen=True)
class Task:
    """One image to be segmented.

    Attributes:
        path: Its file.
        number: Its number, for the annotations.
        folder: Where to write.
    """

    path: Path
    number: int
    folder: Path


@dataclass(frozen=True)
class Work:
    """What is the same for all images of a run.

    Attributes:
        model: A file, a name, or "lab".
        device: Where its network runs, see `maskfeat.load`.
        cut: What to cut hierarchies with, see `Hierarchy.cut`.
        settings: What results are made of beside the image, see `result_origin`.
        outputs: Which images to write beside KEY.json, of `OUTPUTS`.
        read_as: How images are read.
        max_megapixels: Larger images are reduced to it before their features are taken.
        tile: They are not reduced, but their features taken tile by tile.
    """

    model: str
    device: str
    cut: dict[str, Any]
    settings: dict[str, Any]
    outputs: frozenset[str]
    read_as: ReadAs
    max_megapixels: float
    tile: bool = False
