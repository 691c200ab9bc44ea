"""What `maskfeat segment` does to one image and to all of a run, and what results were made of.

A result keeps that inside it: a result of something else is made anew.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from maskfeat.data.annotations.read_as import ReadAs
from maskfeat.files import file_digest

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
        settings: What results are made of beside the image, see `origin_of`.
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


KEY = "made_of"


def origin_of(image: Path, settings: Mapping[str, Any]) -> dict[str, Any]:
    """What a result is made of: the image's file as it is now, and the settings, as JSON has them.

    Raises:
        OSError: If the file cannot be read.
    """
    status = image.stat()
    return {
        "settings": dict(settings),
        "num_bytes": status.st_size,
        "mtime_ns": status.st_mtime_ns,
        "digest": file_digest(image),
    }


def is_current(result: Path, image: Path, settings: Mapping[str, Any]) -> bool:
    """Whether `result`, a JSON file, was made of this image with these settings, see `origin_of`.

    Equal size and time of the image are believed; a copy with another time is compared by
    content.
    """
    try:
        content = json.loads(result.read_bytes())
    except (FileNotFoundError, ValueError):  # ValueError: no JSON
        return False
    origin = content.get(KEY) if isinstance(content, dict) else None
    if not isinstance(origin, dict) or origin.get("settings") != dict(settings):
        return False
    status = image.stat()
    if (origin.get("num_bytes"), origin.get("mtime_ns")) == (status.st_size, status.st_mtime_ns):
        return True
    return bool(origin.get("digest") == file_digest(image))
