"""Tiny data sets in the exact layouts they are handed around in, written here, read by convert."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco
from scipy.io import savemat
from shard_factory import draw_scene, jpg_bytes, write_shard
from source_layouts import SIZE, ade_map, blocks, save, write_bsds, write_coco, write_jpg

from maskfeat.data.annotations.image import SampleError
from maskfeat.data.annotations.painting import (
    boxes_xywh,
    decode,
    encode_runs,
    join_runs,
    label_runs,
    mask_runs,
)
from maskfeat.data.annotations.rle import part_runs
from maskfeat.data.convert import Settings, convert_inputs, find_inputs, sources
from maskfeat.data.convert.coco import fill_polygons
from maskfeat.data.convert.sample import Record, SourceSample
from maskfeat.formats.sa1b import label_components


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def records_of(source: Path, kind: str = "auto", **options: Any) -> dict[str, Record]:
    inputs = find_inputs([str(source)], kind, **options)
    return {record.key: record for one in inputs for record in one.list_records()}


def masks_of(sample: SourceSample) -> np.ndarray:
    """The masks of a source, one for each annotation, (N, H, W)."""
    starts, stops, owner = sample.runs
    masks = np.zeros((len(sample.entries), sample.size[0] * sample.size[1]), bool)
    for start, stop, who in zip(starts, stops, owner, strict=True):
        assert not masks[who, start:stop].any()
        masks[who, start:stop] = True
    return masks.reshape(-1, sample.size[1], sample.size[0]).transpose(0, 2, 1)


def uncompressed(mask: np.ndarray) -> list[int]:
    flat, counts, value = mask.T.ravel(), [0], False
    for pixel in flat:
        if pixel != value:
            counts.append(0)
            value = bool(pixel)
        counts[-1] += 1
    return counts


def test_coco_polygons_and_both_kinds_of_counts_are_read(
    tmp_path: Path, rng: np.random.Generator
) -> None:
    rgb, masks = draw_scene(rng, SIZE, 3)
    size = list(SIZE)
    square = [[10.0, 20.0, 30.0, 20.0, 30.0, 40.0, 10.0, 40.0], [40, 5, 50, 5, 50, 15, 40, 15]]
    packed = coco.encode(np.asfortranarray(masks[1]))["counts"].decode()
    instances = [
        {"segmentation": square},
        {"segmentation": {"size": size, "counts": uncompressed(masks[0])}, "iscrowd": 1},
        {"segmentation": {"size": size, "counts": packed}},
    ]
    path = write_coco(tmp_path, {"000000000042.jpg": instances, "000000000007.jpg": []}, rgb)

    records = records_of(path)
    sample = records["000000000042"].read()

    expected = np.zeros((3, *SIZE), bool)
    expected[0, 20:40, 10:30] = expected[0, 5:15, 40:50] = True
    expected[1:] = masks[0], masks[1]
    np.testing.assert_array_equal(masks_of(sample), expected)
    car = {"level": "object", "label": "car", "category_id": 3}
    assert sample.entries == [{**car, "iscrowd": number} for number in (0, 1, 0)]
    assert sample.image == {"image_id": 7}
    assert sample.encoded == jpg_bytes(rgb)
    with pytest.raises(SampleError, match="no masks"):
        records["000000000007"].read()


def distance_to_outline(places: np.ndarray, corners: np.ndarray) -> np.ndarray:
    """From each place (P, 2) to the nearest point of a closed polygon (n, 2)."""
    begin, along = corners, np.roll(corners, -1, axis=0) - corners
    share = ((places[:, None] - begin) * along).sum(-1) / (along**2).sum(-1)
    nearest = begin + np.clip(share, 0, 1)[..., None] * along
    return np.linalg.norm(places[:, None] - nearest, axis=-1).min(axis=1)


def test_polygons_are_filled_as_pycocotools_does_but_for_pixels_at_the_border(
    rng: np.random.Generator,
) -> None:
    for _ in range(20):
        angles = np.sort(rng.uniform(0, 2 * np.pi, 12))
        radii = rng.uniform(10, 30, 12)
        corners = np.stack([50 + radii * np.cos(angles), 45 + radii * np.sin(angles)], 1)
        mine = fill_polygons([corners], (90, 100))
        theirs = coco.decode(coco.frPyObjects([corners.ravel().tolist()], 90, 100))[..., 0] > 0
        rows, columns = np.nonzero(mine != theirs)
        places = np.stack([columns + 0.5, rows + 0.5], 1)
        assert (distance_to_outline(places, corners) < 0.75).all()
        assert (mine != theirs).sum() < 0.06 * theirs.sum()  # a shift by half a pixel has 0.1


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ({"segmentation": [["a", "b"]]}, "bad polygon"),
        ({"segmentation": [[1, 2, 3]]}, "bad polygon"),
        ({"segmentation": [[float("nan"), 2, 3, 4, 5, 6]]}, "bad polygon"),
        ({"segmentation": {"size": [48, 63], "counts": [48 * 63]}}, "size mismatch"),
        ({"segmentation": {"size": [48, 64], "counts": [5]}}, "bad rle"),
        ({"segmentation": {"size": [48, 64], "counts": 5}}, "bad rle"),
    ],
)
def test_a_faulty_instance_costs_its_image_alone(
    tmp_path: Path, rng: np.random.Generator, wrong: dict[str, Any], reason: str
) -> None:
    rgb, _ = draw_scene(rng, SIZE)
    sound = {"segmentation": [[1, 1, 20, 1, 20, 20, 1, 20]]}
    path = write_coco(tmp_path, {"a.jpg": [sound], "b.jpg": [sound, wrong], "c.jpg": [sound]}, rgb)
    (tmp_path / "val2017/c.jpg").unlink()
    inputs = find_inputs([str(path)])
    summary = convert_inputs(inputs, tmp_path / "out", Settings(), num_workers=0).summary()
    assert summary["samples"] == 1
    assert summary["skipped"] == {reason: 1, "incomplete": 1}


def test_coco_panoptic_segments_are_read_from_their_png(
    tmp_path: Path, rng: np.random.Generator
) -> None:
    rgb, _ = draw_scene(rng, SIZE)
    ids = blocks(0, 300, 70_000, 5)  # 5 is in no list
    png = np.stack([ids % 256, ids // 256 % 256, ids // 65536], -1).astype(np.uint8)
    save(tmp_path / "annotations/panoptic_val2017/000000000001.png", png)
    write_jpg(tmp_path / "val2017/000000000001.jpg", rgb)
    segments = [
        {"id": 70_000, "category_id": 3, "iscrowd": 0, "bbox": [], "area": 1},
        {"id": 300, "category_id": 9, "iscrowd": 1},
    ]
    content = {
        "images": [{"id": 1, "file_name": "000000000001.jpg", "height": 48, "width": 64}],
        "annotations": [
            {"image_id": 1, "file_name": "000000000001.png", "segments_info": segments}
        ],
        "categories": [{"id": 3, "name": "car", "isthing": 1}],
    }
    path = tmp_path / "annotations/panoptic_val2017.json"
    path.write_text(json.dumps(content))

    sample = records_of(path)["000000000001"].read()

    np.testing.assert_array_equal(masks_of(sample), np.array([ids == 70_000, ids == 300]))
    assert sample.entries[0] == {
        "level": "object",
        "label": "car",
        "category_id": 3,
        "iscrowd": 0,
    }
    assert "label" not in sample.entries[1]


def test_coco_images_are_found_or_asked_for(tmp_path: Path, rng: np.random.Generator) -> None:
    rgb, _ = draw_scene(rng, SIZE)
    path = write_coco(tmp_path, {"a.jpg": []}, rgb)
    (tmp_path / "val2017").rename(tmp_path / "elsewhere")
    with pytest.raises(FileNotFoundError, match="set images_dir"):
        records_of(path)
    assert "a" in records_of(path, images_dir=str(tmp_path / "elsewhere"))
    path.write_text("{}")
    with pytest.raises(ValueError, match="lists of images and annotations"):
        records_of(path)


@pytest.mark.parametrize("place", ["", "groundTruth/train", "/.."])
def test_bsds500_keeps_every_annotators_partition(
    tmp_path: Path, rng: np.random.Generator, place: str
) -> None:
    rgb, _ = draw_scene(rng, SIZE)
    people = [blocks(1, 2, 3, 1), blocks(1, 2)]
    write_bsds(tmp_path / "bsds/data", rgb, people, "2092")
    write_jpg(tmp_path / "bsds/data/images/train/lone.jpg", rgb)

    records = records_of(tmp_path / "bsds/data" / place.lstrip("/"))

    sample = records["2092"].read()
    expected = [people[who] == value for who, value in [(0, 1), (0, 2), (0, 3), (1, 1), (1, 2)]]
    np.testing.assert_array_equal(masks_of(sample), np.array(expected))
    assert [one["annotator"] for one in sample.entries] == [0, 0, 0, 1, 1]
    assert sample.image == {"image_id": 2092}
    with pytest.raises(SampleError, match=r"no lone\.mat"):
        records["lone"].read()


def test_a_broken_mat_is_a_skip(tmp_path: Path, rng: np.random.Generator) -> None:
    rgb, _ = draw_scene(rng, SIZE)
    write_bsds(tmp_path, rgb, [blocks(1, 2)], "1")
    path = tmp_path / "groundTruth/train/1.mat"
    whole = path.read_bytes()
    savemat(tmp_path / "images/other.mat", {"else": np.ones(3)})
    other = (tmp_path / "images/other.mat").read_bytes()
    for data in (whole[:100], b"", whole[:-50], other):
        path.write_bytes(data)
        with pytest.raises(SampleError, match="bad mat"):
            records_of(tmp_path)["1"].read()


def test_ade20k_gives_objects_parts_and_parts_of_parts(
    tmp_path: Path, rng: np.random.Generator
) -> None:
    rgb, _ = draw_scene(rng, SIZE)
    folder, key = tmp_path / "images/ADE/training/urban/street", "ADE_train_00000001"
    category, instance = blocks(2420, 300, 300, 0), blocks(10, 20, 30, 0)
    parts, none = blocks(0, 77, 78, 0), blocks(0, 0, 0, 0)
    subparts = blocks(0, 0, 0, 0, 5, 0, 0, 0)
    write_jpg(folder / f"{key}.jpg", rgb)
    save(folder / f"{key}_seg.png", ade_map(category, instance))
    save(folder / f"{key}_parts_1.png", ade_map(parts, none))
    save(folder / f"{key}_parts_2.png", ade_map(subparts, none))
    save(folder / f"{key}/instance_000_{key}.png", np.zeros(SIZE, np.uint8))
    names = [{"name_ndx": 300, "name": "car"}, {"name_ndx": 77, "name": "wheel"}]
    (folder / f"{key}.json").write_text(json.dumps({"annotation": {"object": names}}))
    save(folder / "lone_seg.png", ade_map(category, instance))
    write_jpg(folder / "bare.jpg", rgb)

    records = records_of(tmp_path)

    sample = records[key].read()
    expected = [
        ("object", 300, "car", instance == 20),
        ("object", 300, "car", instance == 30),
        ("object", 2420, None, instance == 10),
        ("part", 77, "wheel", parts == 77),
        ("part", 78, None, parts == 78),
        ("subpart", 5, None, subparts == 5),
    ]
    np.testing.assert_array_equal(masks_of(sample), np.array([mask for *_, mask in expected]))
    told = [(one["level"], one["class_id"], one.get("label")) for one in sample.entries]
    assert told == [(level, number, name) for level, number, name, _ in expected]
    with pytest.raises(SampleError, match=r"no lone\.jpg"):
        records["lone"].read()
    [stray] = [key for key in records if key.endswith("bare.jpg")]
    with pytest.raises(SampleError, match=r"no bare_seg\.png"):
        records[stray].read()


@pytest.mark.parametrize("is_apart", [False, True])
def test_plain_folders_hold_label_maps_or_binary_masks(
    tmp_path: Path, rng: np.random.Generator, is_apart: bool
) -> None:
    rgb, masks = draw_scene(rng, SIZE, 3)
    images, beside = (tmp_path / "images", tmp_path / "masks") if is_apart else (tmp_path, tmp_path)
    labels = blocks(0, 3, 200, 7)
    for key in ("gray", "deep", "palette", "color", "binary", "lone"):
        write_jpg(images / f"{key}.jpg", rgb)
    save(beside / "gray.png", labels.astype(np.uint8))
    save(beside / "deep.png", (labels * 300).astype(np.uint16))
    palette = Image.fromarray(labels.astype(np.uint8), "P")
    palette.putpalette([0] * 768)  # the numbers count, not their colors
    palette.save(beside / "palette.png")
    save(beside / "color.png", np.stack([labels, 0 * labels, labels // 2], -1).astype(np.uint8))
    for number, mask in enumerate(masks):
        save(beside / f"binary/{number}.png", mask.astype(np.uint8) * 255)

    records = records_of(tmp_path)

    stripes = np.array([labels == value for value in (3, 7, 200)])
    for key in ("gray", "deep", "palette", "color"):
        np.testing.assert_array_equal(masks_of(records[key].read()), stripes, err_msg=key)
    assert [one["class_id"] for one in records["deep"].read().entries] == [900, 2100, 60_000]
    np.testing.assert_array_equal(masks_of(records["binary"].read()), masks)
    with pytest.raises(SampleError, match=r"neither lone\.png nor a folder"):
        records["lone"].read()


def test_masks_of_another_size_than_the_image_are_a_skip(
    tmp_path: Path, rng: np.random.Generator
) -> None:
    rgb, masks = draw_scene(rng, SIZE)
    for key in ("a", "b", "c"):
        write_jpg(tmp_path / f"in/{key}.jpg", rgb)
    save(tmp_path / "in/a.png", np.ones((48, 63), np.uint8))
    save(tmp_path / "in/b.png", np.ones(SIZE, np.uint8))
    save(tmp_path / "in/c/0.png", masks[0].astype(np.uint8))
    save(tmp_path / "in/c/1.png", np.ones((64, 48), np.uint8))
    inputs = find_inputs([str(tmp_path / "in")])
    summary = convert_inputs(inputs, tmp_path / "out", Settings(), num_workers=0).summary()
    assert summary["samples"] == 1
    assert summary["skipped"] == {"size mismatch": 2}


def test_the_kind_of_a_source_is_told(tmp_path: Path, rng: np.random.Generator) -> None:
    rgb, _ = draw_scene(rng, SIZE)
    write_shard(tmp_path / "tars/sa_000000.tar", 1)
    write_shard(tmp_path / "tars/sa_000001.tar", 1)
    write_bsds(tmp_path / "bsds", rgb, [blocks(1, 2)], "1")
    write_jpg(tmp_path / "plain/a.jpg", rgb)
    places = ["tars", "bsds", "plain"]
    inputs = find_inputs([str(tmp_path / place) for place in places])
    assert [one.name for one in inputs] == ["bsds500_train", "plain", "sa_000000", "sa_000001"]
    assert len(find_inputs([str(tmp_path / "tars/sa_00000*.tar")])) == 2
    (tmp_path / "empty").mkdir()
    for place, kind, message in (
        ("empty", "auto", "holds no image"),
        ("plain", "ade20k", "holds no KEY_seg.png"),
        ("plain", "bsds500", "holds no groundTruth"),
        ("plain", "coco", "read from a JSON file"),
        ("plain", "sa1b", "no tar matches"),
        ("plain/a.jpg", "auto", r"neither a \.tar nor a \.json"),
    ):
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            find_inputs([str(tmp_path / place)], kind)


def test_a_large_folder_is_cut_in_inputs_that_give_the_same_samples(
    tmp_path: Path, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    rgb, _ = draw_scene(rng, SIZE)
    for number in range(7):
        write_jpg(tmp_path / f"plain/k{number}.jpg", rgb)
        save(tmp_path / f"plain/k{number}.png", blocks(1, 2).astype(np.uint8))
    monkeypatch.setattr(sources, "SAMPLES_PER_INPUT", 3)
    inputs = find_inputs([str(tmp_path / "plain")])
    assert [one.name for one in inputs] == ["plain_000", "plain_001", "plain_002"]
    keys = [record.key for one in inputs for record in one.list_records()]
    assert keys == [f"k{number}" for number in range(7)]
    summary = convert_inputs(inputs, tmp_path / "out", Settings(), num_workers=0).summary()
    assert (summary["samples"], summary["masks"]) == (7, 14)


def test_runs_of_masks_become_what_pycocotools_writes(rng: np.random.Generator) -> None:
    for _ in range(30):
        masks = rng.random((5, 9, 11)) < rng.uniform(0.05, 0.95)
        masks[0], masks[1, :, 3:5] = True, True  # all of it; a run over a column's foot
        size = (9, 11)
        runs = part_runs(*join_runs([mask_runs(mask) for mask in masks]), size, min_area_px=1)
        pieces = decode(runs)
        theirs = [coco.encode(np.asfortranarray(piece)) for piece in pieces]
        assert encode_runs(runs) == [one["counts"].decode() for one in theirs]
        boxes = [coco.toBbox(one).tolist() for one in theirs]
        assert boxes_xywh(runs).astype(float).tolist() == boxes


def test_runs_of_a_label_map_are_its_regions(rng: np.random.Generator) -> None:
    for _ in range(20):
        labels = rng.integers(-2, 3, (8, 6))
        values = np.unique(labels)[1:]
        runs = part_runs(*label_runs(labels, values), (8, 6), min_area_px=1)
        pieces = decode(runs)
        for piece, number in zip(pieces, runs.annotation, strict=True):
            assert (labels[piece] == values[number]).all()
        assert (sum(piece.astype(int) for piece in pieces) == (labels != labels.min())).all()
        parts = label_components(labels)
        assert len(pieces) == len(np.unique(parts[labels != labels.min()]))
