"""The fit of the networks that judge clicks: its samples, and one run on as little as there is."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from forked_python import run

FOLDER = Path(__file__).resolve().parents[2] / "experiments" / "interactive"
sys.path.insert(0, str(FOLDER))

import click_samples  # noqa: E402
import fit_mask_change  # noqa: E402
import fit_networks  # noqa: E402
import mlp_fits  # noqa: E402

from maskfeat.interactive.mask_change import CHANGE_FEATURES  # noqa: E402
from maskfeat.interactive.narrow_band import NARROW_BAND_FEATURES  # noqa: E402
from maskfeat.interactive.networks import (  # noqa: E402
    ClickNet,
    ClickNetworks,
    default_networks,
    load_networks,
)
from maskfeat.segment.mlp import Mlp  # noqa: E402


def different(one: ClickNetworks, other: ClickNetworks) -> list[str]:
    """Names of the networks that differ."""

    def content(network: ClickNet | Mlp) -> bytes:
        if isinstance(network, Mlp):
            return b"".join(array.tobytes() for array in network.packed()[0].values())
        return b"".join(values.numpy().tobytes() for values in network.state_dict().values())

    return [n for n in one._fields if content(getattr(one, n)) != content(getattr(other, n))]


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
    words += ["--epochs", "1", "--out", str(tmp_path / "clicks.safetensors")]
    script = "experiments/interactive/fit_networks.py"
    run([script, *words], repository, check=True)
    networks = load_networks(tmp_path / "clicks.safetensors")
    assert "2 objects of lab=data_shards/small-000000.tar" in networks.superpixels.origin


def test_a_fit_of_the_narrow_band_learns_how_deep_they_are() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=(len(NARROW_BAND_FEATURES), 4000)).astype(np.float32)
    depth = values[NARROW_BAND_FEATURES.index("depth under the outline")]
    wanted = torch.from_numpy(depth < 0.3).float()
    network = mlp_fits.fit(
        NARROW_BAND_FEATURES, torch.from_numpy(values), wanted, steps=200, seed=0, origin="here"
    )
    assert ((network(values) > 0) == (depth < 0.3)).mean() > 0.95


@pytest.mark.slow
def test_the_command_fits_the_narrow_band_and_leaves_the_other_networks(tmp_path) -> None:
    repository = FOLDER.parents[1]
    words = ["--play", "lab=data_shards/small-000000.tar", "--num_images", "2", "--clicks", "15"]
    words += ["--steps", "20", "--out", str(tmp_path / "clicks.safetensors")]
    script = "experiments/interactive/fit_narrow_band.py"
    run([script, *words], repository, check=True)
    networks = load_networks(tmp_path / "clicks.safetensors")
    assert "2 objects of lab=data_shards/small-000000.tar, 15 clicks" in networks.narrow_band.origin
    assert different(networks, default_networks()) == ["narrow_band"]


def test_samples_of_a_mask_change_say_how_much_of_a_superpixel_ought_to_change() -> None:
    shards = str(FOLDER.parents[1] / "data_shards" / "small-000000.tar")
    ((encoder, target),) = click_samples.targets_of([f"lab={shards}"], 1)
    samples = fit_mask_change.samples_of(
        target, encoder, default_networks(), np.random.default_rng(0)
    )
    values, wanted, weights = fit_mask_change.joined(samples)
    assert values.shape == (len(CHANGE_FEATURES), len(wanted))
    assert ((wanted >= 0) & (wanted <= 1)).all()
    assert (weights > 0).all()
    logits = values[CHANGE_FEATURES.index("logit of the change, by all prompts")]
    agrees = ((logits > 0) == (wanted > 0.5)).float()
    assert (agrees * weights).mean() > 0.7  # drawn scenes are easy


@pytest.mark.slow
def test_the_command_fits_mask_change_and_leaves_the_other_networks(tmp_path) -> None:
    repository = FOLDER.parents[1]
    words = ["--play", "lab=data_shards/small-000000.tar", "--num_images", "2"]
    words += ["--steps", "20", "--out", str(tmp_path / "clicks.safetensors")]
    script = "experiments/interactive/fit_mask_change.py"
    run([script, *words], repository, check=True)
    networks, old = load_networks(tmp_path / "clicks.safetensors"), default_networks()
    assert (
        "2 objects of lab=data_shards/small-000000.tar, 1 iterations" in networks.mask_change.origin
    )
    assert different(networks, old) == ["mask_change"]


def test_a_file_that_lacks_a_network_is_refused_in_one_sentence(tmp_path) -> None:
    network = default_networks().pixels
    network.save(tmp_path / "old.safetensors")
    with pytest.raises(ValueError, match=r"it has no networks of \['superpixels', .*\]; refit"):
        load_networks(tmp_path / "old.safetensors")
