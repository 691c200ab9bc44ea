"""The network that reads clicks: of what it is a function, and reading click by click."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from click_scenes import GRAPH
from hypothesis import given, settings
from hypothesis import strategies as st

from maskfeat.interactive.click_net import ClickNet
from maskfeat.interactive.click_reader import ClickReader
from maskfeat.interactive.evidence import ClickEvidence
from maskfeat.interactive.networks import default_networks, load_networks, save_networks
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


def odds_at_once(net: ClickNet, inside: np.ndarray, outside: np.ndarray) -> np.ndarray:
    """As `ClickReader`, but all clicks and superpixels in one pass."""

    def ways(clicked: np.ndarray) -> torch.Tensor:
        rows = [EVIDENCE.ways(int(superpixel)) for superpixel in clicked]
        return torch.from_numpy(np.stack(rows, axis=1)) if rows else torch.empty(0)

    contexts = [EVIDENCE.contexts(*pair) for pair in ((outside, inside), (inside, outside))]
    measures = torch.from_numpy(EVIDENCE.measures(inside, outside))
    with torch.no_grad():
        found = net([ways(outside), ways(inside)], list(map(torch.from_numpy, contexts)), measures)
    return found.numpy()


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000))
def test_read_click_by_click_it_is_the_same(seed: int) -> None:
    inside, outside = drawn_clicks(seed)
    net = random_net(seed)
    reader = ClickReader(EVIDENCE, net)
    found = reader.odds(inside, outside)
    np.testing.assert_allclose(found, odds_at_once(net, inside, outside), atol=1e-4)
    # What was read before leaves no trace.
    reader.odds(*drawn_clicks(seed + 1))
    np.testing.assert_array_equal(reader.odds(inside, outside), found)
    np.testing.assert_array_equal(ClickReader(EVIDENCE, net).odds(inside, outside), found)


def test_the_odds_worked_by_hand() -> None:
    net = ClickNet(hidden=1, effects=1, width=1).requires_grad_(False)
    for values in net.parameters():
        values.zero_()
    # One way counts, one context stretches it, the largest effect over the clicks is left.
    net.ways[1].weight[0, 4] = -1.0  # distance in the image
    net.contexts[1][2].bias[:] = torch.tensor([np.log(2.0), 3.0])
    net.effects[1].weight[:] = 0.5
    for layer, weight in ((0, 1.0), (2, 1.0), (4, 1.0)):
        net.superpixels[layer].weight[0, 1 if layer == 0 else 0] = weight
    ways = torch.zeros(12, 2, 1)
    ways[4, :, 0] = torch.tensor([0.75, 2.0])
    context, measures = torch.zeros(2, 28), torch.zeros(30, 1)
    effect = max(0.5 * max(0, 2 * -0.75 + 3), 0.5 * max(0, 2 * -2.0 + 3))
    odds = net([torch.empty(0), ways], [torch.empty(0), context], measures)
    np.testing.assert_allclose(odds, [effect], atol=1e-6)


def test_a_click_in_another_context_says_another_thing() -> None:
    net = random_net()
    ways = torch.from_numpy(EVIDENCE.ways(17))[:, None]
    alone, beside = (EVIDENCE.contexts(np.array([17]), other) for other in (NONE, np.array([18])))
    one, two = (net.effect(1, ways, net.rounded(torch.from_numpy(c))) for c in (alone, beside))
    assert (one != two).any()


def test_those_that_come_along_put_the_object_around_its_click() -> None:
    inside, outside = np.array([GRAPH.labels[30, 25]]), np.array([GRAPH.labels[5, 50]])
    odds = ClickReader(EVIDENCE, default_networks().superpixels).odds(inside, outside)
    assert odds[inside] > 0 > odds[outside]


def test_what_is_saved_is_loaded_and_of_other_measures_refused(tmp_path) -> None:
    networks = default_networks()._replace(superpixels=random_net())
    save_networks(tmp_path / "a.json", networks)
    loaded = load_networks(tmp_path / "a.json").superpixels
    assert loaded.origin == "here"
    inside, outside = drawn_clicks(3)
    np.testing.assert_allclose(
        ClickReader(EVIDENCE, loaded).odds(inside, outside),
        ClickReader(EVIDENCE, networks.superpixels).odds(inside, outside),
        atol=1e-3,
    )
    content = json.loads((tmp_path / "a.json").read_bytes())
    content["superpixels"]["inputs"]["ways"][0] = "another"
    (tmp_path / "a.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match="cannot be used: it judges by other measures"):
        load_networks(tmp_path / "a.json")


def test_a_scribble_over_all_superpixels_takes_bounded_memory() -> None:
    evidence = ClickEvidence(GRAPH, TREE)
    reader = ClickReader(evidence, default_networks().superpixels)
    half = GRAPH.num_superpixels // 2
    everyone = np.arange(GRAPH.num_superpixels)
    odds = reader.odds(everyone[:half], everyone[half:])
    assert np.isfinite(odds).all()
    assert evidence._between.size <= 12 * (2 * 256 + 16) ** 2
    some, _ = reader.odds_at(np.array([3, 4]), everyone[:half], everyone[half:])
    np.testing.assert_allclose(some, odds[[3, 4]], atol=1e-3)
