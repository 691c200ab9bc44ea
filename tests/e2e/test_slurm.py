"""The scripts of experiments/cluster, submitted to a real Slurm on this machine.

python -m pytest -n 0 -m slurm tests/e2e/test_slurm.py     (minutes: a job starts four times)
"""

from __future__ import annotations

import os
import re
import signal
import time
from pathlib import Path

import pytest
import torch
from loopback_slurm import LoopbackSlurm, loopback_slurm, missing
from shard_factory import write_shard

pytestmark = [
    pytest.mark.slurm,
    pytest.mark.skipif(missing() is not None, reason=f"no Slurm here: {missing()}"),
]

TINY = """
trainer:
  accelerator: cpu
  sync_batchnorm: false
  max_epochs: 3
  log_every_n_steps: 1
  enable_progress_bar: false
  enable_model_summary: false
  limit_val_batches: 0
  callbacks:
    - class_path: lightning.pytorch.callbacks.ModelCheckpoint
      init_args:
        {save_last: true, save_top_k: 0, every_n_train_steps: 5, enable_version_counter: false}
model:
  net:
    init_args: {backbone: efficientvit_b0, width: 8}
  compile_backend: null
data:
  init_args:
    {batch_size: 2, num_workers: 1, epoch_images: 160, examples: {crop_size: 64, num_points: 64}}
"""
NUM_STEPS = 3 * 160 // (2 * 2)
PATIENCE_S = 1500  # for one start, on a machine that has much else to do
# What this machine cannot give, and a time-limit that plays no part.
ONE_NODE = ["--nodes=1", "--gpus-per-node=0", "--cpus-per-task=1", "--time=30"]


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    # A socket's path must be short.
    with loopback_slurm(tmp_path_factory.mktemp("s", numbered=True)) as running:
        yield running


@pytest.fixture(scope="module")
def checkout(tmp_path_factory, repository) -> Path:
    """What stands for the root of the repository, with data."""
    folder = tmp_path_factory.mktemp("checkout")
    for name in ("conf", "experiments", ".venv"):
        (folder / name).symlink_to(repository / name)
    (folder / "tiny.yaml").write_text(TINY)
    for number in (0, 990):
        tar = folder / f"genuine/sa_{number:06d}.tar"
        write_shard(tar, 6, seed=number, order="random", size=(90, 130))
    return folder


def step_of(checkpoint: Path) -> int:
    return torch.load(checkpoint, weights_only=True)["global_step"] if checkpoint.exists() else -1


def wait_for_step(checkpoint: Path, step: int, log: Path) -> None:
    give_up = time.monotonic() + PATIENCE_S
    while step_of(checkpoint) < step:
        assert time.monotonic() < give_up, log.read_text()[-3000:]
        time.sleep(2)


def wait_for_restart(
    slurm: LoopbackSlurm, job: str, number: int, timeout_s: float = PATIENCE_S
) -> None:
    give_up = time.monotonic() + timeout_s
    while (now := slurm.job(job))["Restarts"] != str(number) or now["JobState"] != "RUNNING":
        assert time.monotonic() < give_up, now
        time.sleep(1)


