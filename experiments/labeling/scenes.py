"""The images and true classes of the study, read from tars that have a `label` for each mask."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from maskfeat.data.annotations.painting import decode_annotations
from maskfeat.data.order.schedule import evenly_spaced

CAMVID = "sky building pole road pavement tree sign fence car pedestrian bicyclist".split()
# The garments of ccp, dozens of names, by what they cover.
CCP_GROUPS = {
    "background": "",
    "skin": "skin",
    "hair": "hair",
    "shoes": "shoes sandals boots loafers heels flats sneakers pumps wedges socks",
    "bag": "bag purse wallet",
    "legs": "pants jeans shorts leggings skirt stockings tights",
    "clothes": "dress coat blouse shirt sweater t-shirt blazer suit scarf jacket top vest "
    "sweatshirt cape jumper romper cardigan bodysuit bra hat tie gloves belt",
}
CLASSES = {"camvid": CAMVID, "ccp": list(CCP_GROUPS)}
UNKNOWN = -1


class Scene(NamedTuple):
    """One image.

    Attributes:
        key: Its name.
        rgb: uint8, shape (H, W, 3).
        classes: Class of each pixel, int64, shape (H, W); `UNKNOWN` counts for nothing.
    """

    key: str
    rgb: np.ndarray
    classes: np.ndarray


def read_scenes(data_root: Path, data: str, split: str, num_images: int | None) -> list[Scene]:
    """Some images of a set, evenly spaced.

    Raises:
        FileNotFoundError: If the tars are not there.
    """
    tars = sorted((data_root / data).glob(f"{split}-*.tar"))
    if not tars:
        raise FileNotFoundError(f"no {split}-*.tar in '{data_root / data}'; set --data_root")
    members = {}
    for path in tars:
        with tarfile.open(path) as tar:
            for member in tar:
                if member.isfile():
                    members[member.name] = (path, member.offset_data, member.size)
    keys = sorted(name[:-5] for name in members if name.endswith(".json"))
    chosen = [keys[i] for i in evenly_spaced(len(keys), num_images)]
    return [_read(key, members, data) for key in chosen]


def _read(key: str, members: dict, data: str) -> Scene:
    content = json.loads(_bytes(members[f"{key}.json"]))
    rgb = np.asarray(Image.open(io.BytesIO(_bytes(members[f"{key}.jpg"]))).convert("RGB"))
    annotations = content["annotations"]
    masks = decode_annotations([a["segmentation"]["counts"] for a in annotations], rgb.shape[:2])
    paint = _camvid if data == "camvid" else _ccp
    return Scene(key, rgb, paint(annotations, masks))


def _camvid(annotations: list, masks: np.ndarray) -> np.ndarray:
    classes = np.full(masks.shape[1:], UNKNOWN)
    for annotation, mask in zip(annotations, masks, strict=True):
        classes[mask] = CAMVID.index(annotation["label"])
    return classes


def _ccp(annotations: list, masks: np.ndarray) -> np.ndarray:
    """Background is what no person covers; what of a person has no name of a group is unknown."""
    group_of = {
        name: number for number, names in enumerate(CCP_GROUPS.values()) for name in names.split()
    }
    classes = np.zeros(masks.shape[1:], np.int64)
    order = sorted(
        range(len(masks)), key=lambda i: (annotations[i]["level"] == "part", -masks[i].sum())
    )
    for i in order:
        is_person = annotations[i]["level"] == "object"
        classes[masks[i]] = UNKNOWN if is_person else group_of.get(annotations[i]["label"], UNKNOWN)
    return classes


def _bytes(place: tuple[Path, int, int]) -> bytes:
    path, offset, size = place
    with path.open("rb") as file:
        file.seek(offset)
        return file.read(size)
