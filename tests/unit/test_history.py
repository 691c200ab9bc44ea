from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click_scenes import VALUES
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import maskfeat
from maskfeat.features.reading import Features
from maskfeat.interactive.prompts import Prompt
from maskfeat.interactive.segmenter import InteractiveSegmenter
from maskfeat.interactive.update import made_on, next_mask, shown_mask

SCRIBBLES = Path("../shared/data/iis/voc_scribbles")
HEIGHT, WIDTH = VALUES.shape[:2]


def segmenter_of_discs() -> InteractiveSegmenter:
    segmenter = InteractiveSegmenter()
    segmenter.set_features(Features.from_dense(VALUES))
    return segmenter


SEGMENTER = segmenter_of_discs()


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 100_000), st.integers(2, 9), st.booleans())
def test_a_background_click_never_makes_the_object_grow_and_what_agrees_changes_nothing(
    seed: int, num_clicks: int, has_scribbles: bool
) -> None:
    rng = np.random.default_rng(seed)
    places = rng.permutation(HEIGHT * WIDTH)[:num_clicks]
    signs = [True, *(rng.random(num_clicks - 1) < 0.4)]
    SEGMENTER.reset()
    shown = np.ones((HEIGHT, WIDTH), bool)
    labeled: set[tuple[int, int]] = set()
    for place, is_positive in zip(places.tolist(), signs, strict=True):
        row, column = divmod(place, WIDTH)
        columns = range(column, min(WIDTH, column + (12 if has_scribbles else 1)))
        line = [(row, x) for x in columns if (row, x) not in labeled]
        if not line:
            continue
        labeled.update(line)
        mask = SEGMENTER.scribble(line, bool(is_positive))
        assert (mask[tuple(np.transpose(line))] == is_positive).all()
        if not is_positive:
            assert not (mask & ~shown).any()
        if len(labeled) > len(line) and (shown[tuple(np.transpose(line))] == is_positive).all():
            np.testing.assert_array_equal(mask, shown)
        shown = mask


def test_undo_shows_what_was_shown() -> None:
    segmenter = segmenter_of_discs()
    clicks = [(30, 25, True), (8, 60, False), (30, 72, True), (50, 90, False), (40, 72, False)]
    shown = [segmenter.click(*click) for click in clicks]
    for before in reversed(shown[:-1]):
        np.testing.assert_array_equal(segmenter.undo(), before)
    assert segmenter.undo() is None


def growing(prompts, *, within) -> np.ndarray:
    """One column more for every prompt."""
    mask = np.zeros((1, 8), bool)
    mask[0, : len(prompts)] = True
    return mask if within is None else mask & within


def test_what_grows_for_a_background_prompt_comes_with_the_next_on_the_object() -> None:
    columns, signs = (0, 0, 7, 3, 0), (True, False, False, True, False)
    points = [np.array([[0, column]]) for column in columns]
    mask, made = None, []
    prompts: list[Prompt] = []
    for point, is_positive, click_radius, count in zip(
        points, signs, (np.inf, 1, 0, 3, 4), (1, 1, 1, 4, 4), strict=True
    ):
        made.append(made_on(mask, Prompt(point, is_positive)))
        mask = next_mask(growing, made, mask)
        assert mask.sum() == count
        prompts.append(Prompt(point, is_positive, click_radius))
        assert shown_mask(growing, prompts).sum() == count
    assert shown_mask(growing, prompts[1:2]) is None


def test_clicks_that_agreed_are_obeyed_when_later_ones_contradict_them() -> None:
    segmenter = segmenter_of_discs()
    segmenter.click(30, 25)
    shown = segmenter.click(30, 50, False)  # between the discs
    np.testing.assert_array_equal(segmenter.click(30, 72, False), shown)  # the other disc
    np.testing.assert_array_equal(segmenter.click(28, 26), shown)
    both = segmenter.click(31, 72)
    assert both[31, 72]
    assert both[28, 26]
    assert not both[30, 72]
    assert not both[30, 50]


def test_nothing_is_object_beyond_the_mask_it_must_lie_in() -> None:
    within = np.zeros((HEIGHT, WIDTH), bool)
    within[:, :25] = True
    mask = SEGMENTER.predict([[30, 22]], [True], within=within)
    assert mask[30, 22]
    assert not mask[:, 25:].any()
    np.testing.assert_array_equal(mask, SEGMENTER.predict([[30, 22]], [True]) & within)
    with pytest.raises(ValueError, match=r"\(30, 26\) lies outside `within`; leave"):
        SEGMENTER.predict([[30, 26]], [True], within=within)
    with pytest.raises(ValueError, match=r"within must be bool, of the size of the image"):
        SEGMENTER.predict([[30, 26]], [True], within=within[1:])


@pytest.mark.real
@pytest.mark.skipif(not SCRIBBLES.exists(), reason="no images beside the repository")
def test_background_prompts_far_from_a_bus_do_not_make_it_grow() -> None:
    [bus] = [
        sample
        for sample in json.loads((SCRIBBLES / "index.json").read_text())["samples"]
        if sample["id"] == "bus_2007_003503"
    ]
    segmenter = InteractiveSegmenter(maskfeat.load())
    segmenter.set_image(np.asarray(Image.open(SCRIBBLES / bus["image"])))
    segmenter.scribble([(205, column) for column in range(304, 344)])
    areas = [int(segmenter.click(191, 195).sum())]
    for place in ((177, 495), (182, 480), (291, 470)):
        areas.append(int(segmenter.click(*place, False).sum()))
    assert areas == sorted(areas, reverse=True)
