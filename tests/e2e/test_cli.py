"""The commands, as users type them."""

from __future__ import annotations

import errno
import json
import logging
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import forked_python
import lightning as L
import numpy as np
import pytest
import torch
import yaml
from fits import CHECKPOINTS, SMALL, SMALL_SCENES, TWO_STEPS, evaluating_less
from forked_python import Started
from PIL import Image
from shard_factory import write_shard
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from waiting import PATIENCE_S

import maskfeat
from maskfeat.cli import main
from maskfeat.features.pyramid import FeaturePyramid
from maskfeat.features.task import FeatureTask
from maskfeat.features.weights import save


def newest(folder: Path) -> dict:
    return torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)


# What conf/base.yaml evaluates, on fewer images, objects and clicks.
FEW = {
    "PartitionEvaluation": {"num_images": 1},
    "HierarchyEvaluation": {"num_images": 1},
    "InteractiveEvaluation": {"num_targets": 1, "max_clicks": 4},
    "FeatureStrips": {"num_images": 1},
    "ComparisonTable": {"num_images": 2, "num_targets": 3, "max_clicks": 4},
}


def test_base_trains_two_steps_and_ends_in_a_table(command, tmp_path, capsys) -> None:
    less = evaluating_less(tmp_path, FEW)
    command("fit", "--config", "conf/base.yaml", less, *TWO_STEPS, SMALL_SCENES)
    printed = capsys.readouterr().out
    assert "pair AUC" in printed
    assert "untrained" in printed
    scores = json.loads((tmp_path / "runs/base/comparison.json").read_text())["scores"]
    assert set(scores) == {"trained", "untrained", "Lab"}
    assert scores["Lab"]["asa_25"] > scores["Lab"]["asa_10"] > 0.4
    assert list((tmp_path / "runs/base/strips").glob("*.png"))
    config = yaml.safe_load((tmp_path / "runs/base/config.yaml").read_text())
    assert config["trainer"]["default_root_dir"] == "runs/base"


def test_a_run_can_be_repeated_loss_for_loss_over_fifty_steps(command, tmp_path) -> None:
    losses = []
    for name in ("once", "again"):
        command(
            "fit",
            "--config=conf/base.yaml",
            f"--run_name={name}",
            *TWO_STEPS,
            "--data.epoch_images=100",
            "--trainer.log_every_n_steps=1",
            "--trainer.limit_val_batches=0",
            *CHECKPOINTS,
        )
        events = EventAccumulator(str(tmp_path / "runs" / name)).Reload()
        losses.append([event.value for event in events.Scalars("train/loss")])
    assert len(losses[0]) == 50
    np.testing.assert_allclose(losses[0], losses[1], rtol=0, atol=1e-6)
    assert np.ptp(losses[0]) > 0.01


def test_brightness_trains_two_steps(command, tmp_path, capsys) -> None:
    command("fit", "--config", "conf/mvp_brightness.yaml", *TWO_STEPS)
    assert "of neighboring components differ" in capsys.readouterr().out


CLICKS = (
    "--config=conf/clicks.yaml",
    "--data.train={'.': 1.0}",
    "--data.val=['.']",
    "--data.num_images=1",
    "--data.num_val_images=1",
    "--data.epoch_images=2",
    "--trainer.max_steps=2",
    "--trainer.precision=32-true",
)


def test_clicks_trains_two_steps_and_is_exported_with_its_features(command, tmp_path) -> None:
    command("fit", *CLICKS)
    assert (tmp_path / "runs/clicks/config.yaml").exists()
    command("export", "runs/clicks/checkpoints/last.ckpt", "both.safetensors")
    image = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    both = tmp_path / "both.safetensors"
    segmenter = maskfeat.InteractiveSegmenter(both, decoder=both)
    segmenter.set_image(image)
    mask = segmenter.predict([[30, 40], [5, 5]], [True, False])
    assert mask[30, 40]
    assert not mask[5, 5]


@pytest.mark.real
def test_bsds500_trains_two_steps_on_images(command, tmp_path, shared_data) -> None:
    command(
        "fit",
        "--config",
        "conf/bsds500.yaml",
        f"--data_root={shared_data}",
        f"--data.shards.index_dir={tmp_path}",
        *TWO_STEPS,
        *CHECKPOINTS,
    )
    assert (tmp_path / "runs/bsds500/config.yaml").exists()


def test_photos_trains_two_steps_on_a_mixture_of_sets(command, tmp_path, shared_data) -> None:
    command(
        "fit",
        "--config=conf/bsds500.yaml",
        "--config=conf/photos.yaml",
        f"--data_root={shared_data}",
        f"--data.shards.index_dir={tmp_path}",
        *TWO_STEPS,
        "--trainer.check_val_every_n_epoch=1",
        "--trainer.val_check_interval=2",
        *CHECKPOINTS,
    )
    settings = yaml.safe_load((tmp_path / "runs/photos/config.yaml").read_text())
    assert settings["model"]["backbone_rate"] == 0.2
    assert set(settings["data"]["init_args"]["train"]) == {"bsds500", "coco128", "ccp"}


