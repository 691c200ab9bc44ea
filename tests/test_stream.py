from __future__ import annotations

import functools
import http.server
import itertools
import logging
import os
import tarfile
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from shard_factory import FAULTS, write_members, write_shard
from torch.utils.data import DataLoader

from maskfeat.batch import SkippedSample
from maskfeat.data.sample import AnnotatedImage, SampleError
from maskfeat.data.shards import IndexedShards
from maskfeat.data.stream import StreamedShards, stream_samples


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    handler = functools.partial(QuietHandler, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as httpd:
        thread = threading.Thread(target=httpd.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{httpd.server_address[1]}"
        httpd.shutdown()
        thread.join()


def take_key(sample: AnnotatedImage, rng: np.random.Generator) -> tuple[str, int]:
    return sample.key, int(rng.integers(2**31))


def refuse_odd(sample: AnnotatedImage, rng: np.random.Generator) -> str:
    if int(sample.key[-1]) % 2:
        raise SampleError("bad jpg", "odd")
    return sample.key


def write_shards(folder: Path, num_shards: int, num_samples: int) -> set[str]:
    keys: set[str] = set()
    for n in range(num_shards):
        path = folder / f"{n:03d}.tar"
        scenes = write_shard(path, num_samples, n, size=(16, 16), first_id=100 * (n + 1))
        keys |= {scene.key for scene in scenes}
    return keys


def first_keys(stream: Any, num: int) -> list[str]:
    return [key for key, _ in itertools.islice(stream, num)]


def test_sorted_shards_give_what_the_index_finds(tmp_path: Path) -> None:
    write_shard(tmp_path / "0.tar", 4, dotted=True, prefix="./")
    write_shard(tmp_path / "1.tar", 3, seed=1, first_id=300)
    indexed = IndexedShards(f"{tmp_path}/*.tar", tmp_path)
    streamed = list(stream_samples(f"{tmp_path}/*.tar"))

    assert len(streamed) == len(indexed) == 7
    for a, b in zip(streamed, indexed, strict=True):
        assert isinstance(a, AnnotatedImage)
        assert (a.key, a.shard, a.jpg) == (b.key, b.shard, b.jpg)
        np.testing.assert_array_equal(a.runs.starts, b.runs.starts)


def test_each_fault_is_a_skip_with_its_reason_and_hurts_no_other_sample(tmp_path: Path) -> None:
    faults = {n: fault for n, fault in enumerate(FAULTS) if fault != "truncated jpg"}
    scenes = write_shard(tmp_path / "a.tar", len(FAULTS) + 2, faults=faults)
    found = {s.key: s for s in stream_samples(str(tmp_path / "a.tar"))}

    assert set(found) == {scene.key for scene in scenes}
    for scene in scenes:
        reason, got = FAULTS.get(scene.fault or ""), found[scene.key]
        assert (got.reason if isinstance(got, SkippedSample) else None) == reason


@pytest.mark.parametrize("order", ["random", "halves"])
def test_an_unsorted_shard_is_named_and_not_read_as_incomplete_samples(
    tmp_path: Path, order: str
) -> None:
    write_shard(tmp_path / "a.tar", 6, order=order, seed=3)
    with pytest.raises(
        ValueError,
        match=r"a.tar' is not sorted \(member sa_10\d.jpg is not followed by its json\)|"
        r"a.tar' is not sorted \(member sa_10\d.json is not followed by its jpg\)",
    ):
        list(stream_samples(str(tmp_path / "a.tar")))


def test_a_missing_half_in_a_sorted_shard_is_a_skip(tmp_path: Path) -> None:
    write_shard(tmp_path / "a.tar", 5, faults={1: "missing json", 4: "missing jpg"})
    got = list(stream_samples(str(tmp_path / "a.tar")))
    skipped = [s for s in got if isinstance(s, SkippedSample)]
    assert [(s.reason, s.key) for s in skipped] == [
        ("incomplete", "sa_101"),
        ("incomplete", "sa_104"),
    ]
    assert skipped[0].detail == "the shard has no sa_101.json"
    assert len(got) == 5


def test_a_shard_without_a_complete_sample_is_refused(tmp_path: Path) -> None:
    write_members(tmp_path / "a.tar", [("a.jpg", b"1"), ("b.json", b"2"), ("c.txt", b"3")])
    with pytest.raises(ValueError, match=r"a.tar' has no complete sample"):
        list(stream_samples(str(tmp_path / "a.tar")))
    (tmp_path / "b.tar").write_bytes(b"plain text " * 200)
    with pytest.raises(ValueError, match=r"b.tar' is no tar"):
        list(stream_samples(str(tmp_path / "b.tar")))


def test_a_shard_cut_anywhere_gives_its_whole_leading_samples_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_shard(tmp_path / "whole.tar", 3, size=(16, 16))
    content = (tmp_path / "whole.tar").read_bytes()
    with tarfile.open(tmp_path / "whole.tar") as tar:
        ends = [m.offset_data + m.size for m in tar]
        end_of_members = tar.offset
    path = tmp_path / "cut.tar"
    for cut in range(ends[1], end_of_members + 1, 256):
        path.write_bytes(content[:cut])
        caplog.clear()
        with caplog.at_level(logging.WARNING, "maskfeat"):
            got = [s for s in stream_samples(str(path)) if isinstance(s, AnnotatedImage)]
        assert "cut.tar is cut short after member" in caplog.text
        whole = sum(end <= cut for end in ends) // 2
        assert [s.key for s in got] == ["sa_100", "sa_101", "sa_102"][:whole]
    caplog.clear()
    list(stream_samples(str(tmp_path / "whole.tar")))
    assert caplog.text == ""


def test_a_pipe_is_run_only_where_it_is_allowed(tmp_path: Path) -> None:
    write_shard(tmp_path / "a.tar", 2)
    url = f"pipe:cat {tmp_path}/a.tar; touch {tmp_path}/was_run"
    with pytest.raises(ValueError, match="would run a shell command"):
        list(stream_samples(url))
    with pytest.raises(ValueError, match="would run a shell command"):
        StreamedShards(url, 0, 0, 1, transform=take_key)
    assert not (tmp_path / "was_run").exists()
    assert len(list(stream_samples(url, allow_pipe=True))) == 2
    assert (tmp_path / "was_run").exists()


def test_no_file_stays_open_even_when_the_stream_is_left_early(tmp_path: Path) -> None:
    write_shards(tmp_path, 2, 3)
    num_open = len(os.listdir("/proc/self/fd"))
    list(stream_samples(f"{tmp_path}/*.tar"))
    stream = stream_samples(f"{tmp_path}/*.tar")
    next(stream)
    assert len(os.listdir("/proc/self/fd")) == num_open + 1
    stream.close()
    assert len(os.listdir("/proc/self/fd")) == num_open


def test_shards_on_a_server_are_read_in_one_request_each(tmp_path: Path, server: str) -> None:
    write_shards(tmp_path, 2, 3)
    local = [s.jpg for s in stream_samples(f"{tmp_path}/*.tar")]
    assert [s.jpg for s in stream_samples(f"{server}/{{000..001}}.tar")] == local
    with pytest.raises(FileNotFoundError, match=r"none\.tar"):
        list(stream_samples(f"{server}/none.tar"))


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_two_ranks_of_two_workers_read_each_sample_once_in_a_pass(
    tmp_path: Path, server: str, method: str
) -> None:
    keys = write_shards(tmp_path, 4, 3)
    next(iter(stream_samples(f"{server}/000.tar")))  # a fork must not inherit the connection
    found: list[str] = []
    for rank, way in enumerate((method, "fork")):  # other ways of starting take seconds
        dataset = StreamedShards(f"{server}/{{000..003}}.tar", 0, rank, 2, transform=take_key)
        loader = DataLoader(dataset, batch_size=None, num_workers=2, multiprocessing_context=way)
        found += first_keys(loader, 6)
    assert len(found) == 12
    assert set(found) == keys


@pytest.mark.parametrize(
    ("num_shards", "world_size", "num_samples"),
    [(1, 1, 7), (1, 4, 9), (2, 3, 6), (3, 2, 4), (5, 3, 2), (4, 4, 3)],
)
def test_consumers_are_disjoint_and_complete_in_every_pass(
    tmp_path: Path, num_shards: int, world_size: int, num_samples: int
) -> None:
    keys = write_shards(tmp_path, num_shards, num_samples)
    for number in range(4):
        read: Counter[str] = Counter()
        for rank in range(world_size):
            stream = StreamedShards(f"{tmp_path}/*.tar", 5, rank, world_size, transform=take_key)
            parts = stream._deal(number, rank, world_size)
            read.update(raw.key for raw in stream._read_parts(parts))
        assert read == Counter(dict.fromkeys(keys, 1))


def test_work_is_even_over_the_passes(tmp_path: Path) -> None:
    write_shards(tmp_path, 5, 1)
    stream = StreamedShards(f"{tmp_path}/*.tar", 0, 0, 1, transform=take_key)
    loads = [sum(len(stream._deal(p, c, 3)) for p in range(3)) for c in range(3)]
    assert loads == [5, 5, 5]


def test_one_consumer_reads_each_sample_once_in_each_pass_in_ever_new_order(tmp_path: Path) -> None:
    keys = write_shards(tmp_path, 3, 4)
    stream = StreamedShards(f"{tmp_path}/*.tar", 7, 0, 1, transform=take_key)
    got = first_keys(stream, 36)

    passes = [got[i : i + 12] for i in (0, 12, 24)]
    for one in passes:
        assert set(one) == keys
    assert len({tuple(one) for one in passes}) == 3
    assert passes[0] != sorted(passes[0])


def test_the_stream_is_a_function_of_seed_and_epoch_and_of_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_shards(tmp_path, 3, 4)

    def read(seed: int, epoch: int) -> list[tuple[str, int]]:
        stream = StreamedShards(f"{tmp_path}/*.tar", seed, 0, 1, transform=take_key)
        stream.set_epoch(epoch)
        return list(itertools.islice(stream, 12))

    first = read(0, 0)
    monkeypatch.setenv("WDS_SEED", "77")
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setenv("WORLD_SIZE", "8")
    np.random.seed(1)  # noqa: NPY002 - to show that nobody listens
    assert read(0, 0) == first
    assert read(0, 1) != first
    assert read(1, 0) != first


def test_a_buffer_of_one_keeps_the_order_within_a_shard(tmp_path: Path) -> None:
    write_shards(tmp_path, 1, 6)
    stream = StreamedShards(str(tmp_path / "000.tar"), 0, 0, 1, 1, transform=take_key)
    assert first_keys(stream, 6) == [f"sa_{i}" for i in range(100, 106)]


def test_what_cannot_be_read_or_transformed_is_given_as_a_skip(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    write_shard(path, 4, faults={0: "bad json"})
    got = list(itertools.islice(StreamedShards(str(path), 0, 0, 1, transform=refuse_odd), 4))

    reasons = {s.key: s.reason for s in got if isinstance(s, SkippedSample)}
    assert reasons == {"sa_100": "bad json", "sa_101": "bad jpg", "sa_103": "bad jpg"}
    assert [s for s in got if isinstance(s, str)] == ["sa_102"]


def test_an_unsorted_shard_stops_a_worker_with_its_sentence(tmp_path: Path) -> None:
    write_shard(tmp_path / "a.tar", 6, order="halves")
    dataset = StreamedShards(str(tmp_path / "a.tar"), 0, 0, 1, transform=take_key)
    with pytest.raises(ValueError, match="is not sorted"):
        next(iter(DataLoader(dataset, batch_size=None, num_workers=1)))


def test_a_rank_outside_the_world_is_refused(tmp_path: Path) -> None:
    write_shard(tmp_path / "a.tar", 1)
    with pytest.raises(ValueError, match=r"rank must lie in \[0, world_size\)"):
        StreamedShards(str(tmp_path / "a.tar"), 0, 2, 2, transform=take_key)
