"""Groups of weights, the schedule of the learning rate, averaged weights."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel


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
