"""COCO: one JSON of instances, or one JSON of panoptic segments with its folder of PNGs."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from maskfeat.arrays import IntArray
from maskfeat.data.annotations.counts import MAX_PIXELS, parse_counts
from maskfeat.data.annotations.image import SampleError, is_turned_sideways
from maskfeat.data.convert.coco_ids import annotations_of, by_id, read_id
from maskfeat.data.convert.files import one_number, read_file, read_png
from maskfeat.data.convert.measure import digest
from maskfeat.data.convert.polygons import Corners, fill_polygons, fits_only_turned, read_polygons
from maskfeat.data.convert.runs import RawRuns, join_runs, label_runs, mask_runs
from maskfeat.data.convert.sample import DEFAULTS, Missing, Record, Settings, SourceSample

Json = dict[str, Any]

_LOG = logging.getLogger("maskfeat")
_KEPT = ("iscrowd", "category_id", "isthing")
_WRONG = (KeyError, TypeError, ValueError, IndexError, AttributeError, OverflowError)


@dataclass(frozen=True)
class InstancesRecord:
    """An image of COCO with its instances: polygons, or COCO counts of either kind."""

    key: str
    path: str
    image: Json
    annotations: list[Json]
    labels: list[str | None]

    @property
    def files(self) -> tuple[str, ...]:
        """What it is read from."""
        return (self.path,)

    def read(self, settings: Settings = DEFAULTS) -> SourceSample:
        """Read it, see `maskfeat.data.convert.sample.Record`."""
        if not self.annotations:
            raise SampleError("no masks", "the json has no annotation of this image")
        size, image = _size(self.image), read_file(self.path, "image")
        masks, entries = [], list[Json]()
        drawn, left_out = list[Corners](), Counter[str]()
        for one, entry in zip(
            self.annotations, _entries(self.annotations, self.labels), strict=True
        ):
            segmentation = one.get("segmentation")
            if not segmentation:  # absent, null or empty: only a box is known
                left_out["no segmentation"] += 1
                continue
            if isinstance(segmentation, dict):
                masks.append(_counted_runs(segmentation, size))
            else:
                polygons, num_lines = read_polygons(segmentation)
                left_out["polygon of fewer than 3 corners"] += num_lines
                if not polygons:
                    continue
                drawn += polygons
                masks.append(mask_runs(fill_polygons(polygons, size)))
            entries.append(entry)
        if fits_only_turned(drawn, size) and is_turned_sideways(image):
            raise SampleError(
                "size mismatch",
                f"its polygons leave the {size[0]} x {size[1]} that the json gives; they were "
                "drawn on the image as its EXIF tag turns it: give height and width so, too",
            )
        runs = join_runs(masks)
        return SourceSample(image, size, runs, entries, _image(self.image), left_out)


@dataclass(frozen=True)
class PanopticRecord:
    """An image of COCO with its panoptic segments."""

    key: str
    path: str
    png: str
    image: Json
    segments: list[Json]
    labels: list[str | None]

    @property
    def files(self) -> tuple[str, ...]:
        """What it is read from."""
        return (self.path, self.png)

    def read(self, settings: Settings = DEFAULTS) -> SourceSample:
        """Read it, see `maskfeat.data.convert.sample.Record`."""
        labels = one_number(read_png(self.png, "panoptic PNG"))
        runs = self._segment_runs(labels)
        entries = _entries(self.segments, self.labels)
        size = (labels.shape[0], labels.shape[1])
        jpg = read_file(self.path, "image")
        return SourceSample(jpg, size, runs, entries, _image(self.image))

    def _segment_runs(self, labels: IntArray) -> RawRuns:
        try:
            ids = np.array([read_id(one["id"]) for one in self.segments])
            ids = ids.astype(np.int64, casting="same_kind" if len(ids) else "unsafe")
        except _WRONG as error:
            raise SampleError("bad json", f"a segment has no number as id: {error}") from error
        values, firsts = np.unique(ids, return_index=True)
        if len(values) < len(ids):
            raise SampleError("bad json", "two segments have the same id")
        starts, stops, place = label_runs(labels, values)
        owner = firsts.astype(np.int32)[place] if len(values) else place
        order = np.argsort(owner, kind="stable")
        return starts[order], stops[order], owner[order]


def read_coco(path: Path) -> tuple[Json, str]:
    """Read a JSON of COCO.

    Returns:
        Its content, and a digest of it.

    Raises:
        ValueError: If it is none.
    """
    data = path.read_bytes()
    try:
        content = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"'{path}' cannot be read as JSON: {error}") from error
    if not isinstance(content, dict) or not all(
        isinstance(content.get(name), list) for name in ("images", "annotations")
    ):
        raise ValueError(f"'{path}' must hold lists of images and annotations, as COCO's do")
    return content, digest(data)


def is_panoptic(content: Json) -> bool:
    """Whether the annotations of a COCO JSON are panoptic segments."""
    first = content["annotations"][:1]
    return any(isinstance(one, dict) and "segments_info" in one for one in first)


def list_coco(
    path: Path, content: Json, images_dir: str | None, is_segments: bool
) -> tuple[list[Record], dict[str, int]]:
    """The samples of a COCO JSON, and how many annotations belong to none, by reason.

    Args:
        path: The JSON.
        content: What `read_coco` read of it.
        images_dir: Folder of the images. None looks in the usual places; for the file
            `ROOT/annotations/instances_val2017.json` they are `ROOT/val2017`, then
            `ROOT/images/val2017`, `ROOT/images`, and the folder of the JSON itself.
        is_segments: Whether it is panoptic; the PNGs lie in the folder of its name.

    Raises:
        FileNotFoundError: If the folder of images or PNGs is not found.
        ValueError: If an image has no id or file name, if two images or categories have one id,
            two images one file name, or if no annotation belongs to an image.
    """
    try:
        images = by_id(content["images"], "images", "file_name")
        categories = by_id(content.get("categories") or [], "categories", "name")
        names = {number: str(one["name"]) for number, one in categories.items()}
        by_image, strays = annotations_of(content, images)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"'{path}' is not laid out as COCO's: {error!r}") from error
    except ValueError as error:
        raise ValueError(f"'{path}': {error}") from error
    if strays:
        _warn_of(strays, len(content["annotations"]), path)
    files = [str(one["file_name"]) for one in images.values()]
    folder = _images_folder(path, images_dir, files[:1])
    records: list[Record] = []
    for key, name, (number, image) in zip(_keys(files, path), files, images.items(), strict=True):
        place, mine = str(folder / name), by_image.get(number, [])
        if is_segments:
            records.append(_panoptic_record(key, place, path, image, mine, names))
        else:
            labels = [_label(names, one) for one in mine]
            records.append(InstancesRecord(key, place, image, mine, labels))
    return records, {f"annotation {reason}": len(ids) for reason, ids in strays.items()}


def _warn_of(strays: Mapping[str, Sequence[object]], num_annotations: int, path: Path) -> None:
    counts = ", ".join(
        f"{len(ids)} {reason} (e.g. image_id {str(ids[0])[:80]})" for reason, ids in strays.items()
    )
    num = sum(map(len, strays.values()))
    _LOG.warning(
        "'%s': %d of %d annotations belong to no image: %s; they are left out",
        *(path, num, num_annotations, counts),
    )


def _keys(files: Sequence[str], path: Path) -> list[str]:
    """Names of images: without ending, but where two would have one name."""
    for name, count in Counter(files).items():
        if count > 1:
            raise ValueError(f"'{path}' has {count} images of the file name '{name}'")
    count_of = Counter(str(Path(name).with_suffix("")) for name in files)
    keys = [str(Path(name).with_suffix("")) for name in files]
    return [key if count_of[key] == 1 else name for key, name in zip(keys, files, strict=True)]


def _panoptic_record(
    key: str,
    place: str,
    path: Path,
    image: Json,
    mine: Sequence[Json],
    names: Mapping[Hashable, str],
) -> Record:
    if not mine:
        return Missing(key, "the json has no segments of this image")
    if len(mine) > 1:
        return Missing(key, f"the json lists its segments {len(mine)} times", "bad json")
    segments = mine[0].get("segments_info")
    if not isinstance(segments, list) or not all(isinstance(one, dict) for one in segments):
        segments = []
    png = path.with_suffix("") / str(mine[0].get("file_name", Path(place).stem + ".png"))
    labels = [_label(names, one) for one in segments]
    return PanopticRecord(key, place, str(png), image, segments, labels)


def _images_folder(path: Path, images_dir: str | None, names: Sequence[str]) -> Path:
    """The folder of the images: the one that contains the first of them."""
    if images_dir is not None:
        if not Path(images_dir).is_dir():
            raise FileNotFoundError(f"no folder of images '{images_dir}'")
        return Path(images_dir)
    split = path.stem.split("_", 1)[-1]  # instances_val2017, panoptic_val2017
    root = path.parent.parent
    folders = [root / split, root / "images" / split, root / "images", path.parent]
    for folder in folders:
        if folder.is_dir() and all((folder / name).is_file() for name in names):
            return folder
    present = next((folder for folder in folders[:3] if folder.is_dir()), None)
    if present is None:
        raise FileNotFoundError(
            f"the images of '{path}' are not in {', '.join(map(str, folders))}; set images_dir"
        )
    return present


def _counted_runs(segmentation: Json, size: tuple[int, int]) -> tuple[IntArray, IntArray]:
    """Runs of one instance from COCO counts."""
    if segmentation.get("size") != list(size):
        raise SampleError(
            "size mismatch",
            f"a mask has size {str(segmentation.get('size'))[:80]}, its image {list(size)}",
        )
    try:
        starts, stops, _ = parse_counts([segmentation["counts"]], size)
    except _WRONG as error:
        raise SampleError("bad rle", str(error)) from error
    return starts, stops


def _size(image: Json) -> tuple[int, int]:
    given = image.get("height"), image.get("width")
    try:
        height, width = (read_id(value) for value in given)  # 480.0 and "480" are 480, too
    except ValueError:
        height = width = None
    if isinstance(height, int) and isinstance(width, int) and height > 0 and width > 0:
        if height * width <= MAX_PIXELS:
            return height, width
    raise SampleError(
        "bad json",
        f"an image needs a height and width, got {str(given[0])[:80]}, {str(given[1])[:80]}",
    )


def _entries(annotations: Sequence[Json], labels: Sequence[str | None]) -> list[Json]:
    entries = []
    for one, label in zip(annotations, labels, strict=True):
        entry: Json = {"level": "object"}
        if label is not None:
            entry["label"] = label
        entries.append(entry | {name: one[name] for name in _KEPT if name in one})
    return entries


def _image(image: Json) -> Json:
    return {"image_id": read_id(image["id"])}


def _label(names: Mapping[Hashable, str], one: Json) -> str | None:
    """The name of an annotation's class."""
    try:
        return names.get(read_id(one.get("category_id")))
    except ValueError:
        return None
