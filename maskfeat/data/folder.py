"""Pictures in a folder, for prediction."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps
from torch.utils.data import IterableDataset

_ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")


class Pictures(IterableDataset[dict[str, Any]]):
    """Pictures in turn; one that cannot be read is named in the log and left out.

    Args:
        paths: Files.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = paths

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """{"key": name without ending, "rgb": uint8 (H, W, 3)} for each picture."""
        for path in self.paths:
            try:
                yield {"key": path.stem, "rgb": read_picture(path)}
            except ValueError as error:
                logging.getLogger("maskfeat").warning("left out: %s", error)


def read_picture(path: Path) -> npt.NDArray[np.uint8]:
    """Read a picture, turn it upright, as RGB.

    Args:
        path: A file in any format that Pillow reads.

    Returns:
        uint8, shape (H, W, 3).

    Raises:
        ValueError: If the file is no whole picture.
    """
    try:
        with Image.open(path) as picture:
            return np.array(ImageOps.exif_transpose(picture).convert("RGB"))
    except (OSError, Image.DecompressionBombError) as error:
        raise ValueError(f"'{path}' cannot be read as a picture: {error}") from error


def find_pictures(place: str | None) -> list[Path]:
    """The pictures of a folder, sorted, or the one picture named.

    Args:
        place: A file or a folder.

    Raises:
        FileNotFoundError: If there is none.
    """
    if place is None:
        raise FileNotFoundError(
            "nothing to predict on: set data.predict to a picture or a folder of pictures"
        )
    path = Path(place)
    if path.is_file():
        return [path]
    found = sorted(p for p in path.glob("*") if p.suffix.lower() in _ENDINGS)
    if not found:
        raise FileNotFoundError(
            f"no picture ({', '.join(_ENDINGS)}) in '{place}'; set data.predict to a "
            "picture or a folder of pictures"
        )
    return found
