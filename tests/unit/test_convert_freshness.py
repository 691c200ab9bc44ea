"""What shards were made of is known: a source that has changed is converted anew, and told."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from shard_factory import annotation_of, jpg_bytes, write_members, write_shard
from source_layouts import SIZE, ade_map, save, write_bsds, write_coco, write_jpg

from maskfeat.data.convert import Settings, convert_inputs, find_inputs, sources
from maskfeat.data.convert.state import ConvertState
from maskfeat.data.convert.verify import verify_folder
from maskfeat.data.shards.index import scan_shard

RGB = np.zeros((*SIZE, 3), np.uint8)


def square(side: int) -> np.ndarray:
    mask = np.zeros(SIZE, np.uint8)
    mask[2 : 2 + side, 3 : 3 + side] = 1
    return mask


def folder(root: Path, side: int) -> Path:
    write_jpg(root / "a.jpg", RGB)
    save(root / "a.png", square(side))
    return root


def folder_of_masks(root: Path, side: int) -> Path:
    write_jpg(root / "a.jpg", RGB)
    save(root / "a/0.png", square(side))
    return root


def coco(root: Path, side: int) -> Path:
    corners = [3, 2, 3 + side, 2, 3 + side, 2 + side, 3, 2 + side]
    return write_coco(root, {"a.jpg": [{"segmentation": [corners]}]}, RGB)


def panoptic(root: Path, side: int) -> Path:
    segments = [{"id": 1, "category_id": 3}]
    content = {
        "images": [{"id": 1, "file_name": "a.jpg"}],
        "annotations": [{"image_id": 1, "file_name": "a.png", "segments_info": segments}],
    }
    write_jpg(root / "panoptic/a.jpg", RGB)
    save(root / "annotations/panoptic/a.png", np.stack([square(side)] + [square(0)] * 2, -1))
    path = root / "annotations/panoptic.json"
    if not path.exists():  # as it was: the masks alone are drawn anew
        path.write_text(json.dumps(content))
    return path


def bsds(root: Path, side: int) -> Path:
    write_bsds(root, RGB, [square(side) + 1], "1")
    return root


def ade(root: Path, side: int) -> Path:
    write_jpg(root / "a.jpg", RGB)
    save(root / "a_seg.png", ade_map(square(side).astype(int), square(side)))
    return root


def tar(root: Path, side: int) -> Path:
    """The json is as long whatever the side, so that the tar is as large."""
    text = json.dumps(annotation_of(square(side)[None] > 0)).encode().ljust(4000)
    members = [("a.jpg", jpg_bytes(RGB)), ("a.json", text)]
    root.mkdir(exist_ok=True)
    return write_members(root / "sa_000000.tar", members)


KINDS: list[Callable[[Path, int], Path]] = [
    folder,
    folder_of_masks,
    coco,
    panoptic,
    bsds,
    ade,
    tar,
]


def convert(source: Path, out: Path) -> dict[str, Any]:
    inputs = find_inputs([str(source)])
    return convert_inputs(inputs, out, Settings(), num_workers=0).summary()


def areas(out: Path) -> list[int]:
    found = []
    for path in sorted(out.glob("*.tar")):
        data = path.read_bytes()
        for _, _, start, size in scan_shard(path).spans.tolist():
            content = json.loads(data[start : start + size])
            found += [one["area"] for one in content["annotations"]]
    return found


def problems(out: Path) -> list[str]:
    return [problem.what for problem in verify_folder(out, num_workers=0)[0].problems]


@pytest.mark.parametrize("draw", KINDS, ids=[kind.__name__ for kind in KINDS])
def test_a_mask_that_is_drawn_anew_under_its_name_is_converted_anew(
    tmp_path: Path, draw: Callable[[Path, int], Path]
) -> None:
    source, out = draw(tmp_path / "in", 10), tmp_path / "out"
    convert(source, out)
    assert 100 in areas(out)
    assert not problems(out)
    # A file written within the same tick of the clock would have the same time.
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "in").rglob("*")}
    draw(tmp_path / "in", 40)
    for path, time in before.items():
        if path.is_file() and path.stat().st_mtime_ns == time:
            os.utime(path, ns=(time + 10**7, time + 10**7))

    assert problems(out) == ["its source has changed since; run shards convert again"]

    convert(source, out)
    assert 1600 in areas(out)
    assert 100 not in areas(out)
    assert not problems(out)
    assert (out / "index.json").is_file()


@pytest.mark.parametrize("draw", KINDS, ids=[kind.__name__ for kind in KINDS])
def test_what_has_not_changed_is_not_done_again(
    tmp_path: Path, draw: Callable[[Path, int], Path]
) -> None:
    source, out = draw(tmp_path / "in", 10), tmp_path / "out"
    convert(source, out)
    shards = {path.name: path.stat().st_ino for path in out.glob("*.tar")}
    convert(source, out)
    assert {path.name: path.stat().st_ino for path in out.glob("*.tar")} == shards

    shutil.move(tmp_path / "in", tmp_path / "moved")  # with its times
    moved = tmp_path / "moved" / source.relative_to(tmp_path / "in")
    if draw is not folder and draw is not folder_of_masks and draw is not ade:  # named by folder
        convert(moved, out)
        assert {path.name: path.stat().st_ino for path in out.glob("*.tar")} == shards
        assert not problems(out)


def test_images_that_come_and_go_are_followed(tmp_path: Path) -> None:
    source, out = folder(tmp_path / "in", 10), tmp_path / "out"
    convert(source, out)
    write_jpg(source / "b.jpg", RGB)
    save(source / "b.png", square(20))
    assert problems(out) == ["its source has changed since; run shards convert again"]
    assert convert(source, out)["samples"] == 2
    assert areas(out) == [100, 400]
    (source / "a.png").unlink()
    assert convert(source, out)["skipped"] == {"incomplete": 1}
    assert areas(out) == [400]


def test_a_source_that_is_cut_otherwise_leaves_no_shard_of_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, out = folder(tmp_path / "in", 10), tmp_path / "out"
    convert(source, out)
    for number in range(3):
        write_jpg(source / f"b{number}.jpg", RGB)
        save(source / f"b{number}.png", square(20))
    monkeypatch.setattr(sources, "SAMPLES_PER_INPUT", 2)
    summary = convert(source, out)
    assert sorted(path.name for path in out.glob("*.tar")) == [
        "in_000-000000.tar",
        "in_001-000000.tar",
    ]
    assert summary["samples"] == 4
    assert areas(out) == [100, 400, 400, 400]
    assert not problems(out)


def test_a_run_that_stops_before_it_is_fresh_is_called_unfinished(tmp_path: Path) -> None:
    """Killed after the folder was taken up: the shards of before are neither whole nor sound."""
    source, out = folder(tmp_path / "in", 10), tmp_path / "out"
    convert(source, out)
    folder(tmp_path / "in", 40)
    inputs = find_inputs([str(source)])
    convert_inputs(inputs, out, Settings(), part=(1, 2), num_workers=0)  # none falls to this part
    assert areas(out) == [100]
    assert not (out / "index.json").exists()
    assert problems(out) == ["of 1 inputs some are not done; run shards convert again"]
    convert(source, out)
    assert areas(out) == [1600]


def test_two_folders_of_one_name_are_not_mixed(tmp_path: Path) -> None:
    one, two = (folder(tmp_path / name / "train", 10 * n) for n, name in ((1, "a"), (2, "b")))
    convert(one, tmp_path / "out")
    with pytest.raises(ValueError, match=r"begun with under the name train, '.*a/train'; choose"):
        convert(two, tmp_path / "out")
    assert areas(tmp_path / "out") == [100]


def test_verify_says_where_freshness_cannot_be_known(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source, out = folder(tmp_path / "in", 10), tmp_path / "out"
    convert(source, out)
    shutil.rmtree(source)
    assert not problems(out)
    assert "whether shards are out of date is not known: a source is not within" in caplog.text
    shutil.rmtree(out / ".convert")
    assert not problems(out)
    assert "does not tell what its shards were made of" in caplog.text


def test_notes_of_an_earlier_version_are_refused(tmp_path: Path) -> None:
    source, out = folder(tmp_path / "in", 10), tmp_path / "out"
    convert(source, out)
    plan = out / ".convert/plan.json"
    plan.write_text(json.dumps({**json.loads(plan.read_bytes()), "version": 1}))
    with pytest.raises(ValueError, match="begun by another version; choose another folder"):
        convert(source, out)


def test_a_change_followed_by_a_kill_ends_in_the_bytes_of_one_fresh_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Shards of before that are more than those of now do not stay, nor do half of them."""
    source, out, how = tmp_path / "sa_000000.tar", tmp_path / "out", Settings(shard_mb=0.05)
    write_shard(source, 30)
    inputs = find_inputs([str(source)])
    convert_inputs(inputs, out, how, num_workers=0)
    num_before = len(list(out.glob("*.tar")))
    write_shard(source, 16, seed=1)

    with monkeypatch.context() as patched:
        note_shard, noted = ConvertState.note_shard, list[str]()

        def note_and_die(self: ConvertState, note: dict[str, Any]) -> None:
            note_shard(self, note)
            noted.append(note["shard"])
            if len(noted) == 1:
                raise KeyboardInterrupt

        patched.setattr(ConvertState, "note_shard", note_and_die)
        with pytest.raises(KeyboardInterrupt):
            convert_inputs(find_inputs([str(source)]), out, how, num_workers=0)
    kept = {name: (out / name).stat().st_ino for name in noted}
    assert "some are not done" in problems(out)[0]

    convert_inputs(find_inputs([str(source)]), out, how, num_workers=0)
    convert_inputs(find_inputs([str(source)]), tmp_path / "fresh", how, num_workers=0)
    for folder_of in (out, tmp_path / "fresh"):
        assert not problems(folder_of)
    names = sorted(path.name for path in out.iterdir() if path.is_file())
    assert names == sorted(path.name for path in (tmp_path / "fresh").iterdir() if path.is_file())
    assert 1 < len(names) - 1 < num_before
    for name in names:
        assert (out / name).read_bytes() == (tmp_path / "fresh" / name).read_bytes()
    assert {name: (out / name).stat().st_ino for name in noted} == kept
