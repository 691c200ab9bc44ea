"""Every way of "Add my own" in docs/guides/train.md, by the command, with a file of the user."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import forked_python
import numpy as np
import pytest
import torch
import yaml
from fits import TWO_STEPS

import maskfeat

# What a user writes, by the README alone.
OWN = """
import lightning as L
import torch
from torch import nn

from maskfeat.batch import normalize_images
from maskfeat.data.datamodule import ShardDataModule
from maskfeat.data.settings import ExampleSettings
from maskfeat.evaluate.callbacks import HeldOutEvaluation
from maskfeat.features.losses import Loss
from maskfeat.features.pyramid import FeaturePyramid
from maskfeat.features.reading import Features


class MyLoss(nn.Module):
    def __init__(self, margin: float = 1.0):
        super().__init__()
        self.margin = margin

    def forward(self, features, membership, scale, points_yx):
        total = (features.square().mean() - self.margin).abs()
        return Loss(total, {"margin": torch.tensor(self.margin)})


class Negated(FeaturePyramid):
    def forward(self, images):
        return [-level for level in super().forward(images)]


class Forgetful(FeaturePyramid):
    def __init__(self, power: int = 1, **settings):
        super().__init__(**settings)
        self.power = power


class OneMap(nn.Module):
    def __init__(self, channels: int = 4):
        super().__init__()
        self.config = {"channels": channels}
        self.strides = (1,)
        self.scale = 1.0
        self.conv = nn.Conv2d(3, channels, 3, padding=1)

    def forward(self, images):
        return [self.conv(images).tanh()]

    def features(self, rgb):
        images = normalize_images(torch.from_numpy(rgb.copy()).permute(2, 0, 1)[None])
        with torch.inference_mode():
            return Features([self(images)[0][0]], self.strides, rgb.shape[:2], self.scale)


class Incomplete(nn.Module):
    def forward(self, images):
        return [images]


class Counting(HeldOutEvaluation):
    def __init__(self, factor: float = 1.0):
        super().__init__(every_n_validations=1, source=None)
        self.factor = factor

    def evaluate(self, trainer, pl_module, stage):
        images = self.held_out(trainer, stage)
        assert pl_module.features(images[0].image).size == images[0].image.shape[:2]
        print(f"{stage}: {self.factor * len(images)} counted")


class MyData(L.LightningDataModule):
    def __init__(self, folder: str, batch_size: int = 2):
        super().__init__()
        self.shards = ShardDataModule(
            train=f"{folder}/train-*.tar",
            val=f"{folder}/val-*.tar",
            num_val_images=2,
            epoch_images=4,
            batch_size=batch_size,
            num_workers=0,
            examples=ExampleSettings(crop_size=64, num_points=64),
        )

    def setup(self, stage):
        self.shards.trainer = self.trainer
        self.shards.setup(stage)

    def train_dataloader(self):
        return self.shards.train_dataloader()

    def val_dataloader(self):
        return self.shards.val_dataloader()

    def on_after_batch_transfer(self, batch, dataloader_idx):
        return {**batch, "images": normalize_images(batch["images"])}

    def held_out(self, stage):
        return self.shards.held_out(stage)
"""
FIT = [
    "fit",
    "--config=conf/base.yaml",
    "--trainer.callbacks=[]",
    "--trainer.limit_train_batches=1",
]
PLAIN = [*FIT, *TWO_STEPS]
OF_NET = [word for word in TWO_STEPS if ".net." not in word]
OF_TRAINER = [word for word in TWO_STEPS if not word.startswith("--data.")]
CHECKPOINT = (
    "--trainer.callbacks+={class_path: lightning.pytorch.callbacks.ModelCheckpoint, init_args: "
    "{save_last: true, every_n_train_steps: 1}}"
)


@pytest.fixture
def own(command, tmp_path, monkeypatch):
    """Run a command beside the user's file `own.py`; modules of one test stay in that test."""
    (tmp_path / "own.py").write_text(OWN)
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield command
    sys.modules.pop("own", None)


def settings(folder: Path) -> dict:
    return yaml.safe_load((folder / "runs/base/config.yaml").read_text())


def refusal(run, *words: str) -> str:
    with pytest.raises(SystemExit) as stop:
        run(*words)
    return str(stop.value.code)


def test_a_backbone_is_named(own, tmp_path) -> None:
    own(*PLAIN, "--model.net.init_args.backbone=resnet18")
    assert settings(tmp_path)["model"]["net"]["init_args"]["backbone"] == "resnet18"