# What is kept for checking, and never trained on.
KEPT_APART = {"dev_nuclei", "iis", "sa1b_sample"}


def drawn_stand_ins(config: Path, folder: Path) -> dict[str, dict]:
    """Draw a small shard for each training set of a config, and for BSDS500 val; the sets."""
    sets = yaml.safe_load(config.read_text())["data"]["init_args"]["train"]
    folders = {one["shards"].removeprefix("${data_root}/").split("/")[0] for one in sets.values()}
    assert not folders & KEPT_APART
    assert all(one["shards"].endswith("/train-*.tar") for one in sets.values())
    assert sum(one["weight"] for one in sets.values()) == pytest.approx(1)
    for number, name in enumerate(sorted(folders)):
        write_shard(folder / f"{name}/train-0.tar", 2, seed=number, size=(70, 80))
    write_shard(folder / "bsds500/val-0.tar", 2, seed=99, size=(70, 80))
    return sets


def test_all_trains_two_steps_on_drawn_stand_ins(command, tmp_path, repository) -> None:
    sets = drawn_stand_ins(repository / "conf/all.yaml", tmp_path / "data")
    command(
        "fit",
        "--config=conf/bsds500.yaml",
        "--config=conf/all.yaml",
        "--data_root=data",
        *TWO_STEPS,
        "--trainer.check_val_every_n_epoch=1",
        "--trainer.val_check_interval=2",
        *CHECKPOINTS,
    )
    settings = yaml.safe_load((tmp_path / "runs/all/config.yaml").read_text())
    kept = settings["data"]["init_args"]["train"]
    assert kept["faces"]["unmarked"] == "background"
    assert set(kept) == set(sets)


OF_SHIPPED_NET = [word for word in TWO_STEPS if ".net." not in word]


def holding_shipped_weights(path: Path) -> FeaturePyramid:
    """The network of a checkpoint, whose weights are those of the package."""
    trained, shipped = maskfeat.load(path), maskfeat.load()
    for name, value in trained.named_parameters():
        torch.testing.assert_close(shipped.get_parameter(name), value, atol=1e-5, rtol=1e-3)
    return trained


def test_further_training_goes_on_from_shipped_weights_and_their_head(
    command, tmp_path, repository
) -> None:
    drawn_stand_ins(repository / "conf/all.yaml", tmp_path / "data")
    command(
        "fit",
        "--config=conf/bsds500.yaml",
        "--config=conf/all.yaml",
        "--config=conf/borders.yaml",
        "--config=conf/all_further.yaml",
        "--config=conf/margins.yaml",
        "--data_root=data",
        "--model.learning_rate=1e-9",
        *OF_SHIPPED_NET,
        "--trainer.limit_val_batches=0",
        "--trainer.val_check_interval=2",
        *CHECKPOINTS,
    )
    (last,) = tmp_path.glob("runs/margins/**/last.ckpt")
    assert holding_shipped_weights(last).boundary_heads


def test_a_boundary_head_is_trained_on_shipped_features_that_stay(
    command, tmp_path, repository
) -> None:
    drawn_stand_ins(repository / "conf/boundary_head.yaml", tmp_path / "data")
    command(
        "fit",
        "--config=conf/bsds500.yaml",
        "--config=conf/boundary_head.yaml",
        "--data_root=data",
        *OF_SHIPPED_NET,
        "--trainer.limit_val_batches=0",
        *CHECKPOINTS,
    )
    (last,) = tmp_path.glob("runs/boundary_head/**/last.ckpt")
    trained, shipped = maskfeat.load(last).state_dict(), maskfeat.load().state_dict()
    moved = {n for n, v in trained.items() if n not in shipped or not torch.equal(v, shipped[n])}
    assert moved
    assert all(name.startswith("boundary_heads.") for name in moved)


def test_borders_trains_two_steps_on_drawn_scenes(command, tmp_path) -> None:
    words = ["fit", "--config=conf/base.yaml", "--config=conf/borders.yaml", *TWO_STEPS]
    command(*words, *CHECKPOINTS, "--trainer.log_every_n_steps=1")
    events = EventAccumulator(str(tmp_path / "runs/borders")).Reload()
    for name in ("local", "boundary"):
        assert len(events.Scalars(f"train/loss_{name}")) == 2
    net = maskfeat.load(tmp_path / "runs/borders/checkpoints/last.ckpt")
    assert net.features(np.zeros((40, 50, 3), np.uint8)).boundary_logits.shape == (2, 40, 50)


