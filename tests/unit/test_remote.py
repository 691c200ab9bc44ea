"""Shards at urls: servers that fail, and the cache on disk. Loopback only."""

from __future__ import annotations

import contextlib
import http.client
import io
import logging
import multiprocessing
import os
import resource
import tarfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import fsspec
import pytest
from bad_server import BadServer, bad_server
from fsspec.implementations.memory import MemoryFileSystem
from shard_factory import write_shard
from streams import stream_samples

from maskfeat.data.shards.cache import CacheFolderError, ShardCache
from maskfeat.data.shards.http_stream import RefusedError, _WebOnly
from maskfeat.data.shards.remote import ShardSource, UnreachableError
from maskfeat.data.shards.stream import raw_samples

# A busy machine may take seconds for an answer; only where a server stalls is a timeout waited for.
QUICK = {"url_attempts": 3, "url_wait_s": 0.001, "url_timeout_s": 30}
STALLED = {**QUICK, "url_timeout_s": 1}


@pytest.fixture
def server(tmp_path: Path) -> Iterator[BadServer]:
    (tmp_path / "served").mkdir()
    with bad_server(tmp_path / "served") as running:
        yield running


def read_all(source: ShardSource, url: str) -> bytes:
    stream = source.open(url)
    chunks = iter(lambda: stream.read(1000), b"")
    content = b"".join(chunks)
    stream.close()
    return content


def put(server: BadServer, name: str, size: int = 5000) -> bytes:
    """Serve a tar of `size` bytes with one member that is random."""
    member = tarfile.TarInfo("a.bin")
    member.size = size - 2048
    with tarfile.open(server.folder / name, "w") as tar:
        tar.addfile(member, io.BytesIO(os.urandom(member.size)))
    content = (server.folder / name).read_bytes()[:size]
    content += bytes(size - len(content))
    (server.folder / name).write_bytes(content)
    return content


@pytest.mark.parametrize(
    "plan",
    [[503, 503], ["cut", "cut"], ["stall"], ["cut", 500, "stall"], ["cut", "no range"], [429]],
)
def test_a_url_that_fails_for_a_while_is_read_to_the_last_byte(
    server: BadServer, plan: list[int | str]
) -> None:
    content = put(server, "a.tar")
    server.plans["a.tar"] = list(plan)
    settings = STALLED if "stall" in plan else QUICK
    assert read_all(ShardSource(**settings), f"{server.url}/a.tar") == content
    assert server.requests["a.tar"] == len(plan) + 1 - plan.count("no range")


@pytest.mark.parametrize(
    ("plan", "told"),
    [
        ([503] * 3, "HTTP Error 503"),
        (["stall", 503, 503], "HTTP Error 503"),
        ([503, 503, "refuse"], "Connection refused"),
    ],
)
def test_a_url_that_goes_on_failing_is_named_in_one_sentence(
    server: BadServer, plan: list[int | str], told: str, caplog: pytest.LogCaptureFixture
) -> None:
    put(server, "a.tar")
    server.plans["a.tar"] = list(plan)
    url = f"{server.url}/a.tar"
    if plan[-1] == "refuse":
        url = "http://127.0.0.1:9/a.tar"  # nobody listens there
    with caplog.at_level(logging.WARNING, "maskfeat"), pytest.raises(UnreachableError) as error:
        read_all(ShardSource(**STALLED), url)
    assert f"shard '{url}' failed 3 times in a row, the last time with" in str(error.value)
    assert told in str(error.value)
    assert "\n" not in str(error.value)
    assert "trying again in 0.002 s" in caplog.text  # the pause has doubled


