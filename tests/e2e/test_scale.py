"""The cost model against numbers worked by hand, and a small simulation of the schedule."""

from __future__ import annotations

import json
import sys

import pytest


@pytest.fixture(autouse=True)
def _path(repository, monkeypatch):
    monkeypatch.syspath_prepend(str(repository / "experiments" / "scale"))
    yield
    for name in ("cost", "measure", "simulate", "memory"):
        sys.modules.pop(name, None)


def assumptions(**changes):
    from cost import Assumptions

    settings = {
        "peak_flops": 1e12,
        "utilization": 0.5,
        "backward_factor": 3.0,
        "batch_size": 10,
        "cores_per_gpu": 4,
        "gpus_per_node": 8,
        "node_read_bytes": 1e9,
        "store_read_bytes": 4e9,
        "node_link_bytes": 1e9,
    }
    return Assumptions(**{**settings, **changes})


def test_rates_are_those_worked_by_hand() -> None:
    from cost import Network, Source, rates

    # 3 x 10^9 operations at 5 x 10^11 a second: 6 ms, 166.7 images a second.
    network = Network("net", forward_flops=1e9, parameters=1e6)
    source = Source("shards", core_s=0.02, bytes_per_image=1e6)
    one = rates(network, source, 1, assumptions())
    assert one == {
        "gpu": pytest.approx(500 / 3),
        "input": pytest.approx(200),  # 4 cores at 50 a second
        "storage": pytest.approx(1000),
    }
    # Eight nodes read 8 GB a second, of which the storage gives 4. A node sends 2 x 7/8 x 4 MB, in
    # 7 ms; in that time 64 GPUs take 640 images.
    many = rates(network, source, 64, assumptions())
    assert many == {
        "gpu": pytest.approx(64 * 500 / 3),
        "input": pytest.approx(64 * 200),
        "storage": pytest.approx(4000),
        "network": pytest.approx(640 / 0.007),
    }


@pytest.mark.parametrize(
    ("changes", "num_gpus", "binding", "rate"),
    [
        ({}, 1, "gpu", 500 / 3),
        ({"cores_per_gpu": 2}, 1, "input", 100),
        ({}, 64, "storage", 4000),
        ({"store_read_bytes": 1e12, "node_link_bytes": 1e7}, 64, "network", 640 / 0.7),
    ],
)
def test_what_is_slowest_binds(changes, num_gpus, binding, rate) -> None:
    from cost import NUM_IMAGES, Network, Source, hours

    network = Network("net", forward_flops=1e9, parameters=1e6)
    source = Source("shards", core_s=0.02, bytes_per_image=1e6)
    time, found = hours(network, source, num_gpus, assumptions(**changes))
    assert found == binding
    assert time == pytest.approx(NUM_IMAGES / rate / 3600)


def test_a_measured_gpu_replaces_the_assumed_one() -> None:
    from cost import Network, Source, rates

    source = Source("shards", core_s=0.02, bytes_per_image=1e6)
    network = Network("net", forward_flops=1e9, parameters=1e6, gpu_s=0.25)
    assert rates(network, source, 2, assumptions())["gpu"] == pytest.approx(8)


def test_the_table_tells_assumptions_from_measurements(tmp_path) -> None:
    from cost import Network, Source, draw, result, table

    measured = {"convert core-s": 0.36, "evaluate core-s": 2.0}
    networks = [Network("net", 1e9, 1e6), Network("big", 1e11, 1e7)]
    sources = [Source("genuine size", 0.04, 1e6), Source("512 px shards", 0.01, 1e5)]
    found = result(networks, sources, measured, assumptions())
    assert len(found["rows"]) == 4
    assert found["disk_tb"]["512 px shards"] == pytest.approx(1.1185362)
    assert found["convert_core_hours"] == pytest.approx(1118.5362)
    text = table(json.loads(json.dumps(found)))
    assert "| utilization | 0.5 | **assumed** |" in text
    assert "| convert core-s | 0.36 | measured here |" in text
    pytest.importorskip("matplotlib", reason="needs the extra bench")
    draw(networks, sources, assumptions(), tmp_path / "cost.png")
    assert (tmp_path / "cost.png").stat().st_size > 1000


def test_figures_of_the_input_are_taken_over(tmp_path) -> None:
    from measure import from_input_speed

    assert from_input_speed(tmp_path / "result.json") == {}
    routes = [
        {"crop": 256, "route": "original tars", "seconds": 0.9},
        {"crop": 512, "route": "plain", "seconds": 0.8},
        {"crop": 512, "route": "original tars", "seconds": 0.02},
        {"crop": 512, "route": "re-sharded tars", "seconds": 0.005},
    ]
    record = {"routes": routes, "samples": {"re-sharded": {"kilobytes": 120.0}}}
    (tmp_path / "result.json").write_text(json.dumps(record))
    assert from_input_speed(tmp_path / "result.json") == {
        "input core-s, genuine": 0.02,
        "input core-s, 512": 0.005,
        "bytes per image, 512": 120_000.0,
    }


def test_a_pass_over_a_small_cluster_is_whole() -> None:
    from simulate import indexed

    found = indexed(10, 23, world_size=4, num_workers=3, batch_size=4, num_resumes=6)
    assert found["samples"] == 230
    assert found["read once"] == 224  # 14 global batches of 16
    assert found["read twice or more"] == 0
    assert found["left over, less than a global batch"] == 6
    assert found["batches per rank, least and most"] == [14, 14]
    assert found["batches per worker, least and most"] == [4, 5]
    assert found["samples lost or repeated by them"] == 0


def test_streams_of_unequal_shards_are_read_once_and_go_on_where_they_stood() -> None:
    from simulate import streaming, table

    found = streaming(
        13, 20, world_size=2, num_workers=3, num_readers=4, batch_size=5, num_resumes=2
    )
    total = found["samples"]
    assert total != 13 * 20  # shards differ in size
    # Whole global batches of ten are read, each sample once.
    assert found["read once in each epoch, least"] == total // 10 * 10
    assert found["read twice or more in an epoch, most"] == 0
    assert found["left over in an epoch, most"] == total % 10
    assert found["batches per rank and epoch, least and most"] == [total // 10] * 2
    assert found["batches that differ after resumes"] == 0
    assert f"| streaming | samples | {total} |" in table({"streaming": found})


def test_memory_of_processes_is_read_and_its_slope_is_that_of_a_line() -> None:
    import os
    import subprocess

    from memory import children_of, resident_mb, slope_mb

    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        assert child.pid in children_of(os.getpid())
        assert 10 < resident_mb(os.getpid()) < 1e5
    finally:
        child.communicate(b"\n")
    assert resident_mb(child.pid) == 0
    rows = [{"step": step, "process": 100 + 0.003 * step} for step in range(0, 1000, 50)]
    rows[0]["process"] = 1.0  # the start is left out
    assert slope_mb(rows, "process") == pytest.approx(3)


def test_memory_is_recorded_in_a_real_run() -> None:
    from memory import record

    rows = record(4, 2, "indexed", 1, "data_shards/val-*.tar")
    assert [row["step"] for row in rows] == [2, 4]
    assert all(row["num_workers"] >= 1 and row["workers"] > 10 for row in rows)
