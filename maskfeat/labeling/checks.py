"""What a `Labeler` refuses: each check says in one sentence what was expected, and what came."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from maskfeat.arguments import checked_number, is_whole, shown
from maskfeat.data.folder import find_images
from maskfeat.files import check_stems, holds_one_of
from maskfeat.segment.inputs import checked_granularity, checked_num_segments, checked_per_megapixel


def checked_paths(images: str | Path | Sequence[str | Path], out: Path) -> list[Path]:
    """The images, of different names without ending and not in `out`."""
    if isinstance(images, str | Path):
        paths = find_images(str(images))
    else:
        paths = [Path(path) for path in images]
    if not paths:
        raise FileNotFoundError("no image is given; name a folder or at least one file")
    check_is_elsewhere(out, paths, "out")
    check_stems(paths)
    return paths


def check_is_elsewhere(folder: Path, paths: Sequence[Path], name: str) -> None:
    """Refuse to write among the images, where others' annotations may lie."""
    if holds_one_of(folder, paths):
        raise ValueError(f"{name} must be another folder than that of the images, '{folder}'")


def check_settings(
    classes: Sequence[str],
    pairwise_weight: float,
    acquisition: str,
    max_megapixels: float,
    per_megapixel: float,
) -> None:
    """Refuse settings that are out of range."""
    _check_names(classes)
    checked_number("pairwise_weight", pairwise_weight, least=0)
    if acquisition not in ("uncertain", "energy", "given"):
        raise ValueError(f"acquisition must be uncertain, energy or given, got {acquisition!r}")
    checked_number("max_megapixels", max_megapixels, above=0)
    checked_per_megapixel(per_megapixel)


def _check_names(classes: object) -> None:
    """Refuse class names that are no different lines of text; they are lines of classes.txt."""
    names = list(classes) if isinstance(classes, Sequence) and not isinstance(classes, str) else []
    if not all(isinstance(name, str) and name.strip() and name.isprintable() for name in names):
        raise ValueError(
            "the name of a class must be printable text with at least one letter or sign, "
            f"got {shown(classes)}"
        )
    if len(names) < 2 or len({name.strip() for name in names}) < len(names):
        raise ValueError(
            "classes must be at least two different names; spaces around a name do not count, "
            f"got {shown(classes)}"
        )


def checked_size(
    granularity: float | None,
    num_segments: int | None,
    otherwise: tuple[float | None, int | None],
) -> tuple[float | None, int | None]:
    """The size of the region of a click, by granularity or by number; or `otherwise`."""
    if granularity is None and num_segments is None:
        return otherwise
    if granularity is not None and num_segments is not None:
        raise ValueError(
            f"give granularity or num_segments, not both, got {granularity} and {num_segments}"
        )
    # As numbers of Python: numpy's do not go into json.
    return (
        None if granularity is None else checked_granularity(granularity),
        None if num_segments is None else checked_num_segments(num_segments),
    )


def checked_click(click_yx: tuple[int, int], size: tuple[int, int]) -> tuple[int, int]:
    """Row and column of a click inside an image of this height and width."""
    if np.shape(click_yx) != (2,) or not all(is_whole(value) for value in click_yx):
        raise ValueError(f"a click must be two whole numbers (row, column), got {click_yx!r}")
    row, column = (int(value) for value in click_yx)
    if not (0 <= row < size[0] and 0 <= column < size[1]):
        raise ValueError(
            f"the click (row, column) = {(row, column)} lies outside the image of "
            f"{size[0]} x {size[1]} pixels (height x width)"
        )
    return row, column