def ranks_of(job: str) -> list[int]:
    """Processes of the job that are ranks, not their data workers."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            environment = (folder / "environ").read_bytes().split(b"\0")
            command = (folder / "cmdline").read_bytes()
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            is_worker = b"fit" in Path(f"/proc/{parent}/cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        is_of_job = f"SLURM_JOB_ID={job}".encode() in environment and b"PROCID" in b"".join(
            environment
        )
        if is_of_job and b"fit" in command.split(b"\0") and b"srun" not in command:
            if not is_worker:
                found.append(int(folder.name))
    return found


@pytest.fixture(scope="module")
def shards(slurm, checkout) -> Path:
    """The output of convert.sbatch."""
    out = checkout / "sa1b-64"
    settings = {"SOURCES": str(checkout / "genuine"), "OUT": str(out), "SIZE": "64"}
    script = checkout / "experiments/cluster/convert.sbatch"
    job = slurm.submit(script, checkout, settings, "--array=0-1", "--cpus-per-task=1")
    give_up = time.monotonic() + PATIENCE_S
    while slurm.is_queued("-j", job):
        assert time.monotonic() < give_up
        time.sleep(1)
    logs = "".join(path.read_text() for path in sorted(checkout.glob("slurm-maskfeat-convert*")))
    assert (out / "index.json").exists(), logs
    print(logs)
    return out


def test_an_array_converts_every_part(shards) -> None:
    names = {path.name for path in shards.glob("*.tar")}
    assert names == {"sa_000000-000000.tar", "sa_000990-000000.tar"}


def test_a_fit_goes_on_after_a_signal_a_killed_rank_and_a_lost_node(
    slurm, checkout, shards, capsys
) -> None:
    settings = {
        "RUN": "tiny",
        "DATA_ROOT": str(shards),
        "CONFIGS": "conf/base.yaml conf/sa1b.yaml conf/cluster.yaml tiny.yaml",
    }
    script = checkout / "experiments/cluster/fit.sbatch"
    job = slurm.submit(script, checkout, settings, *ONE_NODE, "--ntasks-per-node=2")
    log = checkout / f"slurm-maskfeat-fit-{job}.out"
    folder = checkout / "runs/tiny"
    last = folder / "checkpoints/last.ckpt"

    # Slurm's signal before the end of the allotted time.
    wait_for_step(last, 10, log)
    slurm.run("scancel", "--batch", "--signal=USR1", job)
    wait_for_restart(slurm, job, 1)
    (hpc,) = folder.glob("hpc_ckpt_*.ckpt")
    stopped_at = step_of(hpc)
    assert stopped_at >= 10

    # One rank dies; the others must not wait for it.
    wait_for_step(last, stopped_at + 10, log)
    assert f"Restored all states from the checkpoint at runs/tiny/{hpc.name}" in log.read_text()
    ranks = ranks_of(job)
    assert len(ranks) == 2
    os.kill(ranks[-1], signal.SIGKILL)
    wait_for_restart(slurm, job, 2)
    killed_at = step_of(last)
    assert killed_at >= stopped_at + 10

    # The node is lost: no signal at all, and Slurm itself requeues.
    wait_for_step(last, killed_at + 10, log)
    slurm.run("scontrol", "requeue", job)
    wait_for_restart(slurm, job, 3)

    slurm.wait_for(job, "COMPLETED", timeout_s=PATIENCE_S)
    told = log.read_text()
    with capsys.disabled():
        print(told)
    assert step_of(last) == NUM_STEPS
    assert not list(folder.glob("hpc_ckpt_*"))
    starts = re.findall(r"^job \d+, start (\d), on \S+: (.*)$", told, re.MULTILINE)
    newest = [name.removeprefix("runs/tiny/") for _, name in starts]
    assert newest == ["anew", hpc.name, "checkpoints/last.ckpt", "checkpoints/last.ckpt"]
    assert losses_are_whole(folder, stopped_at)
    assert not list((checkout / "runs").glob("tiny.*"))  # nothing was moved aside


def losses_are_whole(folder: Path, stopped_at: int) -> bool:
    """Steps were logged, and after the signal training went on at the step it was at."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    starts, steps = [], set()
    for path in sorted(folder.glob("events*"), key=lambda path: path.stat().st_mtime):
        events = EventAccumulator(str(path), size_guidance={"scalars": 0}).Reload()
        if "train/loss" in events.Tags()["scalars"]:
            own = [event.step for event in events.Scalars("train/loss")]
            starts.append(own[0])
            steps.update(own)
    assert starts[1] == stopped_at, starts
    # Lightning logs a step after its callbacks, so the one that ended in the requeue is not told.
    return set(range(NUM_STEPS)) - steps <= {stopped_at - 1}
