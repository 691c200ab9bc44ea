from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from maskfeat.interactive.prompts import (
    Prompt,
    Window,
    click_radius_of,
    distance_to_outline,
    full_window,
    grown,
    parts_with,
    pixels_of,
    window_around,
)
from maskfeat.interactive.update import ProgressiveMerge

SIZE = (24, 30)


def prompt(row: int, column: int, is_object: bool, click_radius: float = np.inf) -> Prompt:
    return Prompt(np.array([[row, column]]), is_object, click_radius)


class Masks:
    """Masks of a function of the labeled pixels, the same in every window."""

    def __init__(self, mask_of: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> None:
        self.mask_of = mask_of

    def whole(self, prompts) -> np.ndarray:
        return self.mask_of(pixels_of(prompts, True), pixels_of(prompts, False))

    def change(self, prompt, mask, prompts) -> tuple[Window, np.ndarray]:
        window = grown(window_around(prompt.pixels_yx), 5, full_window(mask.shape))
        wanted = self.whole(prompts) == prompt.is_object
        change = (wanted & (mask != prompt.is_object))[window]
        seeds = prompt.pixels_yx - [side.start for side in window]
        change[tuple(seeds.T)] = True
        return window, parts_with(change, seeds)


def arbitrary_mask(inside: np.ndarray, outside: np.ndarray) -> np.ndarray:
    """A smooth random mask for each set of prompts: the least stable cut there is."""
    seed = [*np.sort(inside @ (SIZE[1], 1)).tolist(), 10**6, *np.sort(outside @ (SIZE[1], 1))]
    noise = np.random.default_rng(seed).normal(size=SIZE)
    mask = ndimage.gaussian_filter(noise, 2) > 0
    mask[tuple(inside.T)], mask[tuple(outside.T)] = True, False
    return mask


ARBITRARY = Masks(arbitrary_mask)


@st.composite
def many_prompts(draw: st.DrawFn) -> list[Prompt]:
    numbers = st.integers(0, SIZE[0] * SIZE[1] - 1)
    pixels = draw(st.lists(numbers, min_size=1, max_size=9, unique=True))
    first, *others = (divmod(pixel, SIZE[1]) for pixel in pixels)
    click_radii = st.one_of(st.floats(0, 20), st.just(np.inf))
    return [prompt(*first, True)] + [
        prompt(*place, draw(st.booleans()), draw(click_radii)) for place in others
    ]


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 30))
def test_the_click_radius_is_the_distance_to_the_nearest_pixel_of_the_other_label(
    seed: int, num_pixels: int
) -> None:
    rng = np.random.default_rng(seed)
    mask = ndimage.gaussian_filter(rng.normal(size=SIZE), 3) > 0
    pixels = np.stack([rng.integers(side, size=num_pixels) for side in SIZE], axis=1)
    wanted = 0.0
    for pixel in pixels:
        others = np.argwhere(mask != mask[tuple(pixel)])
        nearest = np.hypot(*(others - pixel).T).min() if len(others) else np.inf
        wanted = max(wanted, nearest)
    assert distance_to_outline(mask, pixels) == pytest.approx(wanted)


def test_a_scribble_click_radii_as_far_as_its_deepest_pixel() -> None:
    mask = np.zeros(SIZE, bool)
    mask[:, 10:] = True
    assert distance_to_outline(mask, [[5, 9], [5, 4], [5, 12]]) == 6
    assert distance_to_outline(mask, [[5, 9], [5, 14]]) == 5
    assert distance_to_outline(np.zeros(SIZE, bool), [[5, 9]]) == np.inf


