"""Groups of weights, the schedule of the learning rate, averaged weights."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel


def weight_groups(
    net: nn.Module, loss: nn.Module, rate: float, backbone_rate: float, weight_decay: float
) -> list[dict[str, Any]]:
    """Groups for AdamW.

    Args:
        net: The network; it has a `backbone` if the backbone's rate is not 1.
        loss: Its own weights, if any, do not decay.
        rate: Learning rate.
        backbone_rate: The backbone's share of it.
        weight_decay: Of weights of two or more dimensions; norms, biases and the scale do not
            decay.
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

    Args:
        warmup_steps: Steps over which it rises linearly to 1.
        total_steps: Steps in all; infinity keeps it at 1 after the warm-up.
        final_share: Where the cosine ends.
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
