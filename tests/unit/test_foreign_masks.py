"""Masks in the formats of other tools, made badly or at the edges of what the formats allow."""

from __future__ import annotations

import base64
import io
import json
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as pycoco

from maskfeat.data.annotations.image import SampleError
from maskfeat.data.convert.mask_files import NamedMasks
from maskfeat.data.convert.mask_sets import list_masks
from maskfeat.data.shards.sample_folder import list_samples

A_SQUARE = [[2, 1, 6, 1, 6, 4, 2, 4]]


def write_json(place: Path, content: object) -> Path:
    place.write_text(json.dumps(content))
    return place


def decoded(found: NamedMasks) -> list[np.ndarray]:
    size = list(found.size)
    return [pycoco.decode({"size": size, "counts": one}).astype(bool) for one in found.counts]


def sa1b(counts: object) -> dict[str, Any]:
    return {"annotations": [{"segmentation": {"size": [8, 8], "counts": counts}}]}


def test_uncompressed_counts_of_sa1b_become_a_string(tmp_path: Path) -> None:
    (record,) = list_masks(write_json(tmp_path / "e.json", sa1b([18, 3, 5, 3, 5, 3, 27])))
    found = record.masks()
    assert all(isinstance(counts, str) for counts in found.counts)
    flat = np.zeros(64, bool)
    flat[[18, 19, 20, 26, 27, 28, 34, 35, 36]] = True
    assert (decoded(found)[0] == flat.reshape(8, 8).T).all()


@pytest.mark.parametrize("counts", ["!!", [1, 2], None])
def test_malformed_counts_of_sa1b_are_refused(tmp_path: Path, counts: object) -> None:
    (record,) = list_masks(write_json(tmp_path / "e.json", sa1b(counts)))
    with pytest.raises(SampleError, match="bad mask"):
        record.masks()


def labelme(mask: bytes, left: float, top: float) -> dict[str, Any]:
    shape = {
        "label": "cell",
        "shape_type": "mask",
        "points": [[left, top], [left + 5, top + 5]],
        "mask": base64.b64encode(mask).decode(),
    }
    return {"imageHeight": 16, "imageWidth": 18, "imagePath": "a.jpg", "shapes": [shape]}


def as_file(pixels: np.ndarray, kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


@pytest.mark.parametrize(
    ("left", "top"), [(-2, -2), (-8, 3), (3, -8), (15, 13), (40, 3), (-5, 4), (3, 4)]
)
def test_a_mask_of_labelme_is_cut_at_the_border(tmp_path: Path, left: int, top: int) -> None:
    content = labelme(as_file(np.full((6, 6), 255, np.uint8)), left, top)
    (record,) = list_masks(write_json(tmp_path / "a.json", content))
    y, x = np.mgrid[:16, :18]
    expected = (x >= left) & (x < left + 6) & (y >= top) & (y < top + 6)
    found = record.masks()
    assert found.left_out == (not expected.any())
    assert all((mask == expected).all() for mask in decoded(found))


def test_a_mask_of_labelme_is_a_png(tmp_path: Path) -> None:
    content = labelme(as_file(np.full((6, 6), 255, np.uint8), "BMP"), 1, 1)
    (record,) = list_masks(write_json(tmp_path / "a.json", content))
    with pytest.raises(SampleError, match="bad mask"):
        record.masks()


@pytest.mark.parametrize("side", [9000, 20000])
def test_a_mask_of_labelme_larger_than_any_image_is_refused(tmp_path: Path, side: int) -> None:
    file = io.BytesIO()
    Image.new("1", (side, side)).save(file, "PNG")
    (record,) = list_masks(write_json(tmp_path / "a.json", labelme(file.getvalue(), 1, 1)))
    with pytest.raises(SampleError, match="bad mask"):
        record.masks()


def coco(one: dict[str, Any], image: dict[str, Any]) -> dict[str, Any]:
    return {
        "images": [{"id": 1, "file_name": "a.jpg"} | image, {"id": 2, "file_name": "b.jpg"}],
        "categories": [{"id": 7, "name": "cat"}],
        "annotations": [{"id": 1, "image_id": 1, "segmentation": A_SQUARE} | one],
    }


@pytest.mark.parametrize(
    ("one", "names"),
    [
        ({"iscrowd": "0", "category_id": 7}, ("cat",)),
        ({"iscrowd": "1", "category_id": 7}, ()),
        ({"category_id": "7"}, ("cat",)),
        ({"category_id": 7.0}, ("cat",)),
        ({"category_id": None}, ("object",)),
        ({}, ("object",)),
    ],
)
def test_numbers_of_coco_may_be_text(tmp_path: Path, one: dict, names: tuple[str, ...]) -> None:
    place = write_json(tmp_path / "set.json", coco(one, {"height": "8", "width": 10.0}))
    found = list_masks(place)[0].masks()
    assert (found.size, found.names) == ((8, 10), names)


def test_an_image_of_coco_without_a_size_does_not_stop_the_others(tmp_path: Path) -> None:
    place = write_json(tmp_path / "set.json", coco({}, {"height": 8, "width": 10}))
    first, second = list_masks(place)
    assert len(first.masks().counts) == 1
    with pytest.raises(SampleError, match="an image needs a height and width"):
        second.masks()


@pytest.mark.parametrize(
    "content",
    [
        {"imageHeight": 10**6, "imageWidth": 10**7, "shapes": [{"points": A_SQUARE[0]}]},
        coco({}, {"height": 10**6, "width": 10**7}),
        {
            "type": "FeatureCollection",
            "image": {"height": 10**6, "width": 10**7},
            "features": [{"geometry": {"type": "Polygon", "coordinates": []}}],
        },
    ],
)
def test_a_size_beyond_any_image_is_refused(tmp_path: Path, content: dict) -> None:
    ending = ".geojson" if "features" in content else ".json"
    record = list_masks(write_json(tmp_path / f"a{ending}", content))[0]
    with pytest.raises(SampleError, match="an image needs a height and width"):
        record.masks()


def test_masks_of_a_label_map_are_not_held_at_once(tmp_path: Path) -> None:
    labels = np.arange(400 * 400).reshape(400, 400) // 800 + 1
    Image.fromarray(labels.astype(np.uint16)).save(tmp_path / "a.png")
    (record,) = list_masks(tmp_path / "a.png")
    tracemalloc.start()
    try:
        found = record.masks()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(found.counts) == 200
    assert peak < 200 * labels.size / 3


@pytest.mark.parametrize("of_image", [{"file_name": "x" * 300}, {"path": "x" * 300 + ".jpg"}])
def test_an_image_of_a_name_that_no_file_can_have_is_not_there(
    tmp_path: Path, of_image: dict
) -> None:
    write_json(tmp_path / "e.json", sa1b([18, 3, 43]) | {"image": of_image})
    assert list_masks(tmp_path)[0].image is None
    found = list_samples(tmp_path)
    assert [(key, one.reason) for key, one in found.left_out] == [("e", "incomplete")]
    place = write_json(tmp_path / "e.json", coco({}, {"file_name": "x" * 300 + ".jpg"}))
    assert {record.image for record in list_masks(place)} == {None}
