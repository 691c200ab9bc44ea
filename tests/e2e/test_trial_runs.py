"""Runs that only try whether all works, and starts that fail, by the command."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
from fits import CHECKPOINTS, SMALL_SCENES, TWO_STEPS, evaluating_less
from PIL import Image

# The numbers of images and objects stay those of the config, which a trial run reduces.
TWO_CLICKS = {name: {"max_clicks": 2} for name in ("InteractiveEvaluation", "ComparisonTable")}
CONFIG = ["--config=conf/base.yaml", *TWO_STEPS, SMALL_SCENES, "--trainer.limit_val_batches=1"]


def with_summary(words: list[str]) -> list[str]:
    return [word for word in words if "model_summary" not in word]


def test_a_short_fit_ends_in_a_short_table_and_a_summary_without_zeros(
    command, tmp_path, capsys, monkeypatch
) -> None:
    titles = []

    def recorded(trainer, items, title):
        titles.append(title)
        yield from items

    for room in ("scoring", "hierarchies"):
        monkeypatch.setattr(f"maskfeat.evaluate.{room}.with_progress", recorded)
    monkeypatch.setenv("COLUMNS", "120")
    words = [word for word in with_summary(CONFIG) if "progress_bar" not in word]
    words += ["--trainer.limit_train_batches=1"]
    command("fit", *words, evaluating_less(tmp_path, TWO_CLICKS))
    said = capsys.readouterr().out
    assert "1 val images, 1 objects to click" in " ".join(said.split())
    scores = json.loads((tmp_path / "runs/base/comparison.json").read_text())
    assert (scores["step"], scores["num_images"], scores["num_targets"]) == (1, 1, 1)
    assert set(scores["scores"]) == {"trained", "untrained", "Lab"}
    # Each line of progress says of which column it is.
    assert titles[-9:] == [
        f"{kind}, {column}"
        for column in ("trained", "untrained", "Lab")
        for kind in ("partitions", "hierarchies", "clicks")
    ]
    assert "FLOPs" not in said
    assert "FeaturePyramid" in said
    assert re.search(r"[\d.]+ [KM] of [\d.]+ [KM] parameters are trained, [\d.]+ MB in all", said)


def test_fast_dev_run_tries_one_of_everything(command, tmp_path, monkeypatch, capsys) -> None:
    seen = []
    monkeypatch.setattr(
        "maskfeat.evaluate.comparison.ComparisonTable._report",
        lambda self, trainer, stage, scores, log_dir, sizes: seen.append(sizes),
    )
    less = evaluating_less(tmp_path, TWO_CLICKS)
    command("fit", *CONFIG, less, "--trainer.fast_dev_run=true")
    assert seen == [(1, 1)]
    assert "Traceback" not in capsys.readouterr().err


def test_fast_dev_run_leaves_the_run_of_that_name_alone(command, tmp_path) -> None:
    last = tmp_path / "runs/base/checkpoints/last.ckpt"
    words = [*CONFIG, *CHECKPOINTS, "--trainer.callbacks.every_n_train_steps=1"]
    command("fit", *words, "--trainer.fast_dev_run=true")
    assert not last.exists()
    last.parent.mkdir(parents=True, exist_ok=True)
    last.write_bytes(b"hours of training")
    command("fit", *words, "--trainer.fast_dev_run=true")
    assert last.read_bytes() == b"hours of training"


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("--data.train=nowhere/*.tar", "no shard matches"),
        ("--data.batch_size=1000", "no whole batch of 1000"),
    ],
)
def test_a_fit_that_fails_on_its_data_leaves_no_run(command, tmp_path, word, said) -> None:
    with pytest.raises(SystemExit, match=said):
        command("fit", *CONFIG, word)
    assert not list(tmp_path.glob("runs/*"))
    # What another process has there stays.
    other = tmp_path / "runs/base/events.out.tfevents.1.host.1.0"
    other.parent.mkdir(parents=True)
    other.touch()
    with pytest.raises(SystemExit, match=said):
        command("fit", *CONFIG, word)
    assert [path.name for path in other.parent.iterdir()] == [other.name]


def test_predicting_says_of_how_many(command, tmp_path, capsys, recwarn) -> None:
    (tmp_path / "photos").mkdir()
    for number in range(2):
        pixels = np.random.default_rng(number).integers(0, 256, (30, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"photos/{number}.png")
    (tmp_path / "photos/broken.png").write_bytes(b"not an image")
    words = [word for word in CONFIG if "progress_bar" not in word]
    command("predict", *words, "--data.predict=photos", "--model.ema_decay=0")
    said = capsys.readouterr()
    assert "3/3" in said.out or "2/3" in said.out
    assert "--" not in said.out
    assert "broken.png" in said.err
    assert not [w for w in recwarn if "`__len__` defined" in str(w.message)]
    assert len(list((tmp_path / "predictions").glob("*.npz"))) == 2
