from __future__ import annotations

import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maskfeat.interactive.pixelcut import cut_pixels
from maskfeat.segment.max_flow import FlowGraph


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 9), st.integers(1, 9))
def test_pixels_are_cut_as_the_same_graph_is_by_scipy(seed: int, height: int, width: int) -> None:
    rng = np.random.default_rng(seed)
    unary = rng.normal(size=(height, width))
    right, below = (
        rng.exponential(size=(height, width - 1)),
        rng.exponential(size=(height - 1, width)),
    )
    seeds = rng.permutation(height * width)[:4]
    inside, outside = seeds[:2], seeds[2:]
    numbers = np.arange(height * width).reshape(height, width)
    edges = np.concatenate(
        [
            np.stack([numbers[:, :-1].ravel(), numbers[:, 1:].ravel()], axis=1),
            np.stack([numbers[:-1].ravel(), numbers[1:].ravel()], axis=1),
        ]
    )
    costs = np.concatenate([right.ravel(), below.ravel()])
    network = FlowGraph(height * width, edges, costs, float(np.abs(unary).sum()))
    expected = network.cut(unary.ravel(), inside, outside).reshape(height, width)
    places = [np.stack(np.divmod(pixels, width), axis=1) for pixels in (inside, outside)]
    np.testing.assert_array_equal(cut_pixels(unary, right, below, *places), expected)


def test_without_pymaxflow_it_says_what_to_install(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "maxflow", None)
    none = np.empty((0, 2), int)
    with pytest.raises(ModuleNotFoundError, match=r"pip install .maskfeat\[graphcut\]"):
        cut_pixels(np.zeros((2, 2)), np.zeros((2, 1)), np.zeros((1, 2)), none, none)
