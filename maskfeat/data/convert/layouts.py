"""Sets with a layout of their own: tars and folders as SA-1B, BSDS500, and ADE20K with parts."""

from __future__ import annotations

import contextlib
import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from maskfeat.data.annotations.image import SampleError
from maskfeat.data.annotations.limits import Limits
from maskfeat.data.annotations.painting import join_labels
from maskfeat.data.annotations.rle import parse_counts
from maskfeat.data.annotations.sample import check_sizes, how_to_read, parse_annotations
from maskfeat.data.convert.files import file_size, read_file, read_png
from maskfeat.data.convert.sample import (
    DEFAULTS,
    Missing,
    Record,
    Settings,
    SourceSample,
)
from maskfeat.data.shards.index import index_shard
from maskfeat.data.shards.index_file import Span
from maskfeat.data.shards.indexed import read_pair
from maskfeat.data.shards.sample_folder import list_samples

_LEVELS = ("object", "part", "subpart")  # of ADE20K


@dataclass(frozen=True)
class TarRecord(Record):
    """A JPEG and a JSON somewhere in a tar.

    Attributes:
        span: Where they lie.
        limits: What the sample may ask for.
    """

    span: Span
    limits: Limits = Limits()  # noqa: RUF009 - frozen

    def read(self, settings: Settings = DEFAULTS) -> SourceSample:
        """Read it where it lies."""
        jpg, text = read_pair(self.files[0], self.span, self.limits)
        return _source_sample(jpg, text, self.limits)


@dataclass(frozen=True)
class PairRecord(Record):
    """An image in any usual format and a JSON in the layout of SA-1B, as files.

    Attributes:
        limits: What the sample may ask for.
    """

    limits: Limits = Limits()  # noqa: RUF009 - frozen

    def read(self, settings: Settings = DEFAULTS) -> SourceSample:
        """Read both."""
        image, json_file = self.files
        check_sizes(file_size(image, "image"), file_size(json_file, "json"), self.limits)
        jpg, text = read_file(image, "image"), read_file(json_file, "json")
        return _source_sample(jpg, text, self.limits)


def _source_sample(jpg: bytes, text: bytes, limits: Limits) -> SourceSample:
    content, annotations, size = parse_annotations(text)
    try:
        counts = [one["segmentation"]["counts"] for one in annotations]
        runs = parse_counts(counts, size, limits.runs)
    except ValueError as error:
        raise SampleError("bad rle", str(error)) from error
    image = content.get("image")
    left_out = {"no segmentation": len(content["annotations"]) - len(annotations)}
    known = {**image} if isinstance(image, dict) else {}
    for name in ("path", "read_as"):  # the image goes into the shard, as it is read
        known.pop(name, None)
    read_as = how_to_read(content)
    return SourceSample(jpg, size, runs, annotations, known, left_out, limits.runs, read_as)


def list_tar(
    path: Path,
    index_dir: str | Path | None = None,
    limits: Limits = Limits(),  # noqa: B008 - frozen
) -> list[Record]:
    """The samples of a plain tar, those with a missing half too, see `index_shard`.

    Raises:
        FileNotFoundError: If there is no such tar.
        ValueError: If it is no tar, or holds two members for one key.
    """
    index = index_shard(path, index_dir)
    records: list[Record] = [
        TarRecord(key, (index.path,), span, limits) for key, span in index.places()
    ]
    return records + [Missing(key, detail) for key, detail in index.incomplete]


def list_files(folder: str, limits: Limits = Limits()) -> list[Record]:  # noqa: B008 - frozen
    """The samples of a folder of KEY.json with the images that they name, see `sample_folder`."""
    found = list_samples(folder, limits)
    records: list[Record] = [
        PairRecord(key, (image, json_file), limits) for key, image, json_file in found.samples
    ]
    return records + [Missing(key, error.detail, error.reason) for key, error in found.left_out]


@dataclass(frozen=True)
class BsdsRecord(Record):
    """An image of BSDS500, and its partitions in a .mat; annotators are numbered from 0."""

    def read(self, settings: Settings = DEFAULTS) -> SourceSample:
        """Read the partitions of all annotators."""
        from scipy.io import loadmat

        jpg, mat = self.files
        data = read_file(mat, "partitions")
        try:
            people = loadmat(io.BytesIO(data))["groundTruth"].ravel()
            partitions = [np.asarray(one["Segmentation"][0, 0]) for one in people]
        except Exception as error:  # SciPy's reader raises MatReadError, struct.error, zlib.error
            raise SampleError("bad mat", f"'{mat}' holds no groundTruth: {error!r}") from error
        if not partitions or not all(p.ndim == 2 and p.dtype.kind in "ui" for p in partitions):
            raise SampleError("bad mat", f"'{mat}' must hold label maps of whole numbers")
        size = partitions[0].shape
        if any(labels.shape != size for labels in partitions):
            raise SampleError("size mismatch", f"the partitions of '{mat}' differ in size")
        runs, values = join_labels(partitions)
        entries = [{"annotator": n} for n, of_one in enumerate(values) for _ in of_one]
        image = {"image_id": int(self.key)} if self.key.isascii() and self.key.isdigit() else {}
        return SourceSample(read_file(jpg, "image"), (size[0], size[1]), runs, entries, image)


