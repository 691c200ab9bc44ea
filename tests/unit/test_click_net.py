"""The network that reads clicks: of what it is a function, and reading click by click."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from click_scenes import GRAPH
from hypothesis import given, settings
from hypothesis import strategies as st

from maskfeat.interactive import networks as networks_module
from maskfeat.interactive.evidence import ClickEvidence
from maskfeat.interactive.networks import (
    ClickNet,
    ClickReader,
    default_networks,
    load_networks,
    save_networks,
)
from maskfeat.interactive.refine import PIXEL_FEATURES, PIXEL_SIGNS
from maskfeat.segment.hierarchy import superpixel_hierarchy

TREE = superpixel_hierarchy(GRAPH).tree
EVIDENCE = ClickEvidence(GRAPH, TREE)
NONE = np.empty(0, np.int64)


def random_net(seed: int = 0) -> ClickNet:
    torch.manual_seed(seed)
    return ClickNet(hidden=5, effects=3, width=7, origin="here").requires_grad_(False)


def drawn_clicks(seed: int, most: int = 8) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    clicked = rng.choice(GRAPH.num_superpixels, size=2 * most, replace=False)
    inside, outside = rng.integers(1, most + 1), rng.integers(0, most + 1)
    return np.sort(clicked[:inside]), np.sort(clicked[most : most + outside])


def logits_at_once(net: ClickNet, inside: np.ndarray, outside: np.ndarray) -> np.ndarray:
    """As `ClickReader`, but all clicks and superpixels in one pass."""

    def distances(clicked: np.ndarray) -> torch.Tensor:
        rows = [EVIDENCE.distances(int(superpixel)) for superpixel in clicked]
        return torch.from_numpy(np.stack(rows, axis=1)) if rows else torch.empty(0)

    contexts = [EVIDENCE.contexts(*pair) for pair in ((outside, inside), (inside, outside))]
    click_features = torch.from_numpy(EVIDENCE.click_features(inside, outside))
    with torch.no_grad():
        found = net(
            [distances(outside), distances(inside)],
            list(map(torch.from_numpy, contexts)),
            click_features,
        )
    return found.numpy()


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000))
def test_read_click_by_click_it_is_the_same(seed: int) -> None:
    inside, outside = drawn_clicks(seed)
    net = random_net(seed)
    reader = ClickReader(EVIDENCE, net)
    found = reader.logits(inside, outside)
    np.testing.assert_allclose(found, logits_at_once(net, inside, outside), atol=1e-4)
    # What was read before leaves no trace.
    reader.logits(*drawn_clicks(seed + 1))
    np.testing.assert_array_equal(reader.logits(inside, outside), found)
    np.testing.assert_array_equal(ClickReader(EVIDENCE, net).logits(inside, outside), found)


def test_the_odds_worked_by_hand() -> None:
    net = ClickNet(hidden=1, effects=1, width=1).requires_grad_(False)
    for values in net.parameters():
        values.zero_()
    # One way counts, one context stretches it, the largest effect over the clicks is left.
    net.distances[1].weight[0, 4] = -1.0  # distance in the image
    net.contexts[1][2].bias[:] = torch.tensor([np.log(2.0), 3.0])
    net.effects[1].weight[:] = 0.5
    for layer, weight in ((0, 1.0), (2, 1.0), (4, 1.0)):
        net.superpixels[layer].weight[0, 1 if layer == 0 else 0] = weight
    distances = torch.zeros(12, 2, 1)
    distances[4, :, 0] = torch.tensor([0.75, 2.0])
    context, click_features = torch.zeros(2, 28), torch.zeros(30, 1)
    effect = max(0.5 * max(0, 2 * -0.75 + 3), 0.5 * max(0, 2 * -2.0 + 3))
    logits = net([torch.empty(0), distances], [torch.empty(0), context], click_features)
    np.testing.assert_allclose(logits, [effect], atol=1e-6)


def test_a_click_in_another_context_says_another_thing() -> None:
    net = random_net()
    distances = torch.from_numpy(EVIDENCE.distances(17))[:, None]
    alone, beside = (EVIDENCE.contexts(np.array([17]), other) for other in (NONE, np.array([18])))
    one, two = (net.effect(1, distances, net.rounded(torch.from_numpy(c))) for c in (alone, beside))
    assert (one != two).any()


def test_those_that_come_along_put_the_object_around_its_click() -> None:
    inside, outside = np.array([GRAPH.labels[30, 25]]), np.array([GRAPH.labels[5, 50]])
    logits = ClickReader(EVIDENCE, default_networks().superpixels).logits(inside, outside)
    assert logits[inside] > 0 > logits[outside]


def test_saved_networks_are_loaded_bit_for_bit(tmp_path) -> None:
    networks = default_networks()._replace(superpixels=random_net())
    save_networks(tmp_path / "a.safetensors", networks)
    loaded = load_networks(tmp_path / "a.safetensors")
    assert loaded.superpixels.origin == "here"
    inside, outside = drawn_clicks(3)
    np.testing.assert_array_equal(
        ClickReader(EVIDENCE, loaded.superpixels).logits(inside, outside),
        ClickReader(EVIDENCE, networks.superpixels).logits(inside, outside),
    )
    for name in ("pixels", "narrow_band", "mask_change"):
        mine, theirs = getattr(loaded, name), getattr(networks, name)
        for one, other in zip(
            mine.weights + mine.biases, theirs.weights + theirs.biases, strict=True
        ):
            np.testing.assert_array_equal(one, other)


def test_networks_of_other_features_are_refused(tmp_path, monkeypatch) -> None:
    save_networks(tmp_path / "a.safetensors", default_networks())
    monkeypatch.setitem(networks_module._INPUTS, "distances", ("another",))
    with pytest.raises(ValueError, match="cannot be used: it was fitted to other features"):
        load_networks(tmp_path / "a.safetensors")


def test_a_file_that_holds_no_networks_is_refused_in_one_sentence(tmp_path) -> None:
    (tmp_path / "a.json").write_text("{}")
    with pytest.raises(ValueError, match="cannot be used"):
        load_networks(tmp_path / "a.json")


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000))
def test_the_pixel_network_is_monotone_by_its_signs(seed: int) -> None:
    network = default_networks().pixels
    assert (network.inputs, network.signs) == (PIXEL_FEATURES, PIXEL_SIGNS)
    rng = np.random.default_rng(seed)
    noise = rng.normal(size=(len(network.inputs), 50))
    before = network.mean[:, None] + 3 * network.std[:, None] * noise
    steps = rng.exponential(size=before.shape) * network.std[:, None]
    after = before + steps * np.array(network.signs)[:, None]
    assert (network(after) >= network(before) - 1e-5).all()


def test_a_scribble_over_all_superpixels_takes_bounded_memory() -> None:
    evidence = ClickEvidence(GRAPH, TREE)
    reader = ClickReader(evidence, default_networks().superpixels)
    half = GRAPH.num_superpixels // 2
    everyone = np.arange(GRAPH.num_superpixels)
    logits = reader.logits(everyone[:half], everyone[half:])
    assert np.isfinite(logits).all()
    assert evidence._between.size <= 12 * (2 * 256 + 16) ** 2
    some, _ = reader.logits_at(np.array([3, 4]), everyone[:half], everyone[half:])
    np.testing.assert_allclose(some, logits[[3, 4]], atol=1e-3)
