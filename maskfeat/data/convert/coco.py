"""Images of COCO: instances drawn as polygons or run lengths, and panoptic segments."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from maskfeat.arrays import BoolArray, Float64Array
from maskfeat.data.annotations.image import SampleError, is_turned_sideways
from maskfeat.data.annotations.limits import MAX_PIXELS
from maskfeat.data.annotations.painting import RawRuns, join_runs, label_runs, mask_runs
from maskfeat.data.annotations.rle import parse_counts
from maskfeat.data.convert.files import one_number, read_file, read_png
from maskfeat.data.convert.sample import DEFAULTS, Record, Settings, SourceSample

Json = dict[str, Any]
Corners = Float64Array  # of a polygon, (x, y), shape (n, 2)

_KEPT = ("iscrowd", "category_id", "isthing")
_WRONG = (KeyError, TypeError, ValueError, IndexError, AttributeError, OverflowError)
_FARTHEST = 1e9
_SLACK_PX = 2.0  # so far corners may lie beyond the border by rounding


@dataclass(frozen=True)
class CocoRecord(Record):
    """An image of COCO: an entry of the JSON's images, and the annotations that belong to it.

    Attributes:
        image: The entry.
        annotations: Instances, or the segments of a panoptic annotation.
        labels: Name of the class of each, where the JSON tells it.
    """

    image: Json
    annotations: list[Json]
    labels: list[str | None]

    def entries(self) -> list[Json]:
        """What the shard keeps of each annotation."""
        entries = []
        for one, label in zip(self.annotations, self.labels, strict=True):
            entry: Json = {"level": "object"}
            if label is not None:
                entry["label"] = label
            entries.append(entry | {name: one[name] for name in _KEPT if name in one})
        return entries

    def known(self) -> Json:
        """What the shard keeps of the image."""
        return {"image_id": read_id(self.image["id"])}


@dataclass(frozen=True)
class InstancesRecord(CocoRecord):
    """An image with its instances: polygons, or COCO counts of either kind."""

    def read(self, settings: Settings = DEFAULTS) -> SourceSample:
        """Read the image, fill the polygons and read the counts."""
        if not self.annotations:
            raise SampleError("no masks", "the json has no annotation of this image")
        size = read_size(self.image.get("height"), self.image.get("width"))
        image = read_file(self.files[0], "image")
        masks, entries = [], list[Json]()
        drawn, left_out = list[Corners](), Counter[str]()
        for one, entry in zip(self.annotations, self.entries(), strict=True):
            segmentation = one.get("segmentation")
            if not segmentation:  # absent, null or empty: only a box is known
                left_out["no segmentation"] += 1
                continue
            if isinstance(segmentation, dict):
                if segmentation.get("size") != list(size):
                    raise SampleError(
                        "size mismatch",
                        f"a mask has size {str(segmentation.get('size'))[:80]}, its image "
                        f"{list(size)}",
                    )
                try:
                    masks.append(parse_counts([segmentation["counts"]], size)[:2])
                except _WRONG as error:
                    raise SampleError("bad rle", str(error)) from error
            else:
                polygons, num_lines = read_polygons(segmentation)
                left_out["polygon of fewer than 3 corners"] += num_lines
                if not polygons:
                    continue
                drawn += polygons
                masks.append(mask_runs(fill_polygons(polygons, size)))
            entries.append(entry)
        x, y = np.concatenate([np.zeros((1, 2)), *drawn]).max(axis=0) - _SLACK_PX
        fits_only_turned = (x > size[1] or y > size[0]) and x <= size[0] and y <= size[1]
        if fits_only_turned and is_turned_sideways(image):
            raise SampleError(
                "size mismatch",
                f"its polygons leave the {size[0]} x {size[1]} that the json gives; they were "
                "drawn on the image as its EXIF tag turns it: give height and width so, too",
            )
        return SourceSample(image, size, join_runs(masks), entries, self.known(), left_out)


@dataclass(frozen=True)
class PanopticRecord(CocoRecord):
    """An image with its panoptic segments, whose ids are the colors of a PNG."""

    def read(self, settings: Settings = DEFAULTS) -> SourceSample:
        """Read the PNG, and the image."""
        path, png = self.files
        labels = one_number(read_png(png, "panoptic PNG"))
        try:
            ids = np.array([read_id(one["id"]) for one in self.annotations])
            ids = ids.astype(np.int64, casting="same_kind" if len(ids) else "unsafe")
        except _WRONG as error:
            raise SampleError("bad json", f"a segment has no number as id: {error}") from error
        values, firsts = np.unique(ids, return_index=True)
        if len(values) < len(ids):
            raise SampleError("bad json", "two segments have the same id")
        starts, stops, place = label_runs(labels, values)
        owner = firsts.astype(np.int32)[place] if len(values) else place
        order = np.argsort(owner, kind="stable")
        runs: RawRuns = (starts[order], stops[order], owner[order])
        size = (labels.shape[0], labels.shape[1])
        jpg = read_file(path, "image")
        return SourceSample(jpg, size, runs, self.entries(), self.known())


def read_polygons(segmentation: object) -> tuple[list[Corners], int]:
    """Read the polygons of one instance: lists of x, y, x, y, ..., or one such list by itself.

    Returns:
        Corners (x, y), shape (n, 2), n of 3 or more, of each polygon; and how many polygons have
        fewer corners, which hold nothing.

    Raises:
        SampleError: "bad polygon" if it is something else.
    """
    try:
        parts = list(segmentation)  # type: ignore[call-overload]
        if parts and all(isinstance(one, int | float) for one in parts):
            parts = [parts]
        polygons = [np.array(one, np.float64).reshape(-1, 2) for one in parts]
        if not all((np.abs(polygon) < _FARTHEST).all() for polygon in polygons):
            raise ValueError("a coordinate is not finite, or beyond any image")
    except (TypeError, ValueError, OverflowError) as error:
        raise SampleError("bad polygon", f"a polygon is no list of x, y: {error}") from error
    whole = [polygon for polygon in polygons if len(polygon) >= 3]
    return whole, len(polygons) - len(whole)


def fill_polygons(polygons: Sequence[Corners], size: tuple[int, int]) -> BoolArray:
    """The pixels whose centers lie in any of some polygons, bool, (H, W) of `size`.

    Polygons are corners (x, y), shape (n, 2) each; the first pixel reaches from 0 to 1. By
    `skimage.draw.polygon`; pycocotools draws outlines on a grid five times finer instead, so
    that masks differ in some pixels at borders.
    """
    from skimage.draw import polygon

    mask = np.zeros(size, bool)
    for corners in polygons:
        rows, columns = polygon(  # type: ignore[no-untyped-call]
            corners[:, 1] - 0.5, corners[:, 0] - 0.5, shape=size
        )
        mask[rows, columns] = True
    return mask


def read_size(height: object, width: object) -> tuple[int, int]:
    """Read the height and width of an image, pixels; 480.0 and "480" are 480, too.

    Raises:
        SampleError: "bad json" unless both are there and above 0, with at most `MAX_PIXELS` pixels.
    """
    try:
        rows, columns = read_id(height), read_id(width)
    except ValueError:
        rows = columns = None
    if isinstance(rows, int) and isinstance(columns, int) and rows > 0 and columns > 0:
        if rows * columns <= MAX_PIXELS:
            return rows, columns
    raise SampleError(
        "bad json",
        f"an image needs a height and width, of at most {MAX_PIXELS} pixels, "
        f"got {str(height)[:80]}, {str(width)[:80]}",
    )


def read_id(value: object) -> Hashable:
    """An id as a number if it is one, else as text.

    Raises:
        ValueError: If it is neither a whole number nor text.
    """
    if isinstance(value, str) and value:
        return int(value) if value.isascii() and value.isdecimal() else value
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    raise ValueError(f"an id must be a whole number or text, got {str(value)[:80]!r}")
