"""The wheel, used outside the checkout: what an install from the registry gives."""

from __future__ import annotations

import subprocess
import sys
import urllib.request
import zipfile
from pathlib import Path

import forked_python
import numpy as np
import pytest
from fits import TWO_STEPS
from PIL import Image

# Two steps with a checkpoint of each, without the evaluations of the config.
FIT = [
    *TWO_STEPS,
    "--trainer.callbacks=[{class_path: lightning.pytorch.callbacks.ModelCheckpoint, init_args: "
    "{save_last: true, save_top_k: 0, every_n_train_steps: 1, enable_version_counter: false}}]",
]


@pytest.fixture(scope="module")
def wheel(repository, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    build = ["pip", "wheel", "--quiet", "--no-deps", "--no-index", "--no-build-isolation"]
    subprocess.run(
        [sys.executable, "-m", *build, f"--wheel-dir={folder}", str(repository)],
        check=True,
        cwd=folder,
    )
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Path:
    """Where the wheel is installed; its dependencies are those of this environment."""
    target = tmp_path_factory.mktemp("site")
    install = ["pip", "install", "--quiet", "--no-deps", "--no-index", f"--target={target}"]
    subprocess.run([sys.executable, "-m", *install, str(wheel)], check=True)
    return target


@pytest.fixture
def run(installed, tmp_path, monkeypatch):
    """Run an installed command in an empty folder, and give what it printed."""
    monkeypatch.setenv("PYTHONPATH", str(installed))
    monkeypatch.setenv("PYTHONSAFEPATH", "1")

    def run(command: str, *words: str) -> str:
        done = forked_python.run([installed / "bin" / command, *words], tmp_path, check=True)
        return done.stdout + done.stderr

    return run


def test_the_wheel_holds_package_configs_scenes_and_licence(wheel, repository) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    roots = {name.split("/")[0] for name in names}
    assert {root for root in roots if not root.endswith(".dist-info")} == {"maskfeat"}
    for folder, ending in (("conf", "yaml"), ("data_shards", "tar")):
        files = {path.name for path in (repository / folder).glob(f"*.{ending}")}
        assert {Path(n).name for n in names if n.startswith(f"maskfeat/{folder}/")} == files
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert "maskfeat/py.typed" in names
    assert "maskfeat/app/page/index.html" in names
    assert wheel.stat().st_size < 15e6


def test_an_image_is_segmented(run, tmp_path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    run("maskfeat", "segment", "photo.png", "--out", "segments")
    assert (tmp_path / "segments/photo_labels.png").exists()


def test_two_steps_are_trained_by_a_packaged_config_on_packaged_scenes(
    run, installed, tmp_path
) -> None:
    printed = run("lightning", "fit", "--config", "base", *FIT)
    scenes = installed / "maskfeat" / "data_shards"
    assert f"reading the packaged scenes in {scenes}" in printed
    assert (tmp_path / "runs/base/checkpoints/last.ckpt").exists()


def test_configs_are_listed_and_copied_but_never_over_files(run, repository, tmp_path) -> None:
    assert "base " in run("maskfeat", "configs")
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf/base.yaml").write_text("mine")

    printed = run("maskfeat", "configs", "conf")

    assert "kept   conf/base.yaml" in printed
    assert (tmp_path / "conf/base.yaml").read_text() == "mine"
    copied = {path.name for path in (tmp_path / "conf").iterdir()}
    assert copied == {path.name for path in (repository / "conf").glob("*.yaml")}


def test_the_page_answers(run, installed, tmp_path) -> None:
    (tmp_path / "photos").mkdir()
    Image.new("RGB", (60, 40), "teal").save(tmp_path / "photos/a.png")
    words = ["annotate", "photos", "--port=0", "--open_browser=false"]
    serve = [str(installed / "bin/maskfeat"), *words]
    # As a user starts it: a process of the installed files alone.
    with subprocess.Popen(serve, cwd=tmp_path, stdout=subprocess.PIPE, text=True) as server:
        try:
            lines = iter(server.stdout.readline, "")
            url = next(line.split()[1] for line in lines if line.startswith("open "))
            with urllib.request.urlopen(url, timeout=240) as answer:
                assert "<canvas" in answer.read().decode()
        finally:
            server.kill()
