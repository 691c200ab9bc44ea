"""COCO: one JSON of instances, or one JSON of panoptic segments with its folder of PNGs."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from maskfeat.data.convert.files import one_number, read_file, read_png
from maskfeat.data.convert.measure import digest
from maskfeat.data.convert.runs import IntArray, RawRuns, join_runs, label_runs, mask_runs
from maskfeat.data.convert.sample import Missing, Record, SourceSample
from maskfeat.data.counts import MAX_PIXELS, parse_counts
from maskfeat.data.picture import SampleError

Json = dict[str, Any]

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

    def read(self) -> SourceSample:
        """Read it, see `maskfeat.data.convert.sample.Record`."""
        if not self.annotations:
            raise SampleError("no masks", "the json has no annotation of this image")
        size = _size(self.image)
        masks = [one.get("segmentation") for one in self.annotations]
        runs = join_runs([_instance_runs(mask, size) for mask in masks])
        entries = _entries(self.annotations, self.labels)
        return SourceSample(read_file(self.path, "image"), size, runs, entries, _image(self.image))


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

    def read(self) -> SourceSample:
        """Read it, see `maskfeat.data.convert.sample.Record`."""
        labels = one_number(read_png(self.png, "panoptic PNG"))
        runs = self._segment_runs(labels)
        entries = _entries(self.segments, self.labels)
        size = (labels.shape[0], labels.shape[1])
        return SourceSample(read_file(self.path, "image"), size, runs, entries, _image(self.image))

    def _segment_runs(self, labels: npt.NDArray[np.int64]) -> RawRuns:
        try:
            ids = np.array([int(one["id"]) for one in self.segments], np.int64)
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
    return any("segments_info" in one for one in content["annotations"][:1])


def list_coco(path: Path, content: Json, images_dir: str | None, is_segments: bool) -> list[Record]:
    """The samples of a COCO JSON.

    Args:
        path: The JSON.
        content: What `read_coco` read of it.
        images_dir: Folder of the images. None looks in the usual places; for the file
            `ROOT/annotations/instances_val2017.json` they are `ROOT/val2017`, then
            `ROOT/images/val2017`, `ROOT/images`, and the folder of the JSON itself.
        is_segments: Whether it is panoptic; the PNGs lie in the folder of its name.

    Raises:
        FileNotFoundError: If the folder of images or PNGs is not found.
        ValueError: If an image has no id or file name, or two have the same file name.
    """
    try:
        images = [(one["id"], str(one["file_name"]), one) for one in content["images"]]
        by_image: dict[Any, list[Json]] = defaultdict(list)
        for one in content["annotations"]:
            by_image[one["image_id"]].append(one)
        names = {one["id"]: str(one["name"]) for one in content.get("categories") or []}
    except _WRONG as error:
        raise ValueError(f"'{path}' is not laid out as COCO's: {error!r}") from error
    folder = _images_folder(path, images_dir, [name for _, name, _ in images[:1]])
    keys = [str(Path(name).with_suffix("")) for _, name, _ in images]
    if len(set(keys)) < len(keys):
        raise ValueError(f"'{path}' names the same image twice")
    records: list[Record] = []
    for key, (number, name, image) in zip(keys, images, strict=True):
        place, mine = str(folder / name), by_image.get(_plain(number), [])
        if is_segments:
            records.append(_panoptic_record(key, place, path, image, mine, names))
        else:
            labels = [names.get(_plain(one.get("category_id"))) for one in mine]
            records.append(InstancesRecord(key, place, image, mine, labels))
    return records


def _panoptic_record(
    key: str, place: str, path: Path, image: Json, mine: Sequence[Json], names: Mapping[Any, str]
) -> Record:
    if not mine:
        return Missing(key, "the json has no segments of this image")
    segments = mine[0].get("segments_info")
    if not isinstance(segments, list) or not all(isinstance(one, dict) for one in segments):
        segments = []
    png = path.with_suffix("") / str(mine[0].get("file_name", Path(place).stem + ".png"))
    labels = [names.get(_plain(one.get("category_id"))) for one in segments]
    return PanopticRecord(key, place, str(png), image, segments, labels)


def _images_folder(path: Path, images_dir: str | None, names: Sequence[str]) -> Path:
    """The folder of the images, told by whether it holds the first of them."""
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


def _instance_runs(segmentation: object, size: tuple[int, int]) -> tuple[IntArray, IntArray]:
    """Runs of one instance."""
    if isinstance(segmentation, dict):
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
    try:
        polygons = [np.array(one, np.float64).reshape(-1, 2) for one in segmentation]  # type: ignore[attr-defined]
        if not all(np.isfinite(polygon).all() for polygon in polygons):
            raise ValueError("a coordinate is not finite")
    except _WRONG as error:
        raise SampleError("bad polygon", f"a polygon is no list of x, y: {error}") from error
    return mask_runs(fill_polygons(polygons, size))


def fill_polygons(
    polygons: Sequence[npt.NDArray[np.float64]], size: tuple[int, int]
) -> npt.NDArray[np.bool_]:
    """The pixels whose centers lie in any of some polygons.

    By `skimage.draw.polygon`; pycocotools draws outlines on a grid five times finer instead, so
    that masks differ in some pixels at borders.

    Args:
        polygons: Corners (x, y), shape (n, 2) each; the first pixel reaches from 0 to 1.
        size: Height and width of the image, pixels.

    Returns:
        bool, shape (H, W).
    """
    from skimage.draw import polygon

    mask = np.zeros(size, bool)
    for corners in polygons:
        if len(corners) >= 3:
            rows, columns = polygon(  # type: ignore[no-untyped-call]
                corners[:, 1] - 0.5, corners[:, 0] - 0.5, shape=size
            )
            mask[rows, columns] = True
    return mask


def _size(image: Json) -> tuple[int, int]:
    height, width = image.get("height"), image.get("width")
    if type(height) is int and type(width) is int and height > 0 and width > 0:
        if height * width <= MAX_PIXELS:
            return height, width
    raise SampleError(
        "bad json", f"an image needs a height and width, got {str(height)[:80]}, {str(width)[:80]}"
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
    return {"image_id": image["id"]}


def _plain(value: object) -> object:
    """A value that can be looked up."""
    return value if isinstance(value, int | str) else None
