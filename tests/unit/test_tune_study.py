"""The study of tuning: which rows are there already, and what its table says."""

from __future__ import annotations

import argparse
import importlib.util
import json

import pytest


def loaded(repository, name: str):
    """A script of experiments/tune; several folders have one of its name."""
    path = repository / f"experiments/tune/{name}.py"
    spec = importlib.util.spec_from_file_location(f"tune_{name}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def args(tmp_path) -> argparse.Namespace:
    model = tmp_path / "model.safetensors"
    model.write_bytes(b"weights")
    return argparse.Namespace(name="set", epochs=2, num_scored=15, known="", model=str(model))


@pytest.mark.parametrize("changed", ["epochs", "num_scored", "known", "model", "weights"])
def test_other_settings_are_another_run(repository, args, tmp_path, changed) -> None:
    study = loaded(repository, "study")
    settings, out = study.settings_of(args, 5, 0), tmp_path / "results.jsonl"
    assert not study.is_done(settings, out)
    out.write_text(json.dumps({**settings, "commit": "abc", "iou_1": 0.5}) + "\n")
    assert study.is_done(settings, out)
    if changed == "weights":
        (tmp_path / "model.safetensors").write_bytes(b"others")
    elif changed == "model":
        (tmp_path / "other.safetensors").write_bytes(b"weights")
        args.model = str(tmp_path / "other.safetensors")
    else:
        setattr(args, changed, "shards" if changed == "known" else 3)
    others = study.settings_of(args, 5, 0)
    assert not study.is_done(others, out)
    assert study.folder_of(others, tmp_path) != study.folder_of(settings, tmp_path)
    assert study.folder_of(settings, tmp_path) == study.folder_of(dict(settings), tmp_path)


def test_means_are_over_seeds_of_one_setting(repository) -> None:
    report = loaded(repository, "report")
    same = {"set": "a", "epochs": 2, "num_scored": 15, "weights": "w", "iou_5": 0.9, "noc_90": 9.0}
    before = {**same, "images": 0, "epochs": 0, "seed": 0, "iou_1": 0.5, "noc_85": 8.0}
    after = [
        {**same, "images": 5, "seed": seed, "iou_1": 0.6 + 0.2 * seed, "noc_85": 6.0 + 2 * seed}
        for seed in range(2)
    ]
    lines = report.table(report.grouped([before, *after])).splitlines()
    assert lines[2] == "| a | 0 | - | 0.500 | 0.900 | 8.00 | 9.00 |"
    # By hand: of two numbers the standard error is half their difference.
    assert lines[3] == "| a | 5 | 2 | 0.700 ± 0.100 | 0.900 ± 0.000 | 7.00 ± 1.00 | 9.00 ± 0.00 |"
    with pytest.raises(ValueError, match="the rows of a differ in epochs"):
        report.grouped([before, *after, {**after[0], "epochs": 3}])
