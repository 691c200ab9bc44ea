"""Prompts and steps, the masks they stand for, and the files they are kept in."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from drawn_images import ON_DISC, ON_GROUND, ON_SQUARE, SIZE, disc, drawn, iou, square

from maskfeat.app.annotation import (
    AddPrompt,
    Annotation,
    ClearPrompts,
    DeleteObject,
    FinishObject,
    ReopenObject,
    SetDone,
    SetMode,
)
from maskfeat.app.annotation_json import annotation_from_json, annotation_text, step_from_json
from maskfeat.app.annotation_masks import click_radius_on, label_map, object_mask
from maskfeat.app.annotation_state import MaskRuns, Prompt
from maskfeat.interactive.segmenter import InteractiveSegmenter
from maskfeat.segment.inputs import model_of

ANY_MASK = MaskRuns((2, 2), "13")
RED = AddPrompt(Prompt("click", ((45, 40),), 1))
GREEN = AddPrompt(Prompt("click", ((45, 100),), 1))


def after(*steps) -> Annotation:
    annotation = Annotation()
    for step in steps:
        annotation = annotation.with_step(step)
    return annotation


def prompt(
    place: list[int], label: int = 1, kind="click", granularity=None, click_radius=None
) -> Prompt:
    return Prompt(kind, (tuple(place),), label, granularity, click_radius)


def scaled_prompt(one: Prompt, factor: float) -> Prompt:
    points = tuple(
        (int(y * factor + factor / 2), int(x * factor + factor / 2)) for y, x in one.points_yx
    )
    return replace(
        one, points_yx=points, click_radius=one.click_radius and one.click_radius * factor
    )


@pytest.fixture(scope="module")
def segmenter() -> InteractiveSegmenter:
    segmenter = InteractiveSegmenter(model_of("lab"))
    segmenter.set_image(drawn())
    return segmenter


def test_undo_goes_back_through_finished_objects_and_redo_forth() -> None:
    whole = after(RED, FinishObject(ANY_MASK), GREEN)
    back = whole.undone().undone()
    assert back.state == after(RED).state
    assert back.redone().redone().state == whole.state
    assert Annotation().undone() == Annotation()
    assert whole.redone() == whole


def test_a_new_step_forgets_what_was_taken_back() -> None:
    annotation = after(RED, GREEN).undone().with_step(ClearPrompts())
    assert not annotation.can_redo
    assert annotation.state.prompts == ()


def test_an_object_opened_again_keeps_its_number_and_place() -> None:
    two = (RED, FinishObject(ANY_MASK), GREEN, FinishObject(ANY_MASK))
    state = after(*two, ReopenObject(1)).state
    assert (state.open_number, state.open_prompts) == (1, (RED.prompt,))
    assert [one.number for one in state.finished] == [2]
    other = MaskRuns((2, 2), "22")
    state = after(*two, ReopenObject(1), GREEN, FinishObject(other)).state
    assert [(one.number, one.mask) for one in state.finished] == [(1, other), (2, ANY_MASK)]
    assert state.finished[0].prompts == (RED.prompt, GREEN.prompt)
    assert state.next_number == 3


def test_numbers_of_deleted_objects_are_not_used_again() -> None:
    one = (RED, FinishObject(ANY_MASK))
    for gone in ((DeleteObject(1),), (ReopenObject(1), ClearPrompts())):
        state = after(*one, *gone, GREEN, FinishObject(ANY_MASK)).state
        assert [finished.number for finished in state.finished] == [2]


def test_prompts_of_both_modes_are_kept_apart() -> None:
    yellow = AddPrompt(Prompt("click", ((1, 1),), 7))
    labels = after(RED, SetMode("labels"), yellow)
    assert labels.state.prompts == (yellow.prompt,)
    assert labels.with_step(SetMode("object")).state.prompts == (RED.prompt,)


def test_a_change_makes_a_done_image_not_done() -> None:
    assert after(RED, SetDone(True)).state.is_done
    for step in (RED, ClearPrompts(), SetMode("labels"), FinishObject(ANY_MASK)):
        assert not after(RED, SetDone(True), step).state.is_done
    assert after(RED, SetDone(True), GREEN).undone().state.is_done


@pytest.mark.parametrize(
    ("steps", "match"),
    [
        ([FinishObject(ANY_MASK)], "no object at hand"),
        ([DeleteObject(1)], "no finished object 1"),
        ([RED, FinishObject(ANY_MASK), GREEN, ReopenObject(1)], "finish or clear the object"),
        ([AddPrompt(Prompt("click", ((1, 1),), 2))], "label 0 or 1, got 2"),
        ([SetMode("labels"), AddPrompt(Prompt("click", ((1, 1),), 0))], "1 to 9, got 0"),
    ],
)
def test_a_step_that_cannot_follow_is_refused(steps, match) -> None:
    with pytest.raises(ValueError, match=match):
        after(*steps)


def test_all_steps_come_back_from_json_as_they_were() -> None:
    scribble = AddPrompt(Prompt("scribble", ((1, 1), (-2, 300)), 0))
    segment = AddPrompt(Prompt("segment", ((1, 1),), 1, 0.25))
    one = after(RED, FinishObject(ANY_MASK), ReopenObject(1), scribble, FinishObject(ANY_MASK))
    for step in (DeleteObject(1), segment, ClearPrompts(), SetMode("labels"), SetDone(True)):
        one = one.with_step(step)
    for annotation in (one, one.undone().undone(), Annotation()):
        text = annotation_text(annotation)
        assert annotation_from_json(json.loads(text), SIZE) == annotation


@pytest.mark.parametrize(
    ("entry", "match"),
    [
        ([], "a step must be an object"),
        ({"do": "explode"}, "no such step"),
        ({"do": "delete", "number": "1"}, "no such step"),
        ({"do": "prompt", "prompt": {"kind": "polygon"}}, "a prompt is one of"),
        ({"do": "prompt", "prompt": {"kind": "click", "label": True}}, "a label lies in 0 to 9"),
        ({"do": "prompt", "prompt": {"kind": "click", "label": 1}}, "must be a list"),
        (
            {"do": "prompt", "prompt": {"kind": "click", "label": 1, "points_yx": [[90, 1]]}},
            "inside the image of 90 x 130",
        ),
        (
            {"do": "prompt", "prompt": {"kind": "scribble", "label": 1, "points_yx": [[1.5, 1]]}},
            "two whole numbers",
        ),
        (
            {"do": "prompt", "prompt": {"kind": "segment", "label": 1, "points_yx": [[1, 1]]}},
            "needs a granularity",
        ),
    ],
)
def test_json_that_is_no_step_is_refused_in_one_sentence(entry, match) -> None:
    with pytest.raises(ValueError, match=match) as refusal:
        step_from_json(entry, SIZE)
    assert "\n" not in str(refusal.value)


def test_a_click_radius_is_kept_in_json_and_prompts_of_older_files_have_none() -> None:
    near = Prompt("click", ((45, 40),), 1, click_radius=0.1 + 0.2)
    drawn = Prompt("scribble", ((1, 1), (-2, 300)), 0, click_radius=12.0)
    for annotation in (
        after(AddPrompt(near), AddPrompt(drawn)),
        after(RED, AddPrompt(near)).undone(),
    ):
        text = annotation_text(annotation)
        assert annotation_from_json(json.loads(text), SIZE) == annotation
    old = '{"do": "prompt", "prompt": {"kind": "click", "points_yx": [[45, 40]], "label": 1}}'
    content = json.loads(f'{{"position": 1, "steps": [{old}]}}')
    assert annotation_from_json(content, SIZE) == after(RED)
    assert json.loads(annotation_text(after(RED))) == content
    former = json.loads(json.dumps(content).replace('"prompt"', '"mark"'))
    assert annotation_from_json(former, SIZE) == after(RED)
    text = annotation_text(after(AddPrompt(near)))
    former = json.loads(text.replace('"click_radius"', '"reach"'))
    assert annotation_from_json(former, SIZE) == after(AddPrompt(near))


@pytest.mark.parametrize(
    "click_radius", ["-0.5", "NaN", "Infinity", "1e999", "true", '"3"', "[3]", "1e9"]
)
def test_a_click_radius_that_is_no_number_of_pixels_is_refused_in_one_sentence(
    click_radius,
) -> None:
    fields = f'"kind": "click", "points_yx": [[1, 1]], "label": 1, "click_radius": {click_radius}'
    entry = json.loads(f'{{"do": "prompt", "prompt": {{{fields}}}}}')
    with pytest.raises(ValueError, match=r"a click radius lies in 0 to 1000000 pixels, got \S+$"):
        step_from_json(entry, SIZE)


def test_a_click_on_each_side_cuts_the_disc(segmenter) -> None:
    mask = object_mask(segmenter, [prompt(ON_DISC), prompt(ON_GROUND, 0)], SIZE)
    assert iou(mask, disc()) > 0.9


def test_nothing_is_cut_before_something_is_marked_as_object(segmenter) -> None:
    assert not object_mask(segmenter, [prompt(ON_GROUND, 0)], SIZE).any()
    outside = Prompt("scribble", ((-9, 3), (-9, 50)), 1)
    assert not object_mask(segmenter, [outside], SIZE).any()


def test_each_pixel_of_a_scribble_is_obeyed_though_only_its_corners_are_kept(segmenter) -> None:
    line = Prompt("scribble", ((45, 100), (45, 40)), 1)
    mask = object_mask(segmenter, [line, prompt(ON_GROUND, 0)], SIZE)
    assert mask[45, 40:101].all()
    partly_outside = Prompt("scribble", ((80, 120), (300, 120)), 0)
    mask = object_mask(segmenter, [prompt(ON_DISC), partly_outside], SIZE)
    assert not mask[80:, 120].any()


def test_a_segment_is_taken_in_and_out_as_the_partition_shows_it(segmenter) -> None:
    labels = segmenter.hierarchy.cut(granularity=0.5)
    under_square = labels == labels[tuple(ON_SQUARE)]
    alone = object_mask(segmenter, [prompt(ON_SQUARE, 1, "segment", 0.5)], SIZE)
    np.testing.assert_array_equal(alone, under_square)
    clicks = [prompt(ON_DISC), prompt(ON_GROUND, 0)]
    both = object_mask(segmenter, [*clicks, prompt(ON_SQUARE, 1, "segment", 0.5)], SIZE)
    np.testing.assert_array_equal(both, object_mask(segmenter, clicks, SIZE) | under_square)
    prompts = [*clicks, prompt(ON_SQUARE, 1, "segment", 0.5), prompt(ON_SQUARE, 0, "segment", 0.5)]
    np.testing.assert_array_equal(
        object_mask(segmenter, prompts, SIZE), object_mask(segmenter, clicks, SIZE)
    )


def test_a_segment_does_not_win_against_a_click(segmenter) -> None:
    prompts = [prompt(ON_DISC), prompt(ON_SQUARE, 0), prompt([50, 105], 1, "segment", 0.5)]
    mask = object_mask(segmenter, prompts, SIZE)
    assert not mask[tuple(ON_SQUARE)]
    assert mask[58, 113]


def test_prompts_of_a_reduced_image_lie_where_they_were_made(segmenter) -> None:
    twice = (2 * SIZE[0], 2 * SIZE[1])
    prompts = [prompt([91, 81]), prompt([11, 11], 0)]  # each the far pixel of the four in one
    expected = object_mask(segmenter, [prompt(ON_DISC), prompt(ON_GROUND, 0)], SIZE)
    np.testing.assert_array_equal(object_mask(segmenter, prompts, twice), expected)
    # Where three pixels lie in two, the one in the middle belongs where its center is.
    half_more = (SIZE[0] * 3 // 2, SIZE[1] * 3 // 2)
    mask = object_mask(segmenter, [prompt([67, 60]), prompt([66, 60], 0)], half_more)
    assert mask[45, 40]
    assert not mask[44, 40]


def test_the_click_radius_of_a_prompt_is_its_distance_to_the_outline_that_was_shown() -> None:
    mask = square()  # rows 30 to 59, columns 85 to 114
    assert click_radius_on(mask, prompt([45, 80], 1), SIZE) == 5
    assert click_radius_on(mask, prompt([33, 100], 0), SIZE) == 4
    crossing = Prompt("scribble", ((45, 110), (45, 400)), 1)  # the last pixel inside is 129
    assert click_radius_on(mask, crossing, SIZE) == 15
    twice = (2 * SIZE[0], 2 * SIZE[1])  # an image that was reduced to the mask's size
    assert click_radius_on(mask, prompt([91, 161], 1), twice) == 10
    outside = Prompt("scribble", ((-9, 3), (-9, 50)), 1)
    for none in (outside, prompt([45, 80], 1, "segment", 0.5)):
        assert click_radius_on(mask, none, SIZE) is None
    for label, whole in ((1, np.zeros(SIZE, bool)), (0, np.ones(SIZE, bool))):
        assert click_radius_on(whole, prompt([45, 80], label), SIZE) is None
    for label, place in ((1, [45, 100]), (0, [45, 80])):  # what the mask says, too
        assert click_radius_on(mask, prompt(place, label), SIZE) == 0


def test_each_click_and_scribble_goes_to_the_segmenter_with_its_own_click_radius(segmenter) -> None:
    outside = Prompt("scribble", ((-9, 3), (-9, 50)), 0, click_radius=30.0)
    drawn = Prompt("scribble", ((45, 69), (45, 72)), 1, click_radius=6.0)
    prompts = [
        prompt(ON_DISC),
        outside,
        prompt(ON_GROUND, 0),
        prompt([30, 40], 0, click_radius=9.0),
        drawn,
    ]
    expected = segmenter.predict(
        [ON_DISC, ON_GROUND, [30, 40]],
        [True, False, False],
        scribbles=[([(45, x) for x in range(69, 73)], True)],
        click_radius_px=[np.inf, np.inf, 9, 6],
    )
    np.testing.assert_array_equal(object_mask(segmenter, prompts, SIZE), expected)
    half_more = (SIZE[0] * 3 // 2, SIZE[1] * 3 // 2)
    larger = [scaled_prompt(one, 1.5) for one in prompts]
    np.testing.assert_array_equal(object_mask(segmenter, larger, half_more), expected)


def test_prompts_on_the_background_take_away_until_the_object_is_marked_again(segmenter) -> None:
    rng = np.random.default_rng(0)
    prompts = [prompt(ON_DISC, click_radius=None), prompt(ON_SQUARE)]
    shown = object_mask(segmenter, prompts, SIZE)
    for place in zip(rng.integers(SIZE[0], size=12), rng.integers(SIZE[1], size=12), strict=True):
        beside = prompt([int(side) for side in place], 0)
        prompts.append(replace(beside, click_radius=click_radius_on(shown, beside, SIZE)))
        mask = object_mask(segmenter, prompts, SIZE)
        assert not (mask & ~shown).any()
        shown = mask


def test_prompts_that_meet_on_the_reduced_image_are_named_by_pixels_of_the_whole(segmenter) -> None:
    twice = (2 * SIZE[0], 2 * SIZE[1])
    apart, meeting = (
        [prompt([60, 60]), prompt([62, 61], 0)],
        [prompt([60, 60]), prompt([61, 61], 0)],
    )
    assert object_mask(segmenter, apart, twice)[30, 30]
    for cut in (object_mask, label_map):
        with pytest.raises(ValueError, match=r"meet near \(row, column\) = \(61, 61\)"):
            cut(segmenter, meeting, twice)
    line = Prompt("scribble", ((40, 60), (80, 60)), 2)
    with pytest.raises(ValueError, match="take one of the two back"):
        label_map(segmenter, [prompt([60, 60]), line], twice)


def test_a_prompt_of_little_click_radius_changes_the_mask_around_itself_alone(segmenter) -> None:
    clicks = [prompt(ON_DISC), prompt(ON_GROUND, 0)]
    before = object_mask(segmenter, clicks, SIZE)
    beside = prompt([45, 67])
    click_radius = click_radius_on(before, beside, SIZE)
    assert click_radius < 5
    far = object_mask(segmenter, [*clicks, beside], SIZE) != before
    near = (
        object_mask(segmenter, [*clicks, replace(beside, click_radius=click_radius)], SIZE)
        != before
    )
    assert near[45, 67]
    assert near.sum() < far.sum()
    farthest = [np.hypot(*(np.argwhere(change) - (45, 67)).T).max() for change in (near, far)]
    assert farthest[0] < farthest[1] / 2


def test_three_labels_color_the_image(segmenter) -> None:
    prompts = [prompt(ON_DISC, 4), prompt(ON_SQUARE, 9), prompt(ON_GROUND, 2)]
    labels = label_map(segmenter, prompts, SIZE)
    assert iou(labels == 4, disc()) > 0.9
    assert iou(labels == 9, square()) > 0.9
    assert set(np.unique(labels)) == {2, 4, 9}


def test_segments_alone_leave_the_rest_without_label(segmenter) -> None:
    labels = label_map(segmenter, [prompt(ON_DISC, 3, "segment", 0.5)], SIZE)
    assert labels[tuple(ON_DISC)] == 3
    assert labels[tuple(ON_GROUND)] == 0
    assert label_map(segmenter, [], SIZE).max() == 0
