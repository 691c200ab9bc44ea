"""Gradients that wait for the next step of the optimizer, saved with a checkpoint between steps."""

from __future__ import annotations

import logging
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from maskfeat.features.sharding import sharded_like, whole

_LOG = logging.getLogger("maskfeat")
GRADIENTS_KEY = "maskfeat_gradients"


def save_gradients(module: LightningModule, checkpoint: dict[str, Any]) -> None:
    """Add the accumulated gradients to a checkpoint, if the optimizer has not yet used them.

    With `accumulate_grad_batches` above 1 a checkpoint can fall between two batches of one step:
    at a validation in mid-epoch, at Ctrl-C, by time. All ranks must call this together.

    On one process the resumed fit is exact. On several the next step's gradient is that of the
    uninterrupted fit but for the order of float32 sums (mean of the ranks, then the other batches),
    one part in 10^7, which Adam enlarges where a gradient is near zero: weights differ a little.
    Each rank's own gradient would be exact, and make the checkpoint larger with each rank.

    Args:
        module: In its fit.
        checkpoint: Gets `maskfeat_gradients`: the batches of a step, and by name of parameter the
            mean over ranks of the gradient so far, on the CPU. A checkpoint without the state of
            the optimizer, which training cannot go on from, gets nothing.
    """
    if not checkpoint.get("optimizer_states"):  # outside of a fit a module may have no trainer
        return
    trainer = module.trainer
    if not _is_between_steps(trainer):
        return
    gradients = {
        name: trainer.strategy.reduce(whole(parameter.grad).clone(), reduce_op="mean").cpu()
        for name, parameter in module.named_parameters()
        if parameter.grad is not None
    }
    batches = trainer.accumulate_grad_batches
    checkpoint[GRADIENTS_KEY] = {"batches_per_step": batches, "gradients": gradients}


def restore_gradients(module: LightningModule, saved: dict[str, Any]) -> None:
    """Give parameters the gradients saved in a checkpoint; call it when training begins.

    Where a step has another number of batches now, they are left out, which is logged.

    Raises:
        ValueError: If the gradients are not those of this module's parameters.
    """
    trainer = module.trainer
    batches = trainer.accumulate_grad_batches
    if saved["batches_per_step"] != batches or not _is_between_steps(trainer):
        _LOG.warning(
            "the checkpoint was saved between two steps of %d batches, and a step has %d now: its "
            "accumulated gradients are left out",
            saved["batches_per_step"],
            batches,
        )
        return
    parameters = dict(module.named_parameters())
    for name, gradient in saved["gradients"].items():
        parameter = parameters.get(name)
        if parameter is None or not isinstance(gradient, Tensor):
            raise ValueError(f"the checkpoint has a gradient of '{name}', which is not in the net")
        if gradient.shape != parameter.shape:
            raise ValueError(f"the checkpoint's gradient of '{name}' has another shape")
        parameter.grad = sharded_like(parameter, gradient.to(parameter.device))


def _is_between_steps(trainer: Trainer) -> bool:
    """Whether the last batch did not end a step, as the last one of an epoch always does."""
    progress = trainer.fit_loop.epoch_loop.batch_progress
    processed: int = progress.current.processed  # type: ignore[attr-defined]
    is_last = processed == trainer.num_training_batches or (
        progress.is_last_batch and processed == progress.current.ready
    )
    return processed % trainer.accumulate_grad_batches != 0 and not is_last
