"""Re-sharding: genuine layouts in, the same bytes out however often the work was stopped."""

from __future__ import annotations

import io
import json
import logging
import os
import signal
import subprocess
import sys
import tarfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import webdataset as wds
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from shard_factory import (
    FAULTS,
    Scene,
    annotation_of,
    draw_scene,
    files_of,
    jpg_bytes,
    killed_after,
    sample_files,
    write_members,
    write_shard,
)
from skimage.measure import label
from waiting import is_gone, wait_until

from maskfeat.data.annotations.image import SampleError
from maskfeat.data.annotations.limits import Limits
from maskfeat.data.annotations.painting import decode
from maskfeat.data.annotations.sample import AnnotatedImage, read_sample
from maskfeat.data.commands import parse_part
from maskfeat.data.convert import Settings, convert_inputs, find_inputs
from maskfeat.data.convert.layouts import TarRecord
from maskfeat.data.convert.sample import shrink
from maskfeat.data.convert.sources import clean_keys
from maskfeat.data.convert.state import ConvertState
from maskfeat.data.shards.index import scan_shard

SMALL = Settings(size=40, min_area_px=4, shard_mb=0.05)


def convert(
    sources: Sequence[Path | str], out: Path, how: Settings = SMALL, **options: Any
) -> dict[str, Any]:
    """Convert in this process; gives what index.json holds."""
    inputs = find_inputs([str(source) for source in sources])
    state = convert_inputs(inputs, out, how, **{"num_workers": 0, **options})
    assert isinstance(state, ConvertState)
    return state.summary()


def read_all(folder: Path) -> list[tuple[AnnotatedImage, dict[str, Any]]]:
    """All samples of the tars of a folder, by the reader used in training, with their jsons."""
    samples = []
    for path in sorted(folder.glob("*.tar")):
        index, data = scan_shard(path), path.read_bytes()
        for key, (jpg_at, jpg_size, json_at, json_size) in zip(
            index.keys, index.spans.tolist(), strict=True
        ):
            jpg = data[jpg_at : jpg_at + jpg_size]
            text = data[json_at : json_at + json_size]
            samples.append((read_sample(key, str(path), jpg, text), json.loads(text)))
    return samples


def resized(mask: np.ndarray, size: tuple[int, int], how: Image.Resampling) -> np.ndarray:
    """A mask of 0 and 255 brought to (height, width) by Pillow."""
    image = Image.fromarray(mask.astype(np.uint8) * 255)
    return np.asarray(image.resize(size[::-1], how))


def components(mask: np.ndarray) -> list[np.ndarray]:
    """The connected components of a mask, by scikit-image, in column-major order as in RLE."""
    numbers = label(mask.T, connectivity=1).T
    return [numbers == number for number in range(1, numbers.max() + 1)]


def one_sample(masks: np.ndarray, rgb: np.ndarray, tmp_path: Path, **more: Any) -> TarRecord:
    jpg, text = jpg_bytes(rgb), json.dumps(annotation_of(masks, **more)).encode()
    path = write_members(tmp_path / "one.tar", [("sa_1.json", text), ("sa_1.jpg", jpg)])
    [(key, span)] = scan_shard(path).places()
    return TarRecord(key, (str(path),), span)


def test_a_genuine_tar_comes_out_sorted_small_and_readable_by_webdataset(tmp_path: Path) -> None:
    source = tmp_path / "in" / "sa_000000.tar"
    scenes = write_shard(source, 7, order="random", prefix="./", dotted=True, size=(90, 130))
    before = source.read_bytes()

    summary = convert([source], tmp_path / "out")

    assert source.read_bytes() == before
    samples = read_all(tmp_path / "out")
    expected = [scene.key.replace(".", "_") for scene in scenes]
    assert [sample.key for sample, _ in samples] == expected
    assert summary["samples"] == 7
    shards = sorted(str(path) for path in (tmp_path / "out").glob("*.tar"))
    assert [Path(path).name for path in shards] == [s["shard"] for s in summary["shards"]]
    streamed = list(wds.WebDataset(shards, shardshuffle=False))
    assert [sample["__key__"] for sample in streamed] == expected
    for sample, content in samples:
        assert sample.runs.size == (40, 58)
        assert sample.decode().shape == (40, 58, 3)
        assert content["image"]["file_name"] == f"{sample.key}.jpg"
        assert (content["image"]["height"], content["image"]["width"]) == (40, 58)
        assert content["annotations"][0]["predicted_iou"] == 1.03  # the source's own


