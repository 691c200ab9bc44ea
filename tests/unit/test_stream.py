from __future__ import annotations

import gzip
import logging
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest
from shard_factory import FAULTS, write_members, write_shard
from streams import stream_samples

from maskfeat.batch import SkippedSample
from maskfeat.data.annotations.sample import AnnotatedImage
from maskfeat.data.shards.indexed import IndexedShards
from maskfeat.data.shards.remote import ShardSource
from maskfeat.data.shards.stream import raw_samples


def write_shards(folder: Path, num_shards: int, num_samples: int) -> set[str]:
    keys: set[str] = set()
    for n in range(num_shards):
        path = folder / f"{n:03d}.tar"
        scenes = write_shard(path, num_samples, n, size=(16, 16), first_id=100 * (n + 1))
        keys |= {scene.key for scene in scenes}
    return keys


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
        assert "cut.tar is cut short or broken after member" in caplog.text
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


def test_what_is_not_wanted_is_passed_over_and_places_stay(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    write_shard(path, 6, faults={2: "missing json", 5: "missing jpg"})
    places = dict(raw_samples(str(path), ShardSource()))
    assert [places[place].key for place in range(6)] == [
        *("sa_100", "sa_101", "sa_103", "sa_104"),  # complete ones first
        *("sa_102", "sa_105"),
    ]
    for kept in (range(2, 5), range(1, 2), range(0), range(4, 6), range(5, 9)):
        assert dict(raw_samples(str(path), ShardSource(), kept)) == {
            place: places[place] for place in kept if place < 6
        }


def test_a_shard_is_closed_after_the_last_sample_wanted(tmp_path: Path) -> None:
    write_shard(tmp_path / "a.tar", 6)
    whole = (tmp_path / "a.tar").read_bytes()
    (tmp_path / "a.tar").write_bytes(whole[: len(whole) // 2] + b"no tar" * 3000)
    assert [place for place, _ in raw_samples(str(tmp_path / "a.tar"), ShardSource(), range(2))]
    num_open = len(os.listdir("/proc/self/fd"))
    stream = raw_samples(str(tmp_path / "a.tar"), ShardSource(), range(1, 3))
    assert [place for place, _ in stream] == [1, 2]
    assert len(os.listdir("/proc/self/fd")) == num_open


def test_compressed_tars_are_read_too(tmp_path: Path) -> None:
    write_shard(tmp_path / "a.tar", 3)
    plain = (tmp_path / "a.tar").read_bytes()
    (tmp_path / "b.tar").write_bytes(gzip.compress(plain))
    one, other = (list(stream_samples(f"{tmp_path}/{name}.tar")) for name in "ab")
    assert [s.jpg for s in one] == [s.jpg for s in other]


def test_of_equal_keys_of_tars_put_together_the_first_counts_in_both_modes(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_shard(tmp_path / "a.tar", 3, seed=1)
    write_shard(tmp_path / "b.tar", 4, seed=2)  # the first three keys again
    both = tmp_path / "both.tar"
    both.write_bytes((tmp_path / "a.tar").read_bytes() + (tmp_path / "b.tar").read_bytes())
    with caplog.at_level(logging.WARNING, logger="maskfeat"):
        streamed = {sample.key: sample for sample in stream_samples(str(both))}
        indexed = {sample.key: sample for sample in IndexedShards(str(both))}
        IndexedShards(str(both))  # from the kept index
    alone = {sample.key: sample for sample in IndexedShards(str(tmp_path / "a.tar"))}
    last = IndexedShards(str(tmp_path / "b.tar"))[3]
    assert streamed.keys() == indexed.keys() == {*alone, last.key}
    for key, sample in {**alone, last.key: last}.items():
        assert streamed[key].jpg == indexed[key].jpg == sample.jpg
        assert np.array_equal(streamed[key].runs.starts, sample.runs.starts)
        assert np.array_equal(indexed[key].runs.starts, sample.runs.starts)
    said = {id(one): one.getMessage() for one in caplog.records}  # of handlers, there may be two
    (line,) = (text for text in said.values() if "came before" in text)
    assert "has 6 files of samples that came before: left out, the first counts" in line
    rest = [number for number, _ in raw_samples(str(both), ShardSource(), range(3, 9))]
    assert rest == [3]
