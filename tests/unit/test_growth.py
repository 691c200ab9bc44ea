"""The scale that grows over training."""

from __future__ import annotations

import math

import lightning as L
import pytest
from test_task import fit, small_task

from maskfeat.features.optimization import ScaleGrowth


class Watch(L.Callback):
    def __init__(self) -> None:
        self.scales: list[float] = []

    def on_train_batch_end(self, trainer, pl_module, *args) -> None:
        self.scales.append(pl_module.net.scale.item())


def test_the_scale_grows_geometrically_from_the_nets_own_to_the_end(tmp_path) -> None:
    task = small_task()
    task.net.log_scale.requires_grad_(False)
    watch = Watch()
    fit(task, 5, tmp_path, callbacks=[ScaleGrowth(end=32.0), watch])
    assert watch.scales == pytest.approx([32 ** (step / 5) for step in range(5)], rel=1e-5)
    assert task.encoder.scale.item() < 32  # the averaged net follows


def test_a_scale_that_is_not_positive_is_refused() -> None:
    with pytest.raises(ValueError, match=r"end must be positive, got 0"):
        ScaleGrowth(end=0)
    assert math.isfinite(ScaleGrowth(end=2).end)
