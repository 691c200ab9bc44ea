from __future__ import annotations

import io
import json
import pickle
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from shard_factory import FAULTS, Scene, annotation_of, draw_scene, jpg_bytes, sample_files
from skimage.measure import label

from maskfeat.data.annotations.image import SampleError
from maskfeat.data.annotations.painting import decode
from maskfeat.data.annotations.sample import AnnotatedImage, is_crowd, read_sample
from maskfeat.data.heldout import to_held_out
from maskfeat.data.shards.index import scan_shard

DATA = Path(__file__).parents[3] / "shared" / "data"
GOOD = [fault for fault, reason in FAULTS.items() if reason is None]
BAD = [fault for fault, reason in FAULTS.items() if reason not in (None, "incomplete")]


def scene_with(fault: str | None, size: tuple[int, int] = (40, 56)) -> Scene:
    return Scene("sa_7", *draw_scene(np.random.default_rng(3), size), fault)


def read_scene(scene: Scene) -> AnnotatedImage:
    files = sample_files(scene)
    return read_sample(scene.key, "some.tar", files["jpg"], files["json"])


def read_content(rgb: np.ndarray, content: object) -> AnnotatedImage:
    return read_sample("k", "some.tar", jpg_bytes(rgb), json.dumps(content).encode())


def mean_error(got: np.ndarray, expected: np.ndarray) -> float:
    return float(np.abs(got.astype(int) - expected.astype(int)).mean())


def test_a_sound_sample_is_read_with_its_image_and_components() -> None:
    scene = scene_with(None)
    sample = read_scene(scene)

    assert (sample.key, sample.shard) == ("sa_7", "some.tar")
    assert mean_error(sample.decode(), scene.rgb) < 5
    union = np.zeros_like(scene.masks)
    for part, number in zip(decode(sample.runs), sample.runs.annotation, strict=True):
        union[number] |= part
    np.testing.assert_array_equal(union, scene.masks)


@pytest.mark.parametrize("fault", BAD)
def test_each_fault_is_a_sample_error_with_its_reason(fault: str) -> None:
    with pytest.raises(SampleError, match=FAULTS[fault]) as caught:
        read_scene(scene_with(fault)).decode()
    assert caught.value.reason == FAULTS[fault]


@pytest.mark.parametrize("fault", GOOD)
def test_odd_but_sound_samples_show_the_scene(fault: str) -> None:
    scene = scene_with(fault)
    rgb = read_scene(scene).decode()

    expected = scene.rgb
    if fault == "gray":
        expected = np.asarray(Image.fromarray(expected).convert("L").convert("RGB"))
    assert rgb.dtype == np.uint8
    assert mean_error(rgb, expected) < (12 if fault == "palette" else 5)


def test_one_pixel_masks_are_left_out_and_the_others_stay() -> None:
    scene = scene_with("some one-pixel masks")
    runs = read_scene(scene).runs
    assert 0 not in runs.annotation
    assert {1, 2, 3} <= set(runs.annotation.tolist())


def test_a_square_image_is_turned_as_viewers_do() -> None:
    scene = scene_with("exif rotated", (40, 40))
    assert mean_error(read_scene(scene).decode(), scene.rgb) < 5


def test_an_image_whose_masks_lie_as_it_is_stored_is_not_turned() -> None:
    scene = scene_with(None)
    stored = jpg_bytes(np.rot90(scene.rgb, -1).copy(), orientation=6)  # stored as scene.rgb
    content = json.dumps(annotation_of(scene.masks)).encode()
    sample = read_sample("k", "s", stored, content)
    assert mean_error(sample.decode(), scene.rgb) < 5


def test_an_inverted_cmyk_jpg_of_adobe_comes_out_in_its_true_colors() -> None:
    scene = scene_with("cmyk")
    jpg = sample_files(scene)["jpg"]
    assert b"Adobe" in jpg
    # Reds stay red: an inverted reading would give cyan.
    red = np.zeros((16, 16, 3), np.uint8)
    red[..., 0] = 200
    sample = read_sample(
        "k",
        "s",
        jpg_bytes(red, "CMYK"),
        json.dumps(annotation_of(np.ones((1, 16, 16), bool))).encode(),
    )
    assert mean_error(sample.decode(), red) < 5


