"""What the README shows is what there is."""

from __future__ import annotations

import io
import json
import re
import shlex
import shutil
import subprocess
import urllib.request

import numpy as np
import pytest
from fits import CHECKPOINTS, TWO_STEPS
from forked_python import Started
from PIL import Image
from shard_factory import write_members

import maskfeat
from maskfeat.app import tune_command

README, GUIDES = (
    "README.md",
    ("docs/index.md", *(f"docs/guides/{n}.md" for n in ("segment", "click", "train", "tools"))),
)
# Commands of the pages that no test can run: an install, a server, a GPU node, data to be named.
NOT_RUN = ("make", "pip", "tensorboard", "torchrun", "docker", "mkdocs", "export", "cvat-cli")


def blocks(repository, language: str, *pages: str) -> list[str]:
    texts = [(repository / page).read_text() for page in pages]
    return re.findall(rf"```{language}\n(.*?)```", "\n".join(texts), flags=re.DOTALL)


def commands(repository, *pages: str, language: str = "bash") -> list[list[str]]:
    texts = [block.replace("\\\n", " ") for block in blocks(repository, language, *pages)]
    lines = [line for text in texts for line in text.splitlines()]
    return [shlex.split(line, comments=True) for line in lines if line.strip()]


def test_make_knows_the_two_commands(repository) -> None:
    assert ["make", "fit"] in commands(repository, README)
    assert ["make", "test"] in commands(repository, README)
    for target in ("fit", "test"):
        planned = subprocess.run(
            ["make", "--dry-run", target],
            cwd=repository,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        expected = {"fit": "lightning fit --config conf/base.yaml", "test": "-m pytest"}[target]
        assert expected in planned


def answer_of(words: list[str], folder, path: str = "") -> str:
    """What a command that serves answers at a path; it is ended then."""
    server = Started(["-m", "maskfeat", *words, "--port=0"], folder, stdout="pipe")
    try:
        lines = iter(server.stdout.readline, "")
        url = next(re.search(r"http://\S+", line)[0] for line in lines if "http://" in line)
        with urllib.request.urlopen(url + path, timeout=240) as answer:
            return answer.read().decode()
    finally:
        server.kill()
        server.stdout.close()


def test_every_config_is_in_the_table_and_every_row_is_a_config(repository) -> None:
    text = (repository / "docs/guides/train.md").read_text()
    rows = set(re.findall(r"^\| `(conf/\w+\.yaml)`", text, flags=re.MULTILINE))
    assert rows == {f"conf/{path.name}" for path in (repository / "conf").glob("*.yaml")}


def test_the_shell_commands_run_one_after_the_other(
    repository, command, tmp_path, monkeypatch
) -> None:
    few = tmp_path / "few.yaml"
    few.write_text("data: {init_args: {epoch_images: 2, num_images: 1, num_objects: 1}}")
    monkeypatch.setattr(tune_command, "CONFIGS", [*tune_command.CONFIGS, str(few.with_suffix(""))])
    rng = np.random.default_rng(0)
    (tmp_path / "photos").mkdir()
    for key in ("a", "b"):
        pixels = rng.integers(0, 60, (80, 100, 3), dtype=np.uint8)
        pixels[20:60, 30:70] += np.uint8([190, 120, 0])  # an object that any weights find
        Image.fromarray(pixels).save(tmp_path / f"photos/{key}.jpg")
    ran = list[list[str]]()
    for words in commands(repository, README, *GUIDES):
        if words[0] not in ("lightning", "maskfeat"):
            assert words[0] in NOT_RUN, words
            continue
        if words in ran:
            continue
        ran.append(words)
        if words[1] == "tune":  # nobody has clicked on a page: the segments are the masks
            for key in ("a", "b"):
                shutil.copy(tmp_path / f"segments/{key}.json", tmp_path / "photos_annotations")
            words = [*words, "--epochs=1"]
        if words[1] == "annotate":
            assert "<canvas" in answer_of([*words[1:], "--open-browser=false"], tmp_path)
            continue
        if words[1] == "serve":  # label_studio needs the tool's own SDK
            if words[2] == "x_anylabeling":
                assert "healthy" in answer_of(words[1:], tmp_path, "/health")
            continue
        small = TWO_STEPS if words[0] == "lightning" else []
        if words[1] in ("fit", "validate"):
            small = [*small, *CHECKPOINTS, "--trainer.callbacks.every_n_train_steps=1"]
        command(*words[1:], *small)
    of_readme = [*["segment"] * 3, *["convert"] * 2, "fit", "annotate", "tune", "annotate"]
    of_readme += ["serve", "fit", "export", "fit"]
    of_guides = ["--version", "predict", "configs", "validate", "shards", "serve", "serve"]
    assert [words[1] for words in ran] == [*of_readme, *["shards"] * 4, *of_guides]
    assert (tmp_path / "own.safetensors").exists()
    assert (tmp_path / "tuned.safetensors").exists()
    assert (tmp_path / "small/index.json").exists()
    assert (tmp_path / "segments/a_labels.png").exists()
    assert (tmp_path / "coarser/a.json").exists()
    assert (tmp_path / "coco/annotations.json").exists()
    assert (tmp_path / "predictions/a.npz").exists()
    assert (tmp_path / "scenes/train-000000.tar.index").exists()


def test_the_bulk_commands_run_on_a_tar_of_this_machine(repository, command, tmp_path) -> None:
    pytest.importorskip("submitit")
    image = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(image, "JPEG")
    write_members(tmp_path / "tars/images-000.tar", [("a.jpg", image.getvalue())])
    ran = commands(repository, "docs/guides/segment.md", language="sh")
    for words in ran:
        command(*("tars" if "://" in word else word for word in words[1:]))
    assert [words[:3] for words in ran] == [
        ["maskfeat", "shards", what] for what in ("segment", "segment", "verify")
    ]
    assert json.loads((tmp_path / "segmented/index.json").read_bytes())["samples"] == 1


def test_the_python_lines_run(repository, monkeypatch, tmp_path) -> None:
    code = next(
        block for block in blocks(repository, "python", README) if "InteractiveSegmenter" in block
    )
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (70, 90, 3), dtype=np.uint8)).save("photo.jpg")
    names: dict = {}
    exec(code, names)
    assert names["labels"].shape == (70, 90)
    assert len(np.unique(names["labels"])) == 100
    assert len(np.unique(names["coarse"])) < 100
    assert names["contours"].shape == (141, 181)
    assert names["mask"][60, 80]
    mask = names["segmenter"].predict([[60, 80], [5, 5]], [True, False])
    assert mask[60, 80]
    assert not mask[5, 5]
    assert set(maskfeat.__all__) >= {"load", "partition", "InteractiveSegmenter", "Features"}


def test_the_python_lines_that_label_run(repository, monkeypatch, tmp_path) -> None:
    code = next(block for block in blocks(repository, "python", README) if "Labeler" in block)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    Image.fromarray(pixels).save("photos/a.png")
    names: dict = {}
    exec(code, names)
    assert names["proposal"].labels[20, 30] == 1
    assert any((tmp_path / "exported").iterdir())


@pytest.mark.parametrize("page", GUIDES)
def test_the_python_lines_of_the_guides_run(repository, monkeypatch, tmp_path, page) -> None:
    monkeypatch.chdir(tmp_path)
    pixels = np.random.default_rng(0).integers(0, 256, (70, 90, 3), dtype=np.uint8)
    Image.fromarray(pixels).save("photo.jpg")
    (tmp_path / "photos").mkdir()
    Image.fromarray(pixels).save("photos/a.png")
    for block in blocks(repository, "python", page):
        exec(block, {})


@pytest.mark.parametrize("name", sorted(set(maskfeat.__all__) - {"__version__"}))
def test_public_names_are_imported_when_asked_for(name: str) -> None:
    assert getattr(maskfeat, name).__name__ == name
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = maskfeat.nothing
