"""The fit of the networks that judge clicks: its samples, and one run on as little as there is."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from forked_python import run

FOLDER = Path(__file__).resolve().parents[2] / "experiments" / "interactive"
sys.path.insert(0, str(FOLDER))

import click_samples  # noqa: E402
import fit_changes  # noqa: E402
import fit_networks  # noqa: E402
import small_fits  # noqa: E402

from maskfeat.interactive.mask_change import CHANGE_MEASURES  # noqa: E402
from maskfeat.interactive.narrow_band import SLIVER_MEASURES  # noqa: E402
from maskfeat.interactive.networks import default_networks, load_networks  # noqa: E402


def test_random_clicks_are_different_pixels_of_both_sides_the_first_on_the_object() -> None:
    target = np.zeros((20, 30), np.int8)
    target[5:9, 7:20], target[15:] = 1, -1
    clicks, signs = click_samples.random_clicks(target, 25, np.random.default_rng(0))
    assert signs[0]
    assert len(np.unique(clicks, axis=0)) == len(clicks) == 25
    np.testing.assert_array_equal(target[tuple(clicks.T)] == 1, signs)
    assert (target[tuple(clicks.T)] >= 0).all()


def test_objects_of_each_image_and_small_ones_of_some() -> None:
    shards = str(FOLDER.parents[1] / "data_shards" / "small-000000.tar")
    targets = click_samples.targets_of([f"lab={shards}"], 3, objects=2, small_every=2)
    keys = [target.key for _, target in targets]
    shares = [(target.target == 1).mean() for _, target in targets]
    assert len(set(keys)) == len(keys)
    assert sum(share >= 0.005 for share in shares) == 6
    assert 1 <= sum(0.0005 <= share < 0.005 for share in shares) <= 2
    assert len(click_samples.targets_of([f"lab={shards}"], 3)) == 3


def test_a_fit_learns_which_way_is_up() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=(2, 4000)).astype(np.float32)
    is_object = (values[0] - values[1] > 0).astype(float)
    network = fit_networks.fit_one_way(
        [(values, is_object, np.ones(4000))], ("up", "down"), (1, -1), 8, 400, 0, "here"
    )
    assert ((network(values) > 0) == (is_object > 0)).mean() > 0.95
    wrong_way = fit_networks.fit_one_way(
        [(values, is_object, np.ones(4000))], ("up", "down"), (-1, 1), 8, 400, 0, "here"
    )
    assert ((wrong_way(values) > 0) == (is_object > 0)).mean() < 0.6


@pytest.mark.slow
def test_the_command_writes_networks_that_can_be_loaded(tmp_path) -> None:
    repository = FOLDER.parents[1]
    words = ["--play", "lab=data_shards/small-000000.tar", "--num_images", "2", "--clicks", "3"]
    words += ["--epochs", "1", "--out", str(tmp_path / "clicks.json")]
    script = "experiments/interactive/fit_networks.py"
    run([script, *words], repository, check=True)
    networks = load_networks(tmp_path / "clicks.json")
    assert "2 objects of lab=data_shards/small-000000.tar" in networks.superpixels.origin


def test_a_fit_of_slivers_learns_how_deep_they_are() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=(len(SLIVER_MEASURES), 4000)).astype(np.float32)
    depth = values[SLIVER_MEASURES.index("depth under the outline")]
    wanted = torch.from_numpy(depth < 0.3).float()
    network = small_fits.fit(
        SLIVER_MEASURES, torch.from_numpy(values), wanted, steps=200, seed=0, origin="here"
    )
    assert ((network(values) > 0) == (depth < 0.3)).mean() > 0.95


@pytest.mark.slow
def test_the_command_fits_slivers_and_leaves_the_other_networks(tmp_path) -> None:
    repository = FOLDER.parents[1]
    words = ["--play", "lab=data_shards/small-000000.tar", "--num_images", "2", "--clicks", "15"]
    words += ["--steps", "20", "--out", str(tmp_path / "clicks.json")]
    script = "experiments/interactive/fit_slivers.py"
    run([script, *words], repository, check=True)
    networks = load_networks(tmp_path / "clicks.json")
    assert "2 objects of lab=data_shards/small-000000.tar, 15 clicks" in networks.slivers.origin
    assert networks.slivers.as_json() != default_networks().slivers.as_json()
    assert networks.pixels.as_json() == default_networks().pixels.as_json()
    assert networks.superpixels.as_json() == default_networks().superpixels.as_json()


def test_samples_of_changes_say_how_much_of_a_superpixel_ought_to_change() -> None:
    shards = str(FOLDER.parents[1] / "data_shards" / "small-000000.tar")
    ((encoder, target),) = click_samples.targets_of([f"lab={shards}"], 1)
    samples = fit_changes.samples_of(target, encoder, default_networks(), np.random.default_rng(0))
    values, wanted, weights = fit_changes.joined(samples)
    assert values.shape == (len(CHANGE_MEASURES), len(wanted))
    assert ((wanted >= 0) & (wanted <= 1)).all()
    assert (weights > 0).all()
    odds = values[CHANGE_MEASURES.index("log odds of the change, by all prompts")]
    agrees = ((odds > 0) == (wanted > 0.5)).float()
    assert (agrees * weights).mean() > 0.7  # drawn scenes are easy


@pytest.mark.slow
def test_the_command_fits_changes_and_leaves_the_other_networks(tmp_path) -> None:
    repository = FOLDER.parents[1]
    words = ["--play", "lab=data_shards/small-000000.tar", "--num_images", "2"]
    words += ["--steps", "20", "--out", str(tmp_path / "clicks.json")]
    script = "experiments/interactive/fit_changes.py"
    run([script, *words], repository, check=True)
    networks, old = load_networks(tmp_path / "clicks.json"), default_networks()
    assert "2 objects of lab=data_shards/small-000000.tar, 1 iterations" in networks.changes.origin
    assert networks.changes.as_json() != old.changes.as_json()
    for name in ("superpixels", "pixels", "slivers"):
        assert getattr(networks, name).as_json() == getattr(old, name).as_json()


def test_a_file_without_one_of_the_networks_is_told_of_plainly(tmp_path) -> None:
    content = {name: net.as_json() for name, net in default_networks()._asdict().items()}
    del content["changes"]
    (tmp_path / "old.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"it has no networks of \['changes'\]; refit them"):
        load_networks(tmp_path / "old.json")
