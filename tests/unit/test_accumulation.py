"""A fit that ends between two steps of the optimizer goes on as if it had never ended."""

from __future__ import annotations

from pathlib import Path

import forked_python
import lightning as L
import pytest
import torch
from shard_factory import write_shard
from test_datamodule import module

from maskfeat.features.pyramid import FeaturePyramid
from maskfeat.features.task import FeatureTask

NUM_BATCHES = 8  # of an epoch: two steps of three batches, one of two


class SavedAfter(L.Callback):
    """Saves a checkpoint after some batch, or in the validation after it, and maybe stops."""

    def __init__(self, folder: Path, batch: int, at_validation: bool, stops: bool) -> None:
        self.path, self.batch = folder / "between.ckpt", batch
        self.at_validation, self.stops = at_validation, stops

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        if batch_idx + 1 == self.batch and not self.at_validation and trainer.current_epoch == 0:
            trainer.save_checkpoint(self.path)
            trainer.should_stop = trainer.should_stop or self.stops

    def on_validation_end(self, trainer, pl_module) -> None:
        done = trainer.fit_loop.epoch_loop.batch_progress.total.processed
        if self.at_validation and done == self.batch:
            trainer.save_checkpoint(self.path)


class FirstGradient(SavedAfter):
    """Keeps the gradient of the first step of the optimizer in this fit, as rank zero has it."""

    def __init__(self, folder: Path, batch: int, name: str) -> None:
        super().__init__(folder, batch, at_validation=False, stops=False)
        self.kept = folder / name

    def on_before_optimizer_step(self, trainer, pl_module, optimizer) -> None:
        if trainer.is_global_zero and not self.kept.exists():
            gradients = [p.grad.flatten() for p in pl_module.parameters() if p.grad is not None]
            torch.save(torch.cat(gradients), self.kept)


def fit(
    folder: Path,
    callback: L.Callback | None = None,
    per_step: int = 3,
    num_ranks: int = 1,
    **settings,
) -> dict:
    """Weights, averages and scale after an epoch of steps of three batches."""
    torch.manual_seed(0)
    net = FeaturePyramid("test_efficientnet", width=8, levels=(0, 1))
    task = FeatureTask(net, warmup_steps=0, ema_decay=0.9)
    trainer = L.Trainer(
        accelerator="cpu",
        devices=num_ranks,
        strategy="ddp_fork" if num_ranks > 1 else "auto",
        max_epochs=1,
        accumulate_grad_batches=per_step,
        callbacks=[] if callback is None else [callback],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        limit_val_batches=1,
        val_check_interval=4,
        use_distributed_sampler=False,
        default_root_dir=folder,
    )
    data = module(
        folder, batch_size=2, epoch_images=2 * NUM_BATCHES * num_ranks, num_val_images=num_ranks
    )
    trainer.fit(task, data, **settings)
    return task.state_dict()


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    write_shard(tmp_path / "train-0.tar", 9, seed=1, size=(36, 40), num_masks=2)
    write_shard(tmp_path / "val-0.tar", 2, seed=9, first_id=900)
    return tmp_path


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("batch", "at_validation"), [(2, False), (4, True), (6, False)])
def test_a_checkpoint_after_any_batch_gives_the_same_weights(
    shards: Path, batch: int, at_validation: bool
) -> None:
    callback = SavedAfter(shards, batch, at_validation, stops=False)
    whole = fit(shards, callback)
    saved = torch.load(callback.path, weights_only=True)
    assert ("maskfeat_gradients" in saved) == (batch in (2, 4))
    resumed = fit(shards, ckpt_path=callback.path)
    assert whole.keys() == resumed.keys()
    for name, value in whole.items():
        assert torch.equal(value, resumed[name]), name


@pytest.mark.filterwarnings("ignore")
def test_steps_of_another_size_leave_the_gradients_out_and_others_are_refused(
    shards: Path, caplog
) -> None:
    callback = SavedAfter(shards, 2, at_validation=False, stops=True)
    fit(shards, callback)
    with caplog.at_level("WARNING", logger="maskfeat"):
        fit(shards, per_step=2, ckpt_path=callback.path)
    assert "saved between two steps of 3 batches, and a step has 2 now" in caplog.text
    saved = torch.load(callback.path, weights_only=True)
    saved["maskfeat_gradients"]["gradients"]["net.log_scale"] = torch.zeros(7)
    torch.save(saved, callback.path)
    with pytest.raises(ValueError, match=r"gradient of 'net.log_scale' has another shape"):
        fit(shards, ckpt_path=callback.path)


TWO_RANKS = """
import sys
from pathlib import Path
sys.path[:0] = sys.argv[2:]
from test_accumulation import FirstGradient, fit

folder = Path(sys.argv[1])
whole = FirstGradient(folder, 2, "whole")
fit(folder, whole, num_ranks=2)
fit(folder, FirstGradient(folder, 0, "resumed"), num_ranks=2, ckpt_path=whole.path)
"""


@pytest.mark.slow
def test_on_two_processes_the_next_gradient_differs_by_the_order_of_sums_alone(
    shards: Path,
) -> None:
    here = Path(__file__).parent
    forked_python.run(["-c", TWO_RANKS, shards, here, here.parent], check=True)
    whole, resumed = (torch.load(shards / name) for name in ("whole", "resumed"))
    error = (whole.double() - resumed.double()).norm() / whole.double().norm()
    assert 0 < whole.norm()
    assert error < 1e-6  # float32 tells one part in 10^7
