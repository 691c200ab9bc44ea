"""Sets of masks in the formats of other tools: which images there are, and where masks lie."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import yaml

from maskfeat.data.annotations.image import SampleError
from maskfeat.data.annotations.rle import parse_counts
from maskfeat.data.convert.coco_json import annotations_of, images_and_classes
from maskfeat.data.convert.files import MASK_ENDINGS, read_file
from maskfeat.data.convert.mask_files import (
    NamedMasks,
    of_coco,
    of_geojson,
    of_label_map,
    of_labelme,
    of_sa1b,
    of_voc,
    of_yolo,
    read_json,
)
from maskfeat.data.convert.sample import DEFAULTS, Record, Settings, SourceSample
from maskfeat.data.folder import ENDINGS
from maskfeat.data.shards.sample_folder import find_image, is_sample_json

# Of whole folders or files, in the order in which they are looked for.
MASK_FORMATS = ("coco", "yolo", "voc", "labelme", "geojson", "sa1b", "png")
# What is wrong in a file of another tool shows as one of these.
_WRONG = (KeyError, TypeError, ValueError, IndexError, AttributeError, OverflowError)


Find = Callable[[str], Path | None]


@dataclass(frozen=True)
class MaskRecord(Record):
    """The masks of one image in a format of another tool, for `shards convert` and others.

    Attributes:
        file_name: Of the image.
        image: The image; None if it was not found.
        source: The file that holds the masks.
        load: Reads them.
    """

    file_name: str
    image: str | None
    source: str
    load: Callable[[], NamedMasks]

    def masks(self) -> NamedMasks:
        """Read the masks.

        Raises:
            SampleError: If they cannot be read, with the reason.
        """
        try:
            return self.load()
        except SampleError:
            raise
        except _WRONG as error:
            detail = f"'{self.source}' cannot be read: {error!r}"
            raise SampleError("bad mask", detail) from error

    def read(self, settings: Settings = DEFAULTS) -> SourceSample:
        """Read image and masks."""
        if self.image is None:
            raise SampleError("incomplete", f"the image '{self.file_name}' is not there")
        found, data = self.masks(), read_file(self.image, "image")
        entries = [{"label": name, "level": "object"} for name in found.names]
        runs, left_out = parse_counts(found.counts, found.size), {"no mask": found.left_out}
        return SourceSample(data, found.size, runs, entries, {}, left_out)


Lister = Callable[[Path, Find], list[MaskRecord]]


def list_masks(
    place: str | Path, kind: str = "auto", images_dir: str | Path | None = None
) -> list[MaskRecord]:
    """The images with masks in a file or a folder.

    Args:
        place: A JSON of COCO; a file of LabelMe, GeoJSON, the layout of SA-1B, or a label map; or a
            folder of such files, of YOLO (`labels/KEY.txt`, `data.yaml`) or of PASCAL VOC
            (`SegmentationObject/KEY.png`).
        kind: One of `MASK_FORMATS`, or "auto".
        images_dir: Folder of the images. None looks beside the masks, in `images/` and
            `JPEGImages/` there, and beside the folder.

    Returns:
        One for each image, sorted by key.

    Raises:
        FileNotFoundError: If there is nothing.
        ValueError: If it holds masks of no known kind.
    """
    place = Path(place)
    if not place.exists():
        raise FileNotFoundError(f"no file or folder of masks at '{place}'")
    known = mask_format_of(place) if kind == "auto" else kind
    if known is None:
        raise ValueError(
            f"'{place}' holds no masks in a format that is read: {', '.join(MASK_FORMATS)}"
        )
    root = place if place.is_dir() else place.parent
    listers: dict[str, Lister] = {
        "coco": _list_coco,
        "yolo": _list_yolo,
        "voc": _list_voc,
        "labelme": partial(_list_files, ending=".json", load=of_labelme, name="imagePath"),
        "geojson": partial(_list_files, ending=".geojson", load=None, name="file_name"),
        "sa1b": partial(_list_files, ending=".json", load=of_sa1b, name="image"),
        "png": _list_pngs,
    }
    if known not in listers:
        raise ValueError(f"the format must be auto or one of {', '.join(listers)}, got '{known}'")
    folders = [root, root / "images", root / "JPEGImages", root.parent, root.parent / "images"]
    if images_dir is not None:
        if not Path(images_dir).is_dir():
            raise FileNotFoundError(f"no folder of images '{images_dir}'")
        folders = [Path(images_dir)]
    find = partial(_find_image, folders)
    found = listers[known](place, find)
    if not found:
        raise ValueError(f"'{place}' holds no masks in the format {known}")
    return sorted(found, key=lambda one: one.key)


def mask_format_of(place: Path) -> str | None:
    """The format of a file or folder of masks, by what lies there; None if it is none."""
    if place.is_file():
        if place.suffix == ".geojson":
            return "geojson"
        if place.suffix.lower() in MASK_ENDINGS:
            return "png"
        return _format_of_json(place) if place.suffix == ".json" else None
    if any((place / "labels").glob("*.txt")):
        return "yolo"
    if (place / "SegmentationObject").is_dir():
        return "voc"
    kinds = {_format_of_json(path) for path in filter(is_sample_json, place.glob("*.json"))}
    if any(place.glob("*.geojson")):
        kinds.add("geojson")
    known = [kind for kind in MASK_FORMATS if kind in kinds]
    has_maps = any(path.suffix.lower() in MASK_ENDINGS for path in place.iterdir())
    return known[0] if known else "png" if has_maps else None


def _format_of_json(path: Path) -> str | None:
    try:
        content = read_json(path)
    except SampleError:
        return None
    if isinstance(content.get("annotations"), list):
        return "coco" if isinstance(content.get("images"), list) else "sa1b"
    if isinstance(content.get("shapes"), list):
        return "labelme"
    return "geojson" if content.get("type") == "FeatureCollection" else None


def _list_coco(place: Path, find: Find) -> list[MaskRecord]:
    paths = sorted(place.glob("*.json")) if place.is_dir() else [place]
    found = []
    for path in (one for one in paths if _format_of_json(one) == "coco"):
        content = read_json(path)
        images, names = images_and_classes(content)
        by_image, _ = annotations_of(content, images)
        for number, image in images.items():
            name = str(image["file_name"])
            load = partial(of_coco, by_image.get(number, []), names, image)
            found.append(_record(name, find(name), path, load))
    return found


def _list_yolo(place: Path, find: Find) -> list[MaskRecord]:
    table = next(iter(sorted(place.glob("*.yaml"))), None)
    names = (yaml.safe_load(table.read_text()) or {}).get("names", {}) if table else {}
    names = dict(enumerate(names)) if isinstance(names, list) else names
    found = []
    for path in sorted((place / "labels").glob("*.txt")):
        image = find(path.stem)
        found.append(_record(None, image, path, partial(of_yolo, path, names, image)))
    return found


def _list_voc(place: Path, find: Find) -> list[MaskRecord]:
    table = place / "labels.txt"
    names = table.read_text().splitlines() if table.is_file() else []
    found = []
    for path in sorted((place / "SegmentationObject").glob("*.png")):
        classes = place / "SegmentationClass" / path.name
        load = partial(of_voc, path, classes if classes.is_file() else None, names)
        found.append(_record(None, find(path.stem), path, load))
    return found


def _list_pngs(place: Path, find: Find) -> list[MaskRecord]:
    paths = sorted(place.iterdir()) if place.is_dir() else [place]
    found = []
    for path in paths:
        if path.suffix.lower() in MASK_ENDINGS and not path.name.startswith("."):
            image = find(path.stem)
            image = None if image == path else image
            found.append(_record(None, image, path, partial(of_label_map, path)))
    return found


def _list_files(
    place: Path, find: Find, ending: str, load: Callable[..., NamedMasks] | None, name: str
) -> list[MaskRecord]:
    """A JSON for each image, which may name it under `name`."""
    paths = sorted(place.glob(f"*{ending}")) if place.is_dir() else [place]
    found = []
    for path in paths:
        if ending == ".json" and not is_sample_json(path):
            continue
        try:
            content = read_json(path)
        except SampleError:
            content = {}
        known = content.get("image") if ending == ".geojson" or name == "image" else content
        known = known if isinstance(known, dict) else {}
        named = str(known.get("file_name" if name == "image" else name) or path.stem)
        named = Path(named.replace("\\", "/")).name
        image = find_image(path, known) if name == "image" else None
        image = image or find(named) or find(path.stem)
        reading = partial(of_geojson, path, image) if load is None else partial(load, path)
        file_name = image.name if image else named if Path(named).suffix else f"{named}.jpg"
        found.append(_record(file_name, image, path, reading, path.stem))
    return found


def _record(
    name: str | None,
    image: Path | None,
    source: Path,
    load: Callable[[], NamedMasks],
    key: str | None = None,
) -> MaskRecord:
    """The record of an image, by its name where a file tells it."""
    name = name or (image.name if image else f"{source.stem}.jpg")
    place = None if image is None else str(image)
    files = (str(source),) if place is None else (place, str(source))
    return MaskRecord(key or Path(name).stem, files, Path(name).name, place, str(source), load)


def _find_image(folders: Sequence[Path], name: str) -> Path | None:
    """An image by its name, with or without its ending."""
    # `os.path.isfile` is false for a name that no file can have; `Path.is_file` raises OSError.
    names = [name] if Path(name).suffix.lower() in ENDINGS else []
    names += [f"{Path(name).stem if names else name}{ending}" for ending in ENDINGS]
    places = (folder / one for folder in folders for one in names)
    return next((place for place in places if os.path.isfile(place)), None)