def find_splits(place: Path) -> dict[str, Path]:
    """The folders of .mat files: `place` itself, or those of a folder of all BSDS500, by name."""
    if any(place.glob("*.mat")):
        return {place.name: place}
    for root in (place, place / "data", place / "BSDS500" / "data"):
        folders = [path for path in sorted(root.glob("groundTruth/*")) if any(path.glob("*.mat"))]
        if folders:
            return {path.name: path for path in folders}
    return {}


def list_bsds500(folder: Path) -> list[Record]:
    """The samples of a split, `.../groundTruth/SPLIT`: its KEY.mat with `images/SPLIT/KEY.jpg`.

    Raises:
        FileNotFoundError: If the folder of images is missing.
    """
    images = folder.parent.parent / "images" / folder.name
    if not images.is_dir():
        raise FileNotFoundError(f"the images of '{folder}' should be in '{images}'")
    mats = {path.stem: path for path in folder.glob("*.mat")}
    jpgs = {path.stem: path for path in images.glob("*.jpg")}
    records: list[Record] = []
    for key in sorted(mats.keys() | jpgs.keys()):
        if key in mats and key in jpgs:
            records.append(BsdsRecord(key, (str(jpgs[key]), str(mats[key]))))
        else:
            records.append(Missing(key, f"there is no {key}.{'jpg' if key in mats else 'mat'}"))
    return records


@dataclass(frozen=True)
class AdeRecord(Record):
    """An image of ADE20K with its objects, their parts and the parts of these.

    In its PNGs red / 10 * 256 + green is the class, 0 where there is none, and blue the instance
    (Zhou et al., CVPR 2017, and the code released with the set).
    """

    def read(self, settings: Settings = DEFAULTS) -> SourceSample:
        """Read its maps, level by level, and the names of the classes where a .json tells them."""
        jpg, *others = self.files
        paths = [path for path in others if not path.endswith(".json")]
        maps = []
        for path in paths:
            values = read_png(path, "map of segments")
            if values.ndim != 3:
                raise SampleError("bad mask", f"'{path}' must be in color")
            red, green, blue = (values[..., channel].astype(np.int64) for channel in range(3))
            category = red // 10 * 256 + green
            maps.append(np.where(category > 0, category * 256 + blue, 0))
            if maps[-1].shape != maps[0].shape:
                raise SampleError("size mismatch", f"the maps of '{self.key}' differ in size")
        runs, regions = join_labels(maps, is_zero_void=True)
        names = dict[int, str]()
        if len(paths) < len(others):  # faults of the .json cost the names
            with contextlib.suppress(OSError, ValueError, KeyError, TypeError, RecursionError):
                objects = json.loads(Path(others[-1]).read_bytes())["annotation"]["object"]
                names = {int(one["name_ndx"]): str(one["name"]) for one in objects}
        entries = list[dict[str, Any]]()
        for depth, numbers in enumerate(regions):
            for value in numbers.tolist():
                entry = {"level": _LEVELS[min(depth, 2)], "class_id": value // 256}
                label = names.get(value // 256)
                entries.append(entry if label is None else entry | {"label": label})
        size = (maps[0].shape[0], maps[0].shape[1])
        return SourceSample(read_file(jpg, "image"), size, runs, entries, {})


def list_ade20k(folder: Path) -> list[Record]:
    """The samples in a folder and all those below it; a JPEG without a map is one not whole.

    A sample is `KEY.jpg`, `KEY_seg.png`, `KEY_parts_1.png`, ..., and in the release of 2021
    `KEY.json`.

    Raises:
        ValueError: If two images have one name.
    """
    records: dict[str, Record] = {}
    taken: set[Path] = set()
    for seg in sorted(folder.rglob("*_seg.png")):
        key = seg.name.removesuffix("_seg.png")
        if key in records:
            raise ValueError(f"'{folder}' holds two images of the name '{key}'; give them apart")
        jpg, names = seg.with_name(f"{key}.jpg"), seg.with_name(f"{key}.json")
        if not jpg.is_file():
            records[key] = Missing(key, f"there is no {key}.jpg")
            continue
        taken.add(jpg)
        files, level = [jpg, seg], 1
        while (parts := seg.with_name(f"{key}_parts_{level}.png")).is_file():
            files.append(parts)
            level += 1
        files += [names] * names.is_file()
        records[key] = AdeRecord(key, tuple(map(str, files)))
    if not records:
        return []
    without = [
        Missing(str(jpg.relative_to(folder)), f"there is no {jpg.stem}_seg.png")
        for jpg in sorted(folder.rglob("*.jpg"))
        if jpg not in taken
    ]
    return [records[key] for key in sorted(records)] + without