def test_distill_trains_two_steps_on_drawn_scenes_and_goes_on(command, tmp_path) -> None:
    save(FeaturePyramid(width=8, levels=(0, 1)), tmp_path / "teacher.safetensors")
    words = [
        "fit",
        "--config=conf/base.yaml",
        "--config=conf/distill.yaml",
        "--model.loss.init_args.teacher=teacher.safetensors",
        *TWO_STEPS,
        "--trainer.limit_val_batches=0",
        *CHECKPOINTS,
        "--trainer.callbacks.every_n_train_steps=1",
    ]
    command(*words)
    checkpoint = newest(tmp_path / "runs/distill")
    assert checkpoint["global_step"] == 2
    assert not [name for name in checkpoint["state_dict"] if "teacher" in name]
    command(*words, "--trainer.max_epochs=2", "--ckpt_path=last")
    assert newest(tmp_path / "runs/distill")["global_step"] == 4


@pytest.mark.real
def test_all_names_every_training_set_of_the_data(repository, shared_data) -> None:
    config = yaml.safe_load((repository / "conf/all.yaml").read_text())
    patterns = [one["shards"] for one in config["data"]["init_args"]["train"].values()]
    named = {pattern.removeprefix("${data_root}/").split("/")[0] for pattern in patterns}
    there = {path.parent.name for path in Path(shared_data).glob("*/train-*.tar")}
    assert named == there - KEPT_APART


def test_training_goes_on_from_shipped_weights_in_two_steps(command, tmp_path, shared_data) -> None:
    command(
        "fit",
        "--config=conf/bsds500.yaml",
        "--config=conf/photos.yaml",
        "--config=conf/photos_further.yaml",
        f"--data_root={shared_data}",
        f"--data.shards.index_dir={tmp_path}",
        *OF_SHIPPED_NET,
        "--trainer.check_val_every_n_epoch=1",
        "--trainer.val_check_interval=2",
        "--model.learning_rate=1e-9",
        *CHECKPOINTS,
    )
    (last,) = tmp_path.glob("runs/photos_further/**/last.ckpt")
    holding_shipped_weights(last)


def test_sa1b_trains_two_steps_on_tars_of_the_genuine_layout(command, tmp_path) -> None:
    for number in (0, 990):
        write_shard(
            tmp_path / f"sa1b/sa_{number:06d}.tar", 6, seed=number, order="random", size=(90, 130)
        )
    command(
        "fit",
        "--config=conf/base.yaml",
        "--config=conf/sa1b.yaml",
        *TWO_STEPS,
        "--trainer.strategy=auto",
        "--model.net.init_args.backbone=efficientvit_b0",
        "--data.examples.short_side=80",
        *CHECKPOINTS,
    )
    hparams = yaml.safe_load((tmp_path / "runs/sa1b/config.yaml").read_text())
    assert hparams["trainer"]["precision"] == "bf16-mixed"
    assert hparams["data"]["init_args"]["train"] == "sa1b/sa_000[0-8]*.tar"


def test_a_run_name_reaches_every_reference(command, capsys) -> None:
    with pytest.raises(SystemExit) as stop:
        command("fit", "--config=conf/base.yaml", "--run_name=exp2", "--print_config")
    assert stop.value.code == 0
    config = yaml.safe_load(capsys.readouterr().out)
    assert "${run_name}" in config["trainer"]["default_root_dir"] or (
        config["trainer"]["default_root_dir"] == "runs/exp2"
    )


def test_a_later_file_and_a_typed_value_win(command, tmp_path, capsys) -> None:
    (tmp_path / "other.yaml").write_text("model:\n  learning_rate: 0.5\n  warmup_steps: 7\n")
    with pytest.raises(SystemExit):
        command(
            "fit",
            "--config=conf/base.yaml",
            "--config=other.yaml",
            "--model.learning_rate=0.25",
            "--print_config",
        )
    model = yaml.safe_load(capsys.readouterr().out)["model"]
    assert model["learning_rate"] == 0.25
    assert model["warmup_steps"] == 7
    assert model["net"]["init_args"]["backbone"] == "efficientvit_b0"


def test_loss_and_callbacks_are_chosen_by_class(command, tmp_path) -> None:
    command(
        "fit",
        "--config=conf/base.yaml",
        *TWO_STEPS,
        *CHECKPOINTS,
        "--trainer.callbacks+=lightning.pytorch.callbacks.LearningRateMonitor",
        "--model.loss=maskfeat.features.losses.DiscriminativeLoss",
        "--model.loss.push_margin=2.0",
        "--model.net.init_args.learn_scale=false",
    )
    config = yaml.safe_load((tmp_path / "runs/base/config.yaml").read_text())
    assert config["model"]["loss"]["init_args"]["push_margin"] == 2.0
    assert len(config["trainer"]["callbacks"]) == 2


