"""Files of a folder that are larger than the limits: they are not read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from maskfeat.data.annotations.image import SampleError
from maskfeat.data.annotations.limits import Limits
from maskfeat.data.convert.layouts import PairRecord, list_files
from maskfeat.data.shards.indexed import IndexedShards
from maskfeat.data.shards.sample_folder import list_samples

LIMITS = Limits(json_mb=0.001)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two samples; the JSON of `long` has more bytes than `LIMITS` allow."""
    for key, note in (("long", "x" * 2000), ("short", "")):
        Image.new("RGB", (8, 8)).save(tmp_path / f"{key}.jpg")
        mask = {"size": [8, 8], "counts": [18, 3, 43]}
        content = {"image": {"note": note}, "annotations": [{"segmentation": mask}]}
        (tmp_path / f"{key}.json").write_text(json.dumps(content))
    return tmp_path


@pytest.fixture
def read_names(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files that are read from now on."""
    names, read_bytes = list[str](), Path.read_bytes

    def read(path: Path) -> bytes:
        names.append(path.name)
        return read_bytes(path)

    monkeypatch.setattr(Path, "read_bytes", read)
    return names


def test_a_long_json_is_listed_as_too_large_and_not_read(folder: Path, read_names) -> None:
    found = list_samples(folder, LIMITS)
    assert [one.key for one in found.samples] == ["short"]
    assert [(key, one.reason) for key, one in found.left_out] == [("long", "too large")]
    assert "limits.json_mb" in found.left_out[0][1].detail
    assert read_names == ["short.json"]
    assert [one.key for one in list_samples(folder).samples] == ["long", "short"]


def test_readers_report_a_long_json_as_too_large(folder: Path) -> None:
    shards = IndexedShards(str(folder), limits=LIMITS)
    assert (len(shards), shards.key(0)) == (1, "short")
    assert [(one.key, one.reason) for one in shards.incomplete] == [("long", "too large")]
    _, long = list_files(str(folder), LIMITS)
    with pytest.raises(SampleError, match=r"too large: the json .*limits.json_mb"):
        long.read()


def test_a_folder_of_long_files_alone_is_found_by_larger_limits(folder: Path) -> None:
    (folder / "short.json").unlink()
    with pytest.raises(FileNotFoundError):
        IndexedShards(str(folder), limits=LIMITS)
    assert len(IndexedShards(str(folder), limits=Limits(json_mb=0.01))) == 1


def test_sizes_are_checked_before_files_are_read(folder: Path, read_names) -> None:
    files = (str(folder / "long.jpg"), str(folder / "long.json"))
    with pytest.raises(SampleError, match="too large"):
        PairRecord("long", files, LIMITS).read()
    assert read_names == []
    (folder / "long.jpg").unlink()
    with pytest.raises(SampleError, match=r"incomplete: the image .* is not there"):
        PairRecord("long", files).read()
