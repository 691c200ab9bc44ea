"""Machines on which reading breaks down while training: each run ends, with a sentence."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from forked_python import run
from shard_factory import write_shard

WORDS = ["fit", "--config=conf/base.yaml", "--trainer.accelerator=cpu", "--trainer.max_epochs=100"]
WORDS += ["--data.train=train-*.tar", "--data.val=train-*.tar", "--trainer.enable_progress_bar=no"]
WORDS += ["--data.batch_size=2", "--data.examples.crop_size=64", "--model.net.width=8"]


class KillsAWorker(L.Callback):
    """At the third batch, as the system does when memory has run out."""

    def on_train_batch_end(self, trainer: Any, module: Any, *batch: Any) -> None:
        if trainer.global_step == 3:
            os.kill(multiprocessing.active_children()[0].pid, signal.SIGKILL)  # type: ignore[arg-type]


@pytest.mark.parametrize("mode", ["indexed", "streaming"])
def test_a_worker_that_is_killed_ends_the_run_in_a_sentence(
    tmp_path: Path, command: Any, mode: str
) -> None:
    write_shard(tmp_path / "train-0.tar", 8)
    callback = "--trainer.callbacks+=test_hostile_workers.KillsAWorker"
    with pytest.raises(SystemExit) as ended:
        command(*WORDS, callback, f"--data.mode={mode}")
    assert "a worker that reads data was killed" in str(ended.value)
    assert "\n" not in str(ended.value)


# `maskfeat` in a mount namespace of its own, in which /dev/shm is small.
IN_SMALL = """
import ctypes, subprocess, sys
assert ctypes.CDLL(None).unshare(0x00020000) == 0
subprocess.run(["mount", "--make-rprivate", "/"], check=True)
subprocess.run("mount -t tmpfs -o size=64k tmpfs /dev/shm".split(), check=True)
from maskfeat.cli import main
main()
"""


def test_a_full_dev_shm_ends_the_run_in_a_sentence(tmp_path: Path, repository: Path) -> None:
    mount = "mount -t tmpfs -o size=64k tmpfs /dev/shm"
    if subprocess.run(["unshare", "-m", "sh", "-c", mount], check=False).returncode != 0:
        pytest.skip("only root can make /dev/shm small")
    write_shard(tmp_path / "train-0.tar", 8, size=(80, 80))
    (tmp_path / "conf").symlink_to(repository / "conf")
    done = run(["-c", IN_SMALL, *WORDS], tmp_path)
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    wanted = "found no room in /dev/shm"
    if torch.__version__.startswith("2.9."):  # which does not say what a worker died of
        last, wanted = last.lstrip("\0"), "was killed, mostly because memory or /dev/shm ran out"
    assert last.startswith(f"error: a worker that reads data {wanted}")
