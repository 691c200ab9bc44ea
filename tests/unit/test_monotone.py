from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maskfeat.interactive.monotone import MonotoneNet
from maskfeat.interactive.networks import default_networks
from maskfeat.interactive.refine import PIXEL_MEASURES, PIXEL_SIGNS


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
@given(st.integers(0, 10_000))
def test_the_network_that_comes_along_goes_the_way_of_its_signs(seed: int) -> None:
    network = default_networks().pixels
    rng = np.random.default_rng(seed)
    before = network.mean[:, None] + 3 * network.spread[:, None] * rng.normal(
        size=(len(network.signs), 50)
    )
    steps = rng.exponential(size=before.shape) * network.spread[:, None]
    after = before + steps * np.array(network.signs)[:, None]
    assert (network(after) >= network(before) - 1e-5).all()


def test_it_classifiers_by_the_measures_that_there_are() -> None:
    assert default_networks().pixels.measures == PIXEL_MEASURES
    assert default_networks().pixels.signs == PIXEL_SIGNS


def test_what_is_written_is_read() -> None:
    content = json.loads(json.dumps(small_net().as_json()))
    read = MonotoneNet.of_json(content, ("for", "against"))
    for field in dataclasses.fields(MonotoneNet):
        np.testing.assert_equal(getattr(read, field.name), getattr(small_net(), field.name))
    with pytest.raises(ValueError, match="other measures than this version has; refit it"):
        MonotoneNet.of_json(content, ("for", "neither"))


def test_weights_that_go_the_wrong_way_are_refused() -> None:
    content = small_net().as_json()
    content["weights"][0] = [[1, 1]]
    with pytest.raises(ValueError, match="must go the way of its signs"):
        MonotoneNet.of_json(content, ("for", "against"))
