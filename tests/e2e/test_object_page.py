"""Finished objects on the page: selected, described, ordered, painted; boxes, fingers, review."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
from drawn_images import ON_DISC, ON_GROUND, ON_SQUARE, SIZE, disc, square, write_images
from PIL import Image
from served_pages import opened, served


@pytest.fixture
def page(browser, url):
    with opened(browser, url) as page:
        yield page


def prompts_in(out) -> list[dict]:
    content = json.loads((out / "p0.prompts.json").read_text())
    return [step["prompt"] for step in content["steps"][: content["position"]] if "prompt" in step]


def cut_out(page, *places) -> None:
    for num, place in enumerate(places, start=1):
        page.click(place)
        page.text("#open-area").to_contain_text("px")
        page.press("Enter")
        page.text("#objects li").to_have_count(num)


def control_click(page, place) -> None:
    page.page.keyboard.down("Control")
    page.click(place)
    page.page.keyboard.up("Control")


def test_an_object_is_selected_described_moved_edited_and_deleted(page, out) -> None:
    page.page.fill("#new-class", "shape")
    page.press("Enter")
    page.text("#classes .chosen").to_have_text("1shape")
    cut_out(page, ON_DISC, ON_SQUARE)
    page.text("#objects .class").to_have_text(["shape", "shape"])
    plain = page.color_at([60, 40])

    control_click(page, ON_DISC)
    page.text("#objects .selected .title").to_have_text("Object 1")
    page.page.fill("#object-name", "the red one")
    page.press("Enter")
    page.text("#objects .selected .title").to_have_text("the red one")
    page.page.fill("#object-class", "disc")
    page.press("Enter")
    page.text("#objects .class").to_have_text(["disc", "shape"])
    page.page.locator("#object-color").fill("#0000ff")
    page.text("#objects .selected .swatch").to_have_css("background-color", "rgb(0, 0, 255)")
    assert page.color_at([60, 40])[2] > plain[2] + 20
    page.page.click("#later")
    page.text("#objects .title").to_have_text(["Object 2", "the red one"])
    saved = json.loads((out / "p0.json").read_text())["annotations"]
    assert [one["id"] for one in saved] == [2, 1]
    assert {key: saved[1][key] for key in ("label", "name", "color")} == {
        "label": "disc",
        "name": "the red one",
        "color": "#0000ff",
    }

    page.press("1")  # the class of this key, for the selected object
    page.text("#objects .selected .class").to_have_text("shape")
    page.press("Enter")  # nothing is at hand: it is opened again
    page.text("#open-area").to_contain_text("no. 1")
    page.click([45, 30], button="right")
    page.text("#objects li").to_have_count(1)
    page.press("Enter")
    page.text("#objects .title").to_have_text(["Object 2", "the red one"])
    assert (np.array(Image.open(out / "p0_mask.png")) == 1).sum() < disc().sum()

    control_click(page, ON_SQUARE)
    page.text("#objects .selected .title").to_have_text("Object 2")
    page.press("Delete")
    page.text("#objects .title").to_have_text(["the red one"])
    control_click(page, ON_GROUND)
    page.text("#object-card").to_be_hidden()
    page.press("u")
    page.text("#objects .title").to_have_text(["Object 2", "the red one"])


def test_an_object_finished_by_opening_another_gets_the_class_and_typed_words_stay(page) -> None:
    cut_out(page, ON_DISC)
    page.page.fill("#new-class", "shape")
    page.press("Enter")
    page.text("#classes .chosen").to_have_text("1shape")
    page.click(ON_SQUARE)
    page.text("#open-area").to_contain_text("no. 2")
    page.page.locator("#objects .reopen").click()
    page.text("#open-area").to_contain_text("no. 1")
    page.text("#objects .class").to_have_text(["shape"])
    control_click(page, ON_SQUARE)
    page.page.locator("#object-name").press_sequentially("half a na")
    page.page.evaluate("document.querySelector('#objects .show').click()")  # lists all anew
    page.text("#objects .hidden").to_have_count(1)
    assert page.page.input_value("#object-name") == "half a na"


def test_the_object_under_the_cursor_is_shown_in_the_list_and_on_the_image(page) -> None:
    cut_out(page, ON_DISC, ON_SQUARE)
    page.point_at(ON_SQUARE)
    page.text("#objects .hovered .title").to_have_text("Object 2")
    page.point_at(ON_GROUND)
    page.text("#objects .hovered").to_have_count(0)
    page.page.locator("#objects canvas").first.hover()
    page.text("#objects .hovered .title").to_have_text("Object 1")
    plain = page.color_at([60, 40])
    page.page.locator("#opacity").fill("2")
    assert np.abs(page.color_at([60, 40]) - plain).max() > 20


def test_brush_and_eraser_change_what_they_cover_and_the_wheel_their_size(page, out) -> None:
    page.click(ON_DISC)
    page.text("#open-area").to_contain_text("px")
    page.press("e")
    page.point_at(ON_DISC)
    page.page.mouse.wheel(0, -300)
    page.press("[")
    page.drag([45, 20], [45, 60])
    page.text("#undo").to_have_attribute("title", re.compile("Undo a painted line"))
    page.press("b")
    page.drag([10, 90], [10, 110])
    page.press("Escape")
    page.click(ON_SQUARE)
    page.press("Enter")
    page.text("#objects li").to_have_count(1)
    labels = np.array(Image.open(out / "p0_mask.png"))
    assert not labels[45, 20:61].any()
    assert labels[10, 90:111].all()
    assert labels[tuple(ON_SQUARE)] == 1
    first, second = [one for one in prompts_in(out) if one["kind"] == "brush"]
    assert (first["label"], second["label"]) == (0, 1)
    assert first["radius_px"] > 0.5


def test_a_box_is_drawn_with_a_key_or_with_its_tool(page, out) -> None:
    page.page.keyboard.down("Control")
    page.drag([25, 80], [65, 120])
    page.page.keyboard.up("Control")
    page.text("#open-area").to_contain_text("no. 1")
    page.press("Enter")
    page.text("#objects li").to_have_count(1)
    mask = np.array(Image.open(out / "p0_mask.png")) == 1
    assert (mask & square()).sum() / (mask | square()).sum() > 0.9
    page.press("x")
    page.drag([75, 70], [15, 10])
    page.text("#open-area").to_contain_text("no. 2")
    assert [one["kind"] for one in prompts_in(out)] == ["box", "box"]


def test_review_is_seen_in_the_overview_which_leads_to_each_image(page, out) -> None:
    page.press("r")
    page.text("#done-badge").to_have_text("to check")
    page.press("ArrowRight")
    page.wait()
    page.press("d")
    page.text("#name").to_have_text("p2.png")
    page.wait()
    page.press("o")
    page.text("#overview-images i").to_have_text(["to check", "done", ""])
    page.page.wait_for_function("""() => [...document.querySelectorAll("#overview img")].every(
        (one) => one.complete && one.naturalWidth > 0)""")
    page.page.locator("#overview-images button").first.click()
    page.text("#name").to_have_text("p0.png")
    page.wait()
    page.press("r")
    page.text("#done-badge").to_be_hidden()
    assert json.loads((out / "p0.prompts.json").read_text())["is_done"] is False


def test_a_finger_marks_both_sides_and_two_fingers_move_the_image(browser, url, out) -> None:
    window = browser.browser.new_context(viewport={"width": 390, "height": 844}, has_touch=True)
    with opened(window, url) as page:
        box = page.page.locator("#canvas").bounding_box()
        assert box["width"] * box["height"] > 0.7 * 390 * 844
        page.page.locator("#sheet").tap()
        page.text("#modes").to_be_visible()
        page.page.locator("#sheet").tap()
        page.text("#modes").to_be_hidden()
        page.page.touchscreen.tap(*page.spot(ON_DISC))
        page.text("#undo").to_be_enabled()
        page.page.locator("#background").tap()
        page.page.touchscreen.tap(*page.spot(ON_GROUND))
        page.page.wait_for_function("document.body.dataset.ready === 'true'")
        page.text("#redo").to_be_disabled()
        tab = window.new_cdp_session(page.page)
        x, y = page.spot(ON_SQUARE)

        def touch(kind: str, *places) -> None:
            points = [{"x": left, "y": top, "id": n} for n, (left, top) in enumerate(places)]
            tab.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

        before = page.color_at(ON_SQUARE)
        touch("touchStart", (x, y))
        touch("touchStart", (x, y), (x + 40, y))
        touch("touchMove", (x - 60, y - 200), (x - 20, y - 200))
        touch("touchMove", (x - 90, y - 200), (x + 10, y - 200))
        touch("touchEnd")
        assert np.abs(page.color_at(ON_SQUARE) - before).max() > 20  # it is elsewhere
    window.close()
    assert [prompt["label"] for prompt in prompts_in(out)] == [1, 0]


def test_an_object_of_another_program_is_opened_and_corrected(browser, tmp_path, out) -> None:
    from maskfeat.app.annotation_store import AnnotationStore
    from maskfeat.app.open_images import OpenImages
    from maskfeat.app.server import create_app
    from maskfeat.data.convert.mask_sets import list_masks
    from maskfeat.segment.inputs import model_of

    paths = write_images(tmp_path / "photos", 1)
    (tmp_path / "maps").mkdir()
    labels = np.where(disc() | (np.indices(SIZE)[0] > 80), 7, 0).astype(np.uint8)
    Image.fromarray(labels).save(tmp_path / "maps/p0.png")
    begun = {record.key: record for record in list_masks(tmp_path / "maps")}
    images = OpenImages(AnnotationStore(out, paths, masks=begun), model_of("lab"), 2.0)
    with served(create_app(images)) as url, opened(browser, url) as page:
        page.text("#objects li").to_have_count(1)
        page.press("v")
        page.click(ON_DISC)
        page.text("#objects .selected").to_have_count(1)
        page.page.click("#edit")
        page.text("#open-area").to_contain_text("no. 1")
        page.press("e")
        page.drag([85, 0], [85, 129])
        page.press("Enter")
        page.text("#objects li").to_have_count(1)
    mask = np.array(Image.open(out / "p0_mask.png")) == 1
    assert mask[disc()].all()
    assert not mask[85].any()
