"""`maskfeat shards segment`: images of any source, masks of `segment`, always the same bytes."""

from __future__ import annotations

import io
import json
import os
import signal
from dataclasses import replace
from pathlib import Path

import forked_python
import pytest
import torch
from bad_server import bad_server
from drawn_images import drawn
from PIL import Image
from shard_factory import files_of, killed_after, write_members
from waiting import is_gone, wait_until

from maskfeat.app.segment_command import segment as segment_files
from maskfeat.app.segment_shards import SegmentRecipe, segment
from maskfeat.data.convert import convert_inputs, find_inputs
from maskfeat.data.convert.sources import IMAGES
from maskfeat.data.convert.verify import verify_folder
from maskfeat.data.shards.indexed import IndexedShards
from maskfeat.features.device import device_of
from maskfeat.features.pyramid import FeaturePyramid
from maskfeat.features.weights import save

LAB = SegmentRecipe("lab", "cpu", {"granularity": 0.4}, shard_mb=0.02)


def jpg(number: int = 0, orientation: int | None = None) -> bytes:
    """The drawn image, moved to the right by some pixels."""
    exif, file = Image.Exif(), io.BytesIO()
    if orientation is not None:
        exif[0x0112] = orientation
    shifted = torch.from_numpy(drawn()).roll(3 * number, 1).numpy()
    Image.fromarray(shifted).save(file, "JPEG", quality=95, exif=exif)
    return file.getvalue()


def write_tar(path: Path, num: int = 6) -> Path:
    """Images and what else a tar may hold, in no order."""
    files = {f"photos/p{number}.jpg": jpg(number) for number in reversed(range(num))}
    return write_members(path, [*files.items(), ("photos/p1.json", b"{}"), ("LICENSE", b"free")])


def convert(source: str | Path, out: Path, recipe: SegmentRecipe = LAB, num_workers: int = 0):
    inputs = find_inputs([str(source)], IMAGES)
    return convert_inputs(inputs, out, recipe, num_workers=num_workers).summary()


