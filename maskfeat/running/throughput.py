"""How fast training goes, and what it waits for."""

from __future__ import annotations

import time
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer


class Throughput(Callback):
    """Logs images and masks per second, the share of time spent waiting for the input, memory.

    Under `throughput/`, averaged over the steps since the last log, every `log_every_n_steps`:

    - `images_per_s`, `masks_per_s`: of all devices together, supposing that they are alike; masks
      that hold sampled points.
    - `input_wait_share`: share of the time in which the loop waited for the next batch. Near 0 the
      network is the limit, near 1 the input: more workers, or re-sharded images.
    - `gpu_memory_gb`: the most that tensors took on this GPU so far; absent without one.

    Times of GPUs are those of the host, which runs ahead of them by a few steps at most: over the
    steps between two logs they agree. The first step of each epoch, which starts workers, is left
    out.
    """

    def __init__(self) -> None:
        self._ended: float | None = None
        self._forget()

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Do not count validation and the start of workers as waiting for the input."""
        self._ended = None

    def on_train_batch_start(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        batch: Any,  # noqa: ANN401 - Lightning's signature
        batch_idx: int,
    ) -> None:
        """Note how long the loop waited for the batch."""
        if self._ended is not None:
            self._waited += time.perf_counter() - self._ended

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,  # noqa: ANN401
        batch: Any,  # noqa: ANN401
        batch_idx: int,
    ) -> None:
        """Count the batch, and log when it is time."""
        now = time.perf_counter()
        if self._ended is not None:
            self._seconds += now - self._ended
            self._images += len(batch["keys"])
            self._masks += int(batch["membership"].any(dim=2).sum())
        self._ended = now
        every: int = trainer.log_every_n_steps  # type: ignore[attr-defined]
        if every > 0 and (batch_idx + 1) % every == 0 and self._seconds > 0:
            per_second = trainer.world_size / self._seconds
            rates = {
                "throughput/images_per_s": self._images * per_second,
                "throughput/masks_per_s": self._masks * per_second,
                "throughput/input_wait_share": self._waited / self._seconds,
            }
            if pl_module.device.type == "cuda":
                peak = torch.cuda.max_memory_allocated(pl_module.device)
                rates["throughput/gpu_memory_gb"] = peak / 1e9
            for logger in trainer.loggers:
                logger.log_metrics(rates, step=trainer.global_step)
            self._forget()
            # Drawing up the log is not waiting for the input.
            self._ended = time.perf_counter()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """A validation within the epoch is not waiting for the input."""
        self._ended = None

    def _forget(self) -> None:
        self._seconds = self._waited = 0.0
        self._images = self._masks = 0
