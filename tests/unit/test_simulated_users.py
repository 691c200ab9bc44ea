from __future__ import annotations

import itertools
import math
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from maskfeat.evaluate.simulated_users import (
    border_click,
    largest_error_click,
    next_click,
    random_click,
    realistic_click,
)

SHAPE = (5, 6)
masks = hnp.arrays(bool, SHAPE)
targets = hnp.arrays(np.int8, SHAPE, elements=st.integers(-1, 1))


def naive_click(pred, target, not_clicked):
    """Every pixel against every pixel, the outside included; the first deepest one wins."""
    deepest = {True: (0.0, None), False: (0.0, None)}
    for is_positive in (True, False):
        errors = (target == int(is_positive)) & (pred != is_positive)
        ring = itertools.product(range(-1, SHAPE[0] + 1), range(-1, SHAPE[1] + 1))
        right = [
            (y, x)
            for y, x in ring
            if not (0 <= y < SHAPE[0] and 0 <= x < SHAPE[1]) or not errors[y, x]
        ]
        for y, x in zip(*np.nonzero(errors & not_clicked), strict=True):
            depth = min(math.dist((y, x), place) for place in right)
            if depth > deepest[is_positive][0]:
                deepest[is_positive] = (depth, (y, x))
    is_positive = deepest[True][0] > deepest[False][0]
    return deepest[is_positive][1], is_positive


@settings(max_examples=200, deadline=None)
@given(masks, targets, masks)
def test_the_click_is_that_of_a_naive_search(pred, target, not_clicked) -> None:
    place, is_positive = naive_click(pred, target, not_clicked)
    if place is None:
        with pytest.raises(ValueError, match="no wrong pixel is left"):
            next_click(pred, target, not_clicked)
    else:
        assert next_click(pred, target, not_clicked) == (place, is_positive)


def test_the_first_click_is_the_middle_of_the_object() -> None:
    target = np.zeros((11, 20), np.int8)
    target[2:7, 10:15] = 1
    assert next_click(np.zeros((11, 20), bool), target) == ((4, 12), True)


def test_a_long_thin_error_waits_for_a_small_deep_one() -> None:
    target = np.zeros((20, 60), np.int8)
    target[0:2, :] = 1  # missed: 120 pixels, depth 1
    pred = np.zeros((20, 60), bool)
    pred[10:15, 30:35] = True  # surplus: 25 pixels, depth 3
    assert next_click(pred, target) == ((12, 32), False)


def test_equal_depths_click_the_surplus() -> None:
    target = np.array([[1, 0, 0]], np.int8)
    assert next_click(np.array([[False, False, True]]), target) == ((0, 2), False)


def test_the_edge_of_the_image_bounds_an_error() -> None:
    target = np.zeros((9, 9), np.int8)
    target[:5, :5] = 1  # in the corner: deepest in its middle, not at the corner
    assert next_click(np.zeros((9, 9), bool), target)[0] == (2, 2)


def test_ignored_pixels_are_never_clicked() -> None:
    target = np.full((9, 9), -1, np.int8)
    target[0, 0] = 1
    assert next_click(np.zeros((9, 9), bool), target) == ((0, 0), True)


def test_a_clicked_pixel_is_not_clicked_again() -> None:
    target = np.ones((3, 3), np.int8)
    pred, not_clicked = np.zeros((3, 3), bool), np.ones((3, 3), bool)
    clicks = []
    for _ in range(9):
        click, _ = next_click(pred, target, not_clicked)
        not_clicked[click] = False
        clicks.append(click)
    assert clicks[0] == (1, 1)
    assert len(set(clicks)) == 9


def test_two_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="must have the same shape"):
        next_click(np.zeros((2, 2), bool), np.zeros((2, 3), np.int8))


USERS = [next_click, largest_error_click, random_click, realistic_click, border_click]
IN_THE_SAME_ERROR = [random_click, realistic_click, border_click]


def error_around(place, is_positive, pred, target):
    """The 4-connected error that holds a pixel, by a walk from pixel to pixel."""
    errors = (target == int(is_positive)) & (pred != is_positive)
    found, edge = {place}, [place]
    while edge:
        y, x = edge.pop()
        for near in ((y + 1, x), (y - 1, x), (y, x + 1), (y, x - 1)):
            is_inside = 0 <= near[0] < SHAPE[0] and 0 <= near[1] < SHAPE[1]
            if is_inside and errors[near] and near not in found:
                found.add(near)
                edge.append(near)
    return found


