"""Plain folders of images beside their masks."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from maskfeat.data.annotations.image import SampleError
from maskfeat.data.annotations.painting import join_runs, label_runs, mask_runs
from maskfeat.data.convert.files import MASK_ENDINGS, one_number, read_file, read_labels, read_png
from maskfeat.data.convert.sample import (
    DEFAULTS,
    Missing,
    Record,
    Settings,
    SourceSample,
)
from maskfeat.data.folder import ENDINGS, listed_entries, say_passed_over

_JPEGS = (".jpg", ".jpeg", ".jpe", ".jfif")


@dataclass(frozen=True)
class LabelMapRecord(Record):
    """An image and a label map, where 0 (or black) belongs to no mask."""

    def read(self, settings: Settings = DEFAULTS) -> SourceSample:
        """Read both; pixels of the void label count as left out."""
        image, path = self.files
        labels, has_void = read_labels(path, settings.void_label)
        values = np.unique(labels[labels != 0])
        entries = [{"class_id": value} for value in values.tolist()]
        size = (labels.shape[0], labels.shape[1])
        runs, left_out = label_runs(labels, values), {"void": int(has_void)}
        return SourceSample(read_file(image, "image"), size, runs, entries, {}, left_out)


@dataclass(frozen=True)
class BinaryMasksRecord(Record):
    """An image, and a file for each of its masks, which is whatever is not 0 there."""

    def read(self, settings: Settings = DEFAULTS) -> SourceSample:
        """Read one mask after the other, so that one at a time is decoded."""
        image, *paths = self.files
        runs, sizes = [], set()
        for path in paths:
            mask = one_number(read_png(path, "mask")) != 0
            sizes.add((mask.shape[0], mask.shape[1]))
            runs.append(mask_runs(mask))
        if len(sizes) != 1:
            raise SampleError("size mismatch", f"the masks of '{self.key}' differ in size")
        entries = [{"mask_file": Path(path).name} for path in paths]
        jpg = read_file(image, "image")
        return SourceSample(jpg, sizes.pop(), join_runs(runs), entries, {})


def list_folder(folder: Path) -> list[Record]:
    """The images of a folder, in order of name.

    The folder holds KEY.jpg with either KEY.png, a label map, or a folder KEY of binary PNGs; the
    masks may also lie in `masks` beside a folder `images` that holds the images. What is taken
    neither as an image nor as a mask, by its name, is a sample that is skipped if it is an image or
    a folder; of other files the log says how many there are.

    Raises:
        ValueError: If there is no image, or two of one name.
    """
    is_apart = (folder / "images").is_dir() and (folder / "masks").is_dir()
    images = folder / "images" if is_apart else folder
    masks = folder / "masks" if is_apart else folder
    endings = ENDINGS if is_apart else _JPEGS
    files, folders = _visible(images)
    beside = _Masks(masks, _visible(masks) if is_apart else (files, folders))
    records: dict[str, Record] = {}
    image_of: dict[str, Path] = {}
    for path in files:
        if path.suffix.lower() not in endings:
            continue
        other = image_of.setdefault(path.stem, path)
        if other is not path:
            raise ValueError(
                f"'{images}' holds two images of one name, '{other.name}' and '{path.name}'; "
                "keep one of them"
            )
        records[path.stem] = beside.record(path)
    if not records:
        listed = listed_entries([*files, *folders])
        raise ValueError(
            f"'{images}' holds no image ({', '.join(endings)}){f', but {listed}' if listed else ''}"
        )
    rest = [path for path in files if path.suffix.lower() not in endings] + folders
    strays = _strays(images, [path for path in rest if path not in beside.taken])
    if is_apart:
        others = [path for path in beside.listed if path not in beside.taken]
        strays += _strays(masks, others)
    return [records[key] for key in sorted(records)] + strays


class _Masks:
    """The masks in a folder, found by the names of images.

    Attributes:
        listed: All files and folders in it.
        taken: Those that belong to an image that was asked for.
    """

    def __init__(self, folder: Path, listed: tuple[list[Path], list[Path]]) -> None:
        files, folders = listed
        self.listed = [*files, *folders]
        self.taken: set[Path] = set()
        self._folder = folder
        self._folders = {path.name: path for path in folders}
        self._maps: dict[str, list[Path]] = defaultdict(list)
        for path in files:
            if path.suffix.lower() in MASK_ENDINGS:
                self._maps[path.stem].append(path)

    def record(self, image: Path) -> Record:
        """The sample of an image."""
        key, maps = image.stem, self._maps.get(image.stem, [])
        folder = self._folders.get(key)
        parts = [] if folder is None else _visible(folder)[0]
        files = [one for one in parts if one.suffix.lower() in MASK_ENDINGS]
        self.taken |= {*maps, *([folder] if folder is not None and parts else [])}
        if len(maps) + bool(files) > 1:
            names = [one.name for one in maps] + [f"{key}/"] * bool(files)
            listed = "' and '".join(names)
            return Missing(key, f"its masks are in '{listed}'; keep one of them", "bad mask")
        if maps:
            return LabelMapRecord(key, (str(image), str(maps[0])))
        if folder is not None and files:
            say_passed_over(folder, set(parts) - set(files))
            return BinaryMasksRecord(key, tuple(map(str, (image, *files))))
        absent = f"there is neither {key}.png nor a folder {key} of PNGs in '{self._folder}'"
        return Missing(key, absent)


def _strays(folder: Path, paths: Sequence[Path]) -> list[Record]:
    """What lies in a folder and is neither image nor mask of one."""
    records: list[Record] = []
    others = []
    for path in paths:
        if path.suffix.lower() in ENDINGS:
            what = "neither an image of a format that is read here nor a mask of one"
        elif path.is_dir():
            what = "a folder that holds no masks of an image; name it as a source of its own"
        else:
            others.append(path)
            continue
        records.append(Missing(f"{folder.name}/{path.name}", f"'{path}' is {what}"))
    say_passed_over(folder, others)
    return records


def _visible(folder: Path) -> tuple[list[Path], list[Path]]:
    """Files and folders in a folder by name, without those whose names begin with a dot."""
    files, folders = list[Path](), list[Path]()
    with os.scandir(folder) as entries:  # it knows kinds without a `stat` for each
        for entry in sorted(entries, key=lambda one: one.name):
            if not entry.name.startswith("."):
                (folders if entry.is_dir() else files).append(Path(entry.path))
    return files, folders