def test_what_is_typed_beats_the_checkpoint(command, tmp_path) -> None:
    words = ["fit", "--config=conf/base.yaml", *TWO_STEPS, *CHECKPOINTS]
    command(*words, "--trainer.callbacks.every_n_train_steps=1", "--model.weight_decay=0.5")
    command(
        *words,
        "--trainer.max_epochs=2",
        "--trainer.callbacks.every_n_train_steps=1",
        "--model.weight_decay=0.125",
        "--ckpt_path=last",
    )
    config = yaml.safe_load((tmp_path / "runs/base/config.yaml").read_text())
    assert config["model"]["weight_decay"] == 0.125
    checkpoint = newest(tmp_path / "runs/base")
    assert checkpoint["global_step"] == 4
    assert checkpoint["hyper_parameters"]["weight_decay"] == 0.125


def test_a_second_run_moves_the_first_aside(command, tmp_path) -> None:
    words = ["fit", "--config=conf/base.yaml", *TWO_STEPS, *CHECKPOINTS]
    command(*words)
    first = (tmp_path / "runs/base/config.yaml").stat().st_ino
    command(*words)
    (aside,) = (path for path in (tmp_path / "runs").iterdir() if path.name != "base")
    assert (aside / "config.yaml").stat().st_ino == first


def test_a_start_that_fails_moves_no_earlier_run(command, tmp_path) -> None:
    (tmp_path / "runs/base").mkdir(parents=True)
    (tmp_path / "runs/base/config.yaml").touch()
    for word, message in [
        ("--data.batch_size=0", "data.batch_size must be at least 1, got 0"),
        ("--data.batch_size=1000", "no whole batch of 1000"),
        ("--data.train=conf", "no shard matches 'conf'"),
        ("--model.learning_rate=-1", "learning_rate must not be negative, got -1"),
    ]:
        with pytest.raises(SystemExit, match=message):
            command("fit", "--config=conf/base.yaml", *TWO_STEPS, *CHECKPOINTS, word)
        assert [path.name for path in tmp_path.glob("runs/*")] == ["base"]
        assert [path.name for path in tmp_path.glob("runs/base/*")] == ["config.yaml"]


@pytest.mark.parametrize("name", ["", " ", ".", "..", "../x", "a/b", "/x", "a\\b"])
def test_a_run_name_is_one_folder(command, tmp_path, name) -> None:
    (tmp_path / "runs/other").mkdir(parents=True)
    (tmp_path / "runs/config.yaml").touch()
    with pytest.raises(SystemExit, match=r"run_name must be the name of one folder, .* got '"):
        command("fit", "--config=conf/base.yaml", *TWO_STEPS, *CHECKPOINTS, f"--run_name={name}")
    assert (tmp_path / "runs/other").is_dir()


def test_nothing_to_go_on_with_is_said_once_with_the_folder(
    command, tmp_path, capsys, recwarn
) -> None:
    words = ["fit", "--config=conf/base.yaml", *TWO_STEPS, *CHECKPOINTS, "--ckpt_path=last"]
    words += ["--trainer.limit_train_batches=1", "--trainer.limit_val_batches=0"]
    command(*words)
    said = capsys.readouterr().err
    folder = "runs/base/checkpoints"
    assert re.search(rf"WARNING: no checkpoint to go on with in \S*{folder}, so training", said)
    assert "earlier run" not in said
    assert not any("no last checkpoint" in str(warning.message) for warning in recwarn)
    for stamp in ("2026-01-01T10-00-00", "2026-02-01T10-00-00"):
        (tmp_path / f"runs/b.{stamp}/checkpoints").mkdir(parents=True)
        (tmp_path / f"runs/b.{stamp}/checkpoints/last.ckpt").touch()
    command(*words, "--run_name=b")
    assert re.search(
        r"earlier run of that name lies in \S*runs/b.2026-02-01T10", capsys.readouterr().err
    )


@pytest.mark.parametrize("name", ["validate", "predict"])
def test_untrained_weights_are_said_to_be(command, tmp_path, capsys, checkpoint, name) -> None:
    Image.new("RGB", (40, 30), (9, 200, 7)).save(tmp_path / "a.png")
    words = [name, "--config=conf/base.yaml", *TWO_STEPS, "--data.predict=a.png"]
    words += ["--trainer.callbacks=[]", "--model.ema_decay=0"]
    command(*words)
    assert "WARNING: the weights are untrained" in capsys.readouterr().err
    for word in (f"--ckpt_path={checkpoint}", f"--model.start_from={checkpoint}"):
        command(*words, word)
        assert "untrained" not in capsys.readouterr().err


@pytest.mark.parametrize("name", ["validate", "test", "predict"])
def test_a_last_checkpoint_that_is_not_there_is_refused(command, name: str) -> None:
    words = ["--config=conf/base.yaml", *TWO_STEPS, "--run_name=none", "--ckpt_path=last"]
    with pytest.raises(SystemExit, match=r"last found no checkpoint in .*runs/none"):
        command(name, *words)