def test_masks_are_those_that_pillow_makes_of_the_decoded_components(tmp_path: Path) -> None:
    """Exact by nearest neighbor; by area within the pixels that the border passes through."""
    rng = np.random.default_rng(0)
    size, new = (150, 203), (40, 54)
    for _ in range(5):
        rgb, masks = draw_scene(rng, size, 6)
        masks[0] &= rng.random(size) < 0.97  # with holes and specks
        jpg, text, num, _ = shrink("k", 1, one_sample(masks, rgb, tmp_path).read(), SMALL)
        got = decode(read_sample("k", "", jpg, text).runs)

        expected = [
            piece
            for mask in masks
            for whole in components(mask)
            for piece in components(resized(whole, new, Image.Resampling.NEAREST) > 0)
            if piece.sum() >= SMALL.min_area_px
        ]
        assert num == len(got) == len(expected)
        np.testing.assert_array_equal(got, np.array(expected))

        # One convex mask alone: what new pixels share whole, or not at all, is as it should be.
        [whole] = components(masks[1])
        jpg, text, *_ = shrink("k", 1, one_sample(masks[1:2], rgb, tmp_path).read(), SMALL)
        [mine] = decode(read_sample("k", "", jpg, text).runs)
        shares = resized(whole, new, Image.Resampling.BOX) / 255
        assert not (mine & (shares == 0)).any()
        assert not (~mine & (shares == 1)).any()