@pytest.mark.parametrize("fault", [None, "gray", "cmyk", "exif rotated", "palette"])
@pytest.mark.parametrize("at_least", [0.1, 0.25, 0.3, 0.5, 0.7])
def test_a_draft_is_never_smaller_than_asked_for(fault: str | None, at_least: float) -> None:
    scene = scene_with(fault, (121, 163))
    rgb = read_scene(scene).decode(at_least)

    assert rgb.shape[0] >= at_least * 121
    assert rgb.shape[1] >= at_least * 163
    if fault != "palette":  # a PNG has no drafts
        shrink = next(s for s in (8, 4, 2, 1) if 1 / s >= at_least)
        assert rgb.shape[:2] == (-(-121 // shrink), -(-163 // shrink))
    small = np.asarray(Image.fromarray(scene.rgb).resize(rgb.shape[1::-1], Image.Resampling.BOX))
    if fault != "gray":
        assert mean_error(rgb, small) < 12


def test_extra_keys_and_their_order_do_not_matter() -> None:
    scene = scene_with(None)
    content = annotation_of(scene.masks)
    content["licence"] = {"deep": [1, None]}
    for one in content["annotations"]:
        one["predicted_iou"] = float("inf")
        one["bbox"] = "nonsense"
        one["annotator"] = True
        one["level"] = 5
    del content["image"]
    sample = read_content(scene.rgb, dict(reversed(content.items())))
    assert sample.annotators == (None,) * 4
    assert sample.levels == (None,) * 4


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ([], "bad json"),
        (None, "bad json"),
        ({"annotations": {}}, "bad json"),
        ({"annotations": [3]}, "bad json"),
        ({"annotations": [{"segmentation": [[1, 2, 3, 4]]}]}, "bad json"),
        ({"annotations": [{"segmentation": {"size": [40, 56]}}]}, "bad json"),
        ({"annotations": [{"segmentation": {"size": "x", "counts": ""}}]}, "bad rle"),
        ({"annotations": [{"segmentation": {"size": [40.0, 56], "counts": ""}}]}, "bad rle"),
        ({"annotations": [{"segmentation": {"size": [40], "counts": ""}}]}, "bad rle"),
        ({"annotations": [{"segmentation": {"size": [40, 56], "counts": 7}}]}, "bad rle"),
        ({"annotations": [{"segmentation": {"size": [40, 56], "counts": ""}}]}, "bad rle"),
        ({"annotations": [{"segmentation": {"size": [0, 0], "counts": ""}}]}, "size mismatch"),
        (
            {"annotations": [{"segmentation": {"size": [40, 10**30], "counts": ""}}]},
            "size mismatch",
        ),
        ({"annotations": [{"segmentation": {"size": [40, 56], "counts": [2240]}}]}, "no masks"),
    ],
)
def test_json_of_another_form_is_refused(content: object, reason: str) -> None:
    with pytest.raises(SampleError, match=reason):
        read_content(scene_with(None).rgb, content)


def test_a_decompression_bomb_is_refused_from_its_header() -> None:
    for side in (9_000, 60_000):  # Pillow warns of the first and refuses the second
        header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
        chunk = b"IHDR" + header
        png = (
            b"\x89PNG\r\n\x1a\n"
            + struct.pack(">I", 13)
            + chunk
            + struct.pack(">I", zlib.crc32(chunk))
        )
        png += struct.pack(">I", 0) + b"IDAT" + struct.pack(">I", zlib.crc32(b"IDAT"))
        mask = {"size": [side, side], "counts": [side * side]}
        content = json.dumps({"annotations": [{"segmentation": mask}]}).encode()
        with pytest.raises(SampleError, match="bad jpg"):
            read_sample("k", "s", png, content)


def test_corrupted_files_end_in_a_sample_error_or_an_image() -> None:
    rng = np.random.default_rng(0)
    for fault in ("exif rotated", "cmyk", "palette"):
        scene = scene_with(fault)
        files = sample_files(scene)
        num_bad = 0
        for number in range(250):
            jpg, text = bytearray(files["jpg"]), bytearray(files["json"])
            for _ in range(4):
                jpg[rng.integers(min(len(jpg), 400 if number % 2 else len(jpg)))] = rng.integers(
                    256
                )
            if number % 3 == 0:
                text[rng.integers(len(text))] = rng.integers(256)
            try:
                rgb = read_sample("k", "s", bytes(jpg), bytes(text)).decode()
            except SampleError:
                num_bad += 1
                continue
            assert rgb.shape == (40, 56, 3)
        assert 0 < num_bad
        assert num_bad < 250 or fault == "palette"  # checksums give every change of a PNG away


def test_a_sample_error_survives_pickling() -> None:
    error = pickle.loads(pickle.dumps(SampleError("bad jpg", "it is cut")))
    assert (error.reason, error.detail, str(error)) == (
        "bad jpg",
        "it is cut",
        "bad jpg: it is cut",
    )


def test_at_least_must_be_a_share() -> None:
    with pytest.raises(ValueError, match="at_least must lie in"):
        read_scene(scene_with(None)).decode(0.0)


def blank(height: int, width: int) -> np.ndarray:
    return np.zeros((height, width, 3), np.uint8)


