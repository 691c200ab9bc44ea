"""Finished masks become a label map and annotations in the layout of SA-1B."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy import ndimage

from maskfeat.data.rle import encode
from maskfeat.evaluate.pictures import nearest_cells
from maskfeat.files import whole_file

BoolArray = npt.NDArray[np.bool_]
Size = tuple[int, int]


def write_results(
    folder: Path,
    picture: Path,
    image_id: int,
    size: Size,
    masks: Mapping[int, BoolArray],
    are_labels: bool,
) -> None:
    """Write what was cut out of one picture.

    KEY_mask.png holds the number of the mask of each pixel, 16 bit, 0 where there is none; where
    masks overlap, that of the smaller one. KEY.json holds one annotation for each mask, its `id`
    the number, in one piece or several; `predicted_iou` and `stability_score` are 1, as a person
    has looked at it. The point is the pixel furthest from the mask's border.

    Args:
        folder: Where to write; the annotations come last: with them all is there.
        picture: The picture's file.
        image_id: Its number.
        size: Its height and width, pixels.
        masks: By number, 1 to 65,535, shape (h, w) not above `size`, enlarged to it; what is
            empty is left out.
        are_labels: Whether the numbers mean something; then each annotation has its `label`.
    """
    labels = np.zeros(size, np.uint16)
    annotations = []
    # One by one: the masks of a large photograph would fill the memory.
    for number in sorted(masks, key=lambda n: -masks[n].mean()):
        mask = enlarged(masks[number], size)
        if mask.any():
            labels[mask] = number
            point = _point_inside(masks[number], size)
            label = {"label": number} if are_labels else {}
            annotations.append({"id": number, **_described(mask), "point_coords": [point], **label})
    with whole_file(folder / f"{picture.stem}_mask.png") as file:
        Image.fromarray(labels).save(file, "PNG", compress_level=1)
    height, width = size
    content = {
        "image": {
            "image_id": image_id,
            "width": width,
            "height": height,
            "file_name": picture.name,
        },
        "annotations": sorted(annotations, key=lambda one: one["id"]),
    }
    with whole_file(folder / f"{picture.stem}.json") as file:
        file.write(json.dumps(content, separators=(",", ":")).encode())


def enlarged(mask: BoolArray, size: Size) -> BoolArray:
    """A mask at another size: each pixel takes the value of the cell that holds its center."""
    if mask.shape == size:
        return mask
    rows, columns = (nearest_cells(n, m) for n, m in zip(mask.shape, size, strict=True))
    return mask[np.ix_(rows, columns)]


def _described(mask: BoolArray) -> dict[str, Any]:
    height, width = mask.shape
    rows, columns = ndimage.find_objects(mask.view(np.int8))[0]
    box = (columns.start, rows.start, columns.stop - columns.start, rows.stop - rows.start)
    return {
        "segmentation": {"size": [height, width], "counts": encode(mask)},
        "area": int(np.count_nonzero(mask)),
        "bbox": [float(value) for value in box],
        "predicted_iou": 1.0,
        "stability_score": 1.0,
        "crop_box": [0.0, 0.0, float(width), float(height)],
    }


def _point_inside(mask: BoolArray, size: Size) -> list[float]:
    """The pixel (x, y) furthest from the border of a mask, before that is enlarged to `size`."""
    # What lies beyond the picture is no mask: its edge is border too.
    depth = ndimage.distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1]
    y, x = divmod(int(depth.argmax()), mask.shape[1])
    # The pixel in the middle of the cell.
    return [
        float(int((x + 0.5) * (size[1] / mask.shape[1]))),
        float(int((y + 0.5) * (size[0] / mask.shape[0]))),
    ]
