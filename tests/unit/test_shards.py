from __future__ import annotations

import logging
import multiprocessing
import os
import pickle
import threading
from pathlib import Path

import numpy as np
import pytest
from shard_factory import FAULTS, write_members, write_shard

from maskfeat.batch import SkippedSample
from maskfeat.data.annotations.image import SampleError
from maskfeat.data.order.skips import SkipLedger
from maskfeat.data.shards.indexed import IndexedShards
from maskfeat.data.shards.names import expand_shards


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("sa_000000.tar", "sa_000001.tar", "sa_000012.tar", "odd[1].tar"):
        (tmp_path / name).write_bytes(b"x")
    return tmp_path


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("sa_*.tar", ["sa_000000.tar", "sa_000001.tar", "sa_000012.tar"]),
        ("sa_{000000..000001}.tar", ["sa_000000.tar", "sa_000001.tar"]),
        ("sa_0000{12,01}.tar", ["sa_000001.tar", "sa_000012.tar"]),
        ("{sa_000000,odd[1]}.tar", ["odd[1].tar", "sa_000000.tar"]),
        ("odd[1].tar", ["odd[1].tar"]),
        ("", ["odd[1].tar", "sa_000000.tar", "sa_000001.tar", "sa_000012.tar"]),
    ],
)
def test_globs_and_braces_name_the_shards_that_are_there(
    folder: Path, pattern: str, names: list[str]
) -> None:
    assert expand_shards(f"{folder}/{pattern}") == [f"{folder}/{name}" for name in names]


def test_lists_are_joined_sorted_and_freed_of_repetitions(folder: Path) -> None:
    patterns = [f"{folder}/sa_000012.tar", f"{folder}/sa_*.tar", "http://h/{1..2}.tar"]
    assert expand_shards(patterns) == [
        f"{folder}/sa_000000.tar",
        f"{folder}/sa_000001.tar",
        f"{folder}/sa_000012.tar",
        "http://h/1.tar",
        "http://h/2.tar",
    ]


def test_a_shard_that_is_not_there_is_named(folder: Path) -> None:
    with pytest.raises(
        FileNotFoundError,
        match=r"no shard matches '.*/sb_\*.tar'; name .* \(in a config by data.train",
    ):
        expand_shards(f"{folder}/sb_*.tar")
    with pytest.raises(FileNotFoundError, match=r"no shard matches '.*/sa_000002.tar'"):
        expand_shards(f"{folder}/sa_{{000000..000002}}.tar")
    with pytest.raises(FileNotFoundError, match="no shards are given"):
        expand_shards([])


def test_a_shell_command_is_refused_unless_allowed() -> None:
    with pytest.raises(ValueError, match="would run a shell command"):
        expand_shards("pipe:cat {a,b}.tar")
    assert expand_shards("pipe:cat {a,b}.tar", allow_pipe=True) == ["pipe:cat {a,b}.tar"]


def test_an_unsorted_shard_gives_the_same_samples_as_a_sorted_one(tmp_path: Path) -> None:
    for name, order in (("a", "sorted"), ("b", "random")):
        write_shard(tmp_path / name / "0.tar", 5, order=order, seed=4)
        write_shard(tmp_path / name / "1.tar", 4, order=order, seed=5, prefix="./", first_id=300)
    a, b = IndexedShards(f"{tmp_path}/a/*.tar"), IndexedShards(f"{tmp_path}/b/*.tar")

    assert len(a) == len(b) == 9
    for i in range(9):
        assert a.key(i) == b.key(i) == a[i].key == b[i].key
        assert a.shard(i) == a[i].shard == f"{tmp_path}/a/{int(i > 4)}.tar"
        assert a[i].jpg == b[i].jpg
        np.testing.assert_array_equal(a[i].runs.starts, b[i].runs.starts)
    assert a[-1].key == a.key(8) == "sa_303"
    assert [sample.key for sample in a] == [a.key(i) for i in range(9)]
    with pytest.raises(IndexError, match="there are 9 samples, got number 9"):
        a[9]


def test_each_fault_is_told_with_its_reason_and_hurts_no_other_sample(tmp_path: Path) -> None:
    faults = dict(enumerate(FAULTS))
    scenes = write_shard(tmp_path / "a.tar", len(faults) + 2, faults=faults, order="random")
    shards = IndexedShards(str(tmp_path / "a.tar"))

    assert {s.key for s in shards.incomplete} == {
        scene.key for scene in scenes if FAULTS.get(scene.fault or "") == "incomplete"
    }
    assert len(shards) == len(scenes) - len(shards.incomplete)
    fault_of = {scene.key: scene.fault for scene in scenes}
    for i in range(len(shards)):
        reason = FAULTS.get(fault_of[shards.key(i)] or "")
        if reason is None:
            assert shards[i].decode().shape == (40, 56, 3)
        else:
            with pytest.raises(SampleError, match=reason) as caught:
                shards[i].decode()
            assert caught.value.reason == reason


def _keys(shards: IndexedShards) -> list[str]:
    return [shards[i].key for i in range(len(shards))]


