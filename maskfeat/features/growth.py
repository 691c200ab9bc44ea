"""A callback for experiments in few dimensions."""

from __future__ import annotations

import math
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer


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
