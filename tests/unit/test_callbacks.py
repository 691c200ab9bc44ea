from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path

import jsonargparse
import lightning as L
import numpy as np
import pytest
import torch
from forked_python import start_server
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.strategies import DDPStrategy
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from maskfeat.batch import ClickTarget, HeldOutImage
from maskfeat.evaluate.callbacks import (
    FeatureStrips,
    InteractiveEvaluation,
    PartitionEvaluation,
)
from maskfeat.evaluate.clicking import ClicksWithRadius, pick_target, session_ious, summarize_clicks
from maskfeat.evaluate.comparison import ComparisonTable, markdown_table
from maskfeat.evaluate.protocol import score_pairs, score_partition
from maskfeat.evaluate.scoring import Evaluation, evenly_spaced
from maskfeat.features.color import LabEncoder
from maskfeat.features.pyramid import FeaturePyramid
from maskfeat.features.reading import Features
from maskfeat.interactive.segmenter import InteractiveSegmenter


def scene(number: int, size: int = 40) -> HeldOutImage:
    """A noisy disc on a noisy ground, of random place and colors."""
    rng = np.random.default_rng(number)
    center, radius = rng.uniform(12, 28, 2), rng.uniform(6, 11)
    away = np.indices((size, size)) - center[:, None, None]
    labels = (np.hypot(*away) < radius).astype(np.int64)
    colors = rng.integers(30, 220, (2, 3))
    image = (colors[labels] + rng.integers(-25, 26, (size, size, 3))).clip(0, 255)
    return HeldOutImage(
        f"scene_{number}", image.astype(np.uint8), labels == np.arange(2)[:, None, None], (labels,)
    )


class Scenes(L.LightningDataModule):
    """Held-out scenes, and one batch that is only there to make epochs."""

    def __init__(self, num_images: int) -> None:
        super().__init__()
        self.num_images = num_images

    def held_out(self, stage: str) -> Sequence[HeldOutImage]:
        first = {"val": 0, "test": 100}[stage]
        return [scene(first + number) for number in range(self.num_images)]

    def train_dataloader(self):
        return torch.utils.data.DataLoader(torch.zeros(4, 1), batch_size=1)

    val_dataloader = test_dataloader = train_dataloader


class LabTask(L.LightningModule):
    """Lab with noise; training takes the noise away, so that trained beats untrained."""

    def __init__(self, noise: float = 0.0) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.noise = noise

    def features(self, rgb: np.ndarray) -> Features:
        features = LabEncoder().features(rgb)
        lab = features.dense()
        noise = np.random.default_rng(0).normal(0, 1, lab.shape) * self.noise
        return Features.from_dense(lab + noise, features.scale)

    def untrained_encoder(self) -> LabTask:
        return LabTask(noise=1.0)

    def training_step(self, batch, batch_idx):
        return (self.weight - batch.mean()).square().sum()

    def validation_step(self, batch, batch_idx):
        pass

    test_step = validation_step

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def trainer(folder: Path, callbacks: list[L.Callback], **changes) -> L.Trainer:
    settings = {
        "accelerator": "cpu",
        "devices": 1,
        "max_epochs": 1,
        "callbacks": callbacks,
        "default_root_dir": folder,
        "logger": TensorBoardLogger(str(folder), name=None, version="run"),
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "log_every_n_steps": 1,
    }
    return L.Trainer(**{**settings, **changes})


def evaluations(num_images: int, suffix: str = "") -> list[L.Callback]:
    return [
        PartitionEvaluation([2, 6], num_images=num_images, name=f"partition{suffix}"),
        InteractiveEvaluation(num_images, max_clicks=3, name=f"interactive{suffix}"),
    ]


def by_hand(images: Sequence[HeldOutImage], suffix: str = "") -> dict[str, float]:
    """The means the callbacks should log, without any of their machinery."""
    rows = []
    for image in images:
        features = LabEncoder().features(image.image)
        partitions = score_partition(features, image, [2, 6])
        ious = session_ious(
            ClicksWithRadius(InteractiveSegmenter(LabEncoder())), pick_target(image), 3
        )
        pairs = f"partition{suffix}_pairs" if suffix else "pairs"
        rows.append(
            {f"val/partition{suffix}/{name}": value for name, value in partitions.items()}
            | {f"val/{pairs}/{n}": value for n, value in score_pairs(features, image).items()}
            | {f"val/interactive{suffix}/{n}": value for n, value in summarize_clicks(ious).items()}
        )
    return {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}


def logged(run: L.Trainer) -> dict[str, float]:
    return {name: value.item() for name, value in run.callback_metrics.items()}


def test_callbacks_log_the_means_over_images_of_the_protocol(tmp_path: Path) -> None:
    run = trainer(tmp_path, evaluations(5))
    run.fit(LabTask(), datamodule=Scenes(5))
    assert logged(run) == pytest.approx(by_hand([scene(n) for n in range(5)]), rel=1e-6)


