"""`maskfeat segment` in processes: the same bytes, and one that dies costs its image alone."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

import maskfeat
from maskfeat.cli import main
from maskfeat.data.synth.scene import draw_scene
from maskfeat.features.device import device_of
from maskfeat.features.pyramid import FeaturePyramid
from maskfeat.features.weights import save

# Ends its process when a certain image is opened, as the system does for want of memory.
DIES = """
import os, signal
import PIL.Image
opened = PIL.Image.open
def open_or_die(file, *args, **kwargs):
    if "dies.png" in str(getattr(file, "name", file)):
        os.kill(os.getpid(), signal.SIGKILL)
    return opened(file, *args, **kwargs)
PIL.Image.open = open_or_die
"""


@pytest.fixture
def photos(tmp_path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(3):
        scene = draw_scene(0, number, (60, 80))
        Image.fromarray(scene.image).save(folder / f"p{number}.png")
    return folder


def segment(photos: Path, out: Path, *words: str) -> dict[str, bytes]:
    main(["segment", str(photos), "--out", str(out), *words])
    return {path.name: path.read_bytes() for path in sorted(out.iterdir())}


@pytest.mark.usefixtures("forked_workers")
def test_two_workers_write_the_bytes_of_one(photos, tmp_path, capsys) -> None:
    model = str(tmp_path / "net.safetensors")
    torch.manual_seed(0)
    save(FeaturePyramid("test_efficientnet", width=8), model)
    (photos / "broken.png").write_bytes(b"not an image")
    words = ["--model", model, "--max_megapixels=0.004"]
    one = segment(photos, tmp_path / "one", *words)
    told = capsys.readouterr()
    two = segment(photos, tmp_path / "two", *words, "--workers=2")
    told_again = capsys.readouterr()

    assert len(one) == 12
    assert two == one
    assert told_again.out == told.out.replace("/one'", "/two'")
    assert "3 images segmented" in told.out
    for text in (told.err, told_again.err):
        assert text.count("left out") == 1
        assert "broken.png" in text
        assert text.count("80 x 60, is reduced to") == 3


def test_a_process_that_dies_costs_its_image_alone(photos, tmp_path, monkeypatch, capsys) -> None:
    (photos / "p1.png").rename(photos / "dies.png")
    (tmp_path / "site").mkdir()
    (tmp_path / "site/sitecustomize.py").write_text(DIES)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "site"))

    found = segment(photos, tmp_path / "out", "--model=lab", "--workers=2")

    told = capsys.readouterr()
    assert {name for name in found if name.endswith(".json")} == {
        f"p{number}.json" for number in (0, 2)
    }
    assert "2 images segmented" in told.out
    assert "1 left out" in told.out
    assert told.err.count("died, perhaps for want of memory") == 1
    assert "dies.png" in told.err


def test_wrong_numbers_and_devices_get_one_sentence(photos, tmp_path) -> None:
    for words, said in (
        (["--workers=-1"], "workers must be at least 0, got -1"),
        (["--device=abacus"], "device must be cpu, cuda, mps or auto, and be there, got 'abacus'"),
    ):
        with pytest.raises(SystemExit, match=said):
            segment(photos, tmp_path / "out", *words)
    assert not list((tmp_path / "out").glob("*.json"))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_said_and_auto_does_without() -> None:
    with pytest.raises(ValueError, match="and be there, got 'cuda'"):
        maskfeat.load("maskfeat-b0", device="cuda")
    assert device_of("auto").type in ("cpu", "mps")
    assert maskfeat.load("maskfeat-b0", device="auto").log_scale.device == device_of("auto")
