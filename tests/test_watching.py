"""What a running fit says of itself: throughput, and the summary at its end."""

from __future__ import annotations

import time

import lightning as L
import pytest
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.data import DataLoader, Dataset

from maskfeat.evaluate.run_summary import RunSummary
from maskfeat.evaluate.throughput import Throughput


class Batches(Dataset):
    """Batches of two images; three of their four mask slots hold points."""

    def __init__(self, seconds: float, count: int = 9) -> None:
        self.seconds, self.count = seconds, count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, item: int):
        time.sleep(self.seconds)
        membership = torch.zeros(2, 4, 5, dtype=torch.bool)
        membership[:, :3, item % 5] = True
        return {"keys": ["a", "b"], "membership": membership, "images": torch.ones(2, 1)}


class Net(L.LightningModule):
    def __init__(self, seconds: float, learning_rate: float = 0.25) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def training_step(self, batch, batch_idx):
        time.sleep(self.hparams.seconds)
        loss = (self.weight - batch["images"].mean()).square().sum()
        self.log("train/loss", loss)
        return loss

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=self.hparams.learning_rate)


def fit(tmp_path, loading: float, training: float) -> EventAccumulator:
    loader = DataLoader(Batches(loading), batch_size=None)
    trainer = L.Trainer(
        accelerator="cpu",
        max_epochs=1,
        logger=TensorBoardLogger(tmp_path, version="", default_hp_metric=False),
        callbacks=[Throughput(), RunSummary()],
        log_every_n_steps=3,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(Net(training), loader)
    events = EventAccumulator(trainer.log_dir)
    events.Reload()
    return events


def last(events: EventAccumulator, name: str) -> float:
    return events.Scalars(f"throughput/{name}")[-1].value


def test_a_slow_input_is_told_from_a_slow_network(tmp_path) -> None:
    slow_input = fit(tmp_path / "a", loading=0.02, training=0.0)
    slow_network = fit(tmp_path / "b", loading=0.0, training=0.02)
    assert last(slow_input, "input_wait_share") > 0.6
    assert last(slow_network, "input_wait_share") < 0.4
    # Two images take at least 20 ms; three masks come with each.
    for events in (slow_input, slow_network):
        assert 0 < last(events, "images_per_s") <= 100
        assert last(events, "masks_per_s") == pytest.approx(3 * last(events, "images_per_s"))
    assert len(slow_input.Scalars("throughput/images_per_s")) == 3


def test_the_summary_holds_settings_and_the_last_metrics(tmp_path) -> None:
    fit(tmp_path, loading=0.0, training=0.0)
    found = {}
    for file in tmp_path.rglob("events*"):
        events = EventAccumulator(str(file))
        events.Reload()
        found |= events.summary_metadata
    assert "_hparams_/session_start_info" in found
    start = found["_hparams_/session_start_info"].plugin_data.content
    assert b"learning_rate" in start
    assert b"images_per_step" in start
    experiment = found["_hparams_/experiment"].plugin_data.content
    assert b"train/loss" in experiment