def test_masks_that_nest_and_masks_that_part_the_image_still_do(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    y, x = np.mgrid[:131, :170]
    labels = (np.sin(x / 9.0) + np.sin(y / 7.0) > rng.normal(0, 0.1)).astype(int) + 2 * (x > 77)
    parts = [labels == number for number in range(4)]
    whole = labels < 2
    masks = np.array([whole, *parts])
    how = Settings(size=37, min_area_px=2)
    record = one_sample(masks, np.zeros((131, 170, 3), np.uint8), tmp_path)
    jpg, text, *_ = shrink("k", 1, record.read(), how)
    got = decode(read_sample("k", "", jpg, text).runs)

    [half] = [mask for mask in got if mask[:, :16].all()]
    pieces = [mask for mask in got if (mask != half).any()]
    assert len(pieces) == len(got) - 1 >= 20
    count = sum(mask.astype(int) for mask in pieces)
    assert count.max() == 1  # none overlap, and only specks of one pixel are in none
    assert components(count == 0)
    assert all(speck.sum() < 4 for speck in components(count == 0))
    assert all((mask & half).sum() in (0, mask.sum()) for mask in pieces)


def test_components_that_the_coarse_grid_would_join_stay_apart(tmp_path: Path) -> None:
    mask = np.zeros((1, 120, 120), bool)
    mask[0, 10:110, 10:60] = mask[0, 10:110, 61:110] = True  # a gap of one pixel
    record = one_sample(mask, np.zeros((120, 120, 3), np.uint8), tmp_path)
    _, text, num, _ = shrink("k", 1, record.read(), Settings(size=40, min_area_px=4))
    assert num == 2
    left, right = json.loads(text)["annotations"]
    assert left["bbox"][0] + left["bbox"][2] == right["bbox"][0]


def test_areas_boxes_and_points_are_those_of_the_new_masks(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    rgb, masks = draw_scene(rng, (160, 120), 5)
    masks[0] = False
    masks[0, 20:60, 10:50] = masks[0, 100:140, 70:110] = True  # two, the point in the first
    extra = [{"point_coords": [[30.5, 40.5]], "crop_box": [10.0, 20.0, 60.0, 80.0]}]
    record = one_sample(masks, rgb, tmp_path, extra=extra)
    jpg, text, *_ = shrink("k", 1, record.read(), Settings(size=60, min_area_px=4))
    content = json.loads(text)
    got = decode(read_sample("k", "", jpg, text).runs)
    for number, (mask, one) in enumerate(zip(got, content["annotations"], strict=True)):
        rows, columns = np.nonzero(mask)
        assert one["id"] == number + 1
        assert one["area"] == mask.sum()
        assert one["bbox"] == [
            columns.min(),
            rows.min(),
            np.ptp(columns) + 1,
            np.ptp(rows) + 1,
        ]
        [[x, y]] = one["point_coords"]
        assert mask[int(y), int(x)]
    first, second = content["annotations"][:2]
    assert first["point_coords"] == [[15.0, 20.0]]  # the source's, at half the size
    assert second["point_coords"] != first["point_coords"]
    assert first["crop_box"] == second["crop_box"] == [5.0, 10.0, 30.0, 40.0]


def test_what_else_an_annotation_says_is_kept(tmp_path: Path) -> None:
    rgb, masks = draw_scene(np.random.default_rng(3), (60, 80), 2)
    extra = [{"annotator": 3, "level": "part", "label": "wheel", "mine": [1, {"a": None}]}] * 2
    record = one_sample(masks, rgb, tmp_path, extra=extra)
    _, text, *_ = shrink("k", 1, record.read(), SMALL)
    for one in json.loads(text)["annotations"]:
        assert {name: one[name] for name in extra[0]} == extra[0]
        assert (one["predicted_iou"], one["stability_score"]) == (1.03, 0.97)


def test_masks_below_the_least_area_are_dropped_by_the_pixels_of_the_new_image(
    tmp_path: Path,
) -> None:
    masks = np.zeros((4, 80, 80), bool)
    for number, side in enumerate((4, 6, 8, 10)):  # 4, 9, 16 and 25 pixels at half the size
        masks[number, 10 : 10 + side, 10 : 10 + side] = True
    record = one_sample(masks, np.zeros((80, 80, 3), np.uint8), tmp_path)
    areas = {
        least: [
            one["area"]
            for one in json.loads(
                shrink("k", 1, record.read(), Settings(size=40, min_area_px=least))[1]
            )["annotations"]
        ]
        for least in (2, 9, 10, 25)
    }
    assert areas == {2: [4, 9, 16, 25], 9: [9, 16, 25], 10: [16, 25], 25: [25]}
    with pytest.raises(SampleError, match="no masks"):
        shrink("k", 1, record.read(), Settings(size=40, min_area_px=26))


def test_an_image_that_is_small_already_keeps_its_file_unless_it_is_turned(tmp_path: Path) -> None:
    kept, turned, png = (
        Scene(key, *draw_scene(np.random.default_rng(4), (30, 44)), fault)
        for key, fault in (("a", None), ("b", "exif rotated"), ("c", "palette"))
    )
    members = [
        (f"{scene.key}.{kind}", data)
        for scene in (kept, turned, png)
        for kind, data in sample_files(scene).items()
    ]
    write_members(tmp_path / "in.tar", members)
    convert([tmp_path / "in.tar"], tmp_path / "out")
    a, b, c = (sample for sample, _ in read_all(tmp_path / "out"))
    assert a.jpg == sample_files(kept)["jpg"]
    for sample, scene in ((b, turned), (c, png)):
        with Image.open(io.BytesIO(sample.jpg)) as image:
            assert image.format == "JPEG"
            assert image.size == (44, 30)
            assert image.getexif().get(0x0112, 1) == 1
        assert np.abs(sample.decode().astype(int) - scene.rgb).mean() < 12
        assert np.array_equal(decode(sample.runs), decode(a.runs))


def test_a_reduced_image_is_the_mean_over_areas(tmp_path: Path) -> None:
    """Against exact means of the full image: the rest is JPEG and the decoder's own halving."""
    rng = np.random.default_rng(5)
    coarse = rng.uniform(0, 255, (12, 16)).astype(np.uint8)  # gray: JPEG halves colors
    gray = Image.fromarray(coarse).resize((240, 180), Image.Resampling.BICUBIC)
    rgb = np.asarray(gray.convert("RGB"))
    masks = np.ones((1, 180, 240), bool)
    how = Settings(size=60, min_area_px=4, jpg_quality=95)
    jpg, *_ = shrink("k", 1, one_sample(masks, rgb, tmp_path).read(), how)
    got = np.asarray(Image.open(io.BytesIO(jpg))).astype(float)
    means = rgb.reshape(60, 3, 80, 3, 3).astype(float).mean(axis=(1, 3))
    assert np.abs(got - means).mean() < 4
    # A shift by a third of a new pixel would be seen.
    shifted = np.roll(rgb, 1, axis=1).reshape(60, 3, 80, 3, 3).astype(float).mean(axis=(1, 3))
    assert np.abs(got - means)[:, 1:].mean() < np.abs(got - shifted)[:, 1:].mean()


def test_the_number_of_processes_does_not_change_a_byte(tmp_path: Path) -> None:
    sources = [tmp_path / f"in/sa_{number:06d}.tar" for number in range(2)]
    for number, source in enumerate(sources):
        write_shard(source, 17, seed=number, order="random", faults={3: "bad json", 9: "no masks"})
    for workers in (0, 2):
        convert(sources, tmp_path / f"out{workers}", num_workers=workers)
    alone = files_of(tmp_path / "out0")
    assert len([name for name in alone if name.endswith(".tar")]) == 4
    assert alone == files_of(tmp_path / "out2")


def test_the_parts_of_an_array_give_what_one_run_gives(tmp_path: Path) -> None:
    for number in range(5):
        write_shard(tmp_path / f"in/sa_{number:06d}.tar", 4, seed=number, order="halves")
    convert([tmp_path / "in"], tmp_path / "one")
    for number in (2, 0, 1):
        assert not (tmp_path / "parts/index.json").exists()
        convert([tmp_path / "in"], tmp_path / "parts", part=(number, 3))
    assert files_of(tmp_path / "one") == files_of(tmp_path / "parts")

    convert([tmp_path / "in"], tmp_path / "lost", part=(0, 3))
    convert([tmp_path / "in"], tmp_path / "lost")  # one job for what the others did not do
    assert files_of(tmp_path / "one") == files_of(tmp_path / "lost")


def test_a_run_killed_in_the_middle_ends_in_the_same_bytes(tmp_path: Path) -> None:
    faults = {5: "bad json", 20: "truncated jpg", 59: "missing jpg"}
    write_shard(tmp_path / "in/sa_000000.tar", 60, order="random", size=(300, 400), faults=faults)
    how = Settings(size=150, shard_mb=0.06)
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    convert([tmp_path / "in"], whole, how)

    words = ["in", "--size=150", "--shard-mb=0.06", "--num-workers=1", "--out=broken"]
    run = [sys.executable, "-c", killed_after("sa_000000-000001.tar"), "shards", "convert", *words]
    killed = subprocess.run(run, cwd=tmp_path, stdout=-1, stderr=-3, check=False)
    assert killed.returncode == -signal.SIGKILL
    children = killed.stdout.split()
    assert children
    assert not (broken / "index.json").exists()
    notes = sorted(broken.glob(".convert/sa_000000-*.json"))
    finished = {json.loads(note.read_bytes())["shard"] for note in notes}
    assert len(finished) == 2
    before = {name: (broken / name).stat().st_ino for name in finished}
    wait_until(lambda: all(is_gone(int(child)) for child in children))  # none outlives it

    convert([tmp_path / "in"], broken, how)
    assert files_of(whole) == files_of(broken)
    assert {name: (broken / name).stat().st_ino for name in finished} == before
    assert sorted(p.name for p in (whole / ".convert").iterdir()) == sorted(
        p.name for p in (broken / ".convert").iterdir()
    )


@pytest.mark.parametrize("point", ["no note", "half a shard", "no end", "a shard lost", "no index"])
def test_whatever_a_stopped_run_left_is_made_good(tmp_path: Path, point: str) -> None:
    source = tmp_path / "in/sa_000000.tar"
    # Some are skipped on both sides of every end of a shard.
    write_shard(source, 45, faults={number: "bad json" for number in range(0, 45, 2)})
    whole, out = tmp_path / "whole", tmp_path / "out"
    assert convert([source], whole)["skipped"] == {"bad json": 23}
    convert([source], out)
    num_shards = len(list(out.glob("*.tar")))
    assert num_shards >= 3
    last = f"sa_000000-{num_shards - 1:06d}"
    (out / "index.json").unlink()
    if point != "no index":
        (out / ".convert/sa_000000.done.json").unlink()
    if point == "no note":  # killed between the rename and the note
        (out / f".convert/{last}.json").unlink()
    elif point == "half a shard":
        (out / f".convert/{last}.json").unlink()
        (out / f"{last}.tar").rename(out / f".{last}.tar.123.part")
    elif point == "a shard lost":
        (out / "sa_000000-000001.tar").unlink()

    convert([source], out)

    assert files_of(out) == files_of(whole)


def test_corrupt_members_are_counted_by_reason_and_named_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    faults = dict(enumerate(FAULTS))
    source = tmp_path / "sa_000000.tar"
    write_shard(source, len(FAULTS) + 3, order="random", faults=faults)
    with caplog.at_level(logging.WARNING, "maskfeat"):
        summary = convert([source], tmp_path / "out")
    expected = Counter(reason for reason in FAULTS.values() if reason is not None)
    assert summary["skipped"] == dict(expected)
    assert json.loads((tmp_path / "out/index.json").read_bytes())["skipped"] == dict(expected)
    assert summary["samples"] == len(FAULTS) + 3 - sum(expected.values())
    # With propagation pytest may listen at two loggers: a record is one however often it is heard.
    heard = {id(record): record.getMessage() for record in caplog.records}.values()
    lines = [message for message in heard if message.startswith("skipped sample")]
    assert len(lines) == sum(expected.values())
    for number, fault in faults.items():
        named = [line for line in lines if f"'sa_{100 + number}'" in line]
        reason = FAULTS[fault]
        assert len(named) == (reason is not None)
        assert all(f"({reason})" in line and str(source) in line for line in named)


def test_a_tar_that_is_none_costs_no_other(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in/sa_000000.tar").write_bytes(b"no tar at all" * 100)
    write_shard(tmp_path / "in/sa_000001.tar", 3)
    summary = convert([tmp_path / "in"], tmp_path / "out")
    assert summary["samples"] == 3
    assert summary["skipped"] == {"bad tar": 1}
    assert summary["inputs"]["sa_000000"]["skipped"] == {"bad tar": 1}


def test_shards_stay_below_their_size(tmp_path: Path) -> None:
    write_shard(tmp_path / "sa_000000.tar", 30)
    summary = convert([tmp_path / "sa_000000.tar"], tmp_path / "out")
    sizes = [shard["bytes"] for shard in summary["shards"]]
    assert len(sizes) > 3
    assert max(sizes) <= 50_000 + 10_240  # a tar ends in zeros up to a full record
    assert sizes == [(tmp_path / "out" / s["shard"]).stat().st_size for s in summary["shards"]]
    assert summary["masks"] == sum(
        sample.runs.num_masks for sample, _ in read_all(tmp_path / "out")
    )


def test_a_folder_begun_otherwise_is_refused(tmp_path: Path) -> None:
    source = tmp_path / "in/sa_000000.tar"
    write_shard(source, 3)
    convert([source], tmp_path / "out")
    with pytest.raises(ValueError, match="was begun with size 40 and not 41"):
        convert([source], tmp_path / "out", Settings(41, 4, shard_mb=0.05))
    write_shard(tmp_path / "elsewhere/sa_000000.tar", 4)
    with pytest.raises(ValueError, match=r"is not what .* was begun with"):
        convert([tmp_path / "elsewhere/sa_000000.tar"], tmp_path / "out")
    (tmp_path / "other").mkdir()
    write_shard(tmp_path / "other/mine.tar", 1)
    with pytest.raises(ValueError, match="did not write"):
        convert([source], tmp_path / "other")


def test_more_inputs_may_be_added_later(tmp_path: Path) -> None:
    for number in range(2):
        write_shard(tmp_path / f"in/sa_{number:06d}.tar", 3, seed=number)
    convert([tmp_path / "in"], tmp_path / "once")
    convert([tmp_path / "in/sa_000001.tar"], tmp_path / "twice")
    convert([tmp_path / "in/sa_000000.tar"], tmp_path / "twice")
    assert files_of(tmp_path / "once") == files_of(tmp_path / "twice")


def test_a_missing_source_is_said_before_anything_starts(tmp_path: Path) -> None:
    write_shard(tmp_path / "a/sa_000000.tar", 1)
    write_shard(tmp_path / "b/sa_000000.tar", 1)
    for sources, message in (
        ([tmp_path / "a", tmp_path / "none.tar"], "no source .*none.tar"),
        ([tmp_path / "a", tmp_path / "b"], "would both become 'sa_000000'"),
    ):
        with pytest.raises((FileNotFoundError, ValueError), match=message):
            convert(sources, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_input_that_another_process_writes_is_left_alone(tmp_path: Path) -> None:
    write_shard(tmp_path / "sa_000000.tar", 2)
    inputs = find_inputs([str(tmp_path / "sa_000000.tar")])
    state = ConvertState(tmp_path / "out")
    state.adopt(inputs, SMALL)
    hold = (
        "import sys; from maskfeat.data.convert.state import ConvertState\n"
        "with ConvertState(sys.argv[1]).lock('sa_000000') as is_free:\n"
        "    print(is_free, flush=True); sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", hold, tmp_path / "out"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"True\n"
        assert convert([tmp_path / "sa_000000.tar"], tmp_path / "out")["samples"] == 0
        other.communicate()
    assert convert([tmp_path / "sa_000000.tar"], tmp_path / "out")["samples"] == 2


def test_new_names_are_fit_for_tars_and_each_is_one() -> None:
    long, foreign = "x" * 300, "\u00e9t\u00e9 \u6d77.1"
    names = clean_keys(["a.b", "a_b", "a/b", "plain", long, long + "y", foreign])
    assert names["plain"] == "plain"
    assert {names["a.b"], names["a/b"], names["a_b"]} == {"a_b", "a_b_2", "a_b_3"}
    assert len(set(names.values())) == 7
    for name in names.values():
        assert name.isascii()
        assert len(name) <= 90
        assert not set("./ ") & set(name)


@pytest.mark.parametrize("part", ["3/3", "1", "a/2", "-1/2", "1/0", ""])
def test_parts_that_are_none_are_refused(part: str) -> None:
    with pytest.raises(ValueError, match="part"):
        parse_part(part)


@pytest.mark.parametrize(
    "wrong", [{"size": 8}, {"min_area_px": 1}, {"jpg_quality": 100}, {"shard_mb": 0.0}]
)
def test_settings_out_of_range_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Settings(**wrong)


_RGB, _MASKS = draw_scene(np.random.default_rng(6), (40, 56))
_TEXT = json.dumps(annotation_of(_MASKS)).encode()
_JPG = jpg_bytes(_RGB)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.integers(0, len(_TEXT) - 1), st.integers(0, 255)), max_size=6))
def test_a_corrupted_json_ends_in_a_skip_or_in_masks_that_fit(
    tmp_path_factory: pytest.TempPathFactory, changes: list[tuple[int, int]]
) -> None:
    text = bytearray(_TEXT)
    for place, value in changes:
        text[place] = value
    path = tmp_path_factory.getbasetemp() / f"fuzz{os.getpid()}.tar"
    write_members(path, [("k.jpg", _JPG), ("k.json", bytes(text))])
    [(key, span)] = scan_shard(path).places()
    record = TarRecord(key, (str(path),), span)
    try:
        jpg, new, num, _ = shrink("k", 1, record.read(), Settings(size=30, min_area_px=4))
    except SampleError:
        return
    sample = read_sample("k", "", jpg, new)
    assert sample.runs.num_masks == num
    assert (sample.runs.areas >= 4).all()


def test_the_command_takes_bare_words_as_sources_and_needs_no_torch(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_shard(tmp_path / f"in/{name}.tar", 2, faults={0: "bad json"})
    code = (
        "import sys\nfrom maskfeat.cli import main\nmain(sys.argv[1:])\n"
        "assert 'torch' not in sys.modules"
    )
    words = ["shards", "convert", "in/a.tar", "--out", "out", "--num-workers", "0", "in/b.tar"]
    done = subprocess.run(
        [sys.executable, "-c", code, *words], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "skipped: bad json" in done.stdout
    assert sorted(path.name for path in (tmp_path / "out").glob("*.tar")) == [
        "a-000000.tar",
        "b-000000.tar",
    ]


def test_the_command_says_in_one_sentence_what_is_wrong(command, tmp_path, capsys) -> None:
    for words, message in (
        (["nowhere", "--out=out"], "error: no source 'nowhere'"),
        (["nowhere", "--out=out", "--part=4/4"], "counts from 0"),
        (["nowhere", "--out=out", "--format=pascal"], "format must be one of"),
    ):
        with pytest.raises(SystemExit, match=message):
            command("shards", "convert", *words)
    with pytest.raises(SystemExit):
        command("shards", "convert", "--help")
    told = capsys.readouterr().out
    for word in ("annotator", "KEY_seg.png", "counted from 0", "SLURM_ARRAY_TASK_ID", "label map"):
        assert word in told


@pytest.mark.real
@pytest.mark.parametrize("name", ["bsds500/val-000000", "ade20k_sample/train-000000"])
def test_real_images_keep_their_masks_at_full_size_and_nearly_so_at_less(
    shared_data: Path, tmp_path: Path, name: str
) -> None:
    """At half the size a mask keeps its share of the image to within its border's pixels."""
    source, small = shared_data / f"{name}.tar", tmp_path / "small.tar"
    with tarfile.open(source) as tar:
        members = [(m.name, tar.extractfile(m).read()) for m in tar.getmembers()[:8]]
    write_members(small, members)
    full = convert([small], tmp_path / "full", Settings(size=2000, min_area_px=2))
    convert([small], tmp_path / "half", Settings(size=160, min_area_px=2))
    theirs = dict(members)
    samples = read_all(tmp_path / "full")
    assert full["samples"] == len(samples) == len(members) // 2
    for (sample, content), (half, halved) in zip(samples, read_all(tmp_path / "half"), strict=True):
        original = read_sample(
            sample.key, "", theirs[f"{sample.key}.jpg"], theirs[f"{sample.key}.json"]
        )
        assert sample.jpg == original.jpg
        np.testing.assert_array_equal(sample.runs.starts, original.runs.starts)
        np.testing.assert_array_equal(sample.runs.mask_of_run, original.runs.mask_of_run)
        for name_of in ("annotator", "level", "label"):
            assert [one.get(name_of) for one in content["annotations"]] == [
                one.get(name_of) for one in json.loads(theirs[f"{sample.key}.json"])["annotations"]
            ]
        ratio = np.prod(half.runs.size) / np.prod(sample.runs.size)
        large = np.sort(sample.runs.areas)[-5:] * ratio
        got = np.sort(half.runs.areas)[-5:]
        # A border of length 4 sqrt(area) or some times that passes through so many new pixels.
        assert (np.abs(large - got) <= 4 * np.sqrt(large)).all()
        assert {one.get("level") for one in halved["annotations"]} <= {
            one.get("level") for one in content["annotations"]
        }


@pytest.mark.real
def test_a_genuine_json_of_sa1b_is_read(shared_data: Path, tmp_path: Path) -> None:
    text = (shared_data / "sa1b_sample/sa_1.json").read_bytes()
    content = json.loads(text)
    image = content["image"]
    rgb = np.zeros((image["height"], image["width"], 3), np.uint8)
    members = [("./sa_1.json", text), ("./sa_1.jpg", jpg_bytes(rgb))]
    write_members(tmp_path / "sa_000000.tar", members)
    convert([tmp_path / "sa_000000.tar"], tmp_path / "out", Settings(size=512))
    [(sample, new)] = read_all(tmp_path / "out")
    assert sample.runs.size == (704, 512)
    scores = {one["predicted_iou"] for one in content["annotations"]}
    assert {one["predicted_iou"] for one in new["annotations"]} <= scores
    assert len(new["annotations"]) >= len(content["annotations"]) - 2


def test_what_training_refuses_for_its_number_of_runs_is_not_converted(tmp_path: Path) -> None:
    """Read and converted by the same limit: one run more, in columns, and both skip it."""
    whole = {"segmentation": {"size": [16, 20], "counts": [0, 320]}, "id": 1}
    jpg, how = jpg_bytes(np.zeros((16, 20, 3), np.uint8)), Settings(size=16)
    limits = Limits(runs=3 * 20)
    for num in (3, 4):
        text = json.dumps({"annotations": [whole] * num}).encode()
        path = write_members(tmp_path / "a.tar", [("a.jpg", jpg), ("a.json", text)])
        [(key, span)] = scan_shard(path).places()
        source = TarRecord(key, (str(path),), span, limits).read()
        if num == 3:
            assert read_sample("a", "a.tar", jpg, text, limits=limits).runs.num_masks == 3
            assert shrink("a", 1, source, how)[2] == 3
            continue
        for attempt in (
            lambda source=source: shrink("a", 1, source, how),
            lambda text=text: read_sample("a", "a.tar", jpg, text, limits=limits),
        ):
            with pytest.raises(
                SampleError, match=r"at most 60 runs in columns \(limits.runs\), got 80"
            ) as caught:
                attempt()
            assert caught.value.reason == "bad rle"
