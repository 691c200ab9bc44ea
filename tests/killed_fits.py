"""Fits in this process that are killed by an exception at any hook, to be resumed by the next."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from maskfeat.data.datamodule import ShardDataModule
from maskfeat.running.run_folder import SaveLastStep

# Hooks of training at which a fit can be killed, in mid-epoch and around its end.
_HOOKS = (
    "on_train_epoch_start",
    "on_train_batch_start",
    "on_train_batch_end",
    "on_validation_start",
    "on_validation_end",
    "on_train_epoch_end",
)


class Killed(Exception):
    """Training ends here, and nothing more is written."""


class Regression(L.LightningModule):
    """The least that can be trained: colors and their squares tell the mean of the masks.

    Attributes:
        seen: (batches ever begun, epoch, keys) of each step.
        validated: Epochs after which it was validated.
    """

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = torch.nn.Linear(6, 1)
        self.seen: list[tuple[int, int, tuple[str, ...]]] = []
        self.validated: list[int] = []

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        number = self.trainer.fit_loop.epoch_loop.batch_progress.total.processed
        self.seen.append((number, self.current_epoch, tuple(batch["keys"])))
        colors = batch["images"].float().mean((2, 3))
        error = self.net(torch.cat([colors, colors**2], 1))[:, 0]
        return (error - batch["membership"].float().mean((1, 2))).square().mean()

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.validated.append(self.current_epoch)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=0.01)


class Killer(L.Callback):
    """Raises at a hook.

    Args:
        when: Told the hook, the number of steps done and how many hooks came before.
    """

    def __init__(self, when: Callable[[str, int, int], bool]) -> None:
        self.num_hooks = 0
        for hook in _HOOKS:
            setattr(self, hook, self._raising(hook, when))

    def _raising(self, hook: str, when: Callable[[str, int, int], bool]) -> Callable[..., None]:
        def raise_or_not(trainer: L.Trainer, *_: Any) -> None:
            self.num_hooks += 1
            if when(hook, trainer.global_step, self.num_hooks):
                raise Killed

        return raise_or_not


def live(
    folder: Path,
    data: ShardDataModule,
    when: Callable[[str, int, int], bool] = lambda *_: False,
    every: int = 1,
    **settings: Any,
) -> tuple[Regression, bool]:
    """Train from the last checkpoint in a folder, or from the start.

    A checkpoint is saved every N steps, 1 by default, and at the end.

    Returns:
        The task, and whether it came to the end.
    """
    last = folder / "last.ckpt"
    saver = ModelCheckpoint(
        folder,
        save_last=True,
        save_top_k=0,
        every_n_train_steps=every,
        enable_version_counter=False,
    )
    settings = {"max_epochs": 3, "limit_val_batches": 1, "logger": False, **settings}
    trainer = L.Trainer(
        accelerator="cpu",
        callbacks=[Killer(when), SaveLastStep(), saver],
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        **settings,
    )
    task = Regression()
    try:
        trainer.fit(task, data, ckpt_path=str(last) if last.exists() else None)
    except Killed:
        return task, False
    return task, True
