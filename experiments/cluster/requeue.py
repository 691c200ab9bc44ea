"""What happens at Slurm's signal: all ranks save together, at the end of the same step.

fit.sbatch adds it to the callbacks. Lightning's own handler runs wherever a rank happens to be at
the signal, and there waits for the others. When one of them is in the middle of an all-reduce, it
never gets there: both wait for ever (README.md says how often).
"""

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
    """Writes hpc_ckpt_1.ckpt below `default_root_dir` and requeues the job, at SIGUSR1.

    Args:
        every_n_batches: How often the ranks ask one another whether one of them had the signal;
            each time costs a moment in which they wait for each other.
    """

    def __init__(self, every_n_batches: int = 10) -> None:
        self.every_n_batches = every_n_batches
        self._was_told = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Listen. Lightning leaves a handler alone that is there before its own."""
        signal.signal(signal.SIGUSR1, self._note)

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Save and requeue, where any rank was told to; gradients half gathered are not saved."""
        steps = trainer.accumulate_grad_batches
        every = -(-self.every_n_batches // steps) * steps
        if (batch_idx + 1) % every:
            return
        if not trainer.strategy.reduce_boolean_decision(self._was_told, all=False):
            return
        self._was_told = False
        for logger in trainer.loggers:
            logger.save()
        path = Path(trainer.default_root_dir) / "hpc_ckpt_1.ckpt"
        trainer.save_checkpoint(path)
        if trainer.is_global_zero:
            _LOG.info("step %d is saved in %s; requeueing", trainer.global_step, path)
            subprocess.run(["scontrol", "requeue", os.environ["SLURM_JOB_ID"]], check=False)

    def _note(self, signum: int, frame: FrameType | None) -> None:
        self._was_told = True