def test_pauses_double(server: BadServer, monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(time, "sleep", pauses.append)
    server.plans["a.tar"] = [503] * 9
    with pytest.raises(UnreachableError, match="failed 9 times"):
        read_all(ShardSource(url_attempts=9, url_wait_s=1), f"{server.url}/a.tar")
    assert pauses == [1, 2, 4, 8, 16, 32, 60, 60]


def test_what_asking_again_cannot_mend_is_told_at_once(server: BadServer) -> None:
    put(server, "a.tar")
    server.plans["a.tar"] = [403]
    with pytest.raises(UnreachableError, match=r"a.tar' is refused: HTTPError: HTTP Error 403"):
        read_all(ShardSource(**QUICK), f"{server.url}/a.tar")
    with pytest.raises(FileNotFoundError, match=r"no shard at '.*none\.tar'"):
        read_all(ShardSource(**QUICK), f"{server.url}/none.tar")
    assert server.requests == {"a.tar": 1, "none.tar": 1}


def test_a_file_that_changes_in_mid_reading_is_not_patched_together(server: BadServer) -> None:
    put(server, "a.tar")
    stream = ShardSource(**QUICK).open(f"{server.url}/a.tar")
    server.plans["a.tar"] = ["cut"]
    stream.read(1000)
    put(server, "a.tar", 7000)
    with pytest.raises(UnreachableError, match="has changed while it was read"):
        list(iter(lambda: stream.read(1000), b""))


@pytest.mark.parametrize("then", ["well", "no range"])
@pytest.mark.parametrize("with_versions", [True, False])
def test_a_file_that_changes_within_its_size_is_not_patched_together(
    server: BadServer, then: str, with_versions: bool
) -> None:
    put(server, "a.tar")
    server.with_versions = with_versions
    stream = ShardSource(**QUICK).open(f"{server.url}/a.tar")
    server.plans["a.tar"] = ["cut", then]
    start = stream.read(1000)
    changed = put(server, "a.tar")
    assert start != changed[:1000]
    if then == "well" and not with_versions:
        return  # nothing in the answers tells such files apart
    with pytest.raises(UnreachableError, match="has changed while it was read"):
        stream.read(5000)


def test_a_file_that_has_become_shorter_has_changed(server: BadServer) -> None:
    put(server, "a.tar")
    stream = ShardSource(**QUICK).open(f"{server.url}/a.tar")
    server.plans["a.tar"] = ["cut", 416]
    with pytest.raises(UnreachableError, match="has changed while it was read"):
        stream.read(5000)


def test_another_middle_than_was_asked_for_is_not_taken(server: BadServer) -> None:
    content = put(server, "a.tar")
    server.plans["a.tar"] = ["cut", "wrong range"]
    assert read_all(ShardSource(**QUICK), f"{server.url}/a.tar") == content
    server.plans["a.tar"] = ["cut", *["wrong range"] * 3]
    with pytest.raises(UnreachableError, match=r"byte 2500 was asked for, Content-Range is 'bytes"):
        read_all(ShardSource(**QUICK), f"{server.url}/a.tar")


def test_a_server_that_drips_is_given_up(server: BadServer) -> None:
    put(server, "a.tar")
    server.plans["a.tar"] = ["drip"] * 9
    source = ShardSource(url_attempts=3, url_wait_s=0.001, url_timeout_s=0.2)
    with pytest.raises(UnreachableError, match="failed 3 times in a row"):
        read_all(source, f"{server.url}/a.tar")
    slow_but_wanted = ShardSource(url_wait_s=0.001, url_timeout_s=5, url_min_bytes_s=0)
    (server.folder / "a.tar").write_bytes(bytes(30))
    server.plans["a.tar"] = ["drip"]
    assert read_all(slow_but_wanted, f"{server.url}/a.tar") == bytes(30)


@pytest.mark.parametrize("target", ["ftp://h/a.tar", "file:///etc/passwd", "data://x"])
def test_redirects_to_other_protocols_are_refused(server: BadServer, target: str) -> None:
    put(server, "a.tar")
    server.plans["a.tar"] = [target]
    with pytest.raises(UnreachableError, match=rf"a.tar' is refused: .*'{target}'"):
        read_all(ShardSource(**QUICK), f"{server.url}/a.tar")
    server.plans["a.tar"] = [f"{server.url}/b.tar"]
    content = put(server, "b.tar")
    assert read_all(ShardSource(**QUICK), f"{server.url}/a.tar") == content


def test_shards_on_a_server_give_what_those_on_disk_give(server: BadServer) -> None:
    for number in range(2):
        write_shard(server.folder / f"{number}.tar", 3, number, first_id=10 * number)
    local = [s.jpg for s in stream_samples(f"{server.folder}/*.tar")]
    assert [s.jpg for s in stream_samples(f"{server.url}/{{0..1}}.tar")] == local
    assert server.requests == {"0.tar": 1, "1.tar": 1}
    server.plans["0.tar"] = ["cut", "stall"]
    got = [raw.jpg for _, raw in raw_samples(f"{server.url}/0.tar", ShardSource(**STALLED))]
    assert got == local[:3]


def test_a_redirect_from_https_to_http_is_refused() -> None:
    request = urllib.request.Request("https://h/a.tar")
    headers = http.client.HTTPMessage()
    follow = _WebOnly().redirect_request
    with pytest.raises(RefusedError, match=r"redirects to 'http://h/b.tar'.*https never to http"):
        follow(request, io.BytesIO(), 302, "Found", headers, "http://h/b.tar")
    onward = follow(request, io.BytesIO(), 302, "Found", headers, "https://h/b.tar")
    assert onward is not None
    assert onward.full_url == "https://h/b.tar"


def cached(folder: Path, kilobytes: float) -> ShardSource:
    return ShardSource(**QUICK, cache_dir=str(folder / "cache"), cache_gb=kilobytes / 1e6)


def kept(folder: Path) -> int:
    total = 0
    for path in (folder / "cache").glob("[!.]*"):
        with contextlib.suppress(FileNotFoundError):  # another process may just remove it
            total += path.stat().st_size
    return total


def test_a_kept_shard_is_not_asked_for_again_and_old_ones_make_room(
    server: BadServer, tmp_path: Path
) -> None:
    source = cached(tmp_path, 12)
    contents = {name: put(server, name) for name in ("a.tar", "b.tar", "c.tar")}

    def read(name: str) -> None:
        time.sleep(0.01)  # so that the times of use differ
        assert read_all(source, f"{server.url}/{name}") == contents[name]
        assert kept(tmp_path) <= 12_000

    for name in ("a.tar", "b.tar", "a.tar", "c.tar", "a.tar"):
        read(name)
    assert server.requests == {"a.tar": 1, "b.tar": 1, "c.tar": 1}
    read("b.tar")  # it made room for c, being used longest ago
    assert server.requests["b.tar"] == 2


def test_only_whole_shards_are_kept(server: BadServer, tmp_path: Path) -> None:
    content = put(server, "a.tar")
    source = cached(tmp_path, 12)
    server.plans["a.tar"] = ["cut", 503, 503]
    with pytest.raises(UnreachableError):
        read_all(source, f"{server.url}/a.tar")
    assert kept(tmp_path) == 0
    assert not list((tmp_path / "cache").glob(".*.part"))
    server.plans["a.tar"] = ["cut"]
    assert read_all(source, f"{server.url}/a.tar") == content
    with pytest.raises(
        ValueError, match=r"than the cache may hold .* raise data\.shards\.cache_gb"
    ):
        read_all(cached(tmp_path, 1), f"{server.url}/b.tar" if put(server, "b.tar") else "")


def test_a_shard_that_is_removed_while_it_is_read_is_read_to_its_end(
    server: BadServer, tmp_path: Path
) -> None:
    first, second = put(server, "a.tar"), put(server, "b.tar")
    source = cached(tmp_path, 6)
    stream = source.open(f"{server.url}/a.tar")
    start = stream.read(100)
    assert read_all(source, f"{server.url}/b.tar") == second
    assert kept(tmp_path) == 5000  # a is gone
    assert start + stream.read(10_000) == first
    stream.close()


def test_what_a_killed_process_leaves_is_swept_and_foreign_files_are_not(
    server: BadServer, tmp_path: Path
) -> None:
    cache = ShardCache(tmp_path / "cache", 6000)
    part = tmp_path / "cache" / f".{cache.path('http://h/x.tar').name}.part"
    part.write_bytes(b"half")
    (tmp_path / "cache" / "notes.txt").write_bytes(bytes(9000))
    put(server, "a.tar")
    read_all(cached(tmp_path, 6), f"{server.url}/a.tar")
    assert not part.exists()
    assert (tmp_path / "cache" / "notes.txt").exists()


@pytest.mark.parametrize(
    ("content", "plan"),
    [
        (b"<!DOCTYPE html><title>Log in</title>" + bytes(3000), "well"),
        (b"", "well"),
        (None, "cut, no length"),
    ],
)
def test_what_is_no_whole_tar_is_not_kept(
    server: BadServer, tmp_path: Path, content: bytes | None, plan: str
) -> None:
    whole = put(server, "a.tar")
    if content is not None:
        (server.folder / "a.tar").write_bytes(content)
    server.plans["a.tar"] = [plan]
    source = cached(tmp_path, 12)
    with pytest.raises(ValueError, match=r"what lies at '.*a.tar' is no whole tar") as error:
        read_all(source, f"{server.url}/a.tar")
    assert "\n" not in str(error.value)
    assert kept(tmp_path) == 0
    (server.folder / "a.tar").write_bytes(whole)
    server.plans["a.tar"] = ["no length"]
    assert read_all(source, f"{server.url}/a.tar") == whole
    assert kept(tmp_path) == len(whole)


@pytest.mark.parametrize("harm", ["empty", "cut", "link", "no size"])
def test_an_entry_that_is_not_as_it_was_written_is_fetched_anew(
    server: BadServer, tmp_path: Path, harm: str
) -> None:
    content = put(server, "a.tar")
    source = cached(tmp_path, 12)
    read_all(source, f"{server.url}/a.tar")
    entry = ShardCache(tmp_path / "cache", 1).path(f"{server.url}/a.tar")
    outside = tmp_path / "outside"
    outside.write_bytes(b"precious")
    if harm == "no size":
        (entry.parent / f".{entry.name}.bytes").unlink()
    elif harm == "link":
        entry.unlink()
        entry.symlink_to(outside)
    else:
        entry.write_bytes(content[: 0 if harm == "empty" else 2000])
    assert read_all(source, f"{server.url}/a.tar") == content
    assert server.requests["a.tar"] == 2
    assert entry.read_bytes() == content
    assert not entry.is_symlink()
    assert outside.read_bytes() == b"precious"


def test_links_in_a_cache_folder_are_not_followed(server: BadServer, tmp_path: Path) -> None:
    content = put(server, "a.tar")
    cache = ShardCache(tmp_path / "cache", 12_000)
    name = cache.path(f"{server.url}/a.tar").name
    outside = tmp_path / "outside"
    outside.write_bytes(b"precious")
    (cache.folder / f".{name}.part").symlink_to(outside)
    assert read_all(cached(tmp_path, 12), f"{server.url}/a.tar") == content
    lock = cache.folder / f".{name}.lock"
    lock.unlink()
    lock.symlink_to(outside)
    with pytest.raises(CacheFolderError, match="cannot keep shards"):
        read_all(cached(tmp_path, 12), f"{server.url}/a.tar")
    assert outside.read_bytes() == b"precious"


def test_a_cache_folder_that_cannot_be_used_is_named(server: BadServer, tmp_path: Path) -> None:
    put(server, "a.tar", 200_000)
    url = f"{server.url}/a.tar"
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(CacheFolderError, match=r"cache_dir '.*file' cannot keep shards"):
        read_all(ShardSource(cache_dir=str(tmp_path / "file")), url)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))  # as a full disk
    try:
        with pytest.raises(CacheFolderError, match=r"cannot keep shards \(File too large\); make"):
            read_all(cached(tmp_path, 999), url)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert kept(tmp_path) == 0


