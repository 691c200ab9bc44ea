"""Finished objects that are named, ordered and corrected; paint and boxes."""

from __future__ import annotations

import json

import numpy as np
import pytest
from drawn_images import ON_DISC, ON_GROUND, ON_SQUARE, SIZE, click, disc, drawn, iou, square
from PIL import Image
from served_pages import Slow, act, annotate_app, client_of, ready_view, refusal

from maskfeat.app.annotation import (
    AddObjects,
    AddPrompt,
    Annotation,
    DescribeObject,
    FinishObject,
    MoveObject,
    ReopenObject,
    SetDone,
    SetToCheck,
)
from maskfeat.app.annotation_json import annotation_from_json, annotation_text
from maskfeat.app.annotation_masks import PixelPrompts, object_mask
from maskfeat.app.annotation_state import Description, MaskRuns, Prompt
from maskfeat.app.label_map import LabelMapPainter, png_bytes
from maskfeat.data.annotations.painting import decode_annotations, encode
from maskfeat.data.convert.mask_sets import list_masks
from maskfeat.interactive.segmenter import InteractiveSegmenter
from maskfeat.segment.inputs import model_of

MASK = MaskRuns((2, 2), "13")
RED = AddPrompt(Prompt("click", ((45, 40),), 1))


def after(*steps) -> Annotation:
    annotation = Annotation()
    for step in steps:
        annotation = annotation.with_step(step)
    return annotation


def brush(*points: list[int], label: int = 1, radius_px: float = 4) -> dict:
    prompt = {"kind": "brush", "points_yx": list(points), "label": label, "radius_px": radius_px}
    return {"do": "prompt", "prompt": prompt}


def mask_of(encoded: dict) -> np.ndarray:
    return decode_annotations([encoded["counts"]], tuple(encoded["size"]))[0]


def open_mask(view: dict) -> np.ndarray:
    return mask_of(view["masks"][0]) if view["masks"] else np.zeros(SIZE, bool)


@pytest.fixture(scope="module")
def segmenter() -> InteractiveSegmenter:
    segmenter = InteractiveSegmenter(model_of("lab"))
    segmenter.set_image(drawn())
    return segmenter


def test_words_order_and_review_survive_the_way_to_disk_and_undo() -> None:
    said = Description("the big one", "disc", "#00ff7f")
    whole = after(
        RED,
        FinishObject(MASK, "square"),
        AddObjects((MASK, MASK), ("disc", "")),
        DescribeObject(2, said),
        MoveObject(3, 0),
        SetToCheck(True),
    )
    found = annotation_from_json(json.loads(annotation_text(whole)), SIZE)
    assert found.state == whole.state
    state = found.state
    assert [one.number for one in state.in_order] == [3, 1, 2]
    assert [one.description.class_name for one in state.finished] == ["square", "disc", ""]
    assert state.finished_object(2).description == said
    assert state.review == "check"
    assert found.undone().undone().state.order == ()


def test_an_object_opened_again_keeps_words_and_place() -> None:
    said = Description("", "disc", "")
    state = after(
        AddObjects((MASK, MASK, MASK)),
        DescribeObject(2, said),
        MoveObject(2, 0),
        ReopenObject(2),
        FinishObject(MASK, "another"),
    ).state
    assert [one.number for one in state.in_order] == [2, 1, 3]
    assert state.finished_object(2).description == said
    with pytest.raises(ValueError, match="place lies in 0 to 2, got 3"):
        MoveObject(2, 3).after(state)


@pytest.mark.parametrize(
    ("former", "moved", "place", "expected"),
    [((3, 0), 1, 1, [3, 2, 1]), ((1, 0), 2, 0, [2, 1, 3]), ((3, 1), 1, 1, [2, 3, 1])],
)
def test_an_opened_object_keeps_its_place_while_others_are_moved(
    former: tuple[int, int], moved: int, place: int, expected: list[int]
) -> None:
    state = after(
        AddObjects((MASK, MASK, MASK)),
        MoveObject(*former),
        ReopenObject(3),
        MoveObject(moved, place),
        FinishObject(MASK),
    ).state
    assert [one.number for one in state.in_order] == expected