@pytest.mark.slow
def test_two_processes_log_the_same_as_one(tmp_path: Path) -> None:
    # Five images on two processes, and one image, so that one process has none.
    callbacks = [*evaluations(5), *evaluations(1, "_of_one")]
    callbacks += [FeatureStrips(1, num_segments=4), ComparisonTable(3, 3, [4], max_clicks=2)]
    start_server()
    two = {"devices": 2, "strategy": DDPStrategy(start_method="forkserver")}
    two["use_distributed_sampler"] = False
    run = trainer(tmp_path, callbacks, **two)
    run.fit(LabTask(), datamodule=Scenes(5))
    expected = by_hand([scene(n) for n in range(5)]) | by_hand([scene(0)], "_of_one")
    assert logged(run) == pytest.approx(expected, rel=1e-6)
    record = json.loads((tmp_path / "run" / "comparison.json").read_text())
    assert set(record["scores"]) == {"trained", "untrained", "Lab"}
    assert len(list((tmp_path / "run" / "strips").iterdir())) == 1


def test_nothing_is_evaluated_in_the_sanity_check_and_only_every_nth_time(tmp_path: Path) -> None:
    class Counting(PartitionEvaluation):
        calls: list[int] = []  # noqa: RUF012

        def evaluate(self, trainer, pl_module, stage):
            self.calls.append(trainer.current_epoch)

    callback = Counting(every_n_validations=2)
    run = trainer(tmp_path, [callback], max_epochs=5, num_sanity_val_steps=1)
    run.fit(LabTask(), datamodule=Scenes(1))
    assert callback.calls == [0, 2, 4]


def test_a_test_run_is_logged_under_test_from_the_test_images(tmp_path: Path) -> None:
    run = trainer(tmp_path, [PartitionEvaluation([2], num_images=2)])
    run.test(LabTask(), datamodule=Scenes(2), verbose=False)
    expected = [
        score_partition(LabEncoder().features(s.image), s, [2])["covering_2"]
        for s in (scene(100), scene(101))
    ]
    assert logged(run)["test/partition/covering_2"] == pytest.approx(np.mean(expected), abs=1e-6)


def test_checkpoints_can_follow_an_evaluation(tmp_path: Path) -> None:
    best = L.pytorch.callbacks.ModelCheckpoint(tmp_path, "best", monitor="val/pairs/auc")
    callbacks = [best, PartitionEvaluation([2], num_images=1)]
    run = trainer(tmp_path, callbacks, enable_checkpointing=True)
    run.fit(LabTask(), datamodule=Scenes(1))
    assert best.best_model_score.item() == logged(run)["val/pairs/auc"]


def test_a_source_of_click_targets_replaces_the_datamodule(tmp_path: Path) -> None:
    target = scene(3).partitions[0].astype(np.int8)
    source = [ClickTarget("mine", scene(3).image, target)]
    callback = InteractiveEvaluation(num_targets=4, max_clicks=2, source=source, name="mine")
    run = trainer(tmp_path, [callback])
    run.fit(
        LabTask(),
        train_dataloaders=Scenes(1).train_dataloader(),
        val_dataloaders=Scenes(1).train_dataloader(),
    )
    ious = session_ious(ClicksWithRadius(InteractiveSegmenter(LabEncoder())), source[0], 2)
    assert logged(run)["val/mine/iou_1"] == pytest.approx(ious[0], abs=1e-6)


def test_missing_held_out_images_are_told_before_training(tmp_path: Path) -> None:
    run = trainer(tmp_path, [PartitionEvaluation()])
    with pytest.raises(ValueError, match="train with a datamodule that has held_out"):
        run.fit(LabTask(), train_dataloaders=Scenes(1).train_dataloader())


def test_a_source_that_is_no_sequence_is_told_before_training(tmp_path: Path) -> None:
    run = trainer(tmp_path, [PartitionEvaluation(source="shards/*.tar")])
    with pytest.raises(ValueError, match=r"source must be a sequence of HeldOutImage.*got str"):
        run.fit(LabTask(), datamodule=Scenes(1))


def test_a_config_can_name_the_class_of_a_source() -> None:
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(InteractiveEvaluation, "callback")
    source = {"class_path": f"{Some.__module__}.Some", "init_args": {"count": 3}}
    place = f"{InteractiveEvaluation.__module__}.InteractiveEvaluation"
    config = {"callback": {"class_path": place, "init_args": {"source": source}}}
    built = parser.instantiate_classes(parser.parse_object(config)).callback
    assert len(built.source) == 3


