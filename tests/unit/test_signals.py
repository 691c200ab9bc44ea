"""All ranks save at the end of the same step when one of them had Slurm's signal."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from types import SimpleNamespace

import lightning as L
import pytest
import torch
from torch.utils.data import DataLoader

from maskfeat.running.signals import SaveTogether

# Stands in for Slurm's program: writes down the words it was given.
SCONTROL = '#!/bin/sh\necho "$@" >> "$(dirname "$0")/told"\n'


class Net(L.LightningModule):
    """Is sent the signal during one of its batches."""

    def __init__(self, signalled_at: int) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.signalled_at = signalled_at

    def training_step(self, batch, batch_idx):
        if batch_idx == self.signalled_at:
            os.kill(os.getpid(), signal.SIGUSR1)
        return (self.weight - 1).square().sum()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.fixture(autouse=True)
def told(tmp_path, monkeypatch):
    """The file in which what was asked of Slurm stands; the handler is put back afterwards."""
    before = signal.getsignal(signal.SIGUSR1)
    program = tmp_path / "bin/scontrol"
    program.parent.mkdir()
    program.write_text(SCONTROL)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    yield tmp_path / "bin/told"
    signal.signal(signal.SIGUSR1, before)


def fit(folder: Path, signalled_at: int, every_n_batches: int, **settings) -> Path:
    trainer = L.Trainer(
        accelerator="cpu",
        max_epochs=1,
        default_root_dir=folder,
        logger=False,
        callbacks=[SaveTogether(every_n_batches)],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **settings,
    )
    trainer.fit(Net(signalled_at), DataLoader(torch.zeros(12, 1), batch_size=1))
    assert trainer.global_step == 12 // trainer.accumulate_grad_batches  # it went on
    return folder / "hpc_ckpt_1.ckpt"


@pytest.mark.parametrize(
    ("signalled_at", "every", "accumulated", "saved_at"),
    [(0, 4, 1, 4), (3, 4, 1, 4), (4, 4, 1, 8), (0, 4, 3, 2), (6, 2, 3, 3)],
)
def test_the_next_step_at_which_ranks_ask_is_saved_and_the_job_requeued_once(
    tmp_path, monkeypatch, told, signalled_at, every, accumulated, saved_at
) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    monkeypatch.setenv("SLURM_JOB_NAME", "bash")  # or Lightning takes itself for started by srun
    path = fit(tmp_path, signalled_at, every, accumulate_grad_batches=accumulated)
    assert torch.load(path, weights_only=True)["global_step"] == saved_at
    assert told.read_text() == "requeue 17\n"


def test_without_a_signal_nothing_is_saved(tmp_path, told) -> None:
    assert not fit(tmp_path, 99, 1).exists()
    assert not told.exists()


def test_outside_of_slurm_the_checkpoint_is_written_and_nothing_requeued(
    tmp_path, monkeypatch, told
) -> None:
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    assert fit(tmp_path, 2, 5).exists()
    assert not told.exists()


def test_a_rank_saves_that_had_no_signal_itself_but_does_not_requeue(
    tmp_path, monkeypatch, told
) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    asked, saved = [], []

    def any_of_all(decision: bool, all: bool) -> bool:
        asked.append((decision, all))
        return len(asked) == 2  # then the other rank was told

    trainer = SimpleNamespace(
        accumulate_grad_batches=1,
        strategy=SimpleNamespace(reduce_boolean_decision=any_of_all),
        loggers=[],
        default_root_dir=str(tmp_path),
        save_checkpoint=saved.append,
        is_global_zero=False,
        global_step=6,
    )
    callback = SaveTogether(every_n_batches=3)
    for number in range(9):
        callback.on_train_batch_end(trainer, None, None, None, number)
    assert asked == [(False, False)] * 3
    assert saved == [tmp_path / "hpc_ckpt_1.ckpt"]
    assert not told.exists()


def test_asking_less_than_every_batch_is_refused() -> None:
    with pytest.raises(ValueError, match="every_n_batches must be at least 1, got 0"):
        SaveTogether(0)