def test_what_is_done_was_checked_and_what_is_to_be_checked_is_not_done() -> None:
    state = after(SetDone(True), SetToCheck(True)).state
    assert (state.is_done, state.review) == (False, "check")
    assert SetDone(True).after(state).review == "done"
    assert SetToCheck(False).after(state).review == "open"


def test_painted_pixels_hold_through_later_clicks_and_paint(client, out) -> None:
    ready_view(client)
    act(client, click(ON_DISC))
    painted = np.hypot(*(np.indices(SIZE) - np.array([[[10]], [[100]]]))) <= 4
    assert open_mask(act(client, brush([10, 100])))[painted].all()
    hole = np.hypot(*(np.indices(SIZE) - np.array([[[45]], [[50]]]))) <= 6
    view = act(client, brush([45, 50], label=0, radius_px=6))
    assert not open_mask(view)[hole].any()
    for place, label in ((ON_SQUARE, 1), (ON_GROUND, 0), ([45, 25], 1)):
        mask = open_mask(act(client, click(place, label)))
        assert mask[painted].all()
        assert not mask[hole].any()
    refused = client.post("/api/images/0/actions", json=click([45, 50], 1))
    assert "painted" in refusal(refused)
    mask = open_mask(act(client, brush([45, 50], radius_px=6)))  # the last paint counts
    assert mask[hole].all()
    act(client, {"do": "finish"})
    np.testing.assert_array_equal(np.array(Image.open(out / "p0_mask.png")) == 1, mask)


def test_paint_alone_is_an_object_and_a_stroke_has_no_gaps(client) -> None:
    ready_view(client)
    mask = open_mask(act(client, brush([20, 20], [20, 80], [60, 80], radius_px=3)))
    rows, columns = np.nonzero(mask)
    assert mask[20, 20:81].all()
    assert mask[20:61, 80].all()
    assert (rows.min(), columns.min(), rows.max(), columns.max()) == (17, 17, 63, 83)
    assert "radius of a brush" in refusal(
        client.post("/api/images/0/actions", json=brush([1, 1], radius_px=0))
    )


@pytest.mark.parametrize(
    "first", [brush([45, 40]), click([45, 40], kind="segment", granularity=0.9)]
)
def test_a_click_on_what_was_painted_or_taken_whole_before_cuts_the_object_out(
    client, first
) -> None:
    ready_view(client)
    act(client, first)
    act(client, click(ON_GROUND, 0))
    mask = open_mask(act(client, click(ON_DISC)))
    assert iou(mask, disc()) > 0.9
    assert iou(open_mask(act(client, click(ON_SQUARE))), disc() | square()) > 0.9


def opened_from_file(client) -> np.ndarray:
    """A mask with outlines of its own, as if read from a file, at hand."""
    mask = np.zeros(SIZE, bool)
    mask[65:85, 70:125] = True
    runs = {"size": list(SIZE), "counts": encode(mask)}
    act(client, {"do": "add", "masks": [runs]})
    act(client, {"do": "reopen", "number": 1})
    return mask


def test_a_click_before_the_features_are_there_corrects_the_mask_from_a_file(paths, out) -> None:
    with client_of(annotate_app(paths, out)) as client:
        mask = opened_from_file(client)
    model = Slow()
    with client_of(annotate_app(paths, out, model)) as client:
        act(client, click([64, 100]))
        act(client, click([66, 72], 0))
        model.go.set()
        found = open_mask(ready_view(client))
        assert (found[64, 100], found[66, 72]) == (True, False)
        assert iou(found, mask) > 0.8


def test_a_box_is_refused_where_a_mask_is_there_already(client) -> None:
    opened_from_file(client)
    box = {"kind": "box", "points_yx": [[10, 10], [80, 80]], "label": 1}
    post = client.post("/api/images/0/actions", json={"do": "prompt", "prompt": box})
    assert "mask already" in refusal(post)
    assert ready_view(client)["prompts"] == []


def test_an_object_left_for_labels_keeps_its_pixels_and_gets_the_class(paths, out) -> None:
    quarter = SIZE[0] * SIZE[1] / 4e6
    with client_of(annotate_app(paths, out, max_megapixels=quarter)) as client:
        ready_view(client)
        mask = opened_from_file(client)
        act(client, {"do": "mode", "mode": "labels"})
        act(client, {"do": "done", "is_done": True, "class": "disc"})
        (one,) = ready_view(client)["finished"]
        assert one["class"] == "disc"
        np.testing.assert_array_equal(mask_of(one), mask)


