"""A callback that sends its own process a signal, as an impatient user or a cluster would."""

from __future__ import annotations

import os
import signal
import time

from lightning.pytorch import Callback


class SignalAt(Callback):
    """Sends a signal in mid-step, or in mid-validation.

    Args:
        signum: Its number.
        step: Batch of training in which it is sent, counted over epochs; -1 for none.
        validation: Number of the validation in whose first batch it is sent; -1 for none.
        times: How often.
    """

    def __init__(self, signum: int, step: int = -1, validation: int = -1, times: int = 1) -> None:
        self.signum, self.step, self.validation, self.times = signum, step, validation, times
        self.num_validations = 0

    def _send(self) -> None:
        for _ in range(self.times):
            os.kill(os.getpid(), self.signum)
            time.sleep(0.05)  # for the interpreter to see it

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        if trainer.fit_loop.total_batch_idx + 1 == self.step:
            self._send()

    def on_validation_batch_start(
        self, trainer, pl_module, batch, batch_idx, dataloader_idx=0
    ) -> None:
        if batch_idx == 0 and self.num_validations == self.validation:
            self._send()

    def on_validation_end(self, trainer, pl_module) -> None:
        self.num_validations += 1


HANDLED = (signal.SIGINT, signal.SIGTERM)
