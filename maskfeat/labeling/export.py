"""Label maps of many images become files that others read."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from PIL import Image

from maskfeat.files import whole_file
from maskfeat.formats.sa1b import annotate_levels, image_entry, json_bytes

IntArray = npt.NDArray[np.int64]
Format = Literal["png", "coco", "sa1b"]


def export_labels(
    folder: Path,
    labeled: Iterable[tuple[Path, int, IntArray]],
    classes: Sequence[str],
    formats: Sequence[Format],
    min_area_px: int = 16,
) -> int:
    """Write the labels of images, file by file, each whole, then renamed.

    - "png": KEY_classes.png, the number of the class of each pixel plus 1, 16 bit, and
      classes.txt, a name a line.
    - "coco": coco.json, images, categories (`id` is number plus 1) and an annotation for each
      connected region, its mask as compressed RLE.
    - "sa1b": KEY.json in the layout of SA-1B, an annotation for each connected region, with the
      name of its class under `label`; beside KEY.jpg it is training data.

    Args:
        folder: Where to; made if it is not there.
        labeled: Image, its number, and the class of each pixel, shape (H, W), -1 for none.
        classes: Names.
        formats: What to write.
        min_area_px: Regions of fewer pixels are no annotations; the png has them.

    Returns:
        How many images were written.

    Raises:
        ValueError: If a format is unknown.
    """
    unknown = sorted(set(formats) - {"png", "coco", "sa1b"})
    if unknown:
        raise ValueError(f"formats must be of png, coco and sa1b, got {unknown[0]!r}")
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for path, number, labels in labeled:
        height, width = labels.shape
        images.append({"id": number, "file_name": path.name, "height": height, "width": width})
        if "png" in formats:
            write_label_map(folder / f"{path.stem}_classes.png", labels)
        if "coco" not in formats and "sa1b" not in formats:
            continue
        regions = _regions(labels, min_area_px)
        if "coco" in formats:
            annotations.extend(_coco(regions, number, len(annotations)))
        if "sa1b" in formats:
            _write_sa1b(folder / f"{path.stem}.json", path, number, labels.shape, regions, classes)
    if "png" in formats:
        with whole_file(folder / "classes.txt") as file:
            file.write("".join(f"{name}\n" for name in classes).encode())
    if "coco" in formats:
        categories = [{"id": i + 1, "name": name} for i, name in enumerate(classes)]
        content = {"images": images, "categories": categories, "annotations": annotations}
        _write_json(folder / "coco.json", content)
    return len(images)


def write_label_map(path: Path, labels: IntArray) -> None:
    """Write classes plus 1 as a 16-bit PNG, 0 where there is none (-1), shape (H, W)."""
    with whole_file(path) as file:
        Image.fromarray((labels + 1).astype(np.uint16)).save(file, "PNG", compress_level=1)


def read_label_map(path: Path) -> IntArray | None:
    """Read what `write_label_map` wrote; None if it is not there, or damaged."""
    try:
        with Image.open(path, formats=["PNG"]) as image_path:
            labels = np.asarray(image_path)
    except (OSError, SyntaxError, ValueError):  # what Pillow raises for a file cut or overwritten
        return None
    return labels.astype(np.int64) - 1 if labels.ndim == 2 else None


def _regions(labels: IntArray, min_area_px: int) -> list[tuple[int, dict[str, Any]]]:
    """Class and description of each connected region."""
    found = []
    for region in annotate_levels({"region": labels.astype(np.int32)}, min_area_px):
        x, y = (int(value) for value in region["point_coords"][0])
        number = int(labels[y, x])
        if number >= 0:
            found.append((number, {k: v for k, v in region.items() if k not in ("level", "id")}))
    return found


def _coco(
    regions: Sequence[tuple[int, dict[str, Any]]], image_id: int, first: int
) -> list[dict[str, Any]]:
    kept = ("segmentation", "area", "bbox")
    return [
        {
            "id": first + place + 1,
            "image_id": image_id,
            "category_id": number + 1,
            "iscrowd": 0,
            **{name: region[name] for name in kept},
        }
        for place, (number, region) in enumerate(regions)
    ]


def _write_sa1b(
    path: Path,
    image_path: Path,
    image_id: int,
    size: tuple[int, ...],
    regions: Sequence[tuple[int, dict[str, Any]]],
    classes: Sequence[str],
) -> None:
    image = image_entry(image_id, size, image_path.name)
    annotations = [
        {"id": place + 1, **region, "label": classes[number]}
        for place, (number, region) in enumerate(regions)
    ]
    _write_json(path, {"image": image, "annotations": annotations})


def _write_json(path: Path, content: dict[str, Any]) -> None:
    with whole_file(path) as file:
        file.write(json_bytes(content))