def test_validate_and_predict_take_a_checkpoint(command, tmp_path, capsys) -> None:
    import maskfeat

    fit = [*TWO_STEPS, *CHECKPOINTS, "--trainer.callbacks.every_n_train_steps=1"]
    command("fit", "--config=conf/base.yaml", *fit)
    checkpoint = "runs/base/checkpoints/last.ckpt"

    command("validate", "--config=conf/base.yaml", *fit, f"--ckpt_path={checkpoint}")
    assert "val/loss" in capsys.readouterr().out

    rng = np.random.default_rng(0)
    (tmp_path / "images").mkdir()
    for number, size in enumerate([(40, 60), (51, 33)]):
        rgb = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
        Image.fromarray(rgb).save(tmp_path / f"images/p{number}.png")
    (tmp_path / "images/broken.png").write_bytes(b"not an image")
    command(
        "predict",
        "--config=conf/base.yaml",
        *TWO_STEPS,
        "--data.predict=images",
        f"--ckpt_path={checkpoint}",
    )
    net = maskfeat.load(checkpoint)
    for number, size in enumerate([(40, 60), (51, 33)]):
        with np.load(tmp_path / f"predictions/p{number}.npz") as stored:
            assert stored["level_0"].dtype == np.float16
            rgb = np.asarray(Image.open(tmp_path / f"images/p{number}.png"))
            finest = net.features(rgb).pyramid[0].numpy()
            assert np.abs(stored["level_0"] - finest).max() < 1e-2
        labels = np.asarray(Image.open(tmp_path / f"predictions/p{number}_labels.png"))
        assert labels.shape == size
        assert len(np.unique(labels)) == 100
        assert Image.open(tmp_path / f"predictions/p{number}.png").size[1] >= size[0]
    assert not list((tmp_path / "predictions").glob("broken*"))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    """Of a task of width 8, without averaged weights."""
    path = tmp_path_factory.mktemp("checkpoint") / "good.ckpt"
    net = FeaturePyramid("test_efficientnet", width=8, levels=(0, 1, 2), c0=2)
    task = FeatureTask(net, ema_decay=0.0)
    trainer = L.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    trainer.strategy.connect(task)
    trainer.save_checkpoint(path)
    return path


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b"", "is an empty file"),
        (b"\xff\xd8\xff\xe0 an image", "is no checkpoint of `lightning fit`"),
        (b"\x08\0\0\0\0\0\0\0{}      ", "is no checkpoint of `lightning fit`"),
        (0.5, "is a checkpoint that is cut short"),
        (0.999, "is a checkpoint that is cut short"),
        ({"state_dict": {}}, "(is no checkpoint of|holds no maskfeat network)"),
        ([1, 2], "(is no checkpoint of|holds no maskfeat network)"),
        (Path("of pickled code"), "cannot be read as a checkpoint without unpickling code"),
    ],
    ids=str,
)
def test_a_file_that_is_no_checkpoint_is_said_to_be_none(
    command, tmp_path, checkpoint, content, fault
) -> None:
    path = tmp_path / "bad.ckpt"
    if isinstance(content, float):
        whole = checkpoint.read_bytes()
        content = whole[: int(content * len(whole))]
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(content, path)
    said = f"bad.ckpt' {fault}(?!.*(weights_only|issue|Traceback|\n))"
    with pytest.raises(ValueError, match=said):
        maskfeat.load(path)
    for name in ("fit", "validate") if content == b"" else ("validate",):
        with pytest.raises(SystemExit, match=said + r".*; give --ckpt_path the path of one"):
            command(name, "--config=conf/base.yaml", *TWO_STEPS, "--ckpt_path=bad.ckpt")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--ckpt_path=conf"], "'conf' is a folder, no checkpoint .*; give --ckpt_path"),
        (["--ckpt_path=none.ckpt"], "no checkpoint at 'none.ckpt'; give --ckpt_path"),
        (["--ckpt_path={}"], "model.ema_decay .* set these as they were"),
        (
            ["--ckpt_path={}", "--model.net.init_args.width=16"],
            "expected .* width 16.* but '.*good.ckpt' has width 8; set model.net .* --ckpt_path",
        ),
    ],
)
@pytest.mark.parametrize("name", ["fit", "validate"])
def test_a_checkpoint_that_does_not_fit_says_why(command, checkpoint, name, words, message) -> None:
    words = [word.format(checkpoint) for word in words]
    with pytest.raises(SystemExit, match=message):
        command(name, "--config=conf/base.yaml", *TWO_STEPS, *words)