def rectangle(height: int, width: int, *boxes: tuple[int, int, int, int]) -> np.ndarray:
    mask = np.zeros((height, width), bool)
    for top, left, bottom, right in boxes:
        mask[top:bottom, left:right] = True
    return mask


def test_without_annotators_or_levels_the_smallest_mask_lies_on_top() -> None:
    small, large = rectangle(6, 8, (2, 2, 4, 4)), rectangle(6, 8, (1, 1, 5, 6))
    held = to_held_out(read_content(blank(6, 8), annotation_of(np.array([small, large]))))

    (labels,) = held.partitions
    expected = np.full((6, 8), -1)
    expected[large], expected[small] = 1, 0
    np.testing.assert_array_equal(labels, expected)
    assert labels.dtype == np.int64
    np.testing.assert_array_equal(held.masks, [small, large])
    assert held.image.shape == (6, 8, 3)


def test_parts_of_one_annotation_that_do_not_touch_get_numbers_of_their_own() -> None:
    pair = rectangle(6, 8, (0, 0, 2, 2), (4, 4, 6, 8))
    held = to_held_out(read_content(blank(6, 8), annotation_of(pair[None])))
    np.testing.assert_array_equal(held.partitions[0] + 1, label(pair, connectivity=1))


def test_each_annotator_has_a_partition_of_their_own() -> None:
    left, right = rectangle(4, 6, (0, 0, 4, 3)), rectangle(4, 6, (0, 3, 4, 6))
    whole = rectangle(4, 6, (0, 0, 4, 6))
    extra = [{"annotator": 9}, {"annotator": 2}, {"annotator": 9}]
    content = annotation_of(np.array([left, whole, right]), extra=extra)
    held = to_held_out(read_content(blank(4, 6), content))

    assert len(held.partitions) == 2
    np.testing.assert_array_equal(held.partitions[0], np.zeros((4, 6)))
    np.testing.assert_array_equal(held.partitions[1], np.where(right, 1, 0))


def test_levels_are_painted_one_over_the_other_from_coarse_to_fine() -> None:
    thing = rectangle(8, 8, (0, 0, 6, 6))
    part, subpart = rectangle(8, 8, (0, 0, 7, 3)), rectangle(8, 8, (0, 0, 2, 2))
    extra = [{"level": "subpart"}, {"level": "object"}, {"level": "part"}]
    content = annotation_of(np.array([subpart, thing, part]), extra=extra)
    held = to_held_out(read_content(blank(8, 8), content))

    one = np.where(thing, 0, -1)
    two = np.where(part, 1, one)  # a part may leave its object
    three = np.where(subpart, 0, np.where(part, 2, np.where(thing, 1, -1)))
    for got, expected in zip(held.partitions, (one, two, three), strict=True):
        np.testing.assert_array_equal(got, expected)


@pytest.mark.real
@pytest.mark.parametrize(
    ("folder", "num_partitions"),
    [("bsds500", range(4, 10)), ("ade20k_sample", range(2, 4)), ("ccp", range(1, 3))],
)
def test_real_images_give_the_partitions_that_their_annotators_drew(
    folder: str, num_partitions: range
) -> None:
    path = DATA / folder / "train-000000.tar"
    if not path.is_file():
        pytest.skip(f"no images at {path}")
    index = scan_shard(path)
    content = path.read_bytes()
    for row in range(0, len(index.keys), max(1, len(index.keys) // 3)):
        jpg_at, jpg_size, json_at, json_size = index.spans[row].tolist()
        jpg, text = content[jpg_at : jpg_at + jpg_size], content[json_at : json_at + json_size]
        sample = read_sample(index.keys[row], str(path), jpg, text)
        held = to_held_out(sample)
        image = np.asarray(Image.open(io.BytesIO(jpg)).convert("RGB"))
        np.testing.assert_array_equal(held.image, image)
        assert len(held.partitions) in num_partitions
        areas = [one["area"] for one in json.loads(text)["annotations"]]
        assert sum(areas) == sample.runs.areas.sum()  # one region per annotation, all kept
        for labels in held.partitions:
            numbers = np.unique(labels[labels >= 0])
            np.testing.assert_array_equal(numbers, np.arange(len(numbers)))
            if folder == "bsds500":
                assert (labels >= 0).mean() > 0.99


@pytest.mark.parametrize(
    ("value", "expected"),
    [(1, True), (True, True), ("1", True), (1.0, True), (0, False), ("0", False), (None, False)],
)
def test_a_crowd_is_known_however_its_flag_is_written(value: object, expected: bool) -> None:
    assert is_crowd({"iscrowd": value}) is expected
    assert not is_crowd({})