class Some(Sequence):
    """Scenes made when asked for."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> HeldOutImage:
        return scene(index)


def test_an_empty_held_out_set_is_warned_of_and_logs_nothing(tmp_path: Path) -> None:
    run = trainer(tmp_path, evaluations(5))
    with pytest.warns(UserWarning, match="nothing could be scored for val/partition"):
        run.fit(LabTask(), datamodule=Scenes(0))
    assert logged(run) == {}


def test_settings_below_one_are_refused() -> None:
    with pytest.raises(ValueError, match="num_images must be at least 1, got 0"):
        PartitionEvaluation(num_images=0)
    with pytest.raises(ValueError, match="every_n_validations must be at least 1"):
        InteractiveEvaluation(every_n_validations=0)


def test_strips_go_to_tensorboard_and_to_the_folder_of_the_run(tmp_path: Path) -> None:
    net = FeaturePyramid(levels=(0, 1), width=16)
    task = LabTask()
    task.net = net
    task.features = net.features
    run = trainer(tmp_path, [FeatureStrips(num_images=2, num_segments=4)], max_epochs=2)
    run.fit(task, datamodule=Scenes(2))
    events = EventAccumulator(str(tmp_path / "run"), size_guidance={"images": 0}).Reload()
    assert events.Tags()["images"] == ["val/strip/scene_0", "val/strip/scene_1"]
    assert [event.step for event in events.Images("val/strip/scene_0")] == [4, 8]
    files = sorted((tmp_path / "run" / "strips").iterdir())
    assert [file.name for file in files] == [
        f"val_strip_scene_{n}_step000000{step}.png" for n in (0, 1) for step in (4, 8)
    ]
    image = np.array(Image.open(files[0]))
    np.testing.assert_array_equal(image[:, :40], scene(0).image)
    # Weights of the net did not change, nor did the projection: the same image again.
    assert files[0].read_bytes() == files[1].read_bytes()


def test_strips_are_drawn_without_a_logger(tmp_path: Path) -> None:
    run = trainer(tmp_path, [FeatureStrips(num_images=1, num_segments=4)], logger=False)
    run.fit(LabTask(), datamodule=Scenes(1))
    assert (tmp_path / "strips" / "val_strip_scene_0_step0000004.png").exists()


def test_the_comparison_is_printed_written_and_logged(tmp_path: Path, capsys) -> None:
    table = ComparisonTable(num_images=3, num_targets=3, num_segments=[4], max_clicks=3)
    trainer(tmp_path, [table]).fit(LabTask(), datamodule=Scenes(3))
    printed = capsys.readouterr().out
    assert "pair AUC ↑" in printed
    assert "clicks to IoU 0.85 ↓" in printed

    record = json.loads((tmp_path / "run" / "comparison.json").read_text())
    scores = record["scores"]
    assert record["step"] == 4
    assert scores["trained"] == scores["Lab"]  # LabTask without noise is Lab
    assert scores["untrained"]["auc"] < scores["Lab"]["auc"]
    lines = (tmp_path / "run" / "comparison.md").read_text().splitlines()
    best = f"**{scores['Lab']['auc']:.3f}**"
    assert f"| pair AUC ↑ | {best} | {scores['untrained']['auc']:.3f} | {best} |" in lines
    events = EventAccumulator(str(tmp_path / "run")).Reload()
    tag = "final/untrained/covering_4"
    assert events.Scalars(tag)[0].value == pytest.approx(scores["untrained"]["covering_4"])


def test_fewer_clicks_win_and_components_never_do() -> None:
    scores = {
        "a": {"noc_85": 3.0, "components_4": 9.0, "asa_4": 0.5},
        "b": {"noc_85": 7.0, "components_4": 4.0, "asa_4": 0.5},
        "c": {"asa_4": math.nan},
    }
    table = markdown_table(scores, ["noc_85", "components_4", "asa_4"], "t").splitlines()
    assert table[4:] == [
        "| clicks to IoU 0.85 ↓ | **3.00** | 7.00 | - |",
        "| components, 4 segments | 9.0 | 4.0 | - |",
        "| ASA, 4 segments ↑ | **0.500** | **0.500** | - |",
    ]


def test_chosen_images_are_evenly_spaced() -> None:
    assert evenly_spaced(100, 3) == [0, 50, 99] or evenly_spaced(100, 3) == [0, 49, 99]
    assert evenly_spaced(3, 20) == [0, 1, 2]
    assert evenly_spaced(0, 5) == []


def test_scores_that_no_item_has_are_left_out(tmp_path: Path) -> None:
    run = trainer(tmp_path, [])
    rows = [{"a": 1.0}, {"a": 3.0, "b": math.nan}]
    evaluation = Evaluation(run, LabTask(), LabEncoder(), rows)
    found = evaluation.means(["a", "b"], rows, lambda row: row, "rows")
    assert found == {"a": 2.0}
