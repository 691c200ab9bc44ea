"""The folder of a run has one owner, and training goes on from a checkpoint that is whole."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from fits import CHECKPOINTS, TWO_STEPS
from forked_python import Started
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.demos.boring_classes import BoringModel

from maskfeat.running.run_folder import SaveLastStep, whole_checkpoint

# Holds the folder of a run as a living fit does, until it is killed.
HOLDER = """
import sys, time
from pathlib import Path
from maskfeat.running.run_folder import held_run
with held_run(Path("runs/base")):
    print("held", flush=True)
    time.sleep(600)
"""


def write(path: Path, seconds: int, number: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {"state_dict": {}, "pytorch-lightning_version": "2", "w": torch.ones(999) * number}
    torch.save(content, path)
    os.utime(path, (seconds, seconds))
    return path


def damage(path: Path) -> None:
    times = path.stat()
    content = bytearray(path.read_bytes())
    for place in range(len(content) // 2, len(content) // 2 + 200):
        content[place] ^= 0xFF
    path.write_bytes(content)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def test_a_damaged_last_checkpoint_is_replaced_by_the_newest_whole_one(tmp_path, caplog) -> None:
    folder = tmp_path / "checkpoints"
    steps = [write(folder / f"step-{n}.ckpt", n, n) for n in (100, 200, 300)]
    last = write(folder / "last.ckpt", 400)
    assert whole_checkpoint("last", folder, is_fit=True) == str(last)
    damage(last)
    damage(steps[2])
    for asked in ("last", str(last)):
        caplog.clear()
        assert whole_checkpoint(asked, folder, is_fit=True) == str(steps[1])
    # For judging it a path means that file, and is refused when it is read.
    assert whole_checkpoint(str(last), folder, is_fit=False) == str(last)
    assert whole_checkpoint(str(steps[2]), folder, is_fit=True) == str(steps[2])
    for path in steps[:2]:
        damage(path)
    with pytest.raises(ValueError, match=r"last.ckpt' is a checkpoint that is damaged"):
        whole_checkpoint("last", folder, is_fit=True)


def test_a_damaged_checkpoint_of_a_requeued_job_is_replaced_too(tmp_path) -> None:
    newest = write(tmp_path / "run/hpc_ckpt_1.ckpt", 500)
    last = write(tmp_path / "run/checkpoints/last.ckpt", 400)
    damage(newest)
    found = whole_checkpoint(str(newest), tmp_path / "run/checkpoints", is_fit=True)
    assert found == str(last)


def test_training_goes_on_from_a_step_where_last_is_damaged(command, tmp_path, capsys) -> None:
    words = ["fit", "--config=conf/base.yaml", *TWO_STEPS, *CHECKPOINTS]
    words += ["--trainer.callbacks.every_n_train_steps=1", "--trainer.callbacks.save_top_k=1"]
    words += ["--trainer.callbacks.filename=step-{step}", "--trainer.limit_val_batches=0"]
    command(*words)
    folder = tmp_path / "runs/base/checkpoints"
    (step,) = folder.glob("step-*.ckpt")
    damage(folder / "last.ckpt")
    command(*words, "--trainer.max_epochs=2", "--ckpt_path=last")
    said = capsys.readouterr().err
    assert (
        f"last.ckpt' is a checkpoint that is damaged, so '{step.relative_to(tmp_path)}' is taken"
        in said
    )
    assert torch.load(folder / "last.ckpt", weights_only=True)["global_step"] == 4


def test_a_run_that_lives_keeps_its_folder_and_a_killed_one_does_not(command, tmp_path) -> None:
    folder = tmp_path / "runs/base"
    folder.mkdir(parents=True)
    (folder / "config.yaml").touch()
    holder = Started(["-c", HOLDER], stdout="pipe")
    try:
        assert holder.stdout.readline() == "held\n"
        words = ["fit", "--config=conf/base.yaml", *TWO_STEPS, *CHECKPOINTS]
        words += ["--trainer.limit_train_batches=1", "--trainer.limit_val_batches=0"]
        for more in ([], ["--ckpt_path=last"]):
            message = (
                rf"runs/base' is in use by a training run \(process {holder.pid} on \S+, since"
            )
            with pytest.raises(SystemExit, match=message):
                command(*words, *more)
        assert [path.name for path in (tmp_path / "runs").glob("[!.]*")] == ["base"]
        assert [path.name for path in folder.iterdir()] == ["config.yaml"]
    finally:
        holder.kill()
        holder.wait()
        holder.stdout.close()
    command(*words)
    assert len(list((tmp_path / "runs").glob("base.*"))) == 1
    assert not list((tmp_path / "runs").glob(".*"))


@pytest.mark.parametrize("every", [2, 5, 9])
def test_last_checkpoint_holds_the_last_step_whatever_the_interval(tmp_path, every: int) -> None:
    saver = ModelCheckpoint(tmp_path, save_last=True, every_n_train_steps=every)
    fit_five_steps(tmp_path, saver)
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["global_step"] == 5


def test_no_last_checkpoint_is_written_where_none_is_asked_for(tmp_path) -> None:
    fit_five_steps(tmp_path, ModelCheckpoint(tmp_path, every_n_train_steps=2))
    assert not (tmp_path / "last.ckpt").exists()


def fit_five_steps(folder: Path, saver: ModelCheckpoint) -> None:
    trainer = Trainer(
        max_steps=5,
        accelerator="cpu",
        callbacks=[SaveLastStep(), saver],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
    )
    trainer.fit(BoringModel())