@pytest.mark.parametrize(
    ("names", "folder", "message"),
    [
        (["k.jpg", "k.png"], "predictions", "'k.jpg' and 'k.png' would both be written as 'k'"),
        (["k.png", "k_labels.png"], "predictions", "would both be written as 'k_labels.png'"),
        (["k.png"], "images", "predictions must go to another folder"),
    ],
)
def test_predictions_of_one_name_are_refused_before_any_is_written(
    command, tmp_path, names, folder, message
) -> None:
    (tmp_path / "images").mkdir()
    for name in names:
        Image.new("RGB", (40, 30)).save(tmp_path / "images" / name)
    writer = "{class_path: maskfeat.running.predictions.PredictionWriter, init_args: {folder: %s}}"
    with pytest.raises(SystemExit, match=message):
        command(
            *("predict", "--config=conf/base.yaml", *TWO_STEPS, "--data.predict=images"),
            f"--trainer.callbacks=[{writer % folder}]",
        )
    written = [*tmp_path.glob("images/*"), *tmp_path.glob("predictions/*")]
    assert sorted(path.name for path in written) == sorted(names)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--data.train=nowhere/*.tar"], "no shard matches 'nowhere/*.tar'"),
        (["--data.train=empty.tar"], "empty.tar"),
        (["--data.batch_size=1000"], "has no whole batch of 1000 images"),
        (["--data.train=pipe:cat x.tar", "--data.mode=streaming"], "pipe:"),
        (["--data.train=empty.tar", "--data.mode=streaming"], "empty.tar"),
        (["--model.net.init_args.backbone=nonet"], "timm knows no model named 'nonet'"),
        (["--model.ema_decay=2"], "ema_decay must lie in"),
        (["--data.no_such_setting=1"], "no_such_setting"),
    ],
)
def test_mistakes_get_one_sentence(command, tmp_path, capsys, words, message) -> None:
    import io
    import tarfile

    with tarfile.open(tmp_path / "empty.tar", "w") as tar:
        info = tarfile.TarInfo("readme.txt")
        tar.addfile(info, io.BytesIO(b""))
    with pytest.raises(SystemExit) as stop:
        command("fit", "--config=conf/base.yaml", *TWO_STEPS, *CHECKPOINTS, *words)
    told = str(stop.value.code) + capsys.readouterr().err
    assert message in told
    assert stop.value.code not in (0, None)
    assert "Traceback" not in str(stop.value.code)


@pytest.mark.parametrize(("words", "got"), [([], "none"), (["segmnt", "x"], "'segmnt'")])
def test_what_is_no_command_is_told_all_of_them(capsys, words, got) -> None:
    with pytest.raises(SystemExit) as stop:
        main(words)
    assert stop.value.code == 2
    commands = "fit, validate, test, predict, segment, annotate, tune, convert, serve, export, "
    commands += "configs, shards"
    said = f"error: expected one of the commands {commands}, got {got}; see maskfeat --help\n"
    assert capsys.readouterr().err == said


@pytest.mark.parametrize(
    "words", [["index", "--shards=none"], ["index", "none"], ["stats", "none"]]
)
def test_the_shard_commands_name_no_setting_that_is_not_there(capsys, words) -> None:
    with pytest.raises(SystemExit, match=r"no shard matches 'none'; name (?!.*data\.shards)"):
        main(["shards", *words])


def in_the_way(tmp_path: Path, *words: str) -> str:
    """What a command says, which is to write below a file."""
    (tmp_path / "file").write_bytes(b"in the way")
    with pytest.raises(SystemExit) as stop:
        main([*words])
    assert str(stop.value.code).count("\n") == 0
    return str(stop.value.code)


@pytest.mark.parametrize(
    "words",
    [
        ["shards", "synth", "--out=file/sc", "--num=1", "--size=[96,96]", "--num_workers=0"],
        ["shards", "stats", "data_shards/small-000000.tar", "--num=1", "--json=file/a.json"],
        ["shards", "convert", "data_shards/small-000000.tar", "--out=file/c", "--num_workers=0"],
        ["segment", "a.png", "--model=lab", "--out=file/s"],
        ["export", "maskfeat-b0", "file/a.safetensors"],
        ["fit", "--config=conf/base.yaml", *TWO_STEPS, "--trainer.logger.save_dir=file"],
    ],
)
def test_what_cannot_be_written_gets_one_sentence(command, tmp_path, words) -> None:
    Image.new("RGB", (40, 30), (9, 200, 7)).save(tmp_path / "a.png")
    assert re.fullmatch(
        "error: cannot read or write '.*file.*': (Not a directory|a file of this name is in .*)",
        in_the_way(tmp_path, *words),
    )


def test_a_traceback_is_kept_for_debugging(tmp_path) -> None:
    (tmp_path / "file").touch()
    logging.getLogger("maskfeat").setLevel(logging.DEBUG)
    try:
        with pytest.raises(OSError, match="Not a directory"):
            main(["export", "maskfeat-b0", str(tmp_path / "file/a.safetensors")])
    finally:
        logging.getLogger("maskfeat").setLevel(logging.INFO)


def test_scenes_that_are_there_already_get_one_sentence(command, tmp_path) -> None:
    words = ["shards", "synth", "--out=sc", "--num=1", "--size=[96,96]", "--num_workers=0"]
    main(words)
    assert in_the_way(tmp_path, *words).startswith("error: ")


def test_a_full_disk_is_said_with_the_file(command, tmp_path, monkeypatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("maskfeat.files.os.fsync", full)
    with pytest.raises(SystemExit, match=r"'a.safetensors': No space left on device"):
        main(["export", "maskfeat-b0", "a.safetensors"])
    words = ["fit", "--config=conf/base.yaml", *TWO_STEPS, *CHECKPOINTS]
    with pytest.raises(SystemExit, match=r"checkpoints/.*ckpt': No space left on device"):
        main([*words, "--trainer.callbacks.every_n_train_steps=1"])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("['--version']", f"maskfeat {maskfeat.__version__}"),
        ("['--help']", "maskfeat COMMAND --help lists its options"),
        ("['-h']", "evaluate a checkpoint on those of data.test\n"),
        ("['shards', '--help']", "draw some samples."),
        ("['export', '--help']", "`maskfeat.read_card`"),
    ],
)
def test_what_the_program_says_of_itself_needs_no_torch(words: str, said: str) -> None:
    code = (
        "import sys\n"
        "from maskfeat.cli import main\n"
        f"try: main({words})\n"
        "except SystemExit as stop: assert not stop.code\n"
        "assert not {'torch', 'lightning', 'timm'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert said in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 100


def test_the_help_of_fit_says_where_to_look_instead_of_listing_all_modules(command, capsys) -> None:
    with pytest.raises(SystemExit) as stop:
        command("fit", "--help")
    assert stop.value.code == 0
    said = capsys.readouterr().out
    assert len(said.splitlines()) < 600  # 1,852 when every nn.Module was listed
    told = " ".join(said.split())
    assert "usage: lightning [options] fit [--config FILE ...] [--NAME VALUE ...]" in told
    assert "--model.loss.help CLASS lists its options" in told
    assert "others lie in maskfeat.features.losses" in told
    assert "maskfeat.evaluate.callbacks" not in told.partition("--trainer.callbacks")[0]
    assert "torch.nn.Linear" not in told
    assert "lightning.pytorch.strategies.DDPStrategy" in told  # a list that is short enough
    assert "Training, held-out and prediction data:" in said


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("model:\n  net: {a: 1\n  loss: [\n", "mine.yaml', line 3, column 7 is no YAML: .*'}'"),
        ("trainer:\n\tmax_epochs: 3\n", r"mine.yaml', line 2, column 1 is no YAML: .*a tab\?"),
        ("just text", "mine.yaml' must hold settings, NAME: VALUE, got 'just text'"),
        ("- 1", "mine.yaml' must hold settings, NAME: VALUE, got a list"),
        ("# nothing", "mine.yaml' must hold settings, NAME: VALUE, but is empty"),
        (b"\xff\xfe", "mine.yaml' must be UTF-8 text"),
        (None, "no config at 'mine.yaml'; name a YAML file"),
    ],
    ids=str,
)
@pytest.mark.parametrize("option", ["--config=mine.yaml", "--model=mine.yaml"])
def test_a_config_that_is_no_yaml_is_said_with_its_name_and_line(
    command, tmp_path, capsys, content, said, option
) -> None:
    path = tmp_path / "mine.yaml"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        path.write_text(content)
    with pytest.raises(SystemExit) as stop:
        command("fit", "--config=conf/base.yaml", option)
    assert stop.value.code == 2
    line = capsys.readouterr().err.splitlines()[-1]
    if content is None and "--model" in option:
        assert "mine.yaml" in line
    else:
        assert re.match(f"error: .*{said}", line)
    assert "unicode string" not in line


@pytest.mark.slow
def test_the_literal_command_exits_with_success(tmp_path, repository) -> None:
    """`lightning`, `maskfeat` and `python -m maskfeat` are the same program."""
    scripts = Path(sys.executable).parent
    for start in (
        [scripts / "lightning"],
        [scripts / "maskfeat"],
        [sys.executable, "-m", "maskfeat"],
    ):
        done = subprocess.run([*start, "--help"], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert "fit" in done.stdout
        assert "maskfeat shards synth" in done.stdout
        own = [line for line in done.stdout.splitlines() if line.startswith("  maskfeat ")]
        assert len(own) == 17  # a line each
    for name in ("conf", "data_shards"):
        (tmp_path / name).symlink_to(repository / name)
    words = ["fit", "--config", "conf/base.yaml", *TWO_STEPS, *CHECKPOINTS]
    done = subprocess.run(
        [scripts / "lightning", *words], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]


def test_a_crash_of_a_library_says_where(tmp_path) -> None:
    crashing = (
        "import faulthandler, sys\n"
        "from maskfeat.cli import main\n"
        "try:\n    main(['shards', '--help'])\n"
        "except SystemExit:\n    faulthandler._sigsegv()\n"
    )
    path = tmp_path / "crashing.py"
    path.write_text(crashing)
    without = {name: v for name, v in os.environ.items() if name != "PYTHONFAULTHANDLER"}
    done = subprocess.run(
        [sys.executable, str(path)], env=without, capture_output=True, text=True, check=False
    )
    assert done.returncode == -signal.SIGSEGV
    assert f'File "{path}", line 6 in <module>' in done.stderr


@pytest.mark.slow
def test_after_kill_9_training_goes_on_as_if_nothing_had_happened(tmp_path, repository) -> None:
    for name in ("conf", "data_shards"):
        (tmp_path / name).symlink_to(repository / name)
    words = [
        *("fit", "--config=conf/base.yaml", *SMALL, *CHECKPOINTS),
        "--data.examples.crop_size=64",
        # Ten steps an epoch.
        *("--trainer.max_epochs=2", "--data.epoch_images=20", "--trainer.limit_val_batches=0"),
    ]
    last = tmp_path / "runs/broken/checkpoints/last.ckpt"
    words = ["-m", "maskfeat", *words]
    errors = tmp_path / "errors"
    # In the second epoch, between two checkpoints of which one is in mid-epoch.
    init = f"{{signum: {signal.SIGKILL:d}, step: 18}}"
    kill = f"--trainer.callbacks+={{class_path: sent_signals.SignalAt, init_args: {init}}}"
    killing = [*words, "--run_name=broken", kill]
    process = Started(killing, tmp_path, stdout=os.devnull, stderr=errors)
    assert process.wait(PATIENCE_S) == -signal.SIGKILL, errors.read_text()[-3000:]
    assert newest(last.parents[1])["global_step"] == 15

    forked_python.run([*words, "--run_name=broken", "--ckpt_path=last"], tmp_path, check=True)
    forked_python.run([*words, "--run_name=whole"], tmp_path, check=True)
    broken, whole = newest(tmp_path / "runs/broken"), newest(tmp_path / "runs/whole")
    assert broken["global_step"] == whole["global_step"] == 20
    for name, value in whole["state_dict"].items():
        assert torch.allclose(broken["state_dict"][name].float(), value.float(), atol=1e-5), name
    for one, other in zip(
        broken["optimizer_states"][0]["state"].values(),
        whole["optimizer_states"][0]["state"].values(),
        strict=True,
    ):
        assert one["step"] == other["step"] == 20
        assert torch.allclose(one["exp_avg"], other["exp_avg"], atol=1e-5)
    assert not list((tmp_path / "runs/broken/checkpoints").glob(".*"))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["fit", "--model.learning_rate=abc"], "model.learning_rate: expected a float, got abc"),
        (["fit", "--trainer.max_epochs=x"], "trainer.max_epochs: expected an int, got x"),
        (["fit", "--data.batch_size=1.5"], "data.batch_size: expected an int, got 1.5"),
        (
            ["fit", "--data.mode=streamed"],
            "data.mode: expected one of 'indexed', 'streaming', got streamed",
        ),
        (["fit", "--data.crop_sise=3"], "data: Option 'crop_sise' is not accepted"),
        (["fit", "--model.net.init_args.width=x"], "model.net.width: expected an int, got x"),
        (["fit", "--nope=3"], "unrecognized arguments: --nope=3"),
        (["shards", "synth", "--num=x"], "num: expected an int, got x"),
        (["segment", "x", "--granularity=fine"], "granularity: expected a float, got fine"),
    ],
)
def test_a_value_that_does_not_fit_is_one_line(command, capsys, words, said) -> None:
    config = ["--config=conf/base.yaml"] if words[0] == "fit" else []
    with pytest.raises(SystemExit) as stop:
        command(words[0], *config, *words[1:])
    assert stop.value.code == 2
    assert capsys.readouterr().err.splitlines()[-1] == f"error: {said}"


def test_a_number_that_a_class_refuses_is_one_line(command) -> None:
    with pytest.raises(SystemExit) as stop:
        command("fit", "--config=conf/base.yaml", "--data.examples.num_points=0")
    assert stop.value.code == "error: data.examples.num_points must be at least 2, got 0"


def test_ctrl_c_in_the_midst_of_an_import_ends_with_one_line() -> None:
    code = (
        "import os, signal, sys\n"
        # As in a terminal: what is started in the background ignores it.
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "class Interrupting:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name == 'torch':\n"
        "            os.kill(os.getpid(), signal.SIGINT)\n"
        "from maskfeat.console import main\n"
        "sys.meta_path.insert(0, Interrupting())\n"
        "sys.argv = ['maskfeat', 'fit', '--help']\n"
        "main()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (130, "interrupted\n")
