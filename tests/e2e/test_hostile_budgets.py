"""Small files that ask for much: a counted skip, or one sentence, in bounded memory and time."""

from __future__ import annotations

import gzip
import io
import json
import logging
import resource
import tarfile
import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from data_settings import data_module
from example_making import example_maker
from shard_factory import jpg_bytes, write_members, write_shard

from maskfeat.batch import SkippedSample
from maskfeat.cli import main
from maskfeat.data.annotations.image import SampleError
from maskfeat.data.annotations.limits import Limits
from maskfeat.data.annotations.painting import encode
from maskfeat.data.annotations.rle import runs_from_counts, sample_border_points, write_counts
from maskfeat.data.annotations.sample import read_sample
from maskfeat.data.convert.sample import shrink
from maskfeat.data.convert.stats import count_up, find_places
from maskfeat.data.convert.verify import verify_folder
from maskfeat.data.heldout import ClickFolder, ShardImages, to_held_out
from maskfeat.data.shards.count import count_samples
from maskfeat.data.shards.indexed import IndexedShards
from maskfeat.data.shards.names import expand_shards
from maskfeat.data.shards.remote import ShardSource
from maskfeat.data.shards.stream import raw_samples

SIZE = (64, 80)
JPG = jpg_bytes(np.zeros((*SIZE, 3), np.uint8))


