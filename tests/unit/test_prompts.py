from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maskfeat.interactive.decoder_unary import some_of
from maskfeat.interactive.prompt_checks import (
    checked_box,
    checked_mask,
    labeled_pixels,
    prompts_of,
)
from maskfeat.interactive.prompts import check_together, pixels_of

SIZE = (20, 30)


@given(st.permutations(range(6)))
def test_prompts_forget_which_came_first(order: list[int]) -> None:
    clicks = np.array([[3, 4], [0, 29], [19, 0], [3, 5], [3, 4], [7, 7]])[order]
    labels = np.array([1, 0, 2, 1, 1, 0])[order]
    pixels, own = labeled_pixels(clicks, labels, [([[9, 9], [9, 10]], 4)], SIZE)
    assert pixels.tolist() == [[0, 29], [3, 4], [3, 5], [7, 7], [9, 9], [9, 10], [19, 0]]
    assert own.tolist() == [0, 1, 1, 0, 4, 4, 2]


def test_scribbles_are_as_good_as_clicks() -> None:
    line = [[5, x] for x in range(4)]
    drawn = prompts_of(np.zeros((0, 2), int), np.zeros(0, bool), [(line[::-1], True)], None, SIZE)
    clicked = prompts_of(line, [True] * 4, [], None, SIZE)
    for prompts in (drawn, clicked):
        np.testing.assert_array_equal(pixels_of(prompts, True), line)
        assert not len(pixels_of(prompts, False))


@pytest.mark.parametrize(
    ("clicks", "signs", "scribbles", "message"),
    [
        ([[20, 0]], [True], [], r"inside the image of 20 x 30 pixels.*\(20, 0\)"),
        ([[3, -1]], [True], [], r"inside the image.*\(3, -1\)"),
        ([[1, 1]], [True], [([[0, 30]], False)], r"inside the image.*\(0, 30\)"),
        ([[3.0, 4.0]], [True], [], "must be integers"),
        ([[3, 4]], [-1], [], "is_positive must be True or 1 for the object.* got -1"),
        ([3, 4], [True], [], r"must have shape \(N, 2\)"),
        ([[3, 4]], [True, False], [], r"got \(2,\) for clicks of shape \(1, 2\)"),
        ([[3, 4], [3, 4]], [True, False], [], r"\(3, 4\) is labeled as background and as object"),
        ([[3, 4]], [True], [([[3, 4]], False)], "is labeled as background and as object"),
    ],
)
def test_bad_prompts_are_refused_in_one_sentence(clicks, signs, scribbles, message) -> None:
    with pytest.raises(ValueError, match=message):
        check_together(prompts_of(clicks, signs, scribbles, None, SIZE), None, None, None)


def test_labels_must_be_whole_and_not_negative() -> None:
    with pytest.raises(ValueError, match="labels must not be negative, got -1"):
        labeled_pixels([[1, 1]], [-1], [], SIZE)
    with pytest.raises(ValueError, match="labels must be integers, got float64"):
        labeled_pixels([[1, 1]], [0.5], [], SIZE)
    with pytest.raises(ValueError, match="is labeled as 2 and as 5"):
        labeled_pixels([[1, 1], [1, 1]], [5, 2], [], SIZE)


def test_a_box_is_cut_to_the_image() -> None:
    assert checked_box([-3, 2.5, 99, 7.5], SIZE) == (0, 2, 20, 8)
    for box in ([5, 5, 5, 9], [21, 0, 30, 10], [np.nan, 0, 5, 5], [1, 2, 3], "abcd", [[1], [2, 3]]):
        with pytest.raises(ValueError, match="box_yxyx must"):
            checked_box(box, SIZE)


def test_a_mask_must_fit() -> None:
    mask = np.zeros(SIZE, bool)
    assert checked_mask(mask, SIZE) is mask
    with pytest.raises(ValueError, match=r"size of the image \(20, 30\), got bool \(30, 20\)"):
        checked_mask(mask.T, SIZE)
    with pytest.raises(ValueError, match="mask must be bool"):
        checked_mask(mask.astype(int), SIZE)


@settings(max_examples=50, deadline=None)
@given(st.sets(st.integers(0, 2**20), min_size=1, max_size=60), st.integers(0, 2**20))
def test_of_many_some_are_taken_and_one_more_replaces_one_at_most(
    numbers: set[int], another: int
) -> None:
    superpixels = np.array(sorted(numbers), np.int64)
    some = some_of(superpixels, most=20)
    assert len(some) == min(20, len(superpixels))
    assert set(some.tolist()) <= numbers
    assert (np.diff(some) > 0).all()
    more = some_of(np.array(sorted(numbers | {another}), np.int64), most=20)
    assert len(set(some.tolist()) - set(more.tolist())) <= 1
