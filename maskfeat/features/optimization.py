"""Groups of weights, schedules, averaged weights; gradients kept between batches of a step."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from maskfeat.features.sharding import sharded_like, whole

_LOG = logging.getLogger("maskfeat")
GRADIENTS_KEY = "maskfeat_gradients"


def weight_groups(
    net: nn.Module, loss: nn.Module, rate: float, backbone_rate: float, weight_decay: float
) -> list[dict[str, Any]]:
    """Groups for AdamW.

    The backbone, where its rate is not 1, has that share of the learning rate. Weights of two or
    more dimensions decay; norms, biases, the scale, and what the loss learns do not.
    """
    slow = [] if backbone_rate == 1 else list(net.get_submodule("backbone").parameters())
    is_slow = {id(p) for p in slow}
    groups: list[dict[str, Any]] = []
    fast = [p for p in net.parameters() if id(p) not in is_slow]
    for weights, own_rate in ((fast, rate), (slow, rate * backbone_rate)):
        learned = [p for p in weights if p.requires_grad]
        matrices = [p for p in learned if p.ndim >= 2]
        others = [p for p in learned if p.ndim < 2]
        groups.append({"params": matrices, "lr": own_rate, "weight_decay": weight_decay})
        groups.append({"params": others, "lr": own_rate, "weight_decay": 0.0})
    groups.append({"params": list(loss.parameters()), "weight_decay": 0.0})
    return [group for group in groups if group["params"]]


def warmup_cosine(
    warmup_steps: int, total_steps: float, final_share: float
) -> Callable[[int], float]:
    """Share of the peak learning rate at each step.

    It rises linearly to 1 over the warm-up, then falls as a cosine to the final share at the last
    of all steps; if these are infinite, it stays at 1.
    """

    def share(step: int) -> float:
        if step < warmup_steps:
            return (step + 1) / (warmup_steps + 1)
        if not math.isfinite(total_steps):
            return 1.0
        progress = min(1.0, (step - warmup_steps) / max(1.0, total_steps - warmup_steps))
        return final_share + (1 - final_share) * 0.5 * (1 + math.cos(math.pi * progress))

    return share


def averaged_copy(net: nn.Module, decay: float) -> AveragedModel:
    """A copy of a network that follows its weights, an exponential average.

    Args:
        net: The network.
        decay: How much of the average is kept at each update; less while it is young, or it would
            long remember the random start.
    """

    def follow(averaged: list[Tensor], current: list[Tensor], num_averaged: Tensor | int) -> None:
        if not averaged[0].is_floating_point():  # counters of the norms
            torch._foreach_copy_(averaged, current)
            return
        kept = min(decay, (1 + int(num_averaged)) / (10 + int(num_averaged)))
        torch._foreach_lerp_(averaged, current, 1 - kept)

    averaged = AveragedModel(net, multi_avg_fn=follow, use_buffers=True)  # type: ignore[arg-type]
    averaged.requires_grad_(False)  # follows the net; no gradient, and none expected by DDP
    averaged.eval()
    return averaged


class ScaleGrowth(Callback):
    """Lets the scale of squared distances grow geometrically over training.

    p = 2 / (1 + exp(scale * d2)): a small scale repels over long distances, and orders all
    components along the line; a large one repels over short ones, and leaves room for more
    components on it. The net's own `scale` is where it starts; set `learn_scale: false`.

    Args:
        end: The scale at the last step, positive.
    """

    def __init__(self, end: float) -> None:
        if not end > 0:
            raise ValueError(f"end must be positive, got {end}")
        self.end = end

    def on_train_batch_start(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        batch: Any,  # noqa: ANN401 - Lightning's
        batch_idx: int,
    ) -> None:
        """Set the scale of this step."""
        net: Any = pl_module.net
        start = float(net.config["scale"])
        progress = min(1.0, trainer.global_step / max(1.0, trainer.estimated_stepping_batches))
        net.log_scale.data.fill_(math.log(start) + progress * math.log(self.end / start))


def save_gradients(module: LightningModule, checkpoint: dict[str, Any]) -> None:
    """Add the accumulated gradients to a checkpoint, if the optimizer has not yet used them.

    With `accumulate_grad_batches` above 1 a checkpoint can fall between two batches of one step: at
    a validation in mid-epoch, at Ctrl-C, by time. All ranks must call this together.

    On one process the resumed fit is exact. On several the next step's gradient is that of the
    uninterrupted fit but for the order of float32 sums (mean of the ranks, then the other batches),
    one part in 10^7, which Adam enlarges where a gradient is near zero: weights differ a little.
    Each rank's own gradient would be exact, and make the checkpoint larger with each rank.

    Its entry `maskfeat_gradients` has the batches of a step, and by name of parameter the mean over
    ranks of the gradient so far, on the CPU. A checkpoint without the state of the optimizer, which
    training cannot go on from, gets nothing.
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
    """Give parameters the gradients that a checkpoint has under `GRADIENTS_KEY`.

    To be called when training begins.

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
