"""Masks of many images written in the formats that trainers and annotation tools read."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from maskfeat.data.annotations.painting import encode
from maskfeat.files import whole_file
from maskfeat.formats.coverage import Rings, as_one_line
from maskfeat.formats.image_masks import ImageMasks
from maskfeat.formats.sa1b import annotation_of_mask, image_entry, json_bytes

_MOST_OF_A_PALETTE = 254  # 0 is the background, 255 is void


class Writer(ABC):
    """Writes the masks of images, one after the other, and at last what holds for all.

    Args:
        folder: Where to.
        tolerance_px: Of the polygons, see `coverage`; None where none are written.
    """

    def __init__(self, folder: Path, tolerance_px: float | None = None) -> None:
        self._folder, self._tolerance_px = folder, tolerance_px
        self._classes: dict[str, int] = {}  # numbers of names, from 0 in the order they come

    @abstractmethod
    def add(self, image: ImageMasks) -> None:
        """Write the files of one image, or keep its masks."""

    def finish(self) -> None:  # noqa: B027 - most formats have none
        """Write the files of the set."""

    def _number_of(self, name: str) -> int:
        return self._classes.setdefault(name, len(self._classes))

    def _polygons_of(self, image: ImageMasks) -> list[list[Rings]]:
        assert self._tolerance_px is not None
        return image.polygons(self._tolerance_px)


class CocoWriter(Writer):
    """`annotations.json` in COCO's format for instances (https://cocodataset.org/#format-data).

    COCO's polygons know no holes: an outline is joined to its holes, see `as_one_line`. Without a
    tolerance masks are written as compressed RLE instead.
    """

    def __init__(self, folder: Path, tolerance_px: float | None) -> None:
        super().__init__(folder, tolerance_px)
        self._images: list[dict[str, Any]] = []
        self._annotations: list[dict[str, Any]] = []

    def add(self, image: ImageMasks) -> None:
        """Keep the masks of one image."""
        height, width = image.size
        entry = {"id": image.image_id, "file_name": image.file_name}
        self._images.append({**entry, "height": height, "width": width})
        polygons = None if self._tolerance_px is None else self._polygons_of(image)
        for index, (mask, name) in enumerate(zip(image, image.names, strict=True)):
            if not mask.any():
                continue
            segmentation: Any
            if polygons is None:
                segmentation = {"size": [height, width], "counts": encode(mask)}
            else:
                lines = (as_one_line([part]) for part in polygons[index])
                segmentation = [line.ravel().tolist() for line in lines]
            self._annotations.append(
                {
                    "id": len(self._annotations) + 1,
                    "image_id": image.image_id,
                    "category_id": self._number_of(name) + 1,
                    "segmentation": segmentation,
                    "area": int(mask.sum()),
                    "bbox": _box(mask),
                    "iscrowd": 0,
                }
            )

    def finish(self) -> None:
        """Write `annotations.json`."""
        names = enumerate(self._classes, start=1)
        content = {
            "images": self._images,
            "categories": [{"id": number, "name": name} for number, name in names],
            "annotations": self._annotations,
        }
        _write_json(self._folder / "annotations.json", content)


class YoloWriter(Writer):
    """`labels/KEY.txt` and `data.yaml` of Ultralytics' YOLO for segmentation.

    A line for each mask: the number of its class and x, y of its corners, as shares of width and
    height. The images are to be put to `images/`. Parts and holes are joined, see `as_one_line`.
    """

    def add(self, image: ImageMasks) -> None:
        """Write `labels/KEY.txt`."""
        lines = []
        for parts, name in zip(self._polygons_of(image), image.names, strict=True):
            if parts:
                shares = as_one_line(parts) / image.size[::-1]
                corners = " ".join(f"{share:.6f}" for share in shares.ravel())
                lines.append(f"{self._number_of(name)} {corners}\n")
        with whole_file(self._folder / "labels" / f"{image.key}.txt") as file:
            file.write("".join(lines).encode())

    def finish(self) -> None:
        """Write `data.yaml`."""
        lines = ["path: .", "train: images", "val: images", "names:"]
        # A text in JSON's quotes is one in YAML's, too.
        lines += [f"  {i}: {json.dumps(name)}" for i, name in enumerate(self._classes)]
        with whole_file(self._folder / "data.yaml") as file:
            file.write("\n".join([*lines, ""]).encode())


class VocWriter(Writer):
    """`SegmentationObject/KEY.png`, `SegmentationClass/KEY.png` and `labels.txt` of PASCAL VOC.

    Indexed PNGs with VOC's palette: 0 is the background, masks and classes count from 1. Where
    masks overlap, the smallest one is seen.
    """

    def add(self, image: ImageMasks) -> None:
        """Write both PNGs.

        Raises:
            ValueError: If there are more masks or classes than a palette has.
        """
        classes = [0, *(self._number_of(name) + 1 for name in image.names)]
        for what, count in (("masks", len(image)), ("classes", max(classes))):
            if count > _MOST_OF_A_PALETTE:
                raise ValueError(
                    f"'{image.file_name}' has {count} {what}, and the PNGs of VOC number "
                    f"{_MOST_OF_A_PALETTE}; write another format, such as coco"
                )
        objects = image.label_map()
        of_class = np.array(classes)[objects]
        for name, numbers in (("SegmentationObject", objects), ("SegmentationClass", of_class)):
            png = Image.fromarray(numbers.astype(np.uint8), "P")
            png.putpalette(_voc_palette())
            with whole_file(self._folder / name / f"{image.key}.png") as file:
                png.save(file, "PNG")

    def finish(self) -> None:
        """Write `labels.txt`."""
        with whole_file(self._folder / "labels.txt") as file:
            file.write("".join(f"{name}\n" for name in self._classes).encode())


class LabelMeWriter(Writer):
    """`KEY.json` of LabelMe, beside or instead of the image.

    A shape for each part of a mask; the parts of one mask share a `group_id`. An outline is joined
    to its holes, see `as_one_line`.
    """

    def add(self, image: ImageMasks) -> None:
        """Write `KEY.json`."""
        shapes = []
        for index, parts in enumerate(self._polygons_of(image)):
            for part in parts:
                shape = {"label": image.names[index], "points": as_one_line([part]).tolist()}
                group = index + 1 if len(parts) > 1 else None
                shapes.append({**shape, "group_id": group, "shape_type": "polygon", "flags": {}})
        content: dict[str, Any] = {
            "version": "5.5.0",
            "flags": {},
            "shapes": shapes,
            "imagePath": image.file_name,
            "imageData": None,
            "imageHeight": image.size[0],
            "imageWidth": image.size[1],
        }
        _write_json(self._folder / f"{image.key}.json", content)


class GeoJsonWriter(Writer):
    """`KEY.geojson` (RFC 7946), in pixels, y downwards, as QuPath reads it.

    A feature for each mask, a MultiPolygon with holes.
    """

    def add(self, image: ImageMasks) -> None:
        """Write `KEY.geojson`."""
        features = [
            {
                "type": "Feature",
                "id": index + 1,
                "geometry": {
                    "type": "MultiPolygon",
                    "coordinates": [[ring.tolist() for ring in rings] for rings in parts],
                },
                "properties": {"name": name},
            }
            for index, (parts, name) in enumerate(
                zip(self._polygons_of(image), image.names, strict=True)
            )
            if parts
        ]
        height, width = image.size
        known = {"file_name": image.file_name, "width": width, "height": height}
        # A member that RFC 7946 calls foreign: without it the size would be lost.
        content = {"type": "FeatureCollection", "image": known, "features": features}
        _write_json(self._folder / f"{image.key}.geojson", content)


class Sa1bWriter(Writer):
    """`KEY.json` in the layout of SA-1B, as `maskfeat segment` writes it: training data.

    Its `label` is the name of a mask; `path` leads to the image, if it is known.
    """

    def add(self, image: ImageMasks) -> None:
        """Write `KEY.json`."""
        if image.path is None:
            entry = image_entry(image.image_id, image.size, image.file_name)
        else:
            known = (image.size, image.path, self._folder, image.read_as)
            entry = image_entry(image.image_id, *known)
        annotations = list[dict[str, Any]]()
        for mask, name in zip(image, image.names, strict=True):
            if mask.any():
                found = annotation_of_mask(len(annotations) + 1, mask)
                annotations.append({**found, "label": name})
        _write_json(
            self._folder / f"{image.key}.json", {"image": entry, "annotations": annotations}
        )


FORMATS = ("coco", "coco_rle", "yolo", "voc", "labelme", "geojson", "sa1b")


def writer_of(format_name: str, folder: Path, tolerance_px: float) -> Writer:
    """The writer of a format, one of `FORMATS`.

    Raises:
        ValueError: If there is none.
    """
    writers: dict[str, Writer] = {
        "coco": CocoWriter(folder, tolerance_px),
        "coco_rle": CocoWriter(folder, None),
        "yolo": YoloWriter(folder, tolerance_px),
        "voc": VocWriter(folder),
        "labelme": LabelMeWriter(folder, tolerance_px),
        "geojson": GeoJsonWriter(folder, tolerance_px),
        "sa1b": Sa1bWriter(folder),
    }
    if format_name not in writers:
        raise ValueError(f"the format must be one of {', '.join(FORMATS)}, got '{format_name}'")
    return writers[format_name]


def write_masks(images: Iterable[ImageMasks], writer: Writer) -> int:
    """Write the masks of images; says of how many."""
    num_written = 0
    for image in images:
        writer.add(image)
        num_written += 1
    writer.finish()
    return num_written


def _box(mask: Any) -> list[float]:  # noqa: ANN401
    """Left, top, width, height."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    box = (columns[0], rows[0], columns[-1] - columns[0] + 1, rows[-1] - rows[0] + 1)
    return [float(value) for value in box]


def _voc_palette() -> list[int]:
    """Red, green, blue of each of 256 numbers: bits 0, 1, 2 of a number, then 3, 4, 5, ..."""
    numbers = np.arange(256)
    palette = np.zeros((256, 3), np.int64)
    for bit in range(8):
        for channel in range(3):
            if 3 * bit + channel < 8:
                palette[:, channel] |= (numbers >> (3 * bit + channel) & 1) << (7 - bit)
    flat: list[int] = palette.ravel().tolist()
    return flat


def _write_json(path: Path, content: dict[str, Any]) -> None:
    with whole_file(path) as file:
        file.write(json_bytes(content))
