"""Real training, killed by the system at random moments: nothing is read twice, lost or changed."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from fits import TINY
from forked_python import start_server

sys.path.insert(0, str(Path(__file__).parents[2] / "experiments" / "input_resume"))
from kill import write_shards
from resume_runs import Run, compare


@pytest.mark.parametrize(
    ("mode", "num_kills", "num_images"),
    [
        ("indexed", 1, 48),
        ("streaming", 2, 48),
        pytest.param("indexed", 20, 480, marks=pytest.mark.long),
        pytest.param("streaming", 20, 480, marks=pytest.mark.long),
    ],
)
def test_after_kill_9_at_random_moments_training_is_what_it_would_have_been(
    tmp_path: Path, mode: str, num_kills: int, num_images: int
) -> None:
    start_server()  # of which the runs are forked
    write_shards(tmp_path / "shards", num_images)
    words = [f"--data_root={tmp_path}/shards", f"--data.mode={mode}"]
    # Two epochs, which together read each image once.
    words += [f"--data.epoch_images={num_images // 2}", "--trainer.max_epochs=2", TINY]
    whole, broken = Run(tmp_path / "whole", words), Run(tmp_path / "broken", words)
    whole.finish("--data.num_workers=1")
    rng = np.random.default_rng()  # other moments each time: none may matter
    killed = [
        broken.kill_at_random(rng, 0.5, f"--data.num_workers={number % 3}")
        for number in range(num_kills)
    ]
    broken.finish("--data.num_workers=2")
    assert killed[0]
    found = compare(broken, whole)
    assert found["steps"] == num_images // 2
    assert found["seen_once"] == found["same_keys"] == 1
    assert found["loss_difference"] <= 1e-5
