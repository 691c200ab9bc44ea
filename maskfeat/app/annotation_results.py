"""What was cut out of an image becomes a label map and annotations in the layout of SA-1B."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np
from scipy import ndimage

from maskfeat.app.annotation_state import Description, MaskRuns
from maskfeat.app.label_map import LabelMapPainter, decoded, png_bytes
from maskfeat.arrays import BoolArray
from maskfeat.data.annotations.painting import encode
from maskfeat.data.annotations.read_as import ReadAs
from maskfeat.files import whole_file
from maskfeat.formats.sa1b import annotation, image_entry, way_to
from maskfeat.interactive.prompts import window_of
from maskfeat.segment.inputs import enlarged

Size = tuple[int, int]

LABELS_FOLDER = "labels"
_HEAD = re.compile(rb'\{"made_of":"([0-9a-f]+)"(?:,"digest":"([0-9a-f]+)",)?')


@dataclass(frozen=True)
class Results:
    """What is to be in the files KEY_mask.png and KEY.json of a folder.

    Attributes:
        folder: Where they are.
        image: The image's file.
        image_id: Its number.
        size: Its height and width, pixels.
        masks: By number, 1 to 65,535, of sizes not above `size`, enlarged to it; what is empty is
            left out.
        are_labels: Whether the numbers mean something; then each annotation has its `label`.
        read_as: How the image was read.
        descriptions: What the masks are called, by number.
        order: Numbers as a person ordered them; where masks overlap, the later one is on top.
            Empty: the smaller one is.
    """

    folder: Path
    image: Path
    image_id: int
    size: Size
    masks: Mapping[int, MaskRuns]
    are_labels: bool
    read_as: ReadAs = ReadAs()  # noqa: RUF009 - frozen
    descriptions: Mapping[int, Description] = field(default_factory=dict)
    order: tuple[int, ...] = ()

    @property
    def label_map(self) -> Path:
        """The file with the number of the mask of each pixel."""
        return self.folder / f"{self.image.stem}_mask.png"

    @property
    def annotations(self) -> Path:
        """The file in the layout of SA-1B."""
        return self.folder / f"{self.image.stem}.json"

    @cached_property
    def made_of(self) -> str:
        """A short name of what they are made of, hexadecimal."""
        masks = ", ".join(_text_of(n, mask) for n, mask in sorted(self.masks.items()))
        image = json.dumps(way_to(self.image, self.folder))
        content = f"[{image}, {json.dumps(self.size)}, [{masks}], {json.dumps(self.are_labels)}"
        words = {n: vars(one) for n, one in self.descriptions.items() if one != Description()}
        if words or self.order:
            content += f", {json.dumps([dict(sorted(words.items())), self.order])}"
        return hashlib.sha256(f"{content}]".encode()).hexdigest()[:16]

    @property
    def are_on_disk(self) -> bool:
        """Whether the annotations are there, made of these or of other masks."""
        return _HEAD.match(_read(self.annotations)) is not None

    @property
    def are_due(self) -> bool:
        """Whether the files are missing, made of something else, or were changed since."""
        content = _read(self.annotations)
        head = _HEAD.match(content)
        if head is None or head.group(1).decode() != self.made_of or head.group(2) is None:
            return True
        return _digest(content[head.end() :], _read(self.label_map)) != head.group(2).decode()


@contextlib.contextmanager
def written_results(results: Results, painter: LabelMapPainter) -> Iterator[None]:
    """Write results beside their files before the block, and rename them after it has ended well.

    So a disk that is full is found out before anything else is saved. KEY_mask.png holds the
    number of the mask of each pixel, 16 bit, 0 where there is none; where masks overlap, that of
    the smaller one, or of the later one if a person gave an order. KEY.json holds one annotation
    for each mask in that order, its `id` the number, in one piece or several; `predicted_iou` and
    `stability_score` are 1, as a person has looked at it; `label` is its class, if it has one, and
    `name` and `color` what it is called and shown as. The point is the pixel furthest from the
    mask's border. The annotations come last: with them all is there; `made_of` says of what, and
    `digest` of both files' content finds later damage.

    Raises:
        OSError: If they cannot be written.
        ValueError: If a mask's runs are malformed.
    """
    entries = {number: _entry(runs, results.size) for number, runs in results.masks.items()}
    image = json.dumps(
        image_entry(results.image_id, results.size, results.image, results.folder, results.read_as),
        separators=(",", ":"),
    )
    annotations = ",".join(_annotations(entries, results))
    rest = f'"image":{image},"annotations":[{annotations}]}}'.encode()
    # From the lowest to the topmost: as a person ordered them, else the smallest on top.
    shown = [(number, entry.share) for number, entry in sorted(entries.items()) if entry]
    order = _places(results)
    shown.sort(key=lambda one: order[one[0]] if results.order else -one[1])
    layers = [(number, results.masks[number]) for number, _ in shown]
    png = png_bytes(painter.painted(results.label_map, layers, results.size))
    digest = _digest(rest, png)
    with whole_file(results.annotations) as json_file, whole_file(results.label_map) as png_file:
        png_file.write(png)
        json_file.write(f'{{"made_of":"{results.made_of}","digest":"{digest}",'.encode() + rest)
        png_file.flush()
        json_file.flush()
        yield


@lru_cache(maxsize=2048)
def _text_of(number: int, mask: MaskRuns) -> str:
    return json.dumps([number, mask.size, mask.counts])


def _read(path: Path) -> bytes:
    """The content of a file, empty if it is not there."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""


