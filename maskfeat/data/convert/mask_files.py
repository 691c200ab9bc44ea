"""Masks of one image in the formats of other tools: COCO, YOLO, VOC, LabelMe, GeoJSON, and more."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from maskfeat.arrays import BoolArray
from maskfeat.data.annotations.image import SWAPS_SIDES, ImageFile, SampleError
from maskfeat.data.annotations.limits import MAX_PIXELS
from maskfeat.data.annotations.painting import decode_annotations, encode
from maskfeat.data.annotations.read_as import ReadAs
from maskfeat.data.annotations.sample import how_to_read, is_crowd, parse_annotations
from maskfeat.data.convert.coco import fill_polygons, read_polygons, read_size
from maskfeat.data.convert.coco_json import label_of
from maskfeat.data.convert.files import read_labels

Size = tuple[int, int]
Named = tuple[str, BoolArray | None]  # None if an entry holds no mask
UNNAMED = "object"  # what a mask is called if nobody named it
_VOID = 255  # in the PNGs of VOC


@dataclass(frozen=True)
class NamedMasks:
    """Masks of an image of this height and width, pixels, each with the name of its class.

    Attributes:
        counts: COCO counts of each mask.
        left_out: How many entries of the file are no masks, or empty.
        read_as: How the image is read, where the file says so.
    """

    size: Size
    counts: tuple[str, ...]
    names: tuple[str, ...]
    left_out: int = 0
    read_as: ReadAs = ReadAs()  # noqa: RUF009 - frozen


def of_coco(
    annotations: Sequence[Mapping[str, Any]], names: Mapping[Any, str], image: Mapping[str, Any]
) -> NamedMasks:
    """Instances of one image: polygons, or COCO counts of either kind; crowds are left out.

    The classes have `names` by their ids; `image` is the entry in the JSON.
    """
    size = read_size(image.get("height"), image.get("width"))

    def found() -> Iterator[Named]:
        for one in annotations:
            name, segmentation = label_of(names, one) or UNNAMED, one.get("segmentation")
            if not segmentation or is_crowd(one):  # of the former only a box is known
                yield name, None
            elif not isinstance(segmentation, dict):
                yield name, fill_polygons(read_polygons(segmentation)[0], size)
            elif list(segmentation.get("size", [])) != list(size):
                raise SampleError("size mismatch", f"a mask has not the size {list(size)}")
            else:
                yield name, decode_annotations([segmentation["counts"]], size)[0]

    return _named(found(), size)


def of_yolo(path: Path, names: Mapping[int, str], image: Path | None) -> NamedMasks:
    """Lines of Ultralytics' YOLO for segmentation; those of boxes alone are left out.

    Raises:
        SampleError: "bad polygon" if a line holds no numbers; "incomplete" without the image.
    """
    size = _size_of(image, path)

    def found() -> Iterator[Named]:
        for line in filter(None, map(str.strip, path.read_text().splitlines())):
            try:
                number, *shares = map(float, line.split())
            except ValueError as error:
                fault = f"a line holds no numbers: {line[:80]}"
                raise SampleError("bad polygon", fault) from error
            name = names.get(int(number), f"class {int(number)}")
            if len(shares) < 6 or len(shares) % 2:
                yield name, None
            else:
                corners = np.array(shares).reshape(-1, 2) * size[::-1]
                yield name, fill_polygons([corners], size)

    return _named(found(), size)


def of_voc(path: Path, path_of_classes: Path | None, names: Sequence[str]) -> NamedMasks:
    """The PNGs of PASCAL VOC: a number for each object, and for each class; 255 is void.

    Args:
        path: Of the objects, 0 where there is none.
        path_of_classes: Of their classes, of the same size, or None.
        names: Of class 1, 2, ...
    """
    objects = read_labels(str(path), "none")[0]
    classes = None if path_of_classes is None else read_labels(str(path_of_classes), "none")[0]

    def found() -> Iterator[Named]:
        for number in np.unique(objects[(objects > 0) & (objects != _VOID)]).tolist():
            mask = objects == number
            name = UNNAMED
            if classes is not None:
                place = int(np.bincount(classes[mask].ravel()).argmax())
                name = names[place - 1] if 0 < place <= len(names) else f"class {place}"
            yield name, mask

    return _named(found(), (objects.shape[0], objects.shape[1]))


def of_label_map(path: Path) -> NamedMasks:
    """A PNG of numbers or colors: each one, but 0 or black, is a mask."""
    labels, _ = read_labels(str(path), "auto")
    values = np.unique(labels[labels != 0]).tolist()
    size = (labels.shape[0], labels.shape[1])
    return _named(((UNNAMED, labels == value) for value in values), size)


def of_labelme(path: Path) -> NamedMasks:
    """A file of LabelMe: polygons, rectangles, circles and masks; shapes of one group are one."""
    content = read_json(path)
    size = read_size(content.get("imageHeight"), content.get("imageWidth"))
    groups: dict[Any, list[Mapping[str, Any]]] = {}
    for number, shape in enumerate(content["shapes"]):
        group, name = shape.get("group_id"), str(shape.get("label") or UNNAMED)
        key = ("alone", number, name) if group is None else ("group", group, name)
        groups.setdefault(key, []).append(shape)

    def found() -> Iterator[Named]:
        for (*_, name), group in groups.items():
            whole: BoolArray | None = None
            for one in group:  # one after another: a group can have thousands
                part = _mask_of_shape(one, size)
                if part is not None:
                    whole = part if whole is None else whole | part
            yield name, whole

    return _named(found(), size)


def of_geojson(path: Path, image: Path | None) -> NamedMasks:
    """Features of polygons in pixels, named by `classification` (of QuPath) or `name`."""
    content = read_json(path)
    known = content.get("image")
    if isinstance(known, dict):
        size = read_size(known.get("height"), known.get("width"))
    else:
        size = _size_of(image, path)

    def found() -> Iterator[Named]:
        for feature in content["features"]:
            known = feature.get("properties") or {}
            named = known.get("classification")
            name = (named if isinstance(named, dict) else known).get("name")
            yield str(name or UNNAMED), _mask_of_geometry(feature.get("geometry") or {}, size)

    return _named(found(), size)


def of_sa1b(path: Path) -> NamedMasks:
    """A KEY.json in the layout of SA-1B, named by `label`, or else `level`."""
    content = read_json(path)
    known = content.get("image")
    if isinstance(known, dict) and content["annotations"] == []:  # done, without an object
        size = read_size(known.get("height"), known.get("width"))
        return NamedMasks(size, (), (), read_as=how_to_read(content))
    _, annotations, size = parse_annotations(path.read_bytes())
    names = tuple(str(one.get("label", one.get("level", UNNAMED))) for one in annotations)
    # Lists and strings alike are checked, and become strings.
    masks = (decode_annotations([one["segmentation"]["counts"]], size)[0] for one in annotations)
    return NamedMasks(size, tuple(map(encode, masks)), names, read_as=how_to_read(content))


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object.

    Raises:
        SampleError: "bad json".
    """
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise SampleError("bad json", f"'{path}' cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise SampleError("bad json", f"'{path}' holds no JSON object")
    return content


def _named(found: Iterable[Named], size: Size) -> NamedMasks:
    """Encode masks one by one, so that no two of them are in memory at once."""
    names, counts, left_out = list[str](), list[str](), 0
    for name, mask in found:
        if mask is None or not mask.any():
            left_out += 1
            continue
        names.append(name)
        counts.append(encode(mask))
    return NamedMasks(size, tuple(counts), tuple(names), left_out)


def _mask_of_geometry(geometry: Mapping[str, Any], size: Size) -> BoolArray | None:
    """The pixels of a geometry of GeoJSON; None if it is no polygon."""
    kind = geometry.get("type")
    if kind not in ("Polygon", "MultiPolygon"):
        return None
    corners, mask = geometry["coordinates"], np.zeros(size, bool)
    for rings in corners if kind == "MultiPolygon" else [corners]:
        part = np.zeros(size, bool)
        for ring in rings:  # an outline, then its holes
            part ^= fill_polygons([np.array(ring, np.float64)[:, :2]], size)
        mask |= part
    return mask


def _mask_of_shape(shape: Mapping[str, Any], size: Size) -> BoolArray | None:
    """The pixels of a shape of LabelMe; None if it has none, as a line or a point."""
    points = np.array(shape["points"], np.float64).reshape(-1, 2)
    kind = shape.get("shape_type", "polygon")
    if kind == "mask":
        return _pasted_mask(shape["mask"], points, size)
    if kind == "rectangle":
        (left, top), (right, bottom) = points.min(axis=0), points.max(axis=0)
        points = np.array([[left, top], [right, top], [right, bottom], [left, bottom]])
    elif kind == "circle":
        angles = np.linspace(0, 2 * np.pi, 128, endpoint=False)
        radius = np.hypot(*(points[1] - points[0]))
        points = points[0] + radius * np.stack([np.cos(angles), np.sin(angles)], 1)
    elif kind != "polygon" or len(points) < 3:
        return None
    return fill_polygons([points], size)


def _pasted_mask(text: str, points: Any, size: Size) -> BoolArray:  # noqa: ANN401 - an array
    """A mask of LabelMe: a PNG of its box, whose first and last pixel are the points."""
    try:
        with Image.open(io.BytesIO(base64.b64decode(text)), formats=("PNG",)) as image:
            if image.width * image.height > MAX_PIXELS:
                raise ValueError(f"it has more than {MAX_PIXELS} pixels")
            inside = np.asarray(image) > 0
    except Exception as error:  # Pillow's parsers raise OSError, SyntaxError, struct.error, ...
        raise SampleError("bad mask", f"a mask cannot be read: {error}") from error
    left, top = map(round, points[0].tolist())  # either may lie outside of the image
    inside = inside[max(0, -top) :, max(0, -left) :]
    top, left = max(0, top), max(0, left)
    mask = np.zeros(size, bool)
    box = mask[top : top + inside.shape[0], left : left + inside.shape[1]]
    box[...] = inside[: box.shape[0], : box.shape[1]]
    return mask


def _size_of(image: Path | None, source: Path) -> tuple[int, int]:
    """Height and width of an image as a viewer shows it; its masks do not tell them."""
    if image is None:
        raise SampleError(
            "incomplete", f"'{source}' does not tell a size, and its image is not there"
        )
    with image.open("rb") as opened:
        file = ImageFile(opened)
        is_turned = file.orientation in SWAPS_SIDES
        width, height = file.size[::-1] if is_turned else file.size
    return read_size(height, width)
