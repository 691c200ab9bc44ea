"""What a prompt near the outline means."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from maskfeat.interactive.narrow_band import (
    NARROW_BAND_FEATURES,
    NarrowBandReader,
    is_in_narrow_band,
)
from maskfeat.interactive.networks import default_networks
from maskfeat.interactive.prompts import Prompt
from maskfeat.segment.mlp import Mlp

SIZE = (40, 50)
RNG = np.random.default_rng(0)
FINE = ndimage.gaussian_filter(RNG.normal(size=(*SIZE, 2)), (2, 2, 0)).astype(np.float32)
COLORS = ndimage.gaussian_filter(RNG.normal(size=(*SIZE, 3)), (2, 2, 0)).astype(np.float32)


def mask_of(seed: int) -> np.ndarray:
    return ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=SIZE), 4) > 0


def net_of(**weights: float) -> Mlp:
    """A network whose logits are about 10 times a sum of features, by name, and of `bias`."""
    first = np.zeros((1, len(NARROW_BAND_FEATURES)), np.float32)
    bias = np.full(1, weights.pop("bias", 0.0), np.float32)
    for name, weight in weights.items():
        first[0, NARROW_BAND_FEATURES.index(name.replace("_", " "))] = weight
    count = len(NARROW_BAND_FEATURES)
    # No input is clipped, and tanh is about linear.
    spread = np.full(count, 1e3, np.float32)
    one, zero = np.ones((1, 1), np.float32), np.zeros(1, np.float32)
    return Mlp(
        NARROW_BAND_FEATURES,
        np.zeros(count, np.float32),
        spread,
        (first, one, one),
        (bias / 1e3, zero, zero),
    )


def half() -> np.ndarray:
    mask = np.zeros(SIZE, bool)
    mask[:, :25] = True
    return mask


def test_what_is_measured_is_what_a_naive_search_finds() -> None:
    mask = mask_of(3)
    wrong = np.argwhere(~mask[10:30, 10:40]) + 10
    pixel = wrong[len(wrong) // 2]
    prompt = Prompt(pixel[None], True, 2.5)
    row, column = pixel
    inside = np.array([[row, column], [row + 3, column + 1], [39, 49]])
    outside = np.array([[row - 4, column - 4], [0, 0]])
    heard = {}

    class Reader(NarrowBandReader):
        def read(self, *args):
            asked, click_features = super().read(*args)
            corner = [side.start for side in args[3]]
            heard.update(pixels=np.stack(asked, axis=1) + corner, click_features=click_features)
            return asked, click_features

    Reader(net_of(), FINE, COLORS).change(prompt, mask, (outside, inside))
    near = np.argwhere(~mask)
    near = near[np.hypot(*(near - pixel).T) <= 19]  # 5 times the click radius, rounded up, and 6
    np.testing.assert_array_equal(heard["pixels"], near)
    # The window is what lies so far away, too.
    low, high = np.maximum(pixel - 19, 0), np.minimum(pixel + 20, SIZE)
    objects = np.argwhere(mask)
    objects = objects[((objects >= low) & (objects < high)).all(axis=1)]
    for at, values in zip(near, heard["click_features"].T, strict=True):
        known = dict(zip(NARROW_BAND_FEATURES, values, strict=True))
        distance = np.hypot(*(at - pixel))
        depth = np.hypot(*(objects - at).T).min()
        assert known["log click radius"] == pytest.approx(np.log(2.5))
        assert known["distance to the prompt"] == pytest.approx(distance)
        assert known["distance by click radius"] == pytest.approx(distance / 2.5)
        assert known["depth under the outline"] == pytest.approx(depth)
        assert known["depth by click radius"] == pytest.approx(depth / 2.5)
        assert known["the prompt is on the object"] == 1
        for name, others in (("the other", outside), ("its", inside[1:])):
            nearest = min(24, np.hypot(*(others - at).T).min())
            assert known[f"distance to other prompts of {name} kind"] == pytest.approx(nearest)
        for name, look in (("color", COLORS), ("feature", FINE)):
            apart = np.linalg.norm(look[tuple(at)] - look[tuple(pixel)])
            assert known[f"{name} distance to the prompt"] == pytest.approx(apart, abs=1e-4)
        rows = slice(max(low[0], at[0] - 5), min(high[0], at[0] + 6))
        columns = slice(max(low[1], at[1] - 5), min(high[1], at[1] + 6))
        here = mask[rows, columns]
        means = [
            COLORS[rows, columns][side].sum(axis=0) / (side.sum() + 1e-3) for side in (here, ~here)
        ]
        own, other = (np.linalg.norm(COLORS[tuple(at)] - mean) for mean in means)
        assert known["color: like the prompt's side"] == pytest.approx(other - own, abs=1e-3)


def test_a_sliver_is_as_the_network_says_and_only_of_the_other_label() -> None:
    # Pixels that lie 3 deep at most.
    net = net_of(depth_under_the_outline=-1.0, bias=3.5)
    prompt = Prompt(np.array([[20, 26]]), True, 2.0)
    prompts = (np.array([[30, 40]]), prompt.pixels_yx)
    window, change = NarrowBandReader(net, FINE, COLORS).change(prompt, half(), prompts)
    found = np.zeros(SIZE, bool)
    found[window] = change
    rows, columns = np.nonzero(found)
    assert columns.min() == 25
    assert columns.max() == 27
    assert rows.min() == 20 - 16  # 5 times the click radius and 6
    assert rows.max() == 20 + 16


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000))
def test_what_was_asked_before_leaves_no_trace(seed: int) -> None:
    rng = np.random.default_rng(seed)
    net = default_networks().narrow_band
    used = NarrowBandReader(net, FINE, COLORS)
    mask = mask_of(seed)
    places = np.stack([rng.integers(side, size=6) for side in SIZE], axis=1)
    for place in places:
        is_object = not mask[tuple(place)]
        prompt = Prompt(place[None], is_object, float(rng.uniform(1, 3)))
        prompts = places[:3], places[3:]
        for reader in (used, used, NarrowBandReader(net, FINE, COLORS)):
            window, change = reader.change(prompt, mask, prompts)
            found = (mask[window] != is_object) & change
            np.testing.assert_array_equal(found, change)
            if reader is used:
                kept = change.copy()
        np.testing.assert_array_equal(change, kept)


def test_the_network_that_comes_along_finds_a_sliver_beside_an_edge() -> None:
    look = np.zeros((*SIZE, 3), np.float32)
    look[:, :28] = 0.5  # the edge lies at 28, the outline at 25: three columns are wrong
    rng = np.random.default_rng(0)
    look += rng.normal(size=look.shape).astype(np.float32) * 0.01
    prompt = Prompt(np.array([[20, 26]]), True, 2.0)
    reader = NarrowBandReader(default_networks().narrow_band, look * 4, look)
    window, change = reader.change(prompt, half(), (np.empty((0, 2), np.int64), prompt.pixels_yx))
    found = np.zeros(SIZE, bool)
    found[window] = change
    assert found[18:23, 25:28].all()
    assert not found[:, 28:].any()


def test_prompts_with_more_click_radius_and_long_scribbles_are_no_slivers() -> None:
    assert is_in_narrow_band(Prompt(np.array([[5, 5]]), True, 3.0))
    assert not is_in_narrow_band(Prompt(np.array([[5, 5]]), True, 4.0))
    assert not is_in_narrow_band(Prompt(np.array([[5, 5]]), True))
    line = np.stack([np.arange(0, 300), np.arange(0, 300)], axis=1)
    assert not is_in_narrow_band(Prompt(line, True, 2.0))


def test_without_colors_the_features_still_say_something() -> None:
    prompt = Prompt(np.array([[20, 26]]), True, 2.0)
    prompts = (np.empty((0, 2), np.int64), prompt.pixels_yx)
    by_color = net_of(color_distance_to_the_prompt=1.0)
    assert not NarrowBandReader(by_color, FINE).change(prompt, half(), prompts)[1].any()
    by_features = net_of(feature_distance_to_the_prompt=1.0)
    assert NarrowBandReader(by_features, FINE).change(prompt, half(), prompts)[1].any()