def _read_many(folder: Path, url: str, seed: int, sums: list[int]) -> None:
    source = cached(folder, 13)
    for step in range(12):
        name = (step * (seed + 1) + seed) % 4
        assert sum(read_all(source, f"{url}/{name}.tar")) == sums[name]
        assert kept(folder) <= 13_000


def test_many_processes_share_a_cache_that_is_too_small_for_them(
    server: BadServer, tmp_path: Path
) -> None:
    sums = [sum(put(server, f"{number}.tar")) for number in range(4)]
    context = multiprocessing.get_context("fork")
    processes = [
        context.Process(target=_read_many, args=(tmp_path, server.url, seed, sums))
        for seed in range(4)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 4


def test_wrong_settings_get_a_sentence() -> None:
    with pytest.raises(ValueError, match="url_attempts must be at least 1"):
        ShardSource(url_attempts=0)
    with pytest.raises(ValueError, match="cache_gb above 0"):
        ShardSource(cache_gb=0)


class StoreError(Exception):
    """As some stores raise: no OSError."""


class BadStore(MemoryFileSystem):
    """A store in memory whose reads fail as planned, each once."""

    protocol = "badstore"
    store: ClassVar[dict[str, Any]] = {}
    plans: ClassVar[list[Exception]] = []

    def _open(self, *args: Any, **kwargs: Any) -> Any:
        if self.plans:
            raise self.plans.pop(0)
        return super()._open(*args, **kwargs)


@pytest.fixture
def store() -> Iterator[type[BadStore]]:
    fsspec.register_implementation("badstore", BadStore, clobber=True)
    with fsspec.open("badstore://bucket/a.tar", "wb") as file:
        file.write(bytes(range(250)) * 20)
    yield BadStore
    BadStore.plans.clear()
    BadStore.store.clear()


def test_a_store_that_fails_in_its_own_way_is_asked_again(store: type[BadStore]) -> None:
    store.plans[:] = [StoreError("try later"), ConnectionResetError()]
    source = ShardSource(url_attempts=3, url_wait_s=0.001)
    assert read_all(source, "badstore://bucket/a.tar") == bytes(range(250)) * 20
    store.plans[:] = [StoreError("try later")] * 3
    with pytest.raises(UnreachableError, match=r"failed 3 times in a row.*StoreError: try later"):
        read_all(source, "badstore://bucket/a.tar")


@pytest.mark.parametrize("error", [PermissionError("no key"), ImportError("Install s3fs")])
def test_a_store_that_does_not_let_us_in_is_told_at_once(
    store: type[BadStore], error: Exception
) -> None:
    store.plans[:] = [error] * 2
    with pytest.raises(UnreachableError, match=rf"'badstore://bucket/a.tar' is refused: .*{error}"):
        read_all(ShardSource(url_wait_s=0.001), "badstore://bucket/a.tar")
    assert len(store.plans) == 1


def test_what_a_store_does_not_have_is_missed() -> None:
    with pytest.raises(FileNotFoundError, match=r"no shard at 'memory://nothing.tar'"):
        read_all(ShardSource(), "memory://nothing.tar")


def test_a_protocol_that_nobody_knows_is_named_at_once() -> None:
    with pytest.raises(UnreachableError, match=r"'nobody://a.tar' is refused: .*nobody"):
        read_all(ShardSource(), "nobody://a.tar")