@settings(max_examples=50, deadline=None)
@given(many_prompts(), st.randoms(use_true_random=False))
def test_every_prompt_is_obeyed_and_no_order_is_left(prompts: list[Prompt], random) -> None:
    start = np.zeros(SIZE, bool)
    kept = ProgressiveMerge()
    for count in range(1, len(prompts) + 1):  # as a user makes them, with a memory
        mask = kept.mask(prompts[:count], ARBITRARY, start)
    for one in prompts:
        assert (mask[tuple(one.pixels_yx.T)] == one.is_object).all()
    parts, _ = ndimage.label(mask)
    labeled = [parts[tuple(one.pixels_yx.T)] for one in prompts if one.is_object]
    assert set(np.unique(parts[mask])) == set(np.concatenate(labeled))
    shuffled = random.sample(prompts, len(prompts))
    np.testing.assert_array_equal(ProgressiveMerge().mask(shuffled, ARBITRARY, start), mask)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10_000), st.booleans())
def test_a_prompt_of_small_radius_changes_only_what_is_connected_to_it(
    seed: int, is_object: bool
) -> None:
    rng = np.random.default_rng(seed)
    start, merge = np.zeros(SIZE, bool), ProgressiveMerge()
    others = [prompt(*rng.integers(SIZE), bool(i % 2 == 0)) for i in range(6)]
    before = merge.mask(others, ARBITRARY, start)
    last = prompt(*rng.integers(SIZE), is_object, 0.1)
    after = merge.mask([*others, last], ARBITRARY, start)
    gained, lost = after & ~before, before & ~after
    if is_object:
        assert not lost.any()
        assert ndimage.label(gained)[1] <= 1
    else:
        assert not gained.any()


def test_prompts_of_a_radius_as_large_as_the_object_are_read_together() -> None:
    asked: list[int] = []

    def cut(inside: np.ndarray, outside: np.ndarray) -> np.ndarray:
        asked.append(len(inside) + len(outside))
        mask = np.zeros(SIZE, bool)
        mask[5:15, 5:15] = True  # 0.2 * sqrt(100 pixels) = 2
        return mask

    prompts = [prompt(8, 8, True), prompt(20, 3, True, 2.1), prompt(20, 9, True, 1.9)]
    ProgressiveMerge().mask(prompts, Masks(cut), np.zeros(SIZE, bool))
    assert asked == [1, 2, 3]  # the first alone, then with that of 2.1; that of 1.9 corrects


def test_without_an_outline_the_cut_is_the_mask() -> None:
    def cut(inside: np.ndarray, outside: np.ndarray) -> np.ndarray:
        mask = np.zeros(SIZE, bool)
        mask[:, len(outside) :] = True
        return mask

    prompts = [prompt(3, 20, True), prompt(3, 0, False), prompt(9, 1, False)]
    mask = ProgressiveMerge().mask(prompts, Masks(cut), np.zeros(SIZE, bool))
    np.testing.assert_array_equal(mask, cut(np.zeros((1, 2)), np.zeros((2, 2))))


def test_parts_without_prompts_are_kept_if_wanted() -> None:
    whole = np.zeros(SIZE, bool)
    whole[:, 2:6] = whole[:, 10:14] = True
    start = np.zeros(SIZE, bool)
    merge = ProgressiveMerge()
    click = prompt(4, 3, True)
    only = merge.mask([click], Masks(lambda *_: whole), start)
    both = merge.mask([click], Masks(lambda *_: whole), start, keep_all=True, context="all")
    assert only.sum() == 4 * SIZE[0]
    np.testing.assert_array_equal(both, whole)


def test_a_prompt_that_the_mask_obeys_already_is_to_change_nothing() -> None:
    mask = np.zeros(SIZE, bool)
    mask[2:8, 4:12] = True
    assert click_radius_of(mask, [[5, 6]], True) == 0
    assert click_radius_of(mask, [[5, 6]], False) == distance_to_outline(mask, [[5, 6]]) == 3
    assert click_radius_of(mask, [[5, 6], [5, 14]], True) == 3
    radii = [prompt(5, 6, True, radius).rounded_radius for radius in (0.0, 0.1, 3.0, 20.0, np.inf)]
    assert radii == [0, 1, 2**1.5, pytest.approx(2**4.5), np.inf]
