"""A JSON of COCO: which image has which annotations, and where its files lie.

Tools write ids as 7, 7.0 or "7"; these are one id. Ambiguous ids are refused.
"""

from __future__ import annotations

import json
import logging
from collections import Counter, defaultdict
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

from maskfeat.data.convert.coco import InstancesRecord, PanopticRecord, read_id
from maskfeat.data.convert.files import digest, keys_of
from maskfeat.data.convert.sample import Missing, Record

Json = dict[str, Any]

_LOG = logging.getLogger("maskfeat")


def read_coco(path: Path) -> tuple[Json, str]:
    """Read a JSON of COCO, and its digest.

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
        images, names = images_and_classes(content)
        by_image, strays = annotations_of(content, images)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"'{path}' is not laid out as COCO's: {error!r}") from error
    except ValueError as error:
        raise ValueError(f"'{path}': {error}") from error
    if strays:
        counts = ", ".join(
            f"{len(ids)} {reason} (e.g. image_id {str(ids[0])[:80]})"
            for reason, ids in strays.items()
        )
        _LOG.warning(
            "'%s': %d of %d annotations belong to no image: %s; they are left out",
            *(path, sum(map(len, strays.values())), len(content["annotations"]), counts),
        )
    files = [str(one["file_name"]) for one in images.values()]
    name, count = (Counter(files).most_common(1) or [("", 1)])[0]
    if count > 1:
        raise ValueError(f"'{path}' has {count} images of the file name '{name}'")
    folder = _images_folder(path, images_dir, files[:1])
    records: list[Record] = []
    for key, name, (number, image) in zip(keys_of(files), files, images.items(), strict=True):
        place, mine = str(folder / name), by_image.get(number, [])
        if is_segments:
            records.append(_panoptic_record(key, place, path, image, mine, names))
        else:
            labels = [label_of(names, one) for one in mine]
            records.append(InstancesRecord(key, (place,), image, mine, labels))
    return records, {f"annotation {reason}": len(ids) for reason, ids in strays.items()}


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
    labels = [label_of(names, one) for one in segments]
    return PanopticRecord(key, (place, str(png)), image, segments, labels)


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


def images_and_classes(content: Json) -> tuple[dict[Hashable, Json], dict[Hashable, str]]:
    """The images of a JSON of COCO, and the names of its categories, by id; errors as `by_id`."""
    categories = by_id(content.get("categories") or [], "categories", "name")
    names = {number: str(one["name"]) for number, one in categories.items()}
    return by_id(content["images"], "images", "file_name"), names


def by_id(entries: Sequence[Json], what: str, name: str) -> dict[Hashable, Json]:
    """Entries (`what`: images or categories) by id, in order; one that is there twice counts once.

    Raises:
        KeyError: If an entry has no id or `name`.
        ValueError: If two of different names have one id, or an id is none.
    """
    found: dict[Hashable, Json] = {}
    for one in entries:
        number = read_id(one["id"])
        other = found.setdefault(number, one)
        if other[name] != one[name]:
            raise ValueError(
                f"two {what} have one id, {number!r}: '{other[name]}' and '{one[name]}'; "
                "give each an id of its own"
            )
    return found


def annotations_of(
    content: Json, images: dict[Hashable, Json]
) -> tuple[dict[Hashable, list[Json]], dict[str, list[object]]]:
    """Group the annotations of a JSON of COCO by image.

    Returns:
        The annotations of each image; and by reason the image_id of those that belong to none.

    Raises:
        ValueError: If no annotation belongs to an image.
    """
    found: dict[Hashable, list[Json]] = defaultdict(list)
    strays: dict[str, list[object]] = defaultdict(list)
    for one in content["annotations"]:
        value, reason = one.get("image_id"), "of an image that is not listed"
        try:
            number = read_id(value)
        except ValueError:
            number, reason = None, "without an id" if value is None else "with a malformed id"
        if number is not None and number in images:
            found[number].append(one)
        else:
            strays[reason].append(value)
    if strays and not found:
        first = str(next(iter(strays.values()))[0])[:80]
        raise ValueError(
            f"no annotation belongs to an image: ids of images are like {next(iter(images), None)},"
            f" image_id of annotations like {first}"
        )
    return found, dict(sorted(strays.items()))


def label_of(names: Mapping[Hashable, str], one: Mapping[str, Any]) -> str | None:
    """The name of an annotation's class; None if the JSON does not tell it."""
    try:
        return names.get(read_id(one.get("category_id")))
    except ValueError:
        return None
