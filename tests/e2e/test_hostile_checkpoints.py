"""Checkpoints of a stranger: none runs code, is mistaken for another, or removes what it names."""

from __future__ import annotations

import contextlib
import io
import os
from pathlib import Path

import lightning as L
import pytest
import torch
from bad_server import bad_server
from fits import CHECKPOINTS, TWO_STEPS
from PIL import Image

import maskfeat
from maskfeat.features.checkpoint import WholeFileCheckpointIO
from maskfeat.features.pyramid import FeaturePyramid
from maskfeat.features.task import FeatureTask

ONE_STEP = [*TWO_STEPS, *CHECKPOINTS, "--trainer.limit_train_batches=1"]
ONE_STEP += ["--trainer.limit_val_batches=1", "--model.ema_decay=0", "--data.predict=a.png"]


class Bomb:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (os.mkdir, (str(self.path),))


@pytest.mark.parametrize(
    ("name", "route"),
    [
        *[(name, "url") for name in ("fit", "validate", "test", "predict")],
        *[("validate", route) for route in ("file url", "path", "last")],
    ],
)
def test_no_route_to_a_checkpoint_runs_its_code(
    command, tmp_path, monkeypatch, name: str, route: str
) -> None:
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    folder = tmp_path / "runs/base/checkpoints"
    folder.mkdir(parents=True)
    torch.save({"state_dict": Bomb(tmp_path / "ran")}, folder / "last.ckpt")
    Image.new("RGB", (40, 30)).save(tmp_path / "a.png")
    with bad_server(folder) as server:
        words = {
            "url": f"{server.url}/last.ckpt",
            "file url": f"file://{folder}/last.ckpt",
            "path": f"{folder}/last.ckpt",
            "last": "last",
        }
        with pytest.raises(SystemExit, match=r"last.ckpt' cannot be read .* unpickling code"):
            command(name, "--config=conf/base.yaml", *ONE_STEP, f"--ckpt_path={words[route]}")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("kind", ["evil", "empty", "page"])
def test_backbone_weights_run_no_code_and_no_advice_is_given_to_run_it(tmp_path, kind) -> None:
    path = tmp_path / "weights.pth"
    path.write_bytes(b"<html>" * 100 if kind == "page" else b"")
    if kind == "evil":
        torch.save({"conv.weight": Bomb(tmp_path / "ran")}, path)
    with pytest.raises(ValueError, match=r"pth' holds no weights of 'eff") as raised:
        FeaturePyramid(pretrained=str(path))
    assert "weights_only" not in str(raised.value)
    assert not (tmp_path / "ran").exists()


def test_urls_that_end_alike_are_two_files(tmp_path) -> None:
    for number in (1, 2):
        (tmp_path / f"u{number}").mkdir()
        content = {"state_dict": {}, "pytorch-lightning_version": "2", "number": number}
        torch.save(content, tmp_path / f"u{number}/last.ckpt")
    reader = WholeFileCheckpointIO()
    with bad_server(tmp_path) as server:
        for number in (1, 2):
            url = f"{server.url}/u{number}/last.ckpt"
            assert reader.load_checkpoint(url)["number"] == number
        server.plans["u1/last.ckpt"] = ["cut", "cut"]
        with pytest.raises(ValueError, match=r"(cannot fetch the checkpoint '|')http://.*/u1/last"):
            reader.load_checkpoint(f"{server.url}/u1/last.ckpt")
        with pytest.raises(ValueError, match=r"cannot fetch the checkpoint 'http://.*/none.ckpt'"):
            reader.load_checkpoint(f"{server.url}/none.ckpt")


def test_a_checkpoint_does_not_choose_what_is_removed(tmp_path) -> None:
    """The name of the superseded file stands in the checkpoint that training goes on from."""
    precious = tmp_path / "precious"
    (precious / "kept").mkdir(parents=True)
    writer = WholeFileCheckpointIO()
    for name in ("old", "new"):
        writer.save_checkpoint({}, tmp_path / f"run/{name}.ckpt")
    for path in (precious, precious / "kept", tmp_path / "run/../precious", precious / "none"):
        writer.remove_checkpoint(str(path))
    assert (precious / "kept").is_dir()
    writer.remove_checkpoint(tmp_path / "run/old.ckpt")
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["new.ckpt"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> bytes:
    path = tmp_path_factory.mktemp("whole") / "a.ckpt"
    trainer = L.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    trainer.strategy.connect(FeatureTask(FeaturePyramid(width=8), ema_decay=0.0))
    trainer.save_checkpoint(path)
    return path.read_bytes()


@pytest.mark.parametrize("seed", range(5))
def test_flipped_bytes_are_found(tmp_path, whole: bytes, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    content = bytearray(whole)
    for place in torch.randint(len(content), (200,), generator=generator).tolist():
        content[place] ^= 0xFF
    path = tmp_path / "flipped.ckpt"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"flipped.ckpt' is (a|no) checkpoint"):
        maskfeat.load(path)
    with pytest.raises(ValueError, match=r"flipped.ckpt' is (a|no) checkpoint.*; give --ckpt_path"):
        WholeFileCheckpointIO().load_checkpoint(path)


def test_one_flipped_byte_of_a_weight_is_found(tmp_path, whole: bytes) -> None:
    content = bytearray(whole)
    content[len(content) // 2] ^= 1
    (tmp_path / "flipped.ckpt").write_bytes(content)
    with pytest.raises(ValueError, match=r"flipped.ckpt' is a checkpoint that is damaged"):
        maskfeat.load(tmp_path / "flipped.ckpt")


class _Interrupted(io.BytesIO):
    def write(self, content) -> int:
        if self.tell() > 10_000:
            raise KeyboardInterrupt
        return super().write(content)


def test_ctrl_c_in_mid_checkpoint_is_ctrl_c(tmp_path, monkeypatch) -> None:
    @contextlib.contextmanager
    def interrupted(path):
        yield _Interrupted()

    monkeypatch.setattr("maskfeat.features.checkpoint.whole_file", interrupted)
    tensors = {str(number): torch.zeros(1000) for number in range(20)}
    with pytest.raises(KeyboardInterrupt):
        WholeFileCheckpointIO().save_checkpoint(tensors, tmp_path / "a.ckpt")