def test_a_loss_is_named_in_a_config(own, tmp_path) -> None:
    (tmp_path / "mine.yaml").write_text(
        "model:\n  loss:\n    class_path: own.MyLoss\n    init_args: {margin: 0.5}\n"
    )
    own(*PLAIN, "--config=mine.yaml", CHECKPOINT)
    (last,) = tmp_path.glob("runs/base/checkpoints/last.ckpt")
    assert torch.load(last, weights_only=True)["global_step"] == 1
    assert settings(tmp_path)["model"]["loss"]["init_args"]["margin"] == 0.5


def test_training_starts_from_weights(own, tmp_path, capsys) -> None:
    own(*PLAIN, CHECKPOINT)
    (last,) = tmp_path.glob("runs/base/checkpoints/last.ckpt")
    own("validate", *PLAIN[1:], f"--model.start_from={last}")
    assert "untrained" not in capsys.readouterr().err


def test_a_subclass_is_never_loaded_as_a_plain_network(own, tmp_path, monkeypatch) -> None:
    own(*PLAIN, "--model.net.class_path=own.Negated", CHECKPOINT)
    (last,) = tmp_path.glob("runs/base/checkpoints/last.ckpt")
    said = r"last.ckpt' holds a network of class own.Negated, .* net_class=Negated"
    with pytest.raises(ValueError, match=said):
        maskfeat.load(last)
    (tmp_path / "photos").mkdir()
    rgb = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)

    import own as module

    net = maskfeat.load(last, net_class=module.Negated)
    plain = maskfeat.FeaturePyramid(**net.config)
    plain.load_state_dict(net.state_dict())
    for ours, theirs in zip(net.features(rgb).pyramid, plain.features(rgb).pyramid, strict=True):
        torch.testing.assert_close(ours, -theirs)
        assert ours.abs().max() > 0
    with pytest.raises(ValueError, match=r"class own.Negated, .* got OneMap"):
        maskfeat.load(last, net_class=module.OneMap)
    # The small file says the class, too.
    from maskfeat.features.weights import save

    save(net, tmp_path / "net.safetensors")
    with pytest.raises(ValueError, match=r"net.safetensors' holds a network of class own.Negated"):
        maskfeat.load(tmp_path / "net.safetensors")
    assert maskfeat.load(tmp_path / "net.safetensors", net_class=module.Negated).config
    # A command that has only the file says so, and one with another class does not go on.
    assert "class own.Negated" in refusal(own, "export", str(last), "out.safetensors")
    said = refusal(own, "validate", *PLAIN[1:], f"--ckpt_path={last}")
    assert re.search("expected a checkpoint of a FeaturePyramid, but .* class own.Negated", said)
    own("validate", *PLAIN[1:], f"--ckpt_path={last}", "--model.net.class_path=own.Negated")


def test_a_network_of_ones_own_is_trained_and_loaded(own, tmp_path) -> None:
    words = [*FIT, *OF_NET, "--model.net=own.OneMap", "--model.net.channels=5"]
    own(*words, CHECKPOINT, "--trainer.log_every_n_steps=1")
    (last,) = tmp_path.glob("runs/base/checkpoints/last.ckpt")

    import own as module

    net = maskfeat.load(last, net_class=module.OneMap)
    rgb = np.zeros((20, 30, 3), np.uint8)
    assert net.features(rgb).dense().shape == (20, 30, 5)
    own("validate", *words[1:], f"--ckpt_path={last}")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--model.net=own.Incomplete"], "Incomplete has no features, no strides, no scale"),
        (["--model.net=torch.nn.Identity"], "Identity has no features"),
        (
            ["--model.net=own.OneMap", "--model.backbone_rate=0.1"],
            "model.backbone_rate needs a network with a backbone, but OneMap has none",
        ),
        (
            ["--model.net=own.Forgetful"],
            "config of Forgetful must hold every argument .* but not power; "
            r"set self.config\['power'\]",
        ),
    ],
)
def test_a_network_that_lacks_something_is_told_before_training(own, words, said) -> None:
    assert re.search(said, refusal(own, *FIT, *OF_NET, *words))


