"""Clicks that correct a mask or a box that is there already, and radii without an outline."""

from __future__ import annotations

import numpy as np
import pytest

from maskfeat.interactive.segmenter import InteractiveSegmenter


@pytest.fixture(scope="module")
def segmenter():
    """Two light squares on dark, rows 10 to 29: columns 5 to 24 and 35 to 54."""
    rgb = np.full((40, 60, 3), 30, np.uint8)
    rgb[10:30, 5:25] = rgb[10:30, 35:55] = (200, 180, 60)
    segmenter = InteractiveSegmenter("lab")
    segmenter.set_image(rgb)
    return segmenter


@pytest.fixture
def both():
    mask = np.zeros((40, 60), bool)
    mask[10:30, 5:25] = mask[10:30, 35:55] = True
    return mask


def test_clicks_correct_a_mask_that_is_given(segmenter, both) -> None:
    wrong = both.copy()
    wrong[10:30, 50:55] = False
    shown = segmenter.start(wrong)
    np.testing.assert_array_equal(shown, wrong)
    mended = segmenter.click(20, 52)
    np.testing.assert_array_equal(mended[:, :25], both[:, :25])  # no click lies in this part
    assert (mended[:, 30:] & both[:, 30:]).sum() > 390
    np.testing.assert_array_equal(segmenter.undo(), wrong)


def test_a_click_on_the_background_takes_away_from_the_mask(segmenter, both) -> None:
    segmenter.start(both)
    mask = segmenter.click(20, 45, is_positive=False)
    assert not mask[20, 45]
    assert not (mask & ~both).any()
    np.testing.assert_array_equal(mask[:, :25], both[:, :25])


def test_a_box_begins_with_its_mask_and_holds_the_object(segmenter) -> None:
    box = (8, 3, 32, 30)
    shown = segmenter.start(box_yxyx=box)
    np.testing.assert_array_equal(shown, segmenter.predict((), (), box_yxyx=box))
    mask = segmenter.click(31, 29)
    assert mask[31, 29]
    assert not mask[:, 30:].any()
    with pytest.raises(ValueError, match="outside"):
        segmenter.click(20, 45)


def test_a_reset_forgets_what_was_begun_with(segmenter, both) -> None:
    segmenter.start(both)
    segmenter.reset()
    with pytest.raises(ValueError, match="click"):
        segmenter.click(5, 5, is_positive=False)


def test_one_of_the_two_is_needed(segmenter, both) -> None:
    for given in ({}, {"mask": both, "box_yxyx": (0, 0, 5, 5)}):
        with pytest.raises(ValueError, match="one of the two"):
            segmenter.start(**given)
    with pytest.raises(ValueError, match="mask"):
        segmenter.start(both[:5])


@pytest.mark.parametrize(
    ("clicks", "is_positive", "radii"),
    [([[10, 10]], [True], [0]), ([[20, 20], [5, 5]], [True, False], [np.inf, 0])],
)
def test_a_satisfied_prompt_that_is_wrong_after_all_needs_no_outline(
    clicks, is_positive, radii
) -> None:
    even = InteractiveSegmenter("lab")
    even.set_image(np.full((40, 50, 3), 90, np.uint8))
    mask = even.predict(clicks, is_positive, click_radius_px=radii)
    assert [bool(mask[tuple(click)]) for click in clicks] == is_positive
