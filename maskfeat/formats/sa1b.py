"""The layout of SA-1B: KEY.json beside KEY.jpg, with the masks as COCO run-length masks."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage, sparse

from maskfeat.arrays import BoolArray, Float64Array, Int32Array, IntArray
from maskfeat.data.annotations.painting import encode
from maskfeat.data.annotations.read_as import ReadAs


def json_bytes(content: Mapping[str, Any]) -> bytes:
    """The JSON file of a sample: `image`, `annotations`, and what else `content` has."""
    return json.dumps(content, separators=(",", ":")).encode()


def image_entry(
    image_id: int,
    size: Sequence[int],
    file: str | Path,
    folder: Path | None = None,
    read_as: ReadAs = ReadAs(),  # noqa: B008 - frozen
) -> dict[str, Any]:
    """The `image` of a JSON file.

    Args:
        image_id: Its number.
        size: Height and width, pixels.
        file: The image, or its name alone.
        folder: Where the JSON file will be; then `path` tells the way from there to the image, so
            that both together are training data where they lie.
        read_as: How it was read, if that was chosen: it is read so again.
    """
    file = Path(file)
    entry = {"image_id": image_id, "width": size[1], "height": size[0], "file_name": file.name}
    if folder is None:
        return entry
    chosen = {"read_as": read_as.to_json()} if read_as.to_json() else {}
    return {**entry, "path": way_to(file, folder), **chosen}


def way_to(file: Path, folder: Path) -> str:
    """How to get from a folder to a file, with "/" between names; absolute on another drive."""
    place = file.parent.resolve() / file.name
    try:
        return Path(os.path.relpath(place, folder.resolve())).as_posix()
    except ValueError:
        return place.as_posix()


def annotation(
    number: int,
    counts: str,
    size: Sequence[int],
    area_px: int,
    box_yxyx: Sequence[float],
    point_yx: Sequence[float],
    predicted_iou: float = 1.0,
    stability_score: float = 1.0,
) -> dict[str, Any]:
    """One mask as an annotation.

    Args:
        number: Its `id`.
        counts: Its compressed COCO counts, see `maskfeat.data.annotations.painting.encode`.
        size: Height and width of the image, pixels.
        area_px: Pixels of the mask.
        box_yxyx: Top, left, bottom, right of its tight box, pixels, the last two exclusive.
        point_yx: A pixel of the mask, (row, column).
        predicted_iou: How good the mask is held to be, in (0, 1); 1 for true masks.
        stability_score: How little the mask depends on a threshold, in (0, 1).
    """
    height, width = size
    top, left, bottom, right = box_yxyx
    return {
        "id": number,
        "segmentation": {"size": [height, width], "counts": counts},
        "area": area_px,
        "bbox": [float(value) for value in (left, top, right - left, bottom - top)],
        "predicted_iou": predicted_iou,
        "stability_score": stability_score,
        "crop_box": [0.0, 0.0, float(width), float(height)],
        "point_coords": [[float(point_yx[1]), float(point_yx[0])]],
    }


def annotation_of_mask(number: int, mask: BoolArray) -> dict[str, Any]:
    """A mask, bool, shape (H, W), not empty, as an annotation; its point is the furthest inside."""
    rows, columns = ndimage.find_objects(mask.view(np.int8))[0]
    depth = ndimage.distance_transform_edt(np.pad(mask[rows, columns], 1))[1:-1, 1:-1]
    y, x = divmod(int(depth.argmax()), depth.shape[1])
    return annotation(
        number=number,
        counts=encode(mask),
        size=mask.shape,
        area_px=int(np.count_nonzero(mask)),
        box_yxyx=(rows.start, columns.start, rows.stop, columns.stop),
        point_yx=(rows.start + y, columns.start + x),
    )


def annotate_levels(
    levels: Mapping[str, Int32Array], min_area_px: int = 16
) -> list[dict[str, Any]]:
    """Describe nested label maps as annotations in the layout of SA-1B.

    Each connected component (over the four neighbors) of equal labels is one annotation, with
    its level's name under `level`. A component that equals one of a coarser level is not
    repeated: what has no parts is annotated as an object alone.

    Args:
        levels: Label maps from coarse to fine, int, shape (H, W), by name of the level. They
            nest: equal labels at a finer level are equal at a coarser one.
        min_area_px: Smaller components are left out.

    Returns:
        Annotations, coarse levels first, in each by first pixel in row order. The box is tight:
        [left, top, width, height]; the point is the pixel furthest from the region's border.

    Raises:
        ValueError: If the maps differ in shape.
    """
    shapes = {name: labels.shape for name, labels in levels.items()}
    if len(set(shapes.values())) > 1:
        raise ValueError(f"label maps must have the same shape, got {shapes}")
    annotations: list[dict[str, Any]] = []
    coarser_area: IntArray | None = None  # of the component around each pixel
    for level, labels in levels.items():
        components = label_components(labels)
        areas = np.bincount(components.ravel())
        repeats = np.zeros(len(areas), bool)
        if coarser_area is not None:  # nested, so equal in area means equal
            repeats[components[areas[components] == coarser_area]] = True
        coarser_area = areas[components]
        wanted = np.flatnonzero((areas >= min_area_px) & ~repeats)
        if not len(wanted):
            continue
        boxes, depth = ndimage.find_objects(components + 1), depth_inside(components)
        for number in wanted:
            rows, columns = boxes[number]
            inside = components[rows, columns] == number
            y, x = divmod(int(np.where(inside, depth[rows, columns], 0).argmax()), inside.shape[1])
            mask = np.zeros(labels.shape, bool)
            mask[rows, columns] = inside
            found = annotation(
                number=len(annotations) + 1,
                counts=encode(mask),
                size=labels.shape,
                area_px=int(areas[number]),
                box_yxyx=(rows.start, columns.start, rows.stop, columns.stop),
                point_yx=(rows.start + y, columns.start + x),
            )
            annotations.append({**found, "level": level})
    return annotations


def label_components(labels: npt.NDArray[Any]) -> Int32Array:
    """Number the connected components of equal labels, (H, W), over the four neighbors.

    Returns:
        Component of each pixel, int32 from 0, in the order of first pixels in row order.
    """
    numbers = np.arange(labels.size).reshape(labels.shape)
    down, right = labels[1:] == labels[:-1], labels[:, 1:] == labels[:, :-1]
    start = np.concatenate([numbers[:-1][down], numbers[:, :-1][right]])
    end = np.concatenate([numbers[1:][down], numbers[:, 1:][right]])
    graph = sparse.coo_array((np.ones(len(start), np.int8), (start, end)), (labels.size,) * 2)
    components = sparse.csgraph.connected_components(graph, directed=False)[1]
    firsts = np.empty(components.max() + 1, int)
    firsts[components[::-1]] = numbers.ravel()[::-1]  # what is written last, the first, remains
    rank = np.empty_like(firsts)
    rank[np.argsort(firsts)] = np.arange(len(firsts))
    return np.asarray(rank[components].reshape(labels.shape), np.int32)


def depth_inside(components: npt.NDArray[np.integer]) -> Float64Array:
    """How far each pixel of a label map, (H, W), lies inside its component.

    1 on pixels at borders, those of the image included; inside more by the distance to the nearest.
    """
    padded = np.pad(components, 1, constant_values=-1)
    middle = padded[1:-1, 1:-1]
    inner = (middle == padded[:-2, 1:-1]) & (middle == padded[2:, 1:-1])
    inner &= (middle == padded[1:-1, :-2]) & (middle == padded[1:-1, 2:])
    depth: Float64Array = ndimage.distance_transform_edt(inner) + 1
    return depth