def test_masks_are_those_that_the_command_segment_writes(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/p0.jpg").write_bytes(jpg())
    (tmp_path / "photos/p1.jpg").write_bytes(jpg(1, orientation=6))
    segment([str(tmp_path / "photos")], str(tmp_path / "shards"), num_workers=0)
    segment_files([str(tmp_path / "photos")], out=str(tmp_path / "files"), outputs="none")

    found = IndexedShards(str(tmp_path / "shards"))
    assert [sample.key for sample in found] == ["p0", "p1"]
    tar = (tmp_path / "shards/photos-000000.tar").read_bytes()
    for sample, size in zip(found, [(90, 130), (130, 90)], strict=True):
        text = (tmp_path / f"files/{sample.key}.json").read_bytes()
        assert sample.decode().shape[:2] == size
        if sample.key == "p0":  # its JPEG is that of the source, so all is equal
            annotations = json.loads(text)["annotations"]
            assert json.dumps(annotations, separators=(",", ":")).encode() in tar
    report, _ = verify_folder(tmp_path / "shards", num_workers=0)
    assert report.problems == []
    assert report.num_masks == sum(sample.runs.num_masks for sample in found) > 4


def test_tars_folders_and_urls_give_the_same_masks(tmp_path: Path) -> None:
    tar = write_tar(tmp_path / "in/photos.tar", 3)
    (tmp_path / "plain/photos").mkdir(parents=True)
    for number in range(3):
        (tmp_path / f"plain/photos/p{number}.jpg").write_bytes(jpg(number))
    (tmp_path / "plain/photos/notes.txt").write_text("no image")
    convert(tar, tmp_path / "tar")
    with bad_server(tmp_path / "in") as server:
        server.plans["photos.tar"] = ["well", "cut"]
        convert(f"{server.url}/photos.tar", tmp_path / "url")
    convert(tmp_path / "plain", tmp_path / "folder")

    shards = [(tmp_path / name / "photos-000000.tar").read_bytes() for name in ("tar", "url")]
    assert shards[0] == shards[1]
    assert (tmp_path / "folder/plain-000000.tar").read_bytes() == shards[0]
    assert list(tmp_path.glob("url/.convert/*.fetched")) == []


def test_no_copy_of_a_url_stays_of_a_bad_tar_or_of_an_earlier_measure(tmp_path: Path) -> None:
    write_members(tmp_path / "in/photos.tar", [("readme.txt", b"no image")])
    former = tmp_path / "out/.convert/photos.0123456789abcdef.fetched"
    former.parent.mkdir(parents=True)
    former.touch()
    with bad_server(tmp_path / "in") as server:
        found = convert(f"{server.url}/photos.tar", tmp_path / "out")
    assert found["skipped"] == {"bad tar": 1}
    assert list(former.parent.glob("*.fetched")) == []


@pytest.mark.parametrize(
    ("model", "device", "why"),
    [("own.safetensors", "cpu", "own.safetensors"), ("maskfeat-b0", "cuda:99", "device must be")],
)
def test_a_model_that_cannot_be_loaded_ends_the_run_and_no_input_is_done(
    model: str, device: str, why: str, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("own.safetensors").write_bytes(b"no weights")
    tar = write_tar(tmp_path / "photos.tar", 2)
    with pytest.raises(ValueError, match=why):
        convert(tar, tmp_path / "out", SegmentRecipe(model, device, LAB.cut))
    assert list(tmp_path.glob("out/.convert/*.done.json")) == []
    assert list(tmp_path.glob("out/*.tar")) == []


def test_weights_that_were_written_anew_are_loaded_anew(tmp_path: Path) -> None:
    """In one process: workers of a cluster serve run after run."""
    tar, model = write_tar(tmp_path / "photos.tar", 2), tmp_path / "own.safetensors"
    recipes = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        save(FeaturePyramid("test_resnet", levels=[0, 1], width=8, boundary=True), model)
        recipes.append(SegmentRecipe(str(model), "cpu", {"num_segments": 12}))
        convert(tar, tmp_path / f"of_{seed}", recipes[-1])
    shards = [(tmp_path / f"of_{seed}/photos-000000.tar").read_bytes() for seed in (0, 1)]
    assert shards[0] != shards[1]
    with pytest.raises(ValueError, match="not the one that this run was begun with"):
        convert(tar, tmp_path / "again", recipes[0])


def test_what_cannot_be_segmented_is_counted_by_reason(tmp_path: Path, caplog) -> None:
    point = io.BytesIO()
    Image.new("RGB", (1, 1)).save(point, "PNG")
    members = {"a.jpg": jpg(), "b.jpg": jpg()[:300], "c.jpg": b"", "d.png": point.getvalue()}
    write_members(tmp_path / "in/some.tar", [*members.items()])
    write_members(tmp_path / "in/text.tar", [("readme.txt", b"no image")])
    found = convert(tmp_path / "in", tmp_path / "out")
    assert found["samples"] == 1
    assert found["skipped"] == {"bad jpg": 2, "bad tar": 1, "no masks": 1}
    assert "skipped sample 'b'" in caplog.text


@pytest.mark.usefixtures("forked_workers")
def test_threads_and_processes_do_not_change_a_byte(tmp_path: Path) -> None:
    tar = write_tar(tmp_path / "photos.tar", 3)
    recipe = SegmentRecipe("maskfeat-b0", "cpu", {"num_segments": 12})
    convert(tar, tmp_path / "one", recipe, num_workers=0)
    convert(tar, tmp_path / "other", recipe, num_workers=1)
    assert files_of(tmp_path / "one") == files_of(tmp_path / "other")


def test_a_run_killed_in_the_middle_ends_in_the_same_bytes(tmp_path: Path) -> None:
    tar = write_tar(tmp_path / "photos.tar", 8)
    convert(tar, tmp_path / "whole")
    words = ["photos.tar", "--out=broken", "--model=lab", "--shard-mb=0.02", "--num-workers=1"]
    run = ["-c", killed_after("photos-000001.tar"), "shards", "segment", *words]
    killed = forked_python.run(run, tmp_path)
    assert killed.returncode == -signal.SIGKILL
    children = killed.stdout.split()
    wait_until(lambda: all(is_gone(int(child)) for child in children))
    finished = {p.name: p.stat().st_ino for p in (tmp_path / "broken").glob("*.tar")}
    assert len(finished) == 2

    convert(tar, tmp_path / "broken")
    assert files_of(tmp_path / "whole") == files_of(tmp_path / "broken")
    assert {n: (tmp_path / "broken" / n).stat().st_ino for n in finished} == finished


def test_a_source_that_has_changed_and_other_settings_are_noticed(tmp_path: Path) -> None:
    tar = write_tar(tmp_path / "photos.tar", 2)
    convert(tar, tmp_path / "out")
    with pytest.raises(ValueError, match="begun with size 512 and not 80"):
        convert(tar, tmp_path / "out", SegmentRecipe("lab", "cpu", LAB.cut, size=80, shard_mb=0.02))
    with pytest.raises(ValueError, match="begun with device cpu and not cuda"):
        convert(tar, tmp_path / "out", replace(LAB, device="cuda:1"))
    os.utime(tar, (0, 0))
    problems = [problem.what for problem in verify_folder(tmp_path / "out", 0)[0].problems]
    assert problems == ["its source has changed since; run shards segment again"]
    assert verify_folder(tmp_path / "out", 0, part=(1, 2))[0].problems == []


def test_the_device_auto_is_decided_once_for_all_workers() -> None:
    assert replace(LAB, device="auto").device == str(device_of("auto"))


def test_a_source_without_images_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no tar or folder of images"):
        convert(tmp_path / "none.tar", tmp_path / "out")
    with pytest.raises(ValueError, match="granularity must lie between"):
        segment([str(tmp_path)], str(tmp_path / "out"), granularity=2)
