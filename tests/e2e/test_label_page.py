"""The page of `maskfeat annotate --classes` in headless Chromium."""

from __future__ import annotations

import json

import numpy as np
import pytest
from drawn_images import ON_DISC, ON_GROUND, ON_SQUARE, disc, iou, write_images
from PIL import Image
from served_pages import label_app, opened, served

CLASSES = ["ground", "disc", "square"]
BESIDE = [60, 40]  # on the disc, away from the click


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images") / "photos"
    write_images(folder)
    (folder / "p3.png").write_bytes(b"no image")
    return folder


@pytest.fixture
def url(photos, out):
    settings = {"per_megapixel": 40_000, "pairwise_weight": 3, "acquisition": "given"}
    with served(label_app(photos, out, CLASSES, **settings)) as url:
        yield url


@pytest.fixture
def page(browser, url):
    with opened(browser, url) as page:
        yield page


def clicks_in(out) -> list:
    return json.loads((out / "clicks.json").read_text())["clicks"]


def click_all(page) -> None:
    for count, (place, key) in enumerate(((ON_GROUND, "1"), (ON_DISC, "2"), (ON_SQUARE, "3")), 1):
        page.press(key)
        page.click(place)
        page.text("#num-clicks").to_have_text("1 click" if count == 1 else f"{count} clicks")
    page.wait("fresh")


def test_click_see_the_tint_change_undo_done_next_reload(page, out) -> None:
    page.text("#legend .title").to_have_text([*CLASSES, "ignore"])
    page.text("#name").to_have_text("p0.png")
    plain = page.color_at(BESIDE)
    click_all(page)
    tinted = page.color_at(BESIDE)
    assert np.abs(tinted - plain).max() > 30
    assert [row[3] for row in clicks_in(out)] == [0, 1, 2]
    page.text('#legend [data-class="1"] .area').to_contain_text("%")

    page.press("Control+z")
    page.text("#num-clicks").to_have_text("2 clicks")
    page.press("Control+Shift+z")
    page.text("#num-clicks").to_have_text("3 clicks")
    page.wait("fresh")
    np.testing.assert_allclose(page.color_at(BESIDE), tinted, atol=2)

    page.press("d")
    page.text("#name").to_have_text("p1.png")
    page.text("#num-done").to_have_text("1 of 4 done")
    page.wait()
    # Nothing was clicked here: this is what was learned, a weaker tint of the same hue.
    learned = page.color_at(BESIDE)
    assert np.abs(learned - plain).max() > 20
    labels = np.array(Image.open(out / "labels" / "p0.png")) - 1
    assert iou(labels == 1, disc()) > 0.9

    page.page.reload()
    page.wait()
    page.text("#name").to_have_text("p1.png")
    page.text("#num-clicks").to_have_text("3 clicks")
    np.testing.assert_allclose(page.color_at(BESIDE), learned, atol=2)
    page.press("ArrowLeft")
    page.text("#done-badge").to_be_visible()


def test_undo_goes_to_the_image_of_the_click_and_b_goes_back(page) -> None:
    click_all(page)
    page.press("s")
    page.text("#name").to_have_text("p1.png")
    page.wait()
    page.press("u")
    page.text("#name").to_have_text("p0.png")
    page.text("#num-clicks").to_have_text("2 clicks")
    page.wait()
    page.press("b")
    page.text("#name").to_have_text("p1.png")


def test_undo_after_done_takes_that_back_and_no_click(page, out) -> None:
    click_all(page)
    page.press("s")
    page.text("#name").to_have_text("p1.png")
    page.wait()
    page.press("d")  # by accident
    page.text("#name").to_have_text("p2.png")
    page.wait()
    assert (out / "labels" / "p1.png").is_file()
    page.press("u")
    page.wait_for_message("taken back in p1.png: calling the image done")
    page.text("#name").to_have_text("p1.png")
    page.text("#done-badge").to_be_hidden()
    page.text("#num-clicks").to_have_text("3 clicks")
    assert not (out / "labels" / "p1.png").exists()
    page.press("u")  # from here on, undo is for clicks again
    page.wait_for_message("the last click, on p0.png, was taken back")
    page.text("#num-clicks").to_have_text("2 clicks")


def test_undo_after_done_works_without_clicks_and_after_turning_is_for_clicks(page, out) -> None:
    page.text("#undo").to_be_disabled()
    page.press("d")
    page.text("#name").to_have_text("p1.png")
    page.text("#undo").to_be_enabled()
    page.page.locator("#undo").click()
    page.text("#name").to_have_text("p0.png")
    page.text("#num-done").to_have_text("0 of 4 done")
    page.wait()
    click_all(page)
    page.press("d")
    page.text("#name").to_have_text("p1.png")
    page.wait()
    page.press("ArrowRight")
    page.text("#name").to_have_text("p2.png")
    page.wait()
    page.press("u")
    page.wait_for_message("the last click, on p0.png, was taken back; it is no longer done")
    page.text("#name").to_have_text("p0.png")
    page.text("#num-clicks").to_have_text("2 clicks")
    assert not (out / "labels" / "p0.png").exists()


