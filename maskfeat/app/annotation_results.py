"""What was cut out of an image becomes a label map and annotations in the layout of SA-1B."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy import ndimage

from maskfeat.app.annotation import MaskRuns
from maskfeat.arrays import BoolArray
from maskfeat.data.annotations.painting import decode_annotations, encode
from maskfeat.data.annotations.read_as import ReadAs
from maskfeat.files import whole_file
from maskfeat.formats.sa1b import annotation, image_entry, json_bytes, way_to
from maskfeat.segment.resizing import enlarged

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
    """

    folder: Path
    image: Path
    image_id: int
    size: Size
    masks: Mapping[int, MaskRuns]
    are_labels: bool
    read_as: ReadAs = ReadAs()  # noqa: RUF009 - frozen

    @property
    def label_map(self) -> Path:
        """The file with the number of the mask of each pixel."""
        return self.folder / f"{self.image.stem}_mask.png"

    @property
    def annotations(self) -> Path:
        """The file in the layout of SA-1B."""
        return self.folder / f"{self.image.stem}.json"

    @property
    def made_of(self) -> str:
        """A short name of what they are made of, hexadecimal."""
        masks = [[n, *vars(mask).values()] for n, mask in sorted(self.masks.items())]
        image = way_to(self.image, self.folder)
        content = json.dumps([image, self.size, masks, self.are_labels])
        return hashlib.sha256(content.encode()).hexdigest()[:16]

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
def written_results(results: Results) -> Iterator[None]:
    """Write results beside their files before the block, and rename them after it has ended well.

    So a disk that is full is found out before anything else is saved. KEY_mask.png holds the
    number of the mask of each pixel, 16 bit, 0 where there is none; where masks overlap, that of
    the smaller one. KEY.json holds one annotation for each mask, its `id` the number, in one piece
    or several; `predicted_iou` and `stability_score` are 1, as a person has looked at it. The
    point is the pixel furthest from the mask's border. The annotations come last: with them all is
    there; `made_of` says of what, and `digest` of both files' content finds later damage.

    Raises:
        OSError: If they cannot be written.
        ValueError: If a mask's runs are malformed.
    """
    labels, annotations = _drawn(results)
    content = {
        "image": image_entry(
            results.image_id, results.size, results.image, results.folder, results.read_as
        ),
        "annotations": annotations,
    }
    png = io.BytesIO()
    Image.fromarray(labels).save(png, "PNG", compress_level=1)
    rest = json_bytes(content)[1:]
    digest = _digest(rest, png.getvalue())
    with whole_file(results.annotations) as json_file, whole_file(results.label_map) as png_file:
        png_file.write(png.getvalue())
        json_file.write(f'{{"made_of":"{results.made_of}","digest":"{digest}",'.encode() + rest)
        png_file.flush()
        json_file.flush()
        yield


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


def _drawn(results: Results) -> tuple[npt.NDArray[np.uint16], list[dict[str, Any]]]:
    """The label map, and the annotations by rising number."""
    areas = {number: _decoded(runs).mean() for number, runs in results.masks.items()}
    labels = np.zeros(results.size, np.uint16)
    annotations = []
    # One by one: the masks of a large image would fill the memory.
    for number in sorted(areas, key=lambda n: -areas[n]):
        small = _decoded(results.masks[number])
        mask = enlarged(small, results.size)
        if mask.any():
            labels[mask] = number
            point = _point_inside(small, results.size)
            label = {"label": number} if results.are_labels else {}
            rows, columns = ndimage.find_objects(mask.view(np.int8))[0]
            found = annotation(
                number=number,
                counts=encode(mask),
                size=results.size,
                area_px=int(np.count_nonzero(mask)),
                box_yxyx=(rows.start, columns.start, rows.stop, columns.stop),
                point_yx=point,
            )
            annotations.append({**found, **label})
    return labels, sorted(annotations, key=lambda one: one["id"])


def _decoded(runs: MaskRuns) -> BoolArray:
    mask: BoolArray = decode_annotations([runs.counts], runs.size)[0]
    return mask


def _point_inside(mask: BoolArray, size: Size) -> tuple[int, int]:
    """The pixel (row, column) furthest from the border of a small mask, at `size`."""
    # What lies beyond the image is no mask: its edge is border too.
    depth = ndimage.distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1]
    y, x = divmod(int(depth.argmax()), mask.shape[1])
    # The pixel in the middle of the cell.
    return (
        int((y + 0.5) * (size[0] / mask.shape[0])),
        int((x + 0.5) * (size[1] / mask.shape[1])),
    )