def test_a_box_gives_the_object_in_it_and_clicks_correct_that(segmenter) -> None:
    box = Prompt("box", ((65, 120), (25, 80)), 1)  # any two opposite corners
    mask = object_mask(segmenter, [box], SIZE)
    assert iou(mask, square()) > 0.9
    corner = Prompt("click", ((32, 87),), 0, click_radius=3.0)
    cut = object_mask(segmenter, [box, corner], SIZE)
    assert not cut[32, 87]
    assert not (cut & ~mask).any()  # a click on the background adds nothing
    other = Prompt("box", ((15, 10), (75, 70)), 1)
    assert iou(object_mask(segmenter, [box, other], SIZE), disc()) > 0.9  # the last one counts
    outside = Prompt("click", tuple([tuple(ON_DISC)]), 1)
    with pytest.raises(ValueError, match="outside the box"):
        object_mask(segmenter, [box, outside], SIZE)


def test_classes_go_out_and_come_in_again_and_the_order_says_what_is_on_top(client, out) -> None:
    ready_view(client)
    act(client, click(ON_DISC))
    act(client, {"do": "finish", "class": " red   disc "})
    act(client, brush([45, 40], radius_px=40))
    act(client, {"do": "finish", "class": "field"})
    act(client, {"do": "describe", "number": 2, "name": "ours", "class": "field", "color": ""})
    content = json.loads((out / "p0.json").read_text())
    assert [one["label"] for one in content["annotations"]] == ["red disc", "field"]
    assert [one.get("name") for one in content["annotations"]] == [None, "ours"]
    (record,) = list_masks(out)
    assert record.masks().names == ("red disc", "field")

    labels = np.array(Image.open(out / "p0_mask.png"))
    assert labels[tuple(ON_DISC)] == 1  # the smaller one, as nobody gave an order
    view = act(client, {"do": "move", "number": 1, "place": 0})
    assert [one["number"] for one in view["finished"]] == [1, 2]
    assert np.array(Image.open(out / "p0_mask.png"))[tuple(ON_DISC)] == 2  # the later one
    act(client, {"do": "undo"})
    np.testing.assert_array_equal(np.array(Image.open(out / "p0_mask.png")), labels)


def test_a_stroke_is_worked_out_once(monkeypatch) -> None:
    stroke = Prompt("brush", ((20, 20), (20, 81)), 1, radius_px=3.25)
    expected = PixelPrompts([stroke], SIZE, SIZE).painted()
    monkeypatch.delattr("scipy.ndimage.distance_transform_edt")
    np.testing.assert_array_equal(PixelPrompts([stroke], SIZE, SIZE).painted(), expected)


def test_a_label_map_is_the_same_read_back(tmp_path) -> None:
    labels = np.random.default_rng(0).integers(0, 2**16, (37, 53), dtype=np.uint16)
    (tmp_path / "map.png").write_bytes(png_bytes(labels))
    found = Image.open(tmp_path / "map.png")
    assert found.mode == "I;16"
    np.testing.assert_array_equal(np.array(found), labels)


def test_a_map_painted_on_is_the_map_painted_anew(tmp_path) -> None:
    random = np.random.default_rng(0)
    layers = []
    for number in range(1, 9):
        top, left = random.integers(0, 40, 2)
        mask = np.zeros((60, 60), bool)
        mask[top : top + 25, left : left + 25] = True
        layers.append((number, MaskRuns((60, 60), encode(mask))))
    painter, file = LabelMapPainter(), tmp_path / "a_mask.png"
    shuffled = [layers[n] for n in random.permutation(8)]
    for num in range(1, 9):  # any mask may come next, at any place
        some = [layer for layer in shuffled if layer[0] <= num]
        anew = np.zeros((60, 60), np.uint16)
        for number, runs in some:
            anew[decode_annotations([runs.counts], runs.size)[0]] = number
        np.testing.assert_array_equal(painter.painted(file, some, (60, 60)), anew)
    gone = painter.painted(file, shuffled[:3], (60, 60))
    np.testing.assert_array_equal(gone, LabelMapPainter().painted(file, shuffled[:3], (60, 60)))
