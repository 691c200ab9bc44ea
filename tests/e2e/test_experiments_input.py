"""The benchmark of the input runs, on as little as it can run on."""

from __future__ import annotations

import json

import pytest
from forked_python import run


@pytest.mark.slow
def test_the_routes_are_compared_on_small_tars(repository, tmp_path) -> None:
    words = ["--photos", str(tmp_path / "none"), "--num_images=2", "--turns=1", "--no_steps"]
    words += ["--size", "600", "900", f"--out={tmp_path}"]
    done = run(["experiments/input_speed/benchmark.py", *words], repository, check=True)
    assert "| 512 | re-sharded tars |" in done.stdout
    record = json.loads((tmp_path / "result.json").read_text())
    assert [row["crop"] for row in record["routes"]] == [256] * 4 + [512] * 4
    assert record["samples"]["original"]["masks"] > 90
