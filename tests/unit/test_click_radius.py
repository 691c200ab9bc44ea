from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from maskfeat.interactive.click_radius import Stroke, reach_of, reach_to_change
from maskfeat.interactive.update import LayeredMasks
from maskfeat.interactive.windows import Window, grown, whole, window_around

SIZE = (24, 30)


def stroke(row: int, column: int, is_object: bool, reach: float = np.inf) -> Stroke:
    return Stroke(np.array([[row, column]]), is_object, reach)


class Cuts:
    """Masks of a function of the marked pixels, the same in every window."""

    def __init__(self, mask_of: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> None:
        self.whole = mask_of
        self.rough = np.zeros(SIZE, bool)

    def within(self, inside, outside, layer, windows) -> Cuts:
        self.rough = self.whole(inside, outside)
        return self

    def refined(self, window) -> np.ndarray:
        return self.rough[window]

    def sliver(self, stroke, below, inside, outside) -> tuple[Window, np.ndarray]:
        window = grown(window_around(stroke.pixels_yx), 5, whole(below.shape))
        wanted = self.whole(inside, outside) == stroke.is_object
        return window, (wanted & (below != stroke.is_object))[window]


def arbitrary_mask(inside: np.ndarray, outside: np.ndarray) -> np.ndarray:
    """A smooth random mask for each set of marks: the least stable cut there is."""
    seed = [*np.sort(inside @ (SIZE[1], 1)).tolist(), 10**6, *np.sort(outside @ (SIZE[1], 1))]
    noise = np.random.default_rng(seed).normal(size=SIZE)
    mask = ndimage.gaussian_filter(noise, 2) > 0
    mask[tuple(inside.T)], mask[tuple(outside.T)] = True, False
    return mask


ARBITRARY = Cuts(arbitrary_mask)


@st.composite
def many_strokes(draw: st.DrawFn) -> list[Stroke]:
    numbers = st.integers(0, SIZE[0] * SIZE[1] - 1)
    pixels = draw(st.lists(numbers, min_size=1, max_size=9, unique=True))
    first, *others = (divmod(pixel, SIZE[1]) for pixel in pixels)
    reaches = st.one_of(st.floats(0, 20), st.just(np.inf))
    return [stroke(*first, True)] + [
        stroke(*place, draw(st.booleans()), draw(reaches)) for place in others
    ]


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 30))
def test_reach_is_the_distance_to_the_nearest_pixel_of_the_other_label(
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
    assert reach_of(mask, pixels) == pytest.approx(wanted)


def test_a_scribble_reaches_as_far_as_its_deepest_pixel() -> None:
    mask = np.zeros(SIZE, bool)
    mask[:, 10:] = True
    assert reach_of(mask, [[5, 9], [5, 4], [5, 12]]) == 6
    assert reach_of(mask, [[5, 9], [5, 14]]) == 5
    assert reach_of(np.zeros(SIZE, bool), [[5, 9]]) == np.inf


@settings(max_examples=50, deadline=None)
@given(many_strokes(), st.randoms(use_true_random=False))
def test_every_stroke_is_obeyed_and_no_order_is_left(strokes: list[Stroke], random) -> None:
    start = np.zeros(SIZE, bool)
    kept = LayeredMasks()
    for count in range(1, len(strokes) + 1):  # as a user makes them, with a memory
        mask = kept.mask(strokes[:count], ARBITRARY, start)
    for one in strokes:
        assert (mask[tuple(one.pixels_yx.T)] == one.is_object).all()
    parts, _ = ndimage.label(mask)
    marked = [parts[tuple(one.pixels_yx.T)] for one in strokes if one.is_object]
    assert set(np.unique(parts[mask])) == set(np.concatenate(marked))
    shuffled = random.sample(strokes, len(strokes))
    np.testing.assert_array_equal(LayeredMasks().mask(shuffled, ARBITRARY, start), mask)


@settings(max_examples=50, deadline=None)
@given(many_strokes())
def test_a_stroke_changes_only_what_is_connected_to_it_but_for_parts_it_cuts_off(
    strokes: list[Stroke],
) -> None:
    start = np.zeros(SIZE, bool)
    layers = LayeredMasks()
    *others, last = strokes
    last = Stroke(last.pixels_yx, last.is_object, min(one.reach for one in strokes) / 2)
    if not others or np.isinf(last.reach) or last.level == min(one.level for one in others):
        return
    before = layers.mask(others, ARBITRARY, start)
    after = layers.mask([*others, last], ARBITRARY, start)
    gained, lost = after & ~before, before & ~after
    if last.is_object:
        assert not lost.any()
        assert ndimage.label(gained)[1] <= 1
    else:
        assert not gained.any()


def test_without_an_outline_the_cut_is_the_mask() -> None:
    def cut(inside: np.ndarray, outside: np.ndarray) -> np.ndarray:
        mask = np.zeros(SIZE, bool)
        mask[:, len(outside) :] = True
        return mask

    strokes = [stroke(3, 20, True), stroke(3, 0, False), stroke(9, 1, False)]
    mask = LayeredMasks().mask(strokes, Cuts(cut), np.zeros(SIZE, bool))
    np.testing.assert_array_equal(mask, cut(np.zeros((1, 2)), np.zeros((2, 2))))


def test_parts_without_marks_are_kept_if_wanted() -> None:
    whole = np.zeros(SIZE, bool)
    whole[:, 2:6] = whole[:, 10:14] = True
    start = np.zeros(SIZE, bool)
    layers = LayeredMasks()
    click = stroke(4, 3, True)
    only = layers.mask([click], Cuts(lambda *_: whole), start)
    both = layers.mask([click], Cuts(lambda *_: whole), start, keep_all=True, context="all")
    assert only.sum() == 4 * SIZE[0]
    np.testing.assert_array_equal(both, whole)


def test_a_stroke_that_the_mask_obeys_already_is_to_change_nothing() -> None:
    mask = np.zeros(SIZE, bool)
    mask[2:8, 4:12] = True
    assert reach_to_change(mask, [[5, 6]], True) == 0
    assert reach_to_change(mask, [[5, 6]], False) == reach_of(mask, [[5, 6]]) == 3
    assert reach_to_change(mask, [[5, 6], [5, 14]], True) == 3
    assert Stroke(np.array([[5, 6]]), True, 0.0).level < Stroke(np.array([[5, 6]]), True, 0.1).level