@pytest.fixture(autouse=True)
def bounded_memory() -> Iterator[None]:
    """No test here may take more than 3 GB beyond what it starts with."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + 3 * 10**9, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


def annotations(counts: list[Any], size: tuple[int, int] = SIZE, **more: Any) -> bytes:
    found = [{"segmentation": {"size": list(size), "counts": one}, **more} for one in counts]
    return json.dumps({"annotations": found}).encode()


def whole(size: tuple[int, int]) -> str:
    return write_counts(np.array([0, size[0] * size[1]])).decode()


def large_jpg(size: tuple[int, int]) -> bytes:
    return jpg_bytes(np.zeros((*size, 3), np.uint8))


def test_masks_that_would_fill_memory_when_decoded_are_left_out_of_the_held_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    size, limits = (1000, 1000), Limits(held_out_gb=0.5)
    text = annotations([whole(size)] * 500, size)
    assert len(text) < 60_000
    members = [("a.jpg", large_jpg(size)), ("a.json", text)]
    members += [("b.jpg", JPG), ("b.json", annotations([whole(SIZE)] * 3))]
    write_members(tmp_path / "x.tar", members)
    with caplog.at_level(logging.WARNING, "maskfeat"):
        images = ShardImages(str(tmp_path / "x.tar"), limits=limits)
    assert images.keys == ["b"]
    assert "500 masks and 1 partitions of 1000 x 1000 take 0.508 GB, more than 0.5" in caplog.text
    # Reduced, it is as harmless as any, and never decoded in full.
    images = ShardImages(str(tmp_path / "x.tar"), short_side=60, limits=limits)
    assert images.keys == ["a", "b"]
    assert images[0].masks.shape == (500, 60, 60)
    with pytest.raises(ValueError, match="none of the 2 samples"):
        ShardImages(str(tmp_path / "x.tar"), limits=Limits(held_out_gb=1e-6))


def test_a_partition_for_each_of_many_annotators_counts_too() -> None:
    found = [
        json.loads(annotations([whole(SIZE)], annotator=n))["annotations"][0] for n in range(9)
    ]
    sample = read_sample("a", "x.tar", JPG, json.dumps({"annotations": found}).encode())
    num_gb = 9 * (1 + 8) * SIZE[0] * SIZE[1] / 1e9
    assert len(to_held_out(sample, limits=Limits(held_out_gb=num_gb)).partitions) == 9
    with pytest.raises(SampleError, match="too large: 9 masks and 9 partitions of 64 x 80"):
        to_held_out(sample, limits=Limits(held_out_gb=num_gb * 0.99))


def test_more_runs_masks_or_bytes_than_the_limits_say_are_a_skip(tmp_path: Path) -> None:
    def reason(text: bytes, **limits: Any) -> str:
        write_members(tmp_path / "x.tar", [("a.jpg", JPG), ("a.json", text)])
        with pytest.raises(SampleError) as caught:
            IndexedShards(str(tmp_path / "x.tar"), limits=Limits(**limits))[0]
        source = ShardSource(limits=Limits(**limits))
        [(_, raw)] = raw_samples(str(tmp_path / "x.tar"), source)
        if isinstance(raw, SkippedSample):
            assert (raw.reason, raw.detail) == (caught.value.reason, caught.value.detail)
        return str(caught.value)

    mask = np.zeros(SIZE, bool)
    mask[2::4, ::2] = mask[3::4, ::2] = True  # 640 runs of two pixels, each a mask
    flat = np.flatnonzero(np.diff(mask.T.ravel(), prepend=False))
    lengths = np.diff(flat, prepend=0, append=mask.size)
    text = annotations([lengths.tolist()])
    sample = read_sample("a", "x.tar", JPG, text, limits=Limits(masks=640, runs=640))
    assert sample.runs.num_masks == 640
    assert reason(text, masks=639) == "too large: it has 640 masks, more than 639 (limits.masks)"
    columns = annotations([whole(SIZE)])  # two counts, a run in each of 80 columns
    assert "at most 79 runs in columns (limits.runs), got 80" in reason(columns, runs=79)
    assert "at most 500 runs in all (limits.runs), got more" in reason(text, runs=500)
    packed = annotations([encode(mask)])
    assert "at most 500 runs in all (limits.runs), got more" in reason(packed, runs=500)
    assert reason(text, json_mb=1e-3).startswith("too large: the json has 0.00")
    assert reason(text, jpg_mb=1e-4).startswith("too large: the jpg has 0.00")
    with pytest.raises(ValueError, match=r"limits.runs must be above 0, got 0"):
        Limits(runs=0)


def test_thirty_million_runs_are_refused_before_they_fill_memory() -> None:
    size = (8000, 8000)
    for counts in (["1" * 30_000_000], [[1] * 30_000_000]):
        begin = time.process_time()
        with pytest.raises(ValueError, match="at most 4194304 runs in all"):
            runs_from_counts(counts, size)
        assert time.process_time() - begin < 20


def test_borders_of_stripes_upon_stripes_take_no_more_than_the_image() -> None:
    height, width, num = 500, 200, 150
    stripes = write_counts(np.array([height, height] * (width // 2))).decode()
    runs = runs_from_counts([stripes] * num, (height, width))
    begin = time.process_time()
    points = sample_border_points(runs, 10**9, np.random.default_rng(0))
    assert time.process_time() - begin < 10
    assert len(points) == height * width  # each pixel lies beside a border
    # The same by the way that ordinary masks take.
    few = runs_from_counts([stripes], (height, width))
    expected = sample_border_points(few, 10**9, np.random.default_rng(0))
    assert sorted(map(tuple, points.tolist())) == sorted(map(tuple, expected.tolist()))


def test_members_of_gigabytes_in_a_small_file_are_a_skip(tmp_path: Path) -> None:
    """A small gz that unpacks to an image of 100 MB; 4 GB of a tar that are a hole on disk."""
    text = annotations([whole(SIZE)])
    members = [("a.json", text), ("b.jpg", JPG), ("b.json", text)]
    with (
        gzip.open(tmp_path / "x.tar.gz", "wb", compresslevel=1) as file,
        tarfile.open(fileobj=file, mode="w|") as tar,
    ):
        tar.addfile(_header("a.jpg", 100_000_000), _Zeros())
        for name, data in members:
            tar.addfile(_header(name, len(data)), io.BytesIO(data))
    assert (tmp_path / "x.tar.gz").stat().st_size < 1e6
    source = ShardSource(limits=Limits(jpg_mb=50))
    (_, first), (_, second) = raw_samples(str(tmp_path / "x.tar.gz"), source)
    assert isinstance(first, SkippedSample)
    assert (first.reason, first.key) == ("too large", "a")
    assert first.detail == "the jpg has 100 MB, more than 50 (limits.jpg_mb)"
    assert second.key == "b"

    with (tmp_path / "y.tar").open("wb") as raw:
        raw.write(_header("a.jpg", 2**32).tobuf())
        raw.seek(2**32, io.SEEK_CUR)
        raw.write(_header("a.json", 2).tobuf() + b"{}".ljust(512, b"\0") + bytes(1024))
    shards = IndexedShards(str(tmp_path / "y.tar"))
    with pytest.raises(SampleError, match=r"too large: the jpg has 4295 MB, more than 256"):
        shards[0]


def _header(name: str, size: int) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.size = size
    return info


class _Zeros(io.RawIOBase):
    def read(self, size: int = -1) -> bytes:
        return bytes(size)


def test_patterns_of_many_names_are_refused() -> None:
    for pattern in ("http://h/{0..100000000}.tar", "http://h/" + "{a,b}" * 40 + ".tar"):
        with pytest.raises(ValueError, match=r"stands for more than 1,000 names \(limits.names\)"):
            expand_shards(pattern, max_names=1000)
    assert len(expand_shards("http://h/{1..1000}.tar", max_names=1000)) == 1000
    with pytest.raises(ValueError, match=r"stands for more than 100,000 names"):
        expand_shards("http://h/{0..100000000}.tar")
    with pytest.raises(ValueError, match="stands for more than 3 names"):
        IndexedShards("http://h/{a,b,c,d}.tar", limits=Limits(names=3))
    for pattern in ("{5..1}.tar", "{0.." + "9" * 5000 + "}.tar"):
        with pytest.raises(ValueError, match="must go from less to more"):
            expand_shards(pattern)


INDEXES = [
    {"samples": 0},
    {"samples": -5},
    {"samples": None},
    {"samples": float("inf")},
    {"samples": 1e400},
    {"samples": 2**70},
    {"samples": True},
    {"samples": "3"},
    {"bytes": -1},
    {"bytes": None},
    {"shard": None},
    {"shard": {}},
]


@pytest.mark.parametrize("wrong", INDEXES)
def test_an_index_json_of_impossible_numbers_is_not_believed(
    tmp_path: Path, wrong: dict[str, Any]
) -> None:
    write_shard(tmp_path / "a.tar", 3)
    size = (tmp_path / "a.tar").stat().st_size
    entry = {"shard": "a.tar", "samples": 3, "masks": 9, "bytes": size, "sha256": "0"} | wrong
    index = {"shards": [entry], "skipped": {}}
    (tmp_path / "index.json").write_text(json.dumps(index))
    assert count_samples([str(tmp_path / "a.tar")], ShardSource())[0].num_samples == 3
    report, _ = verify_folder(tmp_path, num_workers=0)
    assert report.problems


@pytest.mark.parametrize(
    "text",
    [
        b"[" * 100_000,
        b'{"shards": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b"null",
        b'{"shards": 5}',
        b'{"shards": [5]}',
        b'{"shards": [{"shard": "a.tar"}]}',
        b'{"shards": [], "skipped": [1]}',
        b'{"shards": [], "skipped": {"x": null}}',
        b"\xff\xfe",
    ],
)
def test_an_index_json_that_is_something_else_is_passed_over_by_all(
    tmp_path: Path, text: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    write_shard(tmp_path / "a.tar", 3)
    (tmp_path / "index.json").write_bytes(text)
    assert count_samples([str(tmp_path / "a.tar")], ShardSource())[0].num_samples == 3
    assert verify_folder(tmp_path, num_workers=0)[0].problems
    main(["shards", "stats", str(tmp_path), "--num_workers=0"])
    assert "samples" in capsys.readouterr().out
    with pytest.raises((ValueError, FileNotFoundError), match=r"index.json"):
        ClickFolder(tmp_path)


def test_an_endless_index_json_is_given_up(tmp_path: Path) -> None:
    write_shard(tmp_path / "a.tar", 3)
    with (tmp_path / "index.json").open("wb") as file:
        file.truncate(2**33)
    source = ShardSource(limits=Limits(json_mb=1))
    assert count_samples([str(tmp_path / "a.tar")], source)[0].num_samples == 3


def test_memory_that_does_not_suffice_is_a_fault_of_the_sample(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_shard(tmp_path / "a.tar", 2)
    shards = IndexedShards(str(tmp_path / "a.tar"))
    sample = shards[0]

    def fail(*args: Any, **settings: Any) -> Any:
        raise MemoryError

    for place, attempt in (
        ("maskfeat.data.shards.indexed.content_at", lambda: shards[0]),
        ("maskfeat.data.annotations.sample.json.loads", lambda: shards[0]),
        ("maskfeat.data.annotations.sample.runs_from_counts", lambda: shards[0]),
        ("maskfeat.data.heldout.paint", lambda: to_held_out(sample)),
        ("maskfeat.data.annotations.image._open_image", sample.decode),
        (
            "maskfeat.data.augment.sample_points",
            lambda: example_maker(32, 16, 8)(sample, np.random.default_rng(0)),
        ),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(place, fail)
            with pytest.raises(SampleError, match="too large: memory does not suffice to"):
                attempt()


def test_memory_that_does_not_suffice_costs_a_conversion_the_sample_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_shard(tmp_path / "a.tar", 3)

    def fail_for_one(key: str, *args: Any) -> Any:
        if key == "sa_101":
            raise MemoryError
        return shrink(key, *args)

    monkeypatch.setattr("maskfeat.data.convert.sample.shrink", fail_for_one)
    main(["shards", "convert", str(tmp_path / "a.tar"), f"--out={tmp_path}/out", "--num_workers=0"])
    told = json.loads((tmp_path / "out/index.json").read_bytes())
    assert (told["samples"], told["skipped"]) == (2, {"too large": 1})


def test_masks_that_share_too_much_to_be_compared_are_counted_as_skipped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_shard(tmp_path / "a.tar", 2)
    monkeypatch.setattr("maskfeat.data.convert.stats._MOST_NUMBERS", 15)
    places, _, _ = find_places([str(tmp_path / "a.tar")])
    facts, skipped = count_up(places, num_workers=0)
    assert (facts, dict(skipped)) == ([], {"too large": 2})


def test_a_large_held_out_image_is_decoded_in_the_memory_that_it_keeps() -> None:
    size, num = (1500, 2250), 100
    rng = np.random.default_rng(0)
    counts = []
    for _ in range(num):
        top, left = rng.integers(0, 700, 2)
        column = [top, 700, size[0] - 700 - top]
        lengths = [left * size[0] + column[0]] + [700, size[0] - 700] * 700
        lengths[-1] = size[0] * size[1] - sum(lengths[:-1])
        counts.append(write_counts(np.array(lengths)).decode())
    sample = read_sample("a", "x.tar", large_jpg(size), annotations(counts, size))
    tracemalloc.start()
    image = to_held_out(sample, short_side=500)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert image.masks.shape == (num, 500, 750)
    assert peak < 3 * image.masks.nbytes + 30e6  # 338 MB were decoded before


@pytest.mark.parametrize("mode", ["indexed", "streaming"])
def test_limits_are_a_setting_of_training_and_what_they_refuse_is_counted(
    tmp_path: Path, mode: Literal["indexed", "streaming"]
) -> None:
    write_shard(tmp_path / "a.tar", 16, num_masks=2, size=(32, 48))
    write_shard(tmp_path / "b.tar", 4, num_masks=30, size=(32, 48), first_id=500)
    paths = {"train": f"{tmp_path}/*.tar", "val": str(tmp_path / "a.tar")}
    sizes = {"crop_size": 32, "num_points": 16, "batch_size": 4, "num_workers": 0, "num_readers": 1}
    data = data_module(**paths, **sizes, mode=mode, limits=Limits(masks=10))
    data.setup("fit")
    skipped = [one for batch in data.train_dataloader() for one in batch["skipped"]]
    assert {(one.reason, one.key) for one in skipped} == {
        ("too large", f"sa_{number}") for number in range(500, 504)
    }
    assert "masks, more than 10 (limits.masks)" in skipped[0].detail


def test_limits_are_a_setting_of_the_commands(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_shard(tmp_path / "in/a.tar", 3)
    for command in ("stats", "convert", "verify"):
        words = [command, str(tmp_path / "in"), "--num_workers=0", "--limits.runs=2"]
        with pytest.raises(SystemExit):
            main(["shards", *words, *([f"--out={tmp_path}/out"] if command == "convert" else [])])
    assert "bad rle" in capsys.readouterr().out
    with pytest.raises(SystemExit, match=r"limits.runs must be above 0, got -1"):
        main(["shards", "stats", str(tmp_path / "in"), "--limits.runs=-1"])
