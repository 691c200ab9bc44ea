from __future__ import annotations

import json
import logging
import multiprocessing
import os
import struct
import subprocess
import tarfile
import time
import zlib
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from shard_factory import write_members, write_shard

from maskfeat.data.shards.index import index_shard, scan_shard
from maskfeat.data.shards.index_file import ShardIndex
from maskfeat.data.shards.remote import ShardSource
from maskfeat.data.shards.stream import raw_samples
from maskfeat.data.shards.tar import member_key


def content_at(path: Path, offset: int, size: int) -> bytes:
    return path.read_bytes()[offset : offset + size]


def check_against_tarfile(index: ShardIndex) -> None:
    """Each span holds the very bytes that Python's tarfile extracts."""
    with tarfile.open(index.path) as tar:
        members = {m.name.rsplit("/", 1)[-1]: tar.extractfile(m).read() for m in tar if m.isreg()}
    for key, (jpg_at, jpg_size, json_at, json_size) in zip(
        index.keys, index.spans.tolist(), strict=True
    ):
        jpg = next(members[f"{key}.{e}"] for e in ("jpg", "jpeg", "JPG") if f"{key}.{e}" in members)
        assert content_at(Path(index.path), jpg_at, jpg_size) == jpg
        assert content_at(Path(index.path), json_at, json_size) == members[f"{key}.json"]


@pytest.mark.parametrize("order", ["sorted", "random", "halves"])
@pytest.mark.parametrize("prefix", ["", "./", "some/folder/"])
def test_samples_are_found_whatever_the_order_and_prefix(
    tmp_path: Path, order: str, prefix: str
) -> None:
    scenes = write_shard(tmp_path / "a.tar", 5, order=order, prefix=prefix, dotted=True)
    index = index_shard(tmp_path / "a.tar")

    assert list(index.keys) == sorted(scene.key for scene in scenes)
    assert index.incomplete == ()
    assert index.cut_after is None
    check_against_tarfile(index)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("sa_1.jpg", ("sa_1", "jpg")),
        ("./sa_1.json", ("sa_1", "json")),
        ("a/b.c/sa_1.5_0.JPEG", ("sa_1.5_0", "jpg")),
        ("sa_1.Jpg", ("sa_1", "jpg")),
        ("sa_1.txt", None),
        ("jpg", None),
        (".jpg", None),
        ("a/._sa_1.jpg", None),
    ],
)
def test_the_key_is_the_name_without_folders_and_its_last_extension(
    name: str, expected: tuple[str, str] | None
) -> None:
    assert member_key(name) == expected


