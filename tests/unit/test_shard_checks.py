"""`maskfeat shards verify` and `maskfeat shards stats`."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pycocotools import mask as coco
from shard_factory import FAULTS, annotation_of, jpg_bytes, write_members, write_shard

from maskfeat.data.annotations.painting import decode, encode
from maskfeat.data.annotations.rle import Runs, runs_from_counts
from maskfeat.data.convert import Settings, convert_inputs, find_inputs
from maskfeat.data.convert.report import draw_sheet
from maskfeat.data.convert.stats import count_up, find_places, nesting_depths, overlaps, summarize
from maskfeat.data.convert.verify import verify_folder
from maskfeat.data.shards.index import scan_shard


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A converted folder of several shards."""
    write_shard(tmp_path / "in/sa_000000.tar", 12, faults={4: "bad json"})
    how = Settings(size=40, min_area_px=4, shard_mb=0.04)
    convert_inputs(find_inputs([str(tmp_path / "in")]), tmp_path / "out", how, num_workers=0)
    return tmp_path / "out"


def problems(folder: Path) -> list[tuple[str, str]]:
    report, _ = verify_folder(folder, num_workers=0)
    return [(problem.shard, problem.what) for problem in report.problems]


def runs_of(masks: np.ndarray) -> Runs:
    return runs_from_counts([encode(mask) for mask in masks], masks.shape[1:], min_area_px=1)


def rewrite_json(path: Path, change: Any) -> None:
    """Change the json of a shard's first sample, and make the index agree with the new file."""
    index, data = scan_shard(path), path.read_bytes()
    members = []
    for number, (key, (jpg_at, jpg_size, json_at, json_size)) in enumerate(
        zip(index.keys, index.spans.tolist(), strict=True)
    ):
        content = json.loads(data[json_at : json_at + json_size])
        if number == 0:
            change(content)
        members.append((f"{key}.jpg", data[jpg_at : jpg_at + jpg_size]))
        members.append((f"{key}.json", json.dumps(content).encode()))
    write_members(path, members)
    index_path = path.parent / "index.json"
    told = json.loads(index_path.read_bytes())
    note = next(note for note in told["shards"] if note["shard"] == path.name)
    note.update(bytes=path.stat().st_size, sha256=hashlib.sha256(path.read_bytes()).hexdigest())
    index_path.write_text(json.dumps(told))


def test_sound_shards_are_found_sound(folder: Path) -> None:
    report, num_shards = verify_folder(folder, num_workers=0)
    told = json.loads((folder / "index.json").read_bytes())
    assert report.problems == []
    assert num_shards == len(told["shards"]) >= 2
    assert (report.num_samples, report.num_masks) == (told["samples"], told["masks"])
    assert report.num_samples == 11


def test_any_flipped_byte_is_noticed(folder: Path) -> None:
    path = folder / "sa_000000-000001.tar"
    whole = path.read_bytes()
    for place in (0, 700, len(whole) // 2, len(whole) - 1):
        data = bytearray(whole)
        data[place] ^= 1
        path.write_bytes(data)
        assert (path.name, "its checksum is not that of the index") in problems(folder)
    path.write_bytes(whole)
    assert problems(folder) == []


def test_missing_extra_and_cut_shards_are_noticed(folder: Path) -> None:
    first, second = sorted(folder.glob("*.tar"))[:2]
    first.rename(folder / "other.tar")
    second.write_bytes(second.read_bytes()[:-12_000])
    found = dict(problems(folder))
    assert found[first.name] == "the shard is missing"
    assert found["other.tar"] == "the shard is not in index.json"
    of_second = [what for name, what in problems(folder) if name == second.name]
    assert any("bytes, the index says" in what for what in of_second)
    assert "it is cut short or broken" in of_second


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda c: c["annotations"][0].update(area=3), "areas"),
        (lambda c: c["annotations"][0].update(bbox=[0.0, 0.0, 1.0, 1.0]), "boxes"),
        (lambda c: c["image"].update(height=7), "another size than its masks"),
        (lambda c: c["annotations"].pop(), "masks, the index says"),
        (lambda c: c.update(annotations=[]), "cannot be read .no masks"),
        (
            lambda c: c["annotations"][0]["segmentation"].update(size=[41, 56]),
            "cannot be read .size mismatch",
        ),
        (
            lambda c: c["annotations"][0]["segmentation"].update(counts="0"),
            "cannot be read .bad rle",
        ),
    ],
)
def test_masks_that_do_not_fit_are_noticed_though_the_checksum_is_right(
    folder: Path, change: Any, what: str
) -> None:
    rewrite_json(folder / "sa_000000-000000.tar", change)
    [(shard, told)] = problems(folder)
    assert shard == "sa_000000-000000.tar"
    assert what.split(" .")[0] in told
    assert what.split(" .")[-1] in told


