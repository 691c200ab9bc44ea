"""`maskfeat export`: what it writes is what was trained."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import maskfeat
from maskfeat.cli import main
from maskfeat.features.pyramid import FeaturePyramid
from maskfeat.features.task import FeatureTask
from maskfeat.features.weights import read_card


@pytest.fixture
def checkpoint(tmp_path):
    torch.manual_seed(0)
    task = FeatureTask(FeaturePyramid(width=8), ema_decay=0.5)
    with torch.no_grad():
        task.averaged.module.heads[0].bias += 0.25  # told apart from the raw weights
    content = {"state_dict": task.state_dict()}
    task.on_save_checkpoint(content)
    torch.save(content, tmp_path / "last.ckpt")
    return tmp_path / "last.ckpt", task


def test_the_averaged_weights_and_the_card_are_in_the_file(checkpoint, tmp_path) -> None:
    path, task = checkpoint
    (tmp_path / "card.md").write_text("# Trained on ünïcode\n", encoding="utf-8")
    out = tmp_path / "small.safetensors"
    main(["export", str(path), str(out), "--card", str(tmp_path / "card.md"), "--full"])
    rgb = np.random.default_rng(0).integers(0, 256, (40, 56, 3), dtype=np.uint8)
    exported = maskfeat.load(out).features(rgb).dense()
    assert np.array_equal(exported, task.encoder.features(rgb).dense())
    assert not np.allclose(exported, task.net.features(rgb).dense(), atol=1e-3)
    assert read_card(out) == "# Trained on ünïcode\n"

    half = tmp_path / "half.safetensors"
    main(["export", str(out), str(half)])
    assert half.stat().st_size < 0.6 * out.stat().st_size
    assert np.abs(maskfeat.load(half).features(rgb).dense() - exported).max() < 0.02
    assert read_card(half) == ""


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["none.ckpt", "a.safetensors"], "no model file at 'none.ckpt'"),
        (["{path}", "a.pt"], "out must end in .safetensors or .onnx, got 'a.pt'"),
        (["{path}", "a.safetensors", "--card", "no.md"], "no card at 'no.md'"),
    ],
)
def test_what_cannot_be_exported_is_said_in_a_sentence(
    checkpoint, tmp_path, monkeypatch, words, said
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match=said):
        main(["export", *(word.format(path=checkpoint[0]) for word in words)])
    assert not list(tmp_path.glob("a.*"))
