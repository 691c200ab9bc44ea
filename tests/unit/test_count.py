"""Samples of streamed shards are counted: by an index, by headers, or by reading them."""

from __future__ import annotations

import gzip
import json
import logging
from dataclasses import replace
from multiprocessing import Manager
from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist
from bad_server import bad_server
from forked_python import start_server
from shard_factory import write_shard
from torch.multiprocessing import start_processes

from maskfeat.data.shards.count import CountedShard, count_samples
from maskfeat.data.shards.remote import ShardSource

QUICK = ShardSource(url_attempts=2, url_wait_s=0.01, url_timeout_s=2)


@pytest.fixture
def shards(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> list[str]:
    write_shard(tmp_path / "a.tar", 6, faults={2: "missing json"})
    write_shard(tmp_path / "b.tar", 3)
    caplog.set_level(logging.WARNING, "maskfeat")
    return [str(tmp_path / name) for name in ("a.tar", "b.tar")]


def write_index(folder: Path, **samples: int) -> None:
    entries = [
        {"shard": f"{name}.tar", "samples": count, "bytes": (folder / f"{name}.tar").stat().st_size}
        for name, count in samples.items()
    ]
    (folder / "index.json").write_text(json.dumps({"shards": entries}))


def test_local_tars_are_counted_by_their_headers_incomplete_samples_too(
    shards: list[str], tmp_path: Path
) -> None:
    assert count_samples(shards, QUICK) == tuple(map(CountedShard, shards, (6, 3)))
    assert (tmp_path / "a.tar.index").exists()
    assert (
        count_samples(shards, replace(QUICK, index_dir=str(tmp_path / "indexes")))[0].num_samples
        == 6
    )
    assert list((tmp_path / "indexes").glob("a.tar.*.index"))


def test_an_index_beside_the_shards_is_believed_while_their_sizes_agree(
    shards: list[str], tmp_path: Path
) -> None:
    write_index(tmp_path, a=5, b=77)
    assert [one.num_samples for one in count_samples(shards, QUICK)] == [5, 77]
    write_shard(tmp_path / "b.tar", 40)
    assert [one.num_samples for one in count_samples(shards, QUICK)] == [5, 40]
    (tmp_path / "index.json").write_text('["something else"]')
    assert [one.num_samples for one in count_samples(shards, QUICK)] == [6, 40]


def test_shards_of_a_server_are_counted_by_its_index_else_by_reading_them_once(
    shards: list[str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with bad_server(tmp_path) as server:
        urls = [f"{server.url}/a.tar", f"{server.url}/b.tar"]
        assert [one.num_samples for one in count_samples(urls, QUICK)] == [6, 3]
        assert "2 shards are read once to count their samples" in caplog.text
        caplog.clear()
        write_index(tmp_path, a=6, b=3)
        assert [one.num_samples for one in count_samples(urls, QUICK)] == [6, 3]
        assert not caplog.text
        with pytest.raises(FileNotFoundError, match=r"no shard at '.*c.tar'"):
            count_samples([f"{server.url}/c.tar"], QUICK)


def test_what_no_index_can_be_of_is_read_once(shards: list[str], tmp_path: Path) -> None:
    (tmp_path / "c.tar.gz").write_bytes(gzip.compress((tmp_path / "b.tar").read_bytes()))
    pipe = f"pipe:cat {shards[1]}"
    found = count_samples([str(tmp_path / "c.tar.gz"), pipe], ShardSource(allow_pipe=True))
    assert [one.num_samples for one in found] == [3, 3]


def test_a_shard_without_a_sample_is_refused(tmp_path: Path) -> None:
    write_shard(tmp_path / "a.tar", 1, faults={0: "missing json"})
    with pytest.raises(ValueError, match=r"a.tar' has no complete sample"):
        count_samples([str(tmp_path / "a.tar")], QUICK)


def _count_in_a_job(rank: int, folder: Path, urls: list[str], told: Any) -> None:
    dist.init_process_group("gloo", f"file://{folder}/meeting", rank=rank, world_size=2)
    try:
        told[rank] = count_samples(urls, ShardSource(url_attempts=1))
    except FileNotFoundError as error:
        told[rank] = str(error)
    dist.destroy_process_group()


@pytest.mark.parametrize("missing", [False, True])
def test_the_processes_of_a_job_read_each_shard_once_and_fail_together(
    shards: list[str], tmp_path: Path, missing: bool
) -> None:
    (tmp_path / "job").mkdir()
    with bad_server(Path(shards[0]).parent) as server, Manager() as manager:
        urls = [f"{server.url}/{Path(path).name}" for path in shards]
        urls += [f"{server.url}/gone.tar"] if missing else []
        told = manager.dict()
        start_server()
        arguments = (tmp_path / "job", urls, told)
        start_processes(_count_in_a_job, arguments, nprocs=2, start_method="forkserver")
        requests = [server.requests[Path(path).name] for path in shards]
        assert requests == [1] * len(shards)
        if missing:
            assert told[0] == told[1] == f"no shard at '{server.url}/gone.tar'"
        else:
            expected = [count.num_samples for count in count_samples(shards, ShardSource())]
            for rank in (0, 1):
                assert [count.num_samples for count in told[rank]] == expected
