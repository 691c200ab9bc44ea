from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from maskfeat.evaluate.robots import next_click

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
