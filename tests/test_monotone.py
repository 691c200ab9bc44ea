from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maskfeat.segment.evidence import ATOM_MEASURES, ATOM_SIGNS
from maskfeat.segment.monotone import MonotoneNet, load_network, save_networks
from maskfeat.segment.refine import PIXEL_MEASURES, PIXEL_SIGNS
from maskfeat.segment.scene import default_networks


def small_net() -> MonotoneNet:
    weights = np.array([[1, -1]], np.float32), np.array([[2]], np.float32)
    zero = np.zeros((1, 1), np.float32)
    return MonotoneNet(
        ("for", "against"),
        (1, -1),
        np.zeros(2, np.float32),
        np.ones(2, np.float32),
        (*weights, np.array([[3]], np.float32)),
        (zero, zero, zero + 0.5),
        "worked by hand",
    )


def test_the_odds_are_those_worked_by_hand() -> None:
    odds = small_net()(np.array([[0.5, 9.0], [0.25, 0.0]]))
    expected = [
        3 * np.tanh(2 * np.tanh(0.5 - 0.25)) + 0.5,
        3 * np.tanh(2 * np.tanh(4)) + 0.5,  # clipped at four
    ]
    np.testing.assert_allclose(odds, expected, rtol=1e-6)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from(["atoms", "pixels"]))
def test_the_networks_that_come_along_go_the_way_of_their_signs(seed: int, name: str) -> None:
    network = getattr(default_networks(), name)
    rng = np.random.default_rng(seed)
    before = network.mean[:, None] + 3 * network.spread[:, None] * rng.normal(
        size=(len(network.signs), 50)
    )
    steps = rng.exponential(size=before.shape) * network.spread[:, None]
    after = before + steps * np.array(network.signs)[:, None]
    assert (network(after) >= network(before) - 1e-5).all()


def test_they_judge_by_the_measures_that_there_are() -> None:
    networks = default_networks()
    assert networks.atoms.measures == ATOM_MEASURES
    assert networks.atoms.signs == ATOM_SIGNS
    assert networks.pixels.measures == PIXEL_MEASURES
    assert networks.pixels.signs == PIXEL_SIGNS


def test_what_is_saved_is_loaded(tmp_path) -> None:
    save_networks(tmp_path / "a.json", {"one": small_net()})
    loaded = load_network(tmp_path / "a.json", "one", ("for", "against"))
    for field in dataclasses.fields(MonotoneNet):
        np.testing.assert_equal(getattr(loaded, field.name), getattr(small_net(), field.name))
    with pytest.raises(ValueError, match="other measures than this version has; refit it"):
        load_network(tmp_path / "a.json", "one", ("for", "neither"))


def test_weights_that_go_the_wrong_way_are_refused(tmp_path) -> None:
    save_networks(tmp_path / "a.json", {"one": small_net()})
    content = json.loads((tmp_path / "a.json").read_bytes())
    content["one"]["weights"][0] = [[1, 1]]
    (tmp_path / "a.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match="must go the way of its signs"):
        load_network(tmp_path / "a.json", "one", ("for", "against"))