@pytest.mark.parametrize("user", USERS)
@settings(max_examples=60, deadline=None)
@given(masks, targets, masks, st.integers(0, 99))
def test_every_user_clicks_a_wrong_pixel_it_has_not_clicked(
    user, pred, target, not_clicked, seed
) -> None:
    rng = np.random.default_rng(seed)
    if naive_click(pred, target, not_clicked)[0] is None:
        with pytest.raises(ValueError, match="no wrong pixel is left"):
            user(pred, target, not_clicked, rng)
        return
    place, is_positive = user(pred, target, not_clicked, rng)
    assert not_clicked[place]
    assert target[place] == int(is_positive)
    assert pred[place] != is_positive
    assert all(type(side) is int for side in place)


@pytest.mark.parametrize("user", IN_THE_SAME_ERROR)
@settings(max_examples=60, deadline=None)
@given(masks, targets, masks, st.integers(0, 99))
def test_chance_stays_within_the_error_that_the_standard_user_corrects(
    user, pred, target, not_clicked, seed
) -> None:
    place, is_positive = naive_click(pred, target, not_clicked)
    if place is not None:
        click = user(pred, target, not_clicked, np.random.default_rng(seed))
        assert click[1] == is_positive
        assert click[0] in error_around(place, is_positive, pred, target)


@pytest.mark.parametrize("user", USERS)
def test_a_user_is_the_same_for_the_same_seed(user) -> None:
    target = np.zeros((40, 40), np.int8)
    target[5:30, 8:35] = 1

    def clicks(seed: int) -> list:
        rng, pred = np.random.default_rng(seed), np.zeros((40, 40), bool)
        return [user(pred, target, ~pred, rng) for _ in range(5)]

    assert clicks(1) == clicks(1)
    is_by_chance = user in IN_THE_SAME_ERROR
    assert (clicks(1) != clicks(2)) == is_by_chance


def test_the_largest_error_goes_before_the_deepest() -> None:
    target = np.zeros((20, 60), np.int8)
    target[0:2, :] = 1  # missed: 120 pixels, depth 1
    pred = np.zeros((20, 60), bool)
    pred[10:15, 30:35] = True  # surplus: 25 pixels, depth 3
    anything = np.ones_like(pred), np.random.default_rng(0)
    assert largest_error_click(pred, target, *anything) == ((0, 0), True)
    pred[:2] = True  # nothing is missed any more
    assert largest_error_click(pred, target, *anything) == ((12, 32), False)


def test_a_large_error_that_is_clicked_up_waits_for_a_small_one() -> None:
    target = np.array([[1, 1, 0, 1]], np.int8)
    pred, not_clicked = np.zeros((1, 4), bool), np.array([[False, False, True, True]])
    rng = np.random.default_rng(0)
    assert largest_error_click(pred, target, not_clicked, rng) == ((0, 3), True)


def shares_of(user, target: np.ndarray, num_clicks: int = 4000) -> np.ndarray:
    rng, pred = np.random.default_rng(0), np.zeros(target.shape, bool)
    counts = np.zeros(target.shape)
    for _ in range(num_clicks):
        counts[user(pred, target, ~pred, rng)[0]] += 1
    return counts / num_clicks


def test_clicks_by_chance_fall_as_they_are_said_to() -> None:
    target = np.zeros((5, 9), np.int8)
    target[:, 2:7] = 1  # depths in a square of 5: 16 pixels of 1, 8 of 2, one of 3; sum 35
    depth = np.minimum.reduce(np.broadcast_arrays(*np.ogrid[1:6, 1:6], *np.ogrid[5:0:-1, 5:0:-1]))
    std = 4 * np.sqrt(0.09 * 0.91 / 4000)
    np.testing.assert_allclose(shares_of(random_click, target)[:, 2:7], 1 / 25, atol=std)
    np.testing.assert_allclose(
        shares_of(realistic_click, target)[:, 2:7], depth / depth.sum(), atol=std
    )
    on_the_border = shares_of(border_click, target)[:, 2:7]
    np.testing.assert_allclose(on_the_border, (depth == 1) / 16, atol=std)
    assert shares_of(partial(realistic_click, power=200), target, 50)[2, 4] == 1  # the middle alone


def test_a_power_below_zero_is_refused() -> None:
    with pytest.raises(ValueError, match="power must not be negative"):
        realistic_click(np.zeros((2, 2), bool), np.ones((2, 2), np.int8), None, None, power=-1)
