"""A start that fails leaves no empty run behind."""

from __future__ import annotations

import os
from pathlib import Path

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger


class RemoveEmptyRun(Callback):
    """Removes the file of events of a run that ended before its config was written.

    Lightning opens the logger before it looks at the data. When these are not there, the folder of
    the run holds nothing but a file of events without any, which later runs would move aside.
    Only a file of this very process is removed, and then the folder, if it is empty.
    """

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Remove it, on rank zero."""
        if trainer.global_step > 0 or not trainer.is_global_zero:
            return
        for logger in trainer.loggers:
            if not isinstance(logger, TensorBoardLogger) or "://" in str(logger.log_dir):
                continue
            folder = Path(logger.log_dir)
            if (folder / "config.yaml").exists() or not folder.is_dir():
                continue
            logger.experiment.close()
            for file in folder.glob(f"events.out.tfevents.*.{os.getpid()}.*"):
                file.unlink()
            if not any(folder.iterdir()):
                folder.rmdir()
