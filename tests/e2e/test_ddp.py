"""Two processes against one."""

from __future__ import annotations

import json

import pytest
import torch
from fits import SMALL, SMALL_SCENES, fit_in

CONFIG = """
trainer:
  callbacks:
    - class_path: lightning.pytorch.callbacks.ModelCheckpoint
      init_args: {save_last: true, save_top_k: 0, every_n_train_steps: 1}
    - class_path: maskfeat.evaluate.callbacks.PartitionEvaluation
      init_args: {num_segments: [25], num_images: 3}
    - class_path: maskfeat.evaluate.comparison.ComparisonTable
      init_args: {num_segments: [25], num_images: 3, num_targets: 2, max_clicks: 2}
"""


@pytest.mark.slow
def test_two_processes_train_and_evaluate_as_one_does(tmp_path, repository) -> None:
    """Three held-out images on two ranks are uneven; nobody hangs, and the means agree."""
    for name in ("conf", "data_shards"):
        (tmp_path / name).symlink_to(repository / name)
    (tmp_path / "small.yaml").write_text(CONFIG)
    words = [
        *("--config=conf/base.yaml", "--config=small.yaml", *SMALL, SMALL_SCENES),
        *("--trainer.max_epochs=1", "--data.epoch_images=8", "--data.examples.crop_size=64"),
        *("--data.num_val_images=3", "--model.net.init_args.levels=[0,1]"),
        *("--model.learning_rate=0", "--model.ema_decay=0"),
    ]

    def fit(name: str, *more: str) -> dict:
        # Rank one is started as Lightning starts it.
        fit_in(tmp_path, [*words, f"--run_name={name}", *more], forks_ranks=False)
        record = json.loads((tmp_path / "runs" / name / "comparison.json").read_text())
        checkpoint = torch.load(
            tmp_path / "runs" / name / "checkpoints/last.ckpt", weights_only=True
        )
        return record["scores"] | {"step": checkpoint["global_step"]}

    one = fit("one", "--data.batch_size=4")
    two = fit("two", "--trainer.devices=2", "--trainer.strategy=ddp", "--data.batch_size=2")
    assert one["step"] == two["step"] == 2  # the same global batch, so as many steps
    # Lab and the untrained net see no training: their scores are the same to the last digit.
    for column in ("Lab", "untrained"):
        assert one[column].keys() == two[column].keys()
        for name, value in one[column].items():
            assert two[column][name] == pytest.approx(value, abs=1e-5), name
