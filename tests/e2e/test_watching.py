"""What a running fit says of itself: throughput, and the summary at its end."""

from __future__ import annotations

import re
import sys
import time

import lightning as L
import pytest
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar import layout_pb2
from torch.utils.data import DataLoader, Dataset

from maskfeat.running import throughput
from maskfeat.running.tensorboard import LAYOUT, RunSummary, ScalarLayout
from maskfeat.running.throughput import Throughput


def work(seconds: float) -> None:
    """Stand for some work."""
    time.sleep(seconds)


class Clock:
    """A clock that goes on by work alone, however busy the machine is."""

    def __init__(self) -> None:
        self.now = 0.0

    def work(self, seconds: float) -> None:
        self.now += seconds

    def perf_counter(self) -> float:
        return self.now


class Batches(Dataset):
    """Batches of two images; three of their four mask slots hold points."""

    def __init__(self, seconds: float, count: int = 9) -> None:
        self.seconds, self.count = seconds, count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, item: int):
        work(self.seconds)
        membership = torch.zeros(2, 4, 5, dtype=torch.bool)
        membership[:, :3, item % 5] = True
        return {"keys": ["a", "b"], "membership": membership, "images": torch.ones(2, 1)}


class Net(L.LightningModule):
    def __init__(self, seconds: float, learning_rate: float = 0.25) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def training_step(self, batch, batch_idx):
        work(self.hparams.seconds)
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
        callbacks=[Throughput(), RunSummary(), ScalarLayout()],
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


def test_a_slow_input_is_told_from_a_slow_network(tmp_path, monkeypatch) -> None:
    clock = Clock()
    monkeypatch.setattr(throughput, "time", clock)
    monkeypatch.setattr(sys.modules[__name__], "work", clock.work)
    slow_input = fit(tmp_path / "a", loading=0.02, training=0.0)
    slow_network = fit(tmp_path / "b", loading=0.0, training=0.02)
    assert last(slow_input, "input_wait_share") == pytest.approx(1)
    assert last(slow_network, "input_wait_share") == pytest.approx(0)
    # Two images take 20 ms; three masks come with each.
    for events in (slow_input, slow_network):
        assert last(events, "images_per_s") == pytest.approx(100)
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
    assert b"_instantiator" not in start


def test_no_curve_turns_back_at_the_end(tmp_path) -> None:
    events = fit(tmp_path, loading=0.0, training=0.0)
    for tag in events.Tags()["scalars"]:
        steps = [event.step for event in events.Scalars(tag)]
        assert steps == sorted(steps), tag
    assert events.Scalars("train/loss")[-1].step == 9


def test_the_layout_of_curves_is_written_once(tmp_path) -> None:
    events = fit(tmp_path, loading=0.0, training=0.0)
    (event,) = events.Tensors("custom_scalars__config__")
    layout = layout_pb2.Layout.FromString(event.tensor_proto.string_val[0])
    found = {
        group.title: {chart.title: list(chart.multiline.tag) for chart in group.chart}
        for group in layout.category
    }
    assert found == LAYOUT


def test_every_chart_shows_what_is_meant_for_it_and_nothing_else() -> None:
    """Matched as TensorBoard does it, from the start of the tag."""
    expected = {
        "loss": "train/loss val/loss",
        "parts of the loss": "train/loss_similar train/loss_dissimilar",
        "learning rate": "train/lr",
        "gradient norm before clipping": "train/grad_norm",
        "images per second, all devices": "throughput/images_per_s",
        "masks per second, all devices": "throughput/masks_per_s",
        "share of the time spent waiting for the input": "throughput/input_wait_share",
        "GPU memory, GB": "throughput/gpu_memory_gb",
        "skipped samples": "data/skipped data/skipped/bad_jpg",
        "achievable segmentation accuracy": "val/partition/asa_25 val/partition/asa_100",
        "boundary recall": "val/partition/boundary_recall_25",
        "covering": "val/partition/covering_25 val/hierarchy/covering_ods",
        "variation of information": "val/hierarchy/voi_ods",
        "AUC of pixel pairs": "val/pairs/auc",
        "clicks to an IoU, percent": "val/interactive/noc_85 val/interactive/noc_90",
        "IoU after n clicks": "val/interactive/iou_5 val/interactive/iou_20",
    }
    tags = {name: line.split() for name, line in expected.items()}
    others = "train/scale epoch val/pairs/auc_votes val/interactive/iou_mean final/Lab/asa_25"
    known = [tag for some in tags.values() for tag in some] + others.split()
    found = {
        name: [tag for tag in known if any(re.match(pattern, tag) for pattern in patterns)]
        for charts in LAYOUT.values()
        for name, patterns in charts.items()
    }
    assert found == tags