@pytest.mark.parametrize("tar_format", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_long_and_foreign_names_and_other_members_are_no_hindrance(
    tmp_path: Path, tar_format: int
) -> None:
    long = "x" * 180 + ".é.漢"
    members = [
        ("readme.txt", b"hello"),
        (f"deep/{'d' * 120}/{long}.jpeg", b"J" * 700),
        ("b.JPG", b"jj"),
        ("b.json", b"{}"),
        ("c.jpg", b""),
        (f"other/{long}.json", b"{1}"),
        ("d.json", b"{}"),
    ]
    index = scan_shard(write_members(tmp_path / "a.tar", members, tar_format))

    assert index.keys == ("b", long)
    assert index.incomplete == (
        ("c", "the shard has no c.json"),
        ("d", "the shard has no d.jpg"),
    )
    check_against_tarfile(index)


def test_a_tar_written_by_the_tar_program_is_read(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for name in ("b.jpg", "b.json", "a.json", "a.jpg"):
        (tmp_path / "in" / name).write_bytes(name.encode() * 300)
    subprocess.run(["tar", "-C", tmp_path / "in", "-cf", tmp_path / "a.tar", "."], check=True)
    index = scan_shard(tmp_path / "a.tar")
    assert index.keys == ("a", "b")
    check_against_tarfile(index)


def test_of_members_with_one_name_the_first_counts(tmp_path: Path) -> None:
    members = [("a.jpg", b"first"), ("a.json", b"{}"), ("a.jpg", b"later")]
    index = scan_shard(write_members(tmp_path / "a.tar", members))
    assert content_at(tmp_path / "a.tar", *index.spans[0, :2].tolist()) == b"first"
    assert index.num_repeated == 1


def test_two_files_for_one_key_are_refused(tmp_path: Path) -> None:
    members = [("train/a.jpg", b"1"), ("train/a.json", b"{}"), ("val/a.jpg", b"2")]
    write_members(tmp_path / "a.tar", members)
    with pytest.raises(
        ValueError, match=r"two files for jpg of key 'a', 'train/a.jpg' and 'val/a.jpg'"
    ):
        index_shard(tmp_path / "a.tar")
    with pytest.raises(ValueError, match=r"two files for jpg of key 'a'"):
        list(raw_samples(str(tmp_path / "a.tar"), ShardSource()))


def test_a_kept_index_is_used_until_the_tar_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.tar"
    write_shard(path, 3)
    first = index_shard(path)
    kept = tmp_path / "a.tar.index"
    before = kept.stat()

    again = index_shard(path)
    assert again.keys == first.keys
    np.testing.assert_array_equal(again.spans, first.spans)
    assert kept.stat().st_mtime_ns == before.st_mtime_ns

    write_shard(path, 4, first_id=500)
    assert index_shard(path).keys == ("sa_500", "sa_501", "sa_502", "sa_503")
    status = path.stat()
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    before = kept.read_bytes()
    index_shard(path)
    assert kept.read_bytes() != before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.tar", "a.tar.index"]


def with_notes(kept: bytes, notes: dict[str, object], table: bytes | None = None) -> bytes:
    """The file of an index with other notes or another table, and right checksums."""
    magic, length, _ = struct.unpack_from("<16sII", kept)
    own, start = json.loads(kept[24 : 24 + length]), 24 + length
    table = kept[start:] if table is None else table
    text = json.dumps(own | {"checksum": zlib.crc32(table)} | notes).encode()
    return struct.pack("<16sII", magic, len(text), zlib.crc32(text)) + text + table


@pytest.mark.parametrize(
    "damage",
    [
        b"",
        b"{",
        b"maskfeat index 3" + bytes(8),
        b"\xff\xfe" * 50,
        {"samples": 0},
        {"samples": -5},
        {"samples": None},
        {"samples": float("inf")},
        {"samples": 2**70},
        {"samples": 4},
        {"key_bytes": 2**70},
        {"key_bytes": "9"},
        {"incomplete": 5},
        "deep",
        "offsets",
        "a flipped bit",
    ],
)
def test_a_damaged_index_is_made_anew(
    tmp_path: Path, damage: bytes | str | dict[str, object], caplog: pytest.LogCaptureFixture
) -> None:
    path, kept = tmp_path / "a.tar", tmp_path / "a.tar.index"
    write_shard(path, 3)
    first = index_shard(path)
    sound = kept.read_bytes()
    if isinstance(damage, dict):
        damage = with_notes(sound, damage)
    elif damage == "deep":
        text = b"[" * 100_000
        damage = sound[:16] + struct.pack("<II", len(text), zlib.crc32(text)) + text
    elif damage == "offsets":
        table = first.table.copy()
        table["jpg_offset"][1] = 2**62
        damage = with_notes(sound, {}, table.tobytes())
    elif damage == "a flipped bit":
        damage = sound[:-3] + bytes([sound[-3] ^ 1]) + sound[-2:]
    assert isinstance(damage, bytes)
    kept.write_bytes(damage)
    with caplog.at_level(logging.WARNING, "maskfeat"):
        again = index_shard(path)
    assert "cannot be read and is made anew" in caplog.text
    np.testing.assert_array_equal(again.spans, first.spans)
    assert kept.read_bytes() == sound


def test_another_tar_of_equal_size_and_time_is_scanned(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    write_members(path, [("a.jpg", b"j"), ("a.json", b"{}")])
    status = path.stat()
    assert index_shard(path).keys == ("a",)
    write_members(path, [("b.jpg", b"k"), ("b.json", b"[]")])
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert index_shard(path).keys == ("b",)


def test_the_index_of_a_read_only_folder_goes_to_the_cache_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name in ("one", "two"):
        write_shard(tmp_path / name / "a.tar", 2, first_id=len(name))
        (tmp_path / name).chmod(0o555)
        index_shard(tmp_path / name / "a.tar")
        assert [p.name for p in (tmp_path / name).iterdir()] == ["a.tar"]
        (tmp_path / name).chmod(0o755)
    assert len(list((tmp_path / "cache" / "maskfeat").glob("a.tar.*.index"))) == 2


def test_a_given_index_dir_takes_the_index(tmp_path: Path) -> None:
    write_shard(tmp_path / "a.tar", 2)
    index_shard(tmp_path / "a.tar", tmp_path / "new" / "folder")
    assert not (tmp_path / "a.tar.index").exists()
    assert len(list((tmp_path / "new" / "folder").iterdir())) == 1


def test_where_no_index_can_be_kept_the_samples_are_found_all_the_same(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_shard(tmp_path / "a.tar", 2)
    (tmp_path / "file").write_text("in the way")
    with caplog.at_level(logging.WARNING, "maskfeat"):
        index = index_shard(tmp_path / "a.tar", tmp_path / "file" / "sub")
    assert len(index.keys) == 2
    assert "cannot be kept" in caplog.text


def test_a_tar_cut_anywhere_gives_its_whole_leading_samples_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_shard(tmp_path / "whole.tar", 3, size=(16, 16))
    whole = scan_shard(tmp_path / "whole.tar")
    content = (tmp_path / "whole.tar").read_bytes()
    path = tmp_path / "cut.tar"
    with tarfile.open(tmp_path / "whole.tar") as tar:
        ends = [(m.offset_data + m.size, m.name) for m in tar]
        end_of_members = tar.offset
    for cut in range(0, end_of_members + 1, 256):
        path.write_bytes(content[:cut])
        members = [name for end, name in ends if end <= cut]
        if not members:
            with pytest.raises(ValueError, match=r"empty file|no plain tar|no whole member"):
                index_shard(path)
            continue
        caplog.clear()
        with caplog.at_level(logging.WARNING, "maskfeat"):
            index = index_shard(path)
        assert f"cut.tar is cut short or broken after member {members[-1]}" in caplog.text
        num_whole = sum(name.endswith("json") for name in members)
        assert index.keys == whole.keys[:num_whole]
        np.testing.assert_array_equal(index.spans, whole.spans[:num_whole])
    path.write_bytes(content)
    assert index_shard(path).cut_after is None


def test_a_broken_header_is_noticed_and_no_damage_raises_anything_else(tmp_path: Path) -> None:
    write_shard(tmp_path / "a.tar", 3, size=(16, 16))
    content = (tmp_path / "a.tar").read_bytes()
    with tarfile.open(tmp_path / "a.tar") as tar:
        headers = [m.offset for m in tar]
    broken = bytearray(content)
    broken[headers[4] + 150] ^= 255
    (tmp_path / "b.tar").write_bytes(broken)
    assert scan_shard(tmp_path / "b.tar").cut_after == "sa_101.json"

    rng = np.random.default_rng(0)
    for _ in range(200):
        broken = bytearray(content)
        for _ in range(3):
            broken[headers[rng.integers(6)] + rng.integers(512)] = rng.integers(256)
        (tmp_path / "b.tar").write_bytes(broken)
        try:
            index = scan_shard(tmp_path / "b.tar")
        except ValueError:
            continue
        assert (index.spans >= 0).all()
        assert (index.spans[:, [0, 2]] + index.spans[:, [1, 3]] <= len(content)).all()


def test_what_is_no_tar_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(b"plain text " * 200)
    with pytest.raises(ValueError, match=r"a.tar' is no plain tar"):
        index_shard(tmp_path / "a.tar")
    with pytest.raises(FileNotFoundError, match=r"no shard at '.*'; name a tar"):
        index_shard(tmp_path / "none.tar")


def _index_often(path: Path) -> int:
    return sum(len(index_shard(path).keys) for _ in range(20))


def test_several_processes_may_index_a_shard_at_once(tmp_path: Path) -> None:
    write_shard(tmp_path / "a.tar", 4)
    # Not a Pool, which ends by SIGTERM: a handler that an earlier test left would hear it.
    with ProcessPoolExecutor(4, mp_context=multiprocessing.get_context("fork")) as pool:
        assert list(pool.map(_index_often, [tmp_path / "a.tar"] * 4)) == [80] * 4
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.tar", "a.tar.index"]


def test_three_thousand_members_are_indexed_in_a_fraction_of_a_second(tmp_path: Path) -> None:
    body = bytes(20_000)
    write_members(
        tmp_path / "a.tar",
        [(f"./sa_{i}.{kind}", body) for i in range(1500) for kind in ("jpg", "json")],
    )
    start = time.process_time()
    index = scan_shard(tmp_path / "a.tar")
    assert len(index.keys) == 1500
    assert time.process_time() - start < 2  # about 0.2 s on a quiet core
