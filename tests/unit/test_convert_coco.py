"""COCO files as people have them: ids of every kind, crowds, boxes without outlines."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from shard_factory import annotation_of, draw_scene, jpg_bytes, write_members
from source_layouts import SIZE, blocks, save, write_coco, write_jpg

from maskfeat.data.annotations.image import SampleError
from maskfeat.data.annotations.sample import read_sample
from maskfeat.data.convert import Settings, convert_inputs, find_inputs
from maskfeat.data.convert.report import print_summary
from maskfeat.data.convert.state import ConvertState
from maskfeat.data.heldout import ShardImages
from maskfeat.data.order.streaming import finish
from maskfeat.data.shards.index import scan_shard
from maskfeat.data.shards.indexed import IndexedShards
from maskfeat.data.shards.stream import RawSample

RGB = np.zeros((*SIZE, 3), np.uint8)


def square(left: int, side: int) -> list[list[int]]:
    return [[left, 2, left + side, 2, left + side, 2 + side, left, 2 + side]]


TWO = {"a.jpg": [{"segmentation": square(3, 10)}], "b.jpg": [{"segmentation": square(20, 20)}]}


def rewrite(path: Path, change: Any) -> Path:
    content = json.loads(path.read_bytes())
    change(content)
    path.write_text(json.dumps(content))
    return path


def convert(source: Path, out: Path, how: Settings = Settings()) -> dict[str, Any]:  # noqa: B008
    return convert_inputs(find_inputs([str(source)]), out, how, num_workers=0).summary()


def annotations(out: Path) -> dict[str, list[dict[str, Any]]]:
    """The annotations of all shards by key."""
    found = {}
    for path in sorted(out.glob("*.tar")):
        data, index = path.read_bytes(), scan_shard(path)
        for key, (_, _, start, size) in zip(index.keys, index.spans.tolist(), strict=True):
            found[key] = json.loads(data[start : start + size])["annotations"]
    return found


def areas(out: Path) -> dict[str, list[int]]:
    return {key: [one["area"] for one in some] for key, some in annotations(out).items()}


def test_two_images_of_one_id_are_refused_by_name(tmp_path: Path) -> None:
    def change(content: dict[str, Any]) -> None:
        for one in content["images"] + content["annotations"]:
            one["id" if "file_name" in one else "image_id"] = 7

    path = rewrite(write_coco(tmp_path, TWO, RGB), change)
    with pytest.raises(ValueError, match=r"two images have one id, 7: 'a\.jpg' and 'b\.jpg'"):
        find_inputs([str(path)])


def test_two_categories_of_one_id_are_refused_by_name(tmp_path: Path) -> None:
    more = {"id": 3, "name": "bus"}
    path = rewrite(write_coco(tmp_path, TWO, RGB), lambda c: c["categories"].append(more))
    with pytest.raises(ValueError, match="two categories have one id, 3: 'car' and 'bus'"):
        find_inputs([str(path)])


def test_what_is_there_twice_and_says_the_same_counts_once(tmp_path: Path) -> None:
    def change(content: dict[str, Any]) -> None:
        for name in ("images", "categories"):
            content[name] += content[name][:1]

    convert(rewrite(write_coco(tmp_path / "in", TWO, RGB), change), tmp_path / "out")
    assert areas(tmp_path / "out") == {"a": [100], "b": [400]}


@pytest.mark.parametrize("kind", [float, str, lambda n: f"{n:012d}", lambda n: f"x{n}"])
def test_ids_as_floats_and_as_text_are_read(tmp_path: Path, kind: Any) -> None:
    def change(content: dict[str, Any]) -> None:
        for one in content["images"]:
            one["id"] = kind(one["id"])
            one["height"], one["width"] = float(one["height"]), str(one["width"])
        for one in content["annotations"]:
            plain = one["image_id"]
            # Of numbers one side alone is written otherwise.
            one["image_id"] = kind(plain) if str(kind(plain)).startswith("x") else plain
            one["category_id"] = float(one["category_id"])

    convert(rewrite(write_coco(tmp_path / "in", TWO, RGB), change), tmp_path / "out")
    assert areas(tmp_path / "out") == {"a": [100], "b": [400]}
    assert all(one["label"] == "car" for [one] in annotations(tmp_path / "out").values())


@pytest.mark.parametrize(("value", "told"), [(1.5, "1.5"), (None, "None"), ([7], "7"), (True, "T")])
def test_an_id_that_is_none_is_refused(tmp_path: Path, value: Any, told: str) -> None:
    path = write_coco(tmp_path, TWO, RGB)
    rewrite(path, lambda content: content["images"][0].update(id=value))
    with pytest.raises(ValueError, match=f"must be a whole number or text, got .*{told}"):
        find_inputs([str(path)])


def test_annotations_of_no_image_are_counted_or_refused(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = write_coco(tmp_path, TWO, RGB)

    def orphan(content: dict[str, Any]) -> None:
        one = content["annotations"][0]
        content["annotations"] += [{**one, "image_id": value} for value in (1.5, None, 99)]
        one["image_id"] = [99]

    rewrite(path, orphan)
    find_inputs([str(path)])
    assert (
        "4 of 5 annotations belong to no image: 1 of an image that is not listed (e.g. image_id "
        "99), 2 with a malformed id (e.g. image_id [99]), 1 without an id (e.g. image_id None)"
    ) in caplog.text
    summary = convert(path, tmp_path / "out")
    counts = {
        "annotation of an image that is not listed": 1,
        "annotation with a malformed id": 2,
        "annotation without an id": 1,
    }
    assert summary["masks_left_out"] == counts
    assert json.loads((tmp_path / "out/index.json").read_bytes())["masks_left_out"] == counts
    print_summary(ConvertState(tmp_path / "out"))
    shown = re.sub(r"\s+", " ", capsys.readouterr().out)
    for reason, num in counts.items():
        assert f"masks left out: {reason} {num}" in shown
    rewrite(path, lambda content: content["annotations"][1].update(image_id="b.jpg"))
    with pytest.raises(ValueError, match="no annotation belongs to an image: ids of images are"):
        find_inputs([str(path)])


def test_images_that_differ_in_their_ending_are_two_and_of_one_name_are_refused(
    tmp_path: Path,
) -> None:
    path = write_coco(tmp_path, {**TWO, "a.JPG": [{"segmentation": square(1, 5)}]}, RGB)
    convert(path, tmp_path / "out")
    assert areas(tmp_path / "out") == {"a_JPG": [25], "a_jpg": [100], "b": [400]}
    rewrite(path, lambda content: content["images"][2].update(file_name="a.jpg"))
    with pytest.raises(ValueError, match=r"2 images of the file name 'a\.jpg'"):
        find_inputs([str(path)])


@pytest.mark.parametrize("no_mask", [{"segmentation": None}, {"segmentation": []}, {}])
def test_an_instance_of_a_box_alone_costs_no_other(tmp_path: Path, no_mask: dict[str, Any]) -> None:
    box = {"bbox": [1, 2, 3, 4], **no_mask}
    path = write_coco(tmp_path / "in", {"a.jpg": [box, *TWO["a.jpg"]], "b.jpg": [box]}, RGB)
    summary = convert(path, tmp_path / "out")
    assert areas(tmp_path / "out") == {"a": [100]}
    assert summary["masks_left_out"] == {"no segmentation": 1}
    assert summary["skipped"] == {"no masks": 1}
    assert json.loads((tmp_path / "out/index.json").read_bytes())["masks_left_out"]


def test_lines_of_two_corners_and_outlines_beyond_the_image_are_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    instances = [
        {"segmentation": [[1, 1, 9, 9]]},
        {"segmentation": [[1, 1, 9, 9], *square(3, 10)]},
        {"segmentation": square(500, 10)},
        {"segmentation": square(40, 20)[0]},  # one list, not a list of lists
    ]
    path = write_coco(tmp_path / "in", {"a.jpg": instances}, RGB)
    summary = convert(path, tmp_path / "out")
    assert areas(tmp_path / "out") == {"a": [100, 400]}
    assert summary["masks_left_out"] == {"polygon of fewer than 3 corners": 2, "too small": 1}
    assert "'a' of" in caplog.text
    assert "left out (polygon of fewer than 3 corners)" in caplog.text


def test_crowds_are_left_out_unless_wanted(tmp_path: Path) -> None:
    whole = {"size": list(SIZE), "counts": [0, SIZE[0] * SIZE[1]]}
    crowd = {"segmentation": whole, "iscrowd": 1}
    path = write_coco(tmp_path / "in", {"a.jpg": [crowd, *TWO["a.jpg"]], "b.jpg": [crowd]}, RGB)

    summary = convert(path, tmp_path / "out")
    assert areas(tmp_path / "out") == {"a": [100]}
    assert summary["masks_left_out"] == {"crowd": 1}
    assert summary["skipped"] == {"no masks": 1}

    summary = convert(path, tmp_path / "kept", Settings(keep_crowds=True))
    assert areas(tmp_path / "kept") == {"a": [3072, 100], "b": [3072]}
    assert [one["iscrowd"] for one in annotations(tmp_path / "kept")["a"]] == [1, 0]
    with pytest.raises(ValueError, match="begun with keep_crowds False and not True"):
        convert(path, tmp_path / "out", Settings(keep_crowds=True))


def test_crowds_in_shards_are_neither_trained_on_nor_clicked_unless_wanted(
    tmp_path: Path,
) -> None:
    rgb, masks = draw_scene(np.random.default_rng(0), SIZE, 3)
    content = annotation_of(masks, extra=[{"iscrowd": 1}, {"iscrowd": 0}])
    jpg, text = jpg_bytes(rgb), json.dumps(content).encode()
    path = write_members(tmp_path / "a.tar", [("a.jpg", jpg), ("a.json", text)])

    for keep, num in ((False, 2), (True, 3)):
        sample = read_sample("a", "a.tar", jpg, text, keep)
        assert (len(sample.levels), sample.num_crowds) == (num, 3 - num)
        assert len(set(sample.runs.annotation.tolist())) == num
        indexed = IndexedShards(str(path), keep_crowds=keep)[0]
        raw = RawSample("a", "a.tar", jpg, text)
        streamed = finish(raw, (0,), lambda sample, _: sample, keep)
        held_out = ShardImages(str(path), keep_crowds=keep)
        assert held_out.num_crowds == 3 - num
        for masks_read in (indexed.runs.areas, streamed.runs.areas, held_out[0].masks):
            assert len(masks_read) == sample.runs.num_masks

    for one in content["annotations"]:
        one["iscrowd"] = 1
    with pytest.raises(SampleError, match="no masks: all annotations are crowds; see keep_crowds"):
        read_sample("a", "a.tar", jpg, json.dumps(content).encode())


def test_a_box_alone_costs_no_mask_of_a_tar(tmp_path: Path) -> None:
    rgb, masks = draw_scene(np.random.default_rng(0), SIZE, 3)
    content = annotation_of(masks, extra=[{}, {"segmentation": None}])
    jpg, text = jpg_bytes(rgb), json.dumps(content).encode()
    sample = read_sample("a", "a.tar", jpg, text)
    assert len(sample.levels) == 2
    path = write_members(tmp_path / "in.tar", [("a.jpg", jpg), ("a.json", text)])
    assert convert(path, tmp_path / "out")["masks_left_out"] == {"no segmentation": 1}


def panoptic(root: Path, ids: np.ndarray, lists: list[list[dict[str, Any]]]) -> Path:
    png = np.stack([ids % 256, ids // 256, 0 * ids], -1).astype(np.uint8)
    save(root / "annotations/panoptic_val.json".replace(".json", "") / "a.png", png)
    write_jpg(root / "val/a.jpg", RGB)
    content = {
        "images": [{"id": 1, "file_name": "a.jpg"}],
        "annotations": [
            {"image_id": "1", "file_name": "a.png", "segments_info": some} for some in lists
        ],
    }
    path = root / "annotations/panoptic_val.json"
    path.write_text(json.dumps(content))
    return path


def test_panoptic_segments_are_separated_or_refused(tmp_path: Path) -> None:
    ids = blocks(0, 300, 5, 0)
    lists = [[{"id": 300.0}, {"id": "5", "iscrowd": 1}, {"id": 9}]]
    summary = convert(panoptic(tmp_path / "a", ids, lists), tmp_path / "a/out")
    assert areas(tmp_path / "a/out") == {"a": [SIZE[0] * 16]}
    assert summary["masks_left_out"] == {"crowd": 1, "too small": 1}
    for name, wrong in (("b", [[{"id": 5.5}]]), ("c", [[{"id": 5}], [{"id": 300}]])):
        summary = convert(panoptic(tmp_path / name, ids, wrong), tmp_path / name / "out")
        assert summary["skipped"] == {"bad json": 1}


def test_polygons_drawn_on_the_turned_image_are_told_from_others(tmp_path: Path) -> None:
    """A phone image stored as 48 x 64 and shown as 64 x 48, its outlines drawn as it is shown."""
    shown = {"segmentation": [[5, 50, 25, 50, 25, 60, 5, 60]]}
    path = write_coco(tmp_path / "in", {"a.jpg": [shown], "b.jpg": [shown]}, RGB)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(RGB).save(tmp_path / "in/val2017/a.jpg", exif=exif)
    summary = convert(path, tmp_path / "out")
    assert summary["skipped"] == {"size mismatch": 1, "no masks": 1}

    def turn(content: dict[str, Any]) -> None:
        content["images"][0].update(height=SIZE[1], width=SIZE[0])

    convert(rewrite(path, turn), tmp_path / "turned")
    assert areas(tmp_path / "turned") == {"a": [200]}
