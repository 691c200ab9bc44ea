from __future__ import annotations

import math
import statistics

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from maskfeat.evaluate.metrics import (
    clicks_obeyed,
    dropped_share,
    is_reached,
    noc,
    standard_error,
    std_over_seeds,
)

unit = st.floats(0, 1)


def test_a_drop_is_a_step_that_loses_more_than_a_hundredth() -> None:
    # up, down by 0.2, down by 0.009, level: one of four
    assert dropped_share([0.5, 0.7, 0.5, 0.491, 0.491]) == 0.25
    assert dropped_share([0.5, 0.49], by=0.005) == 1
    assert dropped_share([0.75, 0.5], by=0.25) == 0  # exactly so much is not more


@given(st.lists(unit, min_size=2, max_size=30))
def test_the_share_of_drops_is_that_of_a_loop(ious) -> None:
    drops = sum(ious[i] - ious[i + 1] > 0.01 for i in range(len(ious) - 1))
    assert dropped_share(ious) == pytest.approx(drops / (len(ious) - 1))


def test_one_click_has_no_step() -> None:
    assert math.isnan(dropped_share([0.5]))


def test_clicks_are_obeyed_where_the_mask_says_what_they_said() -> None:
    mask = np.array([[True, False], [False, True]])
    clicks = np.array([[0, 0], [0, 1], [1, 1], [1, 0]])
    assert clicks_obeyed(mask, clicks, np.array([True, False, True, False])) == 1
    assert clicks_obeyed(mask, clicks, np.array([True, True, True, True])) == 0.5
    assert clicks_obeyed(mask, clicks[:1], np.array([False])) == 0
    assert math.isnan(clicks_obeyed(mask, clicks[:0], np.zeros(0, bool)))


def test_clicks_and_signs_must_go_together() -> None:
    with pytest.raises(ValueError, match="clicks_yx must have shape"):
        clicks_obeyed(np.ones((2, 2), bool), np.array([[0, 0]]), np.array([True, False]))


def test_a_target_reached_with_the_last_click_is_reached() -> None:
    ious = [0.1] * 19 + [0.9, 0.99]
    assert is_reached(ious, 0.9)
    assert not is_reached(ious, 0.95)  # only with the 21st
    assert noc(ious, 0.9) == noc(ious, 0.95) == 20


@given(st.lists(unit, min_size=1, max_size=25), unit)
def test_what_is_not_reached_counts_all_clicks(ious, threshold) -> None:
    if not is_reached(ious, threshold):
        assert noc(ious, threshold) == 20


@given(st.lists(unit, min_size=2, max_size=20))
def test_errors_and_stds_are_those_of_the_standard_library(values) -> None:
    std = statistics.stdev(values)
    assert std_over_seeds(values) == pytest.approx(std, abs=1e-9)
    assert standard_error(values) == pytest.approx(std / len(values) ** 0.5, abs=1e-9)


def test_one_value_has_no_std() -> None:
    assert math.isnan(std_over_seeds([0.5]))
    assert math.isnan(standard_error([0.5]))