def test_an_image_that_breaks_off_is_noticed_without_an_index(tmp_path: Path) -> None:
    write_shard(tmp_path / "a.tar", 5, faults={1: "truncated jpg", 2: "missing json"})
    found = problems(tmp_path)
    assert ("a.tar", "samples cannot be read (bad jpg)") in found
    assert ("a.tar", "samples lack a half") in found
    assert any(name == "index.json" for name, _ in found)


def test_samples_that_come_again_are_noticed(tmp_path: Path) -> None:
    write_shard(tmp_path / "a.tar", 2)
    whole = (tmp_path / "a.tar").read_bytes()
    (tmp_path / "a.tar").write_bytes(whole + whole)
    report, _ = verify_folder(tmp_path, num_workers=0)
    [again] = [one for one in report.problems if one.what.startswith("files come again")]
    assert again.num == 4


def test_unfinished_work_is_noticed(tmp_path: Path) -> None:
    for number in range(3):
        write_shard(tmp_path / f"in/sa_{number:06d}.tar", 2)
    inputs = find_inputs([str(tmp_path / "in")])
    convert_inputs(inputs, tmp_path / "out", Settings(), part=(0, 2), num_workers=0)
    [(name, what)] = problems(tmp_path / "out")
    assert name == "index.json"
    assert "of 3 inputs some are not done" in what


def test_the_command_ends_with_status_1_and_a_table(folder: Path, command, capsys) -> None:
    command("shards", "verify", str(folder), "--num_workers=0")
    assert "11 samples" in capsys.readouterr().out
    (folder / "sa_000000-000000.tar").unlink()
    with pytest.raises(SystemExit) as stop:
        command("shards", "verify", str(folder), "--num_workers=0")
    assert stop.value.code == 1
    assert "the shard is missing" in capsys.readouterr().out


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.floats(0.05, 0.9))
def test_shared_areas_are_those_of_the_decoded_masks(seed: int, share: float) -> None:
    masks = np.random.default_rng(seed).random((4, 7, 9)) < share
    masks[:, 0, 0] = True
    runs = runs_of(masks)
    pieces = decode(runs).reshape(runs.num_masks, -1).astype(int)
    np.testing.assert_array_equal(overlaps(runs), pieces @ pieces.T)


def test_nesting_depth_is_the_longest_chain() -> None:
    masks = np.zeros((7, 60, 60), bool)
    masks[0, 5:55, 5:55] = True  # 1
    masks[1, 10:40, 10:40] = True  # in 0: 2
    masks[2, 15:30, 15:30] = True  # in 1: 3
    masks[3, 5:55, 6:55] = True  # nearly 0: another outline of it
    masks[4, 10:40, 10:28] = True  # in 1, and 2 is not in it: 3
    masks[5, 45:60, 20:30] = True  # two thirds in 0 only: 1
    masks[6, 18:22, 18:22] = True  # in 2, and in 4: 4
    runs = runs_of(masks)
    assert nesting_depths(runs).tolist() == [1, 2, 3, 1, 3, 1, 4]


def test_counts_and_quantiles_are_exact(tmp_path: Path) -> None:
    masks = np.zeros((3, 40, 50), bool)
    masks[0, :20] = True  # 1,000 pixels
    masks[1, 2:12, 5:15] = True  # 100, inside
    masks[2, 30:32, 5:15] = masks[2, 35:37, 5:15] = True  # 20 and 20
    extra: list[dict[str, Any]] = [{"level": "object", "annotator": 0}, {"level": "part"}, {}]
    rgb = np.zeros((40, 50, 3), np.uint8)
    members = [
        ("a.jpg", jpg_bytes(rgb)),
        ("a.json", json.dumps(annotation_of(masks, extra=extra)).encode()),
        ("b.jpg", jpg_bytes(rgb)),
        ("b.json", json.dumps(annotation_of(masks[:1])).encode()),
        ("c.jpg", jpg_bytes(rgb)),
    ]
    write_members(tmp_path / "x.tar", members)
    places, paths, num_incomplete = find_places([str(tmp_path)])
    facts, skipped = count_up(places, num_workers=0)
    found = summarize(facts)
    assert (len(paths), num_incomplete, sum(skipped.values())) == (1, 1, 0)
    assert (found["samples"], found["masks"]) == (2, 5)
    assert found["mask_area_px"]["0.5"] == 100
    assert found["mask_area_px"]["1"] == 1000
    assert found["mask_area_share"]["1"] == 0.5
    assert found["masks_per_image"]["mean"] == 2.5
    assert found["images_by_nesting_depth"] == {"1": 1, "2": 1}
    assert found["masks_by_level"] == {"none": 3, "object": 1, "part": 1}


