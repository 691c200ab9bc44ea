"""Signals in a fit: all ranks save after the same step, and end, or requeue the job of Slurm."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

_LOG = logging.getLogger("maskfeat")


class Stopped(SystemExit):
    """Training was asked to stop; the exit status is 128 + the number of the signal."""


class StopTogether(Callback):
    """At the first Ctrl-C or SIGTERM of a fit saves `last.ckpt` and ends with status 130 or 143.

    The handler only notes the signal. A single process saves and ends after the current step, or at
    once in a validation. Several ask one another every few batches whether one of them had a
    signal, and then all save after the same step of the optimizer; rank zero has the exit status,
    the others end with 0. A second Ctrl-C ends at once, and saves nothing.

    `last.ckpt` lies beside the other checkpoints of the run; without a ModelCheckpoint nothing is
    saved.

    Args:
        every_n_batches: How often several ranks ask one another, rounded up to whole steps of the
            optimizer; each time costs a moment in which they wait for each other.
    """

    def __init__(self, every_n_batches: int = 10) -> None:
        self.every_n_batches = every_n_batches
        self._signal = 0  # the one that came
        self._is_training = False
        self._trainer: Trainer | None = None
        self._process = os.getpid()

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Listen to Ctrl-C in a fit. Data workers start within it: they inherit the handler."""
        if threading.current_thread() is not threading.main_thread():  # signals are not for it
            yield
            return
        before = signal.signal(signal.SIGINT, self._note)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)
            self._is_training = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take SIGTERM from Lightning, which restores the earlier handler afterwards."""
        self._trainer = trainer
        self._is_training = True
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, self._note)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Nothing is left to save."""
        self._is_training = False

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,  # noqa: ANN401 - Lightning's signature
        batch: Any,  # noqa: ANN401
        batch_idx: int,
    ) -> None:
        """Stop, if any rank was asked to."""
        every = self.every_n_batches if trainer.world_size > 1 else 1
        if _is_time_to_ask(trainer, batch_idx, every):
            self._stop_if_signalled(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop before a validation, which can take long."""
        self._stop_if_signalled(trainer)

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Save, if it was a signal that ended training."""
        self._is_training = False
        if not isinstance(exception, Stopped):
            return
        name = signal.Signals(self._signal or signal.SIGTERM).name
        saver: Any = trainer.checkpoint_callback
        if getattr(trainer, "fast_dev_run", False):
            _LOG.warning("stopped by %s; a fast_dev_run saves nothing", name)
            return
        if saver is None or saver.dirpath is None:
            _LOG.warning("stopped by %s; without a ModelCheckpoint nothing is saved", name)
            return
        path = Path(saver.dirpath) / "last.ckpt"
        trainer.save_checkpoint(path, weights_only=False)
        if trainer.is_global_zero:
            _LOG.warning(
                "stopped by %s; step %d is saved in %s, and --ckpt_path last goes on from it",
                name,
                trainer.global_step,
                path,
            )

    def _stop_if_signalled(self, trainer: Trainer) -> None:
        if trainer.strategy.reduce_boolean_decision(bool(self._signal), all=False):
            self._stop(trainer)

    def _stop(self, trainer: Trainer) -> None:
        # A status other than 0 from another rank would make rank zero kill all.
        raise Stopped(128 + (self._signal or signal.SIGTERM) if trainer.is_global_zero else 0)

    def _note(self, signum: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:  # a data worker: it ends with its training process
            return
        is_again = self._signal == signum == signal.SIGINT
        if is_again or not self._is_training:
            raise KeyboardInterrupt
        self._signal = signum
        trainer = self._trainer
        if trainer is not None and trainer.world_size == 1 and trainer.validating:
            self._stop(trainer)
        if trainer is None or trainer.is_global_zero:
            more = "; Ctrl-C once more ends it at once" if signum == signal.SIGINT else ""
            _LOG.warning(
                "%s: saving and stopping after this step%s", signal.Signals(signum).name, more
            )


class SaveTogether(Callback):
    """At SIGUSR1 writes `hpc_ckpt_1.ckpt` into `default_root_dir` and requeues the Slurm job.

    Lightning's own handler saves where a rank is at the signal, and waits for the others there; a
    rank in the middle of an all-reduce never arrives (how often: experiments/cluster). This one
    only notes the signal. Every few batches the ranks ask one another whether
    one of them had it, and if so all save after the same step of the optimizer. Training goes on
    until Slurm ends the job, and `lightning fit` in the same folder begins from the checkpoint.

    Outside of Slurm the checkpoint is written all the same, and nothing is requeued. Each signal
    writes over the checkpoint of the one before.

    Args:
        every_n_batches: How often the ranks ask one another, rounded up to whole steps of the
            optimizer; each time costs a moment in which they wait for each other.

    Raises:
        ValueError: If `every_n_batches` is less than 1.
    """

    def __init__(self, every_n_batches: int = 10) -> None:
        if every_n_batches < 1:
            raise ValueError(f"every_n_batches must be at least 1, got {every_n_batches}")
        self.every_n_batches = every_n_batches
        self._was_signalled = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Listen. Lightning keeps a handler that was set before its own."""
        if stage == "fit":
            signal.signal(signal.SIGUSR1, self._note)

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,  # noqa: ANN401 - Lightning's signature
        batch: Any,  # noqa: ANN401
        batch_idx: int,
    ) -> None:
        """Save and requeue, if any rank was asked to; half gathered gradients are not saved."""
        if not _is_time_to_ask(trainer, batch_idx, self.every_n_batches):
            return
        if not trainer.strategy.reduce_boolean_decision(self._was_signalled, all=False):
            return
        self._was_signalled = False
        for logger in trainer.loggers:
            logger.save()
        path = Path(trainer.default_root_dir) / "hpc_ckpt_1.ckpt"
        trainer.save_checkpoint(path)
        if trainer.is_global_zero:
            _LOG.info("step %d is saved in %s", trainer.global_step, path)
            job = os.environ.get("SLURM_JOB_ID")
            if job is None:
                _LOG.info("this is no job of Slurm's: nothing is requeued")
            else:
                subprocess.run(["scontrol", "requeue", job], check=False)

    def _note(self, signum: int, frame: FrameType | None) -> None:
        self._was_signalled = True


def _is_time_to_ask(trainer: Trainer, batch_idx: int, every_n_batches: int) -> bool:
    """Whether ranks ask one another after a batch: every n, rounded up to whole steps."""
    per_step = trainer.accumulate_grad_batches
    every = -(-every_n_batches // per_step) * per_step
    return (batch_idx + 1) % every == 0
