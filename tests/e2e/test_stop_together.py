"""Ctrl-C and SIGTERM: the step at work is finished, last.ckpt is saved, the status tells which."""

from __future__ import annotations

import signal
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from fits import CHECKPOINTS, TWO_STEPS
from sent_signals import HANDLED

from maskfeat.running.signals import Stopped, StopTogether

FIT = [
    "fit",
    "--config=conf/base.yaml",
    *TWO_STEPS,
    *CHECKPOINTS,
    "--trainer.callbacks.every_n_train_steps=4",
    "--trainer.max_epochs=3",
    "--data.epoch_images=8",
    "--model.ema_decay=0",
]


@pytest.fixture(autouse=True)
def _handlers_are_put_back():
    before = [signal.getsignal(signum) for signum in HANDLED]
    yield
    assert [signal.getsignal(signum) for signum in HANDLED] == before


def signal_at(**settings: int) -> str:
    words = ", ".join(f"{name}: {int(value)}" for name, value in settings.items())
    return f"--trainer.callbacks+={{class_path: sent_signals.SignalAt, init_args: {{{words}}}}}"


def last_of(run: Path) -> dict:
    return torch.load(run / "checkpoints/last.ckpt", weights_only=True)


@pytest.fixture(scope="module")
def whole(tmp_path_factory, repository) -> dict:
    """The last checkpoint of a fit of 12 steps that nobody stops."""
    from maskfeat.cli import main

    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for name in ("conf", "data_shards"):
            (folder / name).symlink_to(repository / name)
        patch.setattr("sys.argv", ["lightning", *FIT])
        main()
    return last_of(folder / "runs/base")


@pytest.mark.parametrize(
    ("signum", "status", "at", "saved_at"),
    [
        (signal.SIGTERM, 143, {"step": 2}, 2),
        (signal.SIGINT, 130, {"step": 8}, 8),  # the last of an epoch
        (signal.SIGTERM, 143, {"validation": 1}, 8),
    ],
)
def test_a_fit_that_is_told_to_stop_saves_and_goes_on_as_if_nothing_had_been(
    command, tmp_path, capsys, whole, signum, status, at, saved_at
) -> None:
    with pytest.raises(SystemExit) as stop:
        command(*FIT, signal_at(signum=signum, **at))
    assert stop.value.code == status
    said = capsys.readouterr().err
    name = signal.Signals(signum).name
    assert f"stopped by {name}; step {saved_at} is saved in" in said
    assert "last.ckpt, and --ckpt_path last goes on from it" in said
    run = tmp_path / "runs/base"
    assert last_of(run)["global_step"] == saved_at

    command(*FIT, "--ckpt_path=last")
    again = last_of(run)
    assert again["global_step"] == whole["global_step"] == 12
    assert again["epoch"] == whole["epoch"]
    for weight, value in whole["state_dict"].items():
        torch.testing.assert_close(again["state_dict"][weight], value, msg=weight)


def test_ctrl_c_twice_ends_at_once(command, tmp_path, capsys) -> None:
    with pytest.raises(SystemExit) as stop:
        command(*FIT, signal_at(signum=signal.SIGINT, step=2, times=2))
    assert stop.value.code == 130
    assert "Ctrl-C once more ends it at once" in capsys.readouterr().err
    assert not (tmp_path / "runs/base/checkpoints/last.ckpt").exists()


def test_without_checkpoints_it_says_that_nothing_is_saved(command, tmp_path, capsys) -> None:
    words = ["--trainer.callbacks=[]", "--trainer.enable_checkpointing=false"]
    with pytest.raises(SystemExit) as stop:
        command(*FIT, *words, signal_at(signum=signal.SIGTERM, step=1))
    assert stop.value.code == 143
    assert "without a ModelCheckpoint nothing is saved" in capsys.readouterr().err


@pytest.mark.parametrize(("is_zero", "status"), [(True, 143), (False, 0)])
def test_ranks_stop_at_the_same_step_and_rank_zero_has_the_status(is_zero, status) -> None:
    asked = []

    def any_of_all(decision: bool, all: bool) -> bool:
        asked.append((decision, all))
        return len(asked) == 2  # then the other rank was told

    trainer = SimpleNamespace(
        accumulate_grad_batches=2,
        world_size=2,
        strategy=SimpleNamespace(reduce_boolean_decision=any_of_all),
        is_global_zero=is_zero,
    )
    callback = StopTogether(every_n_batches=3)  # which is 4 with two batches a step
    for number in range(7):
        callback.on_train_batch_end(trainer, None, None, None, number)
    with pytest.raises(Stopped) as stop:
        callback.on_train_batch_end(trainer, None, None, None, 7)
    assert asked == [(False, False)] * 2
    assert stop.value.code == status


def test_before_training_ctrl_c_ends_at_once(command, monkeypatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr("maskfeat.data.datamodule.ShardDataModule.setup", interrupted)
    with pytest.raises(SystemExit) as stop:
        command(*FIT)
    assert stop.value.code == 130


def test_in_a_job_of_slurm_signals_are_left_to_lightning_and_save_together(
    command, tmp_path, monkeypatch
) -> None:
    in_a_job = SimpleNamespace(detect=lambda: True)
    monkeypatch.setattr("maskfeat.lightning_cli.SLURMEnvironment", in_a_job)
    with pytest.raises(SystemExit) as stop:
        command(*FIT, signal_at(signum=signal.SIGTERM, step=2))
    assert not isinstance(stop.value, Stopped)
    assert not (tmp_path / "runs/base/checkpoints/last.ckpt").exists()