@pytest.mark.parametrize(
    ("method", "place"), [("fork", "memory"), ("fork", "disk"), ("spawn", "disk")]
)
def test_other_processes_and_threads_read_the_same_samples(
    tmp_path: Path, method: str, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_shard(tmp_path / "a.tar", 4)
    expected = _keys(IndexedShards(str(tmp_path / "a.tar")))
    if place == "disk":
        monkeypatch.setattr("maskfeat.data.shards.indexed._MOST_BYTES", 0)
    shards = IndexedShards(str(tmp_path / "a.tar"))
    assert _keys(shards) == expected
    with multiprocessing.get_context(method).Pool(1) as pool:
        assert pool.apply(_keys, [shards]) == expected
    found: list[list[str]] = []
    threads = [threading.Thread(target=lambda: found.append(_keys(shards))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [expected] * 4
    assert _keys(pickle.loads(pickle.dumps(shards))) == expected


def test_offsets_of_large_sets_are_left_on_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What each worker gets by pickle, and holds, does not grow with the number of samples."""
    monkeypatch.setattr("maskfeat.data.shards.indexed._MOST_BYTES", 5000)
    sizes = []
    for num in (50, 1000, 3000):
        members = [(f"sa_{i}.{kind}", b"x") for i in range(num) for kind in ("jpg", "json")]
        write_members(tmp_path / f"{num}.tar", members)
        sizes.append(len(pickle.dumps(IndexedShards(str(tmp_path / f"{num}.tar")))))
    assert sizes[0] > sizes[1]  # fifty are held in memory
    assert abs(sizes[2] - sizes[1]) < 20


def test_an_index_that_goes_or_changes_while_it_is_read_does_no_harm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.tar"
    write_shard(path, 4)
    expected = _keys(IndexedShards(str(path)))
    monkeypatch.setattr("maskfeat.data.shards.indexed._MOST_BYTES", 0)
    shards = IndexedShards(str(path))
    (tmp_path / "a.tar.index").unlink()
    assert _keys(shards) == expected
    shards = IndexedShards(str(path))
    (tmp_path / "a.tar.index").write_bytes(b"something else")
    assert _keys(shards) == expected

    shards = IndexedShards(str(path))
    write_shard(path, 4, first_id=500)
    with pytest.raises(SampleError, match="the shard has changed since it was indexed"):
        shards[1]
    IndexedShards(str(path))  # by another run, which makes the index anew
    with pytest.raises(SampleError, match="the shard has changed since it was indexed"):
        shards[1]


def test_another_file_in_the_place_of_a_sample_is_not_taken_for_it(tmp_path: Path) -> None:
    """As long as before, with members of the same sizes in another order."""
    path = tmp_path / "a.tar"
    write_members(path, [("a.jpg", b"1"), ("a.json", b"{}"), ("b.jpg", b"2"), ("b.json", b"{}")])
    shards = IndexedShards(str(path))
    write_members(path, [("b.jpg", b"2"), ("b.json", b"{}"), ("a.jpg", b"1"), ("a.json", b"{}")])
    for number in range(2):
        with pytest.raises(SampleError, match="the shard has changed since it was indexed"):
            shards[number]


def test_no_file_stays_open(tmp_path: Path) -> None:
    write_shard(tmp_path / "a.tar", 4, faults={1: "bad json"})
    num_open = len(os.listdir("/proc/self/fd"))
    shards = IndexedShards(str(tmp_path / "a.tar"))
    for i in range(4):
        try:
            shards[i].decode()
        except SampleError:
            assert i == 1
    assert len(os.listdir("/proc/self/fd")) == num_open


def test_a_shard_without_a_complete_sample_is_refused_at_once(tmp_path: Path) -> None:
    write_members(tmp_path / "a.tar", [("a.jpg", b"1"), ("b.json", b"2")])
    with pytest.raises(ValueError, match=r"a.tar' has no complete sample"):
        IndexedShards(str(tmp_path / "a.tar"))
    write_members(tmp_path / "b.tar", [])
    with pytest.raises(ValueError, match=r"b.tar' has no complete sample"):
        IndexedShards(str(tmp_path / "b.tar"))
    with pytest.raises(ValueError, match=r"indexed mode reads local tars, got 'http://h/a.tar'"):
        IndexedShards("http://h/a.tar")


def test_a_shard_that_shrinks_after_indexing_is_a_skip(tmp_path: Path) -> None:
    write_shard(tmp_path / "a.tar", 3)
    shards = IndexedShards(str(tmp_path / "a.tar"))
    os.truncate(tmp_path / "a.tar", 3000)
    with pytest.raises(SampleError, match="incomplete: the shard has become shorter"):
        shards[2]


def skip(number: int, reason: str = "bad jpg") -> SkippedSample:
    return SkippedSample(reason, "s.tar", f"k{number}", "it is cut")


def test_a_skipped_sample_counts_and_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    ledger = SkipLedger()
    with caplog.at_level(logging.WARNING, "maskfeat"):
        for _ in range(3):
            ledger.add(skip(1))
            ledger.add(skip(2, "bad rle"))
        ledger.add(SkippedSample("bad jpg", "other.tar", "k1", "it is cut"))
    assert dict(ledger.counts) == {"bad jpg": 2, "bad rle": 1}
    assert ledger.total == 3
    assert len(caplog.records) == 3
    assert caplog.messages[0] == "skipped sample 'k1' of s.tar (bad jpg): it is cut"


def test_too_large_a_share_of_skips_is_an_error_but_not_among_the_first_few() -> None:
    ledger = SkipLedger(max_share=0.1, min_samples=20)
    for number in range(3):
        ledger.add(skip(number))
    ledger.check(num_read=16)  # 3 of 19: too early to tell
    ledger.check(num_read=27)  # 3 of 30: just allowed
    with pytest.raises(RuntimeError, match=r"3 of 29 samples could not be read \(3 bad jpg\)"):
        ledger.check(num_read=26)
    with pytest.raises(ValueError, match="max_share must lie in"):
        SkipLedger(max_share=2)