def _digest(annotations: bytes, label_map: bytes) -> str:
    digest = hashlib.blake2b(annotations, digest_size=16)
    digest.update(label_map)
    return digest.hexdigest()


@dataclass(frozen=True)
class _Entry:
    """A mask at the size of its image.

    Attributes:
        share: Of the pixels that were decided upon, in (0, 1].
        text: In the layout of SA-1B as JSON, its number left out.
    """

    share: float
    text: str


@lru_cache(maxsize=2048)  # an image is written anew with each object: its others are known
def _entry(runs: MaskRuns, size: Size) -> _Entry | None:
    """What is written of a mask; None if it is empty."""
    small = decoded(runs)
    mask = enlarged(small, size)
    if not mask.any():
        return None
    rows, columns = window_of(mask)
    found = annotation(
        number=0,
        counts=encode(mask),
        size=size,
        area_px=int(np.count_nonzero(mask)),
        box_yxyx=(rows.start, columns.start, rows.stop, columns.stop),
        point_yx=_point_inside(small, size),
    )
    del found["id"]
    return _Entry(float(small.mean()), json.dumps(found, separators=(",", ":")))


def _places(results: Results) -> dict[int, int]:
    """The place of each mask in the order; those that are not in it come last, by number."""
    rest = sorted(set(results.masks) - set(results.order))
    return {number: place for place, number in enumerate((*results.order, *rest))}


def _annotations(entries: Mapping[int, _Entry | None], results: Results) -> list[str]:
    """What is written of the masks that are not empty, ordered."""
    places, annotations = _places(results), []
    for number in sorted(entries, key=lambda one: places[one]):
        entry = entries[number]
        if entry is not None:
            known = results.descriptions.get(number, Description())
            name, class_name, color = vars(known).values()
            words = {"label": class_name, "name": name, "color": color}
            named = {key: word for key, word in words.items() if word}
            label: dict[str, object] = {"label": number} if results.are_labels else {**named}
            rest = f",{json.dumps(label)[1:]}" if label else "}"
            annotations.append(f'{{"id":{number},{entry.text[1:-1]}{rest}')
    return annotations


def _point_inside(mask: BoolArray, size: Size) -> tuple[int, int]:
    """The pixel (row, column) furthest from the border of a small mask, at `size`."""
    rows, columns = window_of(mask)
    # What lies beyond the image is no mask: its edge is border too.
    depth = ndimage.distance_transform_edt(np.pad(mask[rows, columns], 1))[1:-1, 1:-1]
    y, x = divmod(int(depth.argmax()), depth.shape[1])
    # The pixel in the middle of the cell.
    return (
        int((rows.start + y + 0.5) * (size[0] / mask.shape[0])),
        int((columns.start + x + 0.5) * (size[1] / mask.shape[1])),
    )