def test_the_command_writes_numbers_and_an_image(
    folder: Path, command, capsys, tmp_path: Path
) -> None:
    words = ["--num_workers=0", "--num-imaged=3"]
    command("shards", "stats", str(folder), "--json=s.json", "--image=a.png", *words)
    told = json.loads((tmp_path / "s.json").read_bytes())
    index = json.loads((folder / "index.json").read_bytes())
    assert told["samples_in_all"] == told["counted"]["samples"] == index["samples"]
    assert told["counted"]["masks"] == index["masks"]
    assert told["skipped"] == {}
    assert told["skipped_at_conversion"] == {"bad json": 1}
    printed = capsys.readouterr().out
    assert "nesting depth" in printed
    assert "skipped at conversion: bad json" in printed

    command("shards", "stats", str(folder), "--image=b.png", "--num=4", *words)
    command("shards", "stats", str(folder), "--image=c.png", "--seed=1", *words)
    a, b, c = (np.asarray(Image.open(tmp_path / f"{name}.png")) for name in "abc")
    assert np.array_equal(a, b)
    assert a.shape != c.shape or not np.array_equal(a, c)
    with pytest.raises(SystemExit, match="no shard matches 'none'"):
        command("shards", "stats", "none")


def test_the_image_shows_samples_beside_their_masks(tmp_path: Path) -> None:
    masks = np.zeros((1, 200, 200), bool)
    masks[0, 50:150, 50:150] = True
    rgb = np.full((200, 200, 3), 200, np.uint8)
    rgb[50:150, 50:150] = 90
    members = [("a.jpg", jpg_bytes(rgb)), ("a.json", json.dumps(annotation_of(masks)).encode())]
    write_members(tmp_path / "x.tar", members)
    sheet = draw_sheet(find_places([str(tmp_path)])[0])
    assert np.abs(sheet[:200, :200].astype(int) - rgb).mean() < 3
    beside = sheet[:200, 203:403]
    assert np.ptp(beside[60:140, 60:140].reshape(-1, 3), axis=0).max() < 10  # one color
    assert np.abs(beside[100, 100].astype(int) - beside[20, 20]).max() > 20


def test_faulty_samples_are_counted_and_the_image_passes_them_over(tmp_path: Path) -> None:
    write_shard(tmp_path / "x.tar", len(FAULTS) + 1, faults=dict(enumerate(FAULTS)))
    places, _, num_incomplete = find_places([str(tmp_path)])
    facts, skipped = count_up(places, num_workers=0)
    late = ("truncated jpg",)  # its header is whole, and the masks are all that is counted
    wanted = [r for name, r in FAULTS.items() if r not in (None, "incomplete") and name not in late]
    assert sum(skipped.values()) == len(wanted)
    assert num_incomplete == 2
    assert len(facts) == len(places) - len(wanted)
    assert draw_sheet(places, num=30).shape[1] > 100


@pytest.mark.real
def test_bsds500_nests_because_annotators_disagree_on_how_fine(
    shared_data: Path, tmp_path: Path
) -> None:
    source = shared_data / "bsds500/val-000000.tar"
    places, _, _ = find_places([str(source)], index_dir=str(tmp_path))
    facts, skipped = count_up(places[:6], num_workers=0)
    found = summarize(facts)
    assert not skipped
    assert found["annotators_per_image"]["0"] >= 4
    assert found["nesting_depth"]["1"] >= 2
    masks = decode_first(source)
    assert facts[0].areas.tolist() == [int(mask.sum()) for mask in masks]


def decode_first(path: Path) -> list[np.ndarray]:
    """The masks of a shard's first sample, by pycocotools."""
    index = scan_shard(path)
    _, _, at, size = index.spans[0].tolist()
    content = json.loads(path.read_bytes()[at : at + size])
    rles = [one["segmentation"] for one in content["annotations"]]
    return [coco.decode({**rle, "counts": rle["counts"].encode()}) > 0 for rle in rles]


def test_an_index_that_is_a_folder_is_a_problem(folder: Path) -> None:
    (folder / "index.json").unlink()
    (folder / "index.json").mkdir()

    assert any("index.json" in shard or "broken" in what for shard, what in problems(folder))


@pytest.mark.parametrize("name", ["https://x.invalid/a.tar", "pipe:cat a.tar", "none-*.tar"])
def test_places_are_of_tars_that_are_there(name: str) -> None:
    with pytest.raises(FileNotFoundError, match=r"no shard matches '.*'; name tars or a folder"):
        find_places([name])
