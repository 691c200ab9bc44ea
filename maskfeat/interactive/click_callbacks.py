"""Callbacks of click training: checkpoints after whole batches, and drawn sessions."""

from __future__ import annotations

import os
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import ModelCheckpoint

from maskfeat.interactive.click_data import SessionBatch


class SessionCheckpoint(ModelCheckpoint):
    """Saves last.ckpt after a number of batches, and at the end of an epoch.

    Lightning's own counts steps. As a batch takes several, it would seldom meet the number.

    Args:
        every_n_batches: How often.
        dirpath: Where; null is the folder of the run.
    """

    def __init__(self, every_n_batches: int = 100, dirpath: str | None = None) -> None:
        super().__init__(dirpath, save_last=True, save_top_k=0, enable_version_counter=False)
        self.every_n_batches = every_n_batches

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any, **__: Any) -> None:  # noqa: ANN401
        """Save, whole or not at all."""
        if (trainer.fit_loop.total_batch_idx + 1) % self.every_n_batches == 0:
            assert self.dirpath is not None  # since the start of the fit
            name = f"{self.CHECKPOINT_NAME_LAST}{self.FILE_EXTENSION}"
            trainer.save_checkpoint(os.path.join(self.dirpath, name))


class SessionStrips(L.Callback):
    """Draws the sessions of a step: the mask after the last click with all clicks, the true mask.

    Args:
        every_n_batches: How often.
        num_sessions: Rows of a strip.
    """

    def __init__(self, every_n_batches: int = 100, num_sessions: int = 4) -> None:
        self.every_n_batches, self.num_sessions = every_n_batches, num_sessions

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,  # noqa: ANN401 - Lightning's
        batch: SessionBatch,
        batch_idx: int,
    ) -> None:
        """Add a strip to TensorBoard."""
        add_image = getattr(getattr(trainer.logger, "experiment", None), "add_image", None)
        if add_image is None or not trainer.is_global_zero or batch_idx % self.every_n_batches:
            return
        for row, session in enumerate(batch["sessions"][: self.num_sessions]):
            strip = session.drawn()
            add_image(f"train/session_{row}", strip, trainer.global_step, dataformats="HWC")