def test_the_last_image_done_exports_and_what_is_left_out_is_named(page, out) -> None:
    page.text("#failed summary").to_have_text("1 image left out")
    page.text("#failed li").to_have_text("p3.png")
    page.text("#prepared").to_have_text("all images prepared")
    click_all(page)
    for name in ("p1.png", "p2.png"):
        page.press("Enter")
        page.text("#name").to_have_text(name)
        page.wait()
    page.page.locator("#done").click()
    page.wait_for_message("all images are done; 3 images written to")
    assert len(json.loads((out / "exported" / "coco.json").read_text())["images"]) == 3
    page.page.locator("#reopen").click()
    page.text("#num-done").to_have_text("2 of 4 done")


def test_what_is_under_the_cursor_lights_up_and_a_right_click_chooses(page) -> None:
    dark = page.color_at(BESIDE)
    assert np.abs(page.color_at(BESIDE, pointing_at=ON_DISC) - dark).max() > 15
    click_all(page)
    page.click(ON_DISC, button="right")
    page.text('#legend [data-class="1"] button').to_have_class("chosen")
    coarse = page.number("#num-segments")
    page.page.locator("#granularity").fill("0.98")
    page.press("]")
    assert page.number("#num-segments") > coarse


def test_a_region_is_ignored_by_key_or_button(page, out) -> None:
    click_all(page)
    square = page.color_at([55, 110])
    page.press("0")
    page.text('#legend [data-class="-1"] button').to_have_class("chosen")
    page.click(ON_SQUARE)
    page.text("#num-clicks").to_have_text("4 clicks")
    page.wait("fresh")
    gray = page.color_at([55, 110])
    assert np.abs(gray - square).max() > 20
    page.text('#legend [data-class="-1"] .area').to_contain_text("%")
    page.press("2")
    page.click(ON_SQUARE, button="right")  # what is there is chosen
    page.text('#legend [data-class="-1"] button').to_have_class("chosen")
    page.press("2")
    page.page.click('#legend [data-class="-1"] button')
    page.text('#legend [data-class="-1"] button').to_have_class("chosen")
    page.press("d")
    page.text("#num-done").to_have_text("1 of 4 done")
    page.wait()
    assert [row[3] for row in clicks_in(out)] == [0, 1, 2, -1]
    assert np.array(Image.open(out / "labels/p0.png"))[tuple(ON_SQUARE)] == 0
    page.press("ArrowLeft")
    page.wait()
    np.testing.assert_allclose(page.color_at([55, 110]), gray, atol=2)


def test_review_is_seen_in_the_overview_which_leads_to_each_image(page, out) -> None:
    page.press("r")
    page.text("#done-badge").to_have_text("to check")
    page.text("#check").to_have_class("chosen")
    page.press("s")
    page.text("#name").to_have_text("p1.png")
    page.wait()
    page.press("d")
    page.text("#name").to_have_text("p2.png")
    page.wait()
    page.press("o")
    page.text("#overview-images i").to_have_text(["to check", "done", "", ""])
    page.page.locator("#overview-images button").first.click()
    page.text("#name").to_have_text("p0.png")
    page.wait()
    page.page.click("#check")
    page.text("#done-badge").to_be_hidden()
    content = json.loads((out / "clicks.json").read_text())
    assert (content["check"], content["done"]) == ([], ["p1.png"])


def test_no_click_of_many_is_lost_and_none_overtakes_another(page, out) -> None:
    places = [[y, x] for y in (4, 84) for x in range(10, 130, 20)]
    for place in places:
        page.press("1")
        page.click(place)
    page.text("#num-clicks").to_have_text(f"{len(places)} clicks")
    drawn = np.array([row[1:3] for row in clicks_in(out)])
    assert np.abs(drawn - places).max() <= 1


def test_the_help_names_the_keys_and_a_dead_server_is_said(page) -> None:
    page.press("?")
    page.text("#help").to_be_visible()
    page.text("#key-help").to_contain_text("undo the last click")
    page.press("Escape")
    page.page.route("**/actions", lambda route: route.abort())
    page.click(ON_DISC)
    page.text("#message.error").to_contain_text("cannot be reached")
    page.text("#num-clicks").to_have_text("0 clicks")
    page.page.unroute("**/actions")
    page.wait_for_message("the server is back")
    page.text("#num-clicks").to_have_text("1 click")  # it was made anew
    page.wait()
    page.problems.clear()  # the browser says so too
