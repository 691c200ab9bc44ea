"""What happens at Slurm's signal: all ranks save together, at the end of the same step."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
from pathlib import Path
from types import FrameType
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

_LOG = logging.getLogger("maskfeat")


class SaveTogether(Callback):
    """At SIGUSR1 writes `hpc_ckpt_1.ckpt` into `default_root_dir` and requeues the Slurm job.

    Lightning's own handler saves wherever a rank happens to be at the signal, and there waits for
    the others; one that is in the middle of an all-reduce never comes (experiments/cluster says
    how often). This one only notes the signal. Every few batches the ranks ask one another whether
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
        self._was_told = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Listen. Lightning leaves a handler alone that is there before its own."""
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
        if not is_time_to_ask(trainer, batch_idx, self.every_n_batches):
            return
        if not trainer.strategy.reduce_boolean_decision(self._was_told, all=False):
            return
        self._was_told = False
        for logger in trainer.loggers:
            logger.save()
        path = Path(trainer.default_root_dir) / "hpc_ckpt_1.ckpt"
        trainer.save_checkpoint(path)
        if trainer.is_global_zero:
            _LOG.info("step %d is saved in %s", trainer.global_step, path)
            _requeue()

    def _note(self, signum: int, frame: FrameType | None) -> None:
        self._was_told = True


def is_time_to_ask(trainer: Trainer, batch_idx: int, every_n_batches: int) -> bool:
    """Whether ranks ask one another after a batch: every n, rounded up to whole steps."""
    per_step = trainer.accumulate_grad_batches
    every = -(-every_n_batches // per_step) * per_step
    return (batch_idx + 1) % every == 0


def _requeue() -> None:
    job = os.environ.get("SLURM_JOB_ID")
    if job is None:
        _LOG.info("this is no job of Slurm's: nothing is requeued")
        return
    subprocess.run(["scontrol", "requeue", job], check=False)
