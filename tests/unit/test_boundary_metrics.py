from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import maximum_bipartite_matching

from maskfeat.evaluate.metrics import (
    boundary_f,
    boundary_precision,
    num_matched,
)
from maskfeat.segment.superpixels import border_pixels

SHAPE = (5, 6)
label_maps = hnp.arrays(np.int64, SHAPE, elements=st.integers(0, 3))
targets = hnp.arrays(np.int64, SHAPE, elements=st.integers(-1, 3))
pixel_maps = hnp.arrays(bool, SHAPE)
tolerances = st.floats(0, 0.4)
both_matches = pytest.mark.parametrize("match", ["nearby", "one to one"])

quick = settings(max_examples=50, deadline=None)


def halves() -> np.ndarray:
    """30 rows of 40 columns (diagonal 50), parted between columns 19 and 20."""
    labels = np.zeros((30, 40), int)
    labels[:, 20:] = 1
    return labels


# --- pixels and pairs ----------------------------------------------------------------------------


def test_the_left_or_upper_pixel_of_a_crack_is_the_border() -> None:
    labels = np.array([[0, 0, 1], [0, 0, 1], [2, 2, 2]])
    assert border_pixels(labels).astype(int).tolist() == [[0, 1, 0], [1, 1, 1], [0, 0, 0]]
    counted = np.ones((3, 3), bool)
    counted[1, 1] = False  # takes with it the cracks on its left, right, and below
    found = border_pixels(labels, counted).astype(int)
    assert found.tolist() == [[0, 1, 0], [1, 0, 1], [0, 0, 0]]


def test_a_pixel_is_matched_once_only() -> None:
    row, single = np.array([[1, 1, 1, 0]], bool), np.array([[0, 1, 0, 0]], bool)
    assert num_matched(row, single, radius=5) == 1
    assert num_matched(single, row, radius=5) == 1


def test_a_match_gives_way_where_that_makes_room_for_another() -> None:
    # Column 2 reaches 1 and 3, column 0 reaches 1 only: both find one if 2 takes 3.
    first, second = np.array([[1, 0, 1, 0]], bool), np.array([[0, 1, 0, 1]], bool)
    assert num_matched(first, second, radius=1) == 2


def test_equal_maps_match_wholly_at_radius_zero_and_empty_ones_never() -> None:
    pixels = np.eye(5, dtype=bool)
    assert num_matched(pixels, pixels, radius=0) == 5
    assert num_matched(pixels, pixels[:, ::-1], radius=0) == 1
    assert num_matched(pixels, np.zeros((5, 5), bool), radius=9) == 0


@pytest.mark.parametrize("step", [(1, 1), (1, 2), (2, 3), (3, 3), (1, 5), (2, 5), (3, 4)])
def test_a_pixel_at_exactly_the_radius_is_matched(step) -> None:
    first, second = np.zeros((6, 6), bool), np.zeros((6, 6), bool)
    first[0, 0] = second[step] = True
    assert num_matched(first, second, math.hypot(*step)) == 1
    assert num_matched(first, second, math.hypot(*step) - 1e-9) == 0


@quick
@given(pixel_maps, pixel_maps, st.floats(0, 4))
def test_num_matched_is_the_largest_bipartite_matching_of_scipy(first, second, radius) -> None:
    places, others = np.argwhere(first), np.argwhere(second)
    assume(len(places) and len(others))
    near = np.hypot(*(places[:, None] - others).transpose(2, 0, 1)) <= radius
    partners = maximum_bipartite_matching(csr_matrix(near), perm_type="column")
    assert num_matched(first, second, radius) == (partners >= 0).sum()


# --- F -------------------------------------------------------------------------------------------


def test_a_doubled_border_costs_precision_only_under_one_to_one_matches() -> None:
    labels = halves()
    labels[:, 22:] = 2  # 60 border pixels for 30 true ones, all within 2 px
    assert boundary_f(labels, halves(), 2.5 / 50, match="nearby") == 1
    assert boundary_f(labels, halves(), 2.5 / 50, match="one to one") == pytest.approx(2 / 3)


def test_one_to_one_is_what_happens_when_nothing_is_said() -> None:
    labels = halves()
    labels[:, 22:] = 2
    assert boundary_f(labels, halves(), 2.5 / 50) == pytest.approx(2 / 3)