def test_an_evaluator_is_added_by_a_config(own, tmp_path, capsys) -> None:
    (tmp_path / "mine.yaml").write_text(
        "trainer:\n  callbacks+:\n  - class_path: own.Counting\n    init_args: {factor: 10}\n"
    )
    own(*PLAIN, "--config=mine.yaml")
    assert "val: 20.0 counted" in capsys.readouterr().out
    # Beside those of the config before it, not instead of them.
    with pytest.raises(SystemExit):
        own("fit", "--config=conf/base.yaml", "--config=mine.yaml", "--print_config")
    callbacks = yaml.safe_load(capsys.readouterr().out)["trainer"]["callbacks"]
    assert len(callbacks) > 5
    assert callbacks[-1]["class_path"] == "own.Counting"


def test_other_data_are_a_datamodule(own, tmp_path) -> None:
    (tmp_path / "mine.yaml").write_text(
        "data:\n  class_path: own.MyData\n  init_args: {folder: data_shards, batch_size: 2}\n"
    )
    own(*FIT, *OF_TRAINER, "--config=mine.yaml", CHECKPOINT)
    (last,) = tmp_path.glob("runs/base/checkpoints/last.ckpt")
    assert torch.load(last, weights_only=True)["global_step"] == 1
    # What the config before it says of a setting of the same name still holds.
    assert settings(tmp_path)["data"]["init_args"] == {"folder": "data_shards", "batch_size": 2}


def test_own_data_keep_their_own_defaults(own, tmp_path, capsys) -> None:
    """ShardDataModule is the default class, its batch size of 8 is no default of other classes."""
    with pytest.raises(SystemExit):
        own(
            "fit",
            "--model.net=own.OneMap",
            "--data=own.MyData",
            "--data.folder=x",
            "--print_config",
        )
    data = yaml.safe_load(capsys.readouterr().out)["data"]
    assert data == {"class_path": "own.MyData", "init_args": {"folder": "x", "batch_size": 2}}
    with pytest.raises(SystemExit):
        own(
            "fit",
            "--model.net=own.OneMap",
            "--data.train=x",
            "--data.examples.crop_size=9",
            "--print_config",
        )
    data = yaml.safe_load(capsys.readouterr().out)["data"]
    assert data["class_path"].endswith(".ShardDataModule")
    assert data["init_args"]["examples"]["crop_size"] == 9
    assert data["init_args"]["batch_size"] == 8


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("--model.loss=nosuch.Loss", "model.loss: no module named 'nosuch', neither in the working "
         "folder nor installed"),
        ("--data=nosuch.Data", "data: no module named 'nosuch', neither in the working folder"),
        ("--trainer.callbacks+=nosuch.Call", "no module named 'nosuch', neither in the working"),
        ("--model.loss=own.NoLoss", "model.loss: .*module 'own' has no attribute 'NoLoss'"),
    ],
)  # fmt: skip
def test_a_class_that_is_not_found_is_one_line(own, capsys, word, said) -> None:
    with pytest.raises(SystemExit):
        own(*PLAIN, word)
    line = capsys.readouterr().err.splitlines()[-1]
    assert re.match(f"error: .*{said}", line)
    assert "Subclass types" not in line


def test_no_file_of_the_working_folder_hides_a_library(own, tmp_path) -> None:
    for _ in range(2):
        with pytest.raises(SystemExit):
            own("fit", "--print_config", "--config=conf/base.yaml")
    assert sys.path[-1] == str(tmp_path)
    assert sys.path.count(str(tmp_path)) == 1


@pytest.mark.slow
def test_the_installed_command_finds_what_lies_in_the_working_folder(repository, tmp_path) -> None:
    """All ways at once, in a folder that holds nothing but the user's two files."""
    (tmp_path / "own.py").write_text(OWN)
    config = {
        "trainer": {
            "accelerator": "cpu",
            "devices": 1,
            "max_epochs": 1,
            "limit_train_batches": 1,
            "limit_val_batches": 1,
            "logger": False,
            "enable_checkpointing": False,
            "enable_model_summary": False,
            "num_sanity_val_steps": 0,
            "callbacks": [{"class_path": "own.Counting", "init_args": {"factor": 3}}],
        },
        "model": {"net": {"class_path": "own.OneMap"}, "loss": {"class_path": "own.MyLoss"}},
        "data": {
            "class_path": "own.MyData",
            "init_args": {"folder": str(repository / "data_shards")},
        },
    }
    (tmp_path / "own.yaml").write_text(json.dumps(config))
    program = Path(sys.executable).parent / "lightning"
    done = forked_python.run([program, "fit", "--config=own.yaml"], tmp_path, check=True)
    assert "val: 6.0 counted" in done.stdout
