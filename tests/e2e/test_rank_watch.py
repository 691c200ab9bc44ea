"""A rank that stands still or is killed ends the run, in a sentence that names it."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path

import pytest
from fits import CHECKPOINTS, SMALL
from forked_python import Started
from waiting import is_gone, wait_until

from maskfeat.running.rank_watch import RankWatch

TWO_RANKS = [
    *("--config=conf/base.yaml", *SMALL, *CHECKPOINTS, "--trainer.devices=2"),
    *("--trainer.strategy=ddp", "--data.epoch_images=4000", "--data.examples.crop_size=64"),
    *("--trainer.limit_val_batches=0", "--trainer.callbacks.every_n_train_steps=2"),
]


def children_of(process: int) -> list[int]:
    listed = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    return [int(child) for child in listed]


# A callback of the user's that begins to stand still on rank one in the second validation batch.
STANDING = """
import time
from lightning.pytorch import Callback

class Standing(Callback):
    def on_validation_batch_end(self, trainer, *_):
        if trainer.global_rank == 1 and not trainer.sanity_checking:
            time.sleep(1000)
"""


@pytest.mark.slow
def test_a_rank_that_stands_in_a_validation_is_named(tmp_path, repository) -> None:
    for name in ("conf", "data_shards"):
        (tmp_path / name).symlink_to(repository / name)
    (tmp_path / "standing.py").write_text(STANDING)
    words = [word for word in TWO_RANKS if "limit_val" not in word and "callbacks" not in word]
    words += ["--data.epoch_images=8", "--trainer.callbacks=[{class_path: standing.Standing}]"]
    words += ["--data.num_val_images=8", "--rank_timeout_s=12", "--trainer.val_check_interval=1.0"]
    words += ["--trainer.check_val_every_n_epoch=1"]
    errors = tmp_path / "errors"
    run = Started(["-m", "maskfeat", "fit", *words], tmp_path, stdout=os.devnull, stderr=errors)
    try:
        assert run.wait(240) == 1
    finally:
        run.kill()
    told = errors.read_text()
    assert re.search(r"ERROR: rank 1 \(process \d+ on .*\) stands still", told), told[-3000:]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("signum", "said"),
    [
        (signal.SIGSTOP, "ERROR: rank 1 (process {} on "),
        (signal.SIGKILL, "ERROR: rank 1 (process {}) was killed (SIGKILL); --ckpt_path last"),
        (signal.SIGTERM, "WARNING: stopped by SIGTERM; step "),
    ],
)
def test_what_befalls_a_rank_is_said(tmp_path, repository, signum: int, said: str) -> None:
    for name in ("conf", "data_shards"):
        (tmp_path / name).symlink_to(repository / name)
    errors = tmp_path / "errors"
    words = ["-m", "maskfeat", "fit", *TWO_RANKS, "--rank_timeout_s=12"]
    run = Started(words, tmp_path, stdout=os.devnull, stderr=errors)
    try:
        last = tmp_path / "runs/base/checkpoints/last.ckpt"
        wait_until(lambda: last.exists() or run.poll() is not None)
        assert run.poll() is None, errors.read_text()[-3000:]
        (rank,) = children_of(run.pid)
        os.kill(rank, signum)
        status = run.wait(200)
    finally:
        run.kill()
    told = errors.read_text()
    assert said.format(rank) in told, told[-3000:]
    assert "Traceback" not in told
    # Told by rank one, the status is rank zero's; all of them had saved.
    assert status == (143 if signum == signal.SIGTERM else 1)
    if signum == signal.SIGSTOP:
        assert "stands still: after batch or image" in told
        wait_until(lambda: is_gone(rank))


def test_a_timeout_of_no_time_is_refused() -> None:
    with pytest.raises(ValueError, match="rank_timeout_s must be positive, got 0"):
        RankWatch(0)