@both_matches
def test_f_is_the_harmonic_mean_of_precision_and_recall(match) -> None:
    # 15 of the 30 true border pixels, and 20 false ones in row 14.
    labels = halves()
    labels[15:] = 0
    precision, recall = 15 / 35, 15 / 30
    expected = 2 * precision * recall / (precision + recall)
    assert boundary_f(labels, halves(), 0.0, match=match) == pytest.approx(expected)


@both_matches
def test_a_border_farther_off_than_the_tolerance_scores_zero(match) -> None:
    labels = np.roll(halves(), 3, axis=1)
    labels[:, :3] = 0
    assert boundary_f(labels, halves(), 2.9 / 50, match=match) == 0
    assert boundary_f(labels, halves(), 3.0 / 50, match=match) == 1


@both_matches
def test_no_border_scores_zero_and_no_true_border_is_not_scored(match) -> None:
    nothing = np.zeros((30, 40), int)
    assert boundary_f(nothing, halves(), match=match) == 0
    assert math.isnan(boundary_f(halves(), nothing, match=match))
    assert math.isnan(boundary_f(halves(), np.full((30, 40), -1), match=match))


@both_matches
@quick
@given(target=targets, tolerance=st.floats(0.13, 0.4))  # a pixel and more, see the next test
def test_the_target_itself_has_an_f_of_one(match, target, tolerance) -> None:
    labels = np.where(target < 0, 99, target)
    assume(border_pixels(target, target >= 0).any())
    assert boundary_f(labels, target, tolerance, match) == 1


def test_the_crack_into_uncounted_pixels_is_judged_only_at_tolerances_below_a_pixel() -> None:
    labels, target = np.array([[0, 0, 1, 2]]), np.array([[0, 0, 1, -1]])
    assert boundary_precision(labels, target, 0.0) == 0.5
    assert boundary_precision(labels, target, 1 / math.hypot(1, 4)) == 1


@both_matches
def test_a_true_border_beside_uncounted_pixels_can_be_found(match) -> None:
    target = halves()
    target[:10, 21] = -1
    # All 30 true pixels are found; of the found ones those in the upper rows are not judged.
    assert boundary_f(halves(), target, 5 / 50, match) == 1
    target[:, 21] = -1  # now none is judged
    assert math.isnan(boundary_precision(halves(), target, 5 / 50))
    assert boundary_f(halves(), target, 5 / 50, match) == 1
    assert boundary_f(np.zeros((30, 40), int), target, 5 / 50, match) == 0


@both_matches
def test_a_false_border_among_uncounted_pixels_costs_nothing(match) -> None:
    target = halves()
    target[:, 30:] = -1
    labels = halves()
    labels[:, 33:] = 2
    assert boundary_f(labels, target, 2 / 50, match) == 1
    labels[:, 26:] = 3  # at column 25, 5 px from the uncounted: 30 of 60 judged are right
    assert boundary_f(labels, target, 2 / 50, match) == pytest.approx(2 / 3)


@quick
@given(label_maps, targets, tolerances)
def test_one_to_one_matches_never_score_above_matches_nearby(labels, target, tolerance) -> None:
    strict = boundary_f(labels, target, tolerance, "one to one")
    lenient = boundary_f(labels, target, tolerance, "nearby")
    assert math.isnan(strict) == math.isnan(lenient)
    assert math.isnan(strict) or 0 <= strict <= lenient + 1e-12 <= 1 + 1e-9


@both_matches
@quick
@given(labels=label_maps, target=label_maps, tolerance=tolerances)
def test_f_is_symmetric_where_all_is_counted(match, labels, target, tolerance) -> None:
    assume(border_pixels(labels).any() and border_pixels(target).any())
    found = boundary_f(labels, target, tolerance, match)
    assert found == pytest.approx(boundary_f(target, labels, tolerance, match))


@both_matches
@quick
@given(labels=label_maps, target=targets, numbers=st.permutations([7, -3, 0, 2]))
def test_renumbering_segments_changes_no_f(match, labels, target, numbers) -> None:
    renumbered = np.array(numbers)[labels]
    found = boundary_f(renumbered, target, 0.2, match)
    assert found == pytest.approx(boundary_f(labels, target, 0.2, match), nan_ok=True)


@both_matches
def test_f_refuses_a_negative_tolerance_and_maps_of_two_shapes(match) -> None:
    with pytest.raises(ValueError, match="tolerance must not be negative, got -1"):
        boundary_f(halves(), halves(), -1, match)
    with pytest.raises(ValueError, match=r"same shape, got \(30, 40\) and \(40, 30\)"):
        boundary_f(halves(), halves().T, 0.1, match)
