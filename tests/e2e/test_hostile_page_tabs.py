"""The page of `maskfeat annotate` in a browser: undo after an image, two tabs, a replaced file."""

from __future__ import annotations

import json

import numpy as np
from drawn_images import ON_DISC, ON_GROUND, ON_SQUARE, drawn
from PIL import Image
from served_pages import opened, refuse_from_the_first_step_on, served

from maskfeat import Labeler
from maskfeat.app.label_views import LabelViews
from maskfeat.app.server import create_app
from maskfeat.segment.inputs import model_of


def num_masks(path) -> int:
    return len(json.loads(path.read_text())["annotations"])


def test_undo_after_an_image_was_called_done_takes_that_back(browser, url, out) -> None:
    with opened(browser, url) as page:
        page.press("ArrowRight")
        page.text("#name").to_have_text("p1.png")
        page.wait()
        page.click(ON_DISC)
        page.press("Enter")
        page.text("#objects li").to_have_count(1)
        page.press("ArrowLeft")
        page.text("#name").to_have_text("p0.png")
        page.wait()
        page.press("d")  # by accident
        page.text("#name").to_have_text("p1.png")
        page.text("#objects li").to_have_count(1)
        page.press("u")
        page.wait_for_message("taken back in p0.png: calling the image done")
        page.text("#name").to_have_text("p0.png")
        page.text("#done-badge").to_be_hidden()
        assert num_masks(out / "p1.json") == 1
        page.press("ArrowRight")  # from here on, undo belongs to the image that is shown
        page.text("#objects li").to_have_count(1)
        page.text("#undo").to_have_attribute("title", "Undo finishing an object (Ctrl+Z or U)")
        page.press("u")
        page.wait_for_message("taken back in p1.png: finishing an object")
        page.press("u")
        page.text("#undo").to_be_disabled()
        page.press("u")  # there is nothing more
        page.page.wait_for_timeout(300)
        page.text("#message").not_to_contain_text("null")
        page.text("#objects li").to_have_count(0)


def test_a_second_tab_shows_what_the_first_one_prompts_and_adds_nothing_to_what_it_missed(
    browser, url, out
) -> None:
    with opened(browser, url) as first, opened(browser, url) as second:
        second.page.route("**/api/alive*", lambda route: route.fulfill(json={"revision": None}))
        first.click(ON_GROUND, button="right")
        first.click(ON_DISC)
        first.text("#open-area").to_contain_text("px")
        second.click(ON_SQUARE)  # it has not been told yet
        second.text("#message.error").to_contain_text("changed elsewhere")
        second.text("#open-area").to_have_text(first.page.inner_text("#open-area"))
        second.click(ON_SQUARE)  # now it has
        second.text("#message").to_be_hidden()
        second.page.unroute("**/api/alive*")
        first.wait_for_message("changed in another tab")
        first.text("#open-area").to_have_text(second.page.inner_text("#open-area"))
        content = json.loads((out / "p0.prompts.json").read_text())
        assert len(content["steps"]) == 3


def test_an_image_replaced_while_the_page_is_open_is_shown_anew(browser, url, paths, out) -> None:
    with opened(browser, url) as page:
        page.click(ON_DISC)
        page.text("#open-area").to_contain_text("px")
        Image.fromarray(255 - drawn()).save(paths[0])
        page.text("#message.error").to_contain_text("set aside in")
        page.text("#open-area").to_be_empty()
        page.wait()
        np.testing.assert_allclose(
            page.color_at(ON_SQUARE), 255 - drawn()[tuple(ON_SQUARE)], atol=6
        )
        assert len(list(out.glob("set_aside/*/p0.prompts.json"))) == 1


def test_the_page_of_classes_waits_for_its_server_and_sees_other_tabs(browser, paths, out) -> None:
    labeler = Labeler(paths, ["ground", "disc"], model_of("lab"), out)
    with (
        served(create_app(LabelViews(labeler))) as url,
        opened(browser, url) as page,
        opened(browser, url) as other,
    ):
        refuse_from_the_first_step_on(page.page)
        page.click(ON_DISC)
        page.text("#message.error").to_contain_text("cannot be reached")
        page.text("#done").to_be_disabled()
        page.press("d")
        page.page.unroute("**/api/**")
        page.wait_for_message("the server is back")
        page.wait()
        page.problems.clear()  # the browser says that nobody answered
        page.text("#name").to_have_text("p0.png")
        page.text("#done").to_be_enabled()
        page.text("#num-clicks").to_have_text("1 click")  # what did not arrive was made anew
        other.text("#undo").to_be_enabled()
        other.text("#num-clicks").to_have_text("1 click")
        assert len(labeler.clicks) == 1
        Image.fromarray(255 - drawn()).save(paths[0])
        page.text("#num-clicks").to_have_text("0 clicks")
        page.wait()
        page.press("h")  # without the classes
        np.testing.assert_allclose(
            page.color_at(ON_SQUARE), 255 - drawn()[tuple(ON_SQUARE)], atol=6
        )
