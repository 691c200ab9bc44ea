"""The page of `maskfeat annotate` in headless Chromium: clicks, keys, and what is seen of them."""

from __future__ import annotations

import contextlib
import json
import re
import signal

import numpy as np
import pytest
from drawn_images import ON_DISC, ON_GROUND, ON_SQUARE, disc, square, write_images
from PIL import Image
from served_pages import (
    annotate_app,
    opened,
    refuse_from_the_first_step_on,
    running,
    served,
)
from waiting import wait_until


@pytest.fixture
def page(browser, url):
    with opened(browser, url) as page:
        yield page


def prompts_in(out, name: str = "p0") -> list[dict]:
    content = json.loads((out / f"{name}.prompts.json").read_text())
    return [step["prompt"] for step in content["steps"][: content["position"]] if "prompt" in step]


def test_click_see_the_mask_change_undo_save_reload(page, out) -> None:
    beside = [60, 40]  # on the disc, away from the click
    plain = page.color_at(beside)
    page.click(ON_GROUND, button="right")
    page.text("#undo").to_be_enabled()
    page.text("#open-area").to_be_empty()
    page.click(ON_DISC)
    page.text("#open-area").to_contain_text("no. 1")
    area = int(re.sub(r"\D", "", page.page.inner_text("#open-area").partition(",")[2]))
    assert abs(area / disc().sum() - 1) < 0.1
    tinted = page.color_at(beside)
    assert np.abs(tinted - plain).max() > 40

    page.press("Control+z")
    page.text("#open-area").to_be_empty()
    np.testing.assert_allclose(page.color_at(beside), plain, atol=2)
    page.press("Control+Shift+z")
    page.text("#open-area").to_contain_text(f"{area:,}")

    page.page.reload()
    page.wait()
    page.text("#open-area").to_contain_text(f"{area:,}")
    np.testing.assert_allclose(page.color_at(beside), tinted, atol=2)

    page.press("Enter")
    page.text("#objects li").to_have_count(1)
    page.text("#objects .area").to_have_text(f"{area:,} px")
    page.text("#open-area").to_be_empty()
    assert (np.array(Image.open(out / "p0_mask.png")) == 1).sum() == area
    page.press("d")
    page.text("#name").to_have_text("p1.png")
    page.text("#num-done").to_have_text("1 of 3 done")
    page.wait()
    page.press("ArrowLeft")
    page.text("#done-badge").to_be_visible()
    page.text("#objects li").to_have_count(1)


def test_scribbles_and_clicks_land_where_they_are_drawn_also_when_zoomed(page, out) -> None:
    page.drag([20, 100], [70, 60], [80, 120], button="right")
    page.text("#clear").to_be_enabled()
    page.drag([35, 35], [55, 45])
    page.text("#open-area").to_contain_text("px")
    first, second = prompts_in(out)
    assert (first["kind"], first["label"], second["label"]) == ("scribble", 0, 1)
    for prompt, corners in (
        (first, ([20, 100], [70, 60], [80, 120])),
        (second, ([35, 35], [55, 45])),
    ):
        points = np.array(prompt["points_yx"])
        for corner in corners:
            assert np.abs(points - corner).max(axis=1).min() <= 1

    x, y = page.spot(ON_SQUARE)
    page.page.mouse.move(x, y)
    page.page.mouse.wheel(0, -600)
    page.page.mouse.click(x, y)  # what is under the cursor stays there
    page.text("#undo").to_be_enabled()
    page.page.mouse.move(x, y)
    page.page.keyboard.down("Space")
    page.page.mouse.down()
    page.page.mouse.move(x + 60, y - 30, steps=3)
    page.page.mouse.up()
    page.page.keyboard.up("Space")
    page.page.mouse.click(x + 60, y - 30, button="right")  # the same pixel, panned
    page.text("#message.error").to_be_visible()  # labeled object and as background
    prompts = prompts_in(out)
    assert len(prompts) == 3
    assert np.abs(np.array(prompts[2]["points_yx"][0]) - ON_SQUARE).max() <= 1


def test_no_click_of_many_is_lost_and_none_overtakes_another(page, out) -> None:
    page.click(ON_DISC)
    places = [[y, x] for y in (4, 84) for x in range(10, 130, 20)]
    for place in places:
        page.click(place, button="right")
    page.press("u")
    page.text("#redo").to_be_enabled()
    assert [prompt["label"] for prompt in prompts_in(out)] == [1, *[0] * (len(places) - 1)]
    drawn = [prompt["points_yx"][0] for prompt in prompts_in(out)[1:]]
    assert np.abs(np.array(drawn) - places[:-1]).max() <= 1


def test_pages_turned_in_haste_end_at_the_last_one(page, out) -> None:
    for key in ("ArrowRight", "ArrowRight", "ArrowLeft", "PageDown", "PageDown"):
        page.press(key)
    page.text("#place").to_have_text("3 / 3")
    page.text("#busy").to_be_hidden()
    page.click(ON_DISC)
    page.text("#open-area").to_contain_text("px")
    assert [prompt["label"] for prompt in prompts_in(out, "p2")] == [1]
    page.press("j")
    page.text("#name").to_have_text("p0.png")
    page.text("#message").to_be_hidden()


def test_the_granularity_slider_shows_the_partition_and_gives_its_segments(page, out) -> None:
    page.press("g")
    page.text("#num-segments").to_have_text(re.compile(r"^\d+ segments$"))
    coarse = page.number("#num-segments")
    page.press("]")
    page.page.locator("#granularity").fill("0.99")
    assert page.number("#num-segments") >= coarse >= 3
    page.page.locator("#granularity").fill("0.5")
    page.click(ON_SQUARE, shift=True)
    page.text("#open-area").to_contain_text(f"{square().sum()} px")
    page.click(ON_SQUARE, button="right", shift=True)
    page.text("#open-area").to_be_empty()
    assert [prompt["kind"] for prompt in prompts_in(out)] == ["segment", "segment"]


def test_tab_goes_through_the_masks_of_a_click_and_the_chosen_one_stays(page, out) -> None:
    page.click(ON_DISC)
    page.text("#open-area").to_contain_text("px")
    first = page.page.inner_text("#open-area")
    page.press("Tab")
    page.text("#chosen-mask").to_contain_text(re.compile(r"^mask 2 of \d$"))
    chosen = page.page.inner_text("#open-area")
    assert chosen != first
    page.page.reload()
    page.wait()
    page.text("#open-area").to_have_text(chosen)
    page.text("#chosen-mask").to_contain_text("mask 2 of")
    page.press("Control+z")
    page.text("#open-area").to_have_text(first)
    page.text("#chosen-mask").to_be_empty()
    page.press("Control+Shift+z")
    page.text("#open-area").to_have_text(chosen)
    page.page.locator("#undo").focus()
    page.press("Tab")  # among controls it goes on to the next one
    assert page.page.evaluate("document.activeElement.id") == "clear"
    page.text("#open-area").to_have_text(chosen)


def test_labels_are_chosen_by_key_and_by_right_click(page, out) -> None:
    page.press("m")
    page.text("#labels").to_be_visible()
    for key, place in (("3", ON_DISC), ("5", ON_SQUARE), ("1", ON_GROUND)):
        page.press(key)
        page.click(place)
    page.text('#labels [data-label="1"]').to_have_class("chosen")
    page.text("#clear").to_be_enabled()

    def is_chosen_by_right_click() -> bool:
        page.click([50, 105], button="right")
        return page.page.locator('#labels [data-label="5"].chosen').count() == 1

    wait_until(is_chosen_by_right_click, pause_s=0.3)  # when the labels are shown
    assert [prompt["label"] for prompt in prompts_in(out)] == [3, 5, 1]
    page.page.locator("#done").click()
    page.text("#name").to_have_text("p1.png")
    labels = np.array(Image.open(out / "labels" / "p0_mask.png"))
    assert [labels[tuple(place)] for place in (ON_DISC, ON_SQUARE, ON_GROUND)] == [3, 5, 1]


def test_objects_are_hidden_opened_again_and_deleted_from_the_list(page) -> None:
    page.click(ON_GROUND, button="right")
    page.click(ON_DISC)
    page.press("n")
    page.text("#objects li").to_have_count(1)
    beside = [60, 40]
    shown = page.color_at(beside)
    page.page.locator("#objects .show").click()
    assert np.abs(page.color_at(beside) - shown).max() > 20
    page.page.locator("#objects .reopen").click()
    page.text("#objects li").to_have_count(0)
    page.text("#open-area").to_contain_text("no. 1")
    page.press("Enter")
    page.text("#objects li").to_have_count(1)
    page.page.locator("#objects .delete").click()
    page.text("#objects li").to_have_count(0)
    page.press("u")
    page.text("#objects li").to_have_count(1)


def test_the_help_names_the_keys_and_a_dead_server_is_said(page, out) -> None:
    page.press("?")
    page.text("#help").to_be_visible()
    page.text("#key-help").to_contain_text("undo")
    page.press("Escape")
    page.text("#help").to_be_hidden()
    refuse_from_the_first_step_on(page.page)
    page.click(ON_DISC)
    page.text("#message.error").to_contain_text("cannot be reached")
    page.text("#done").to_be_disabled()
    page.press("d")
    page.click(ON_SQUARE)  # nothing can be pressed meanwhile
    page.page.unroute("**/api/**")
    page.wait_for_message("the server is back")
    page.problems.clear()  # the browser says so too
    page.wait()
    page.text("#done").to_be_enabled()
    page.text("#open-area").to_contain_text("no. 1")  # what did not arrive was made anew
    assert [prompt["points_yx"] for prompt in prompts_in(out)] == [[ON_DISC]]


def lose_the_server(page, held: list) -> None:
    """Abort the first step that is held, and all that follows until the page has said so."""
    page.page.route("**/api/**", lambda route: route.abort())
    held[0].abort()
    page.text("#message.error").to_contain_text("cannot be reached")
    page.page.unroute("**/api/**")
    page.page.unroute("**/actions")
    page.wait_for_message("the server is back")
    page.problems.clear()
    page.wait()
    page.text("#open-area").to_contain_text("no. 1")


def test_steps_that_did_not_arrive_are_made_in_order_on_all_images(page, out) -> None:
    held = []
    page.page.route("**/actions", lambda route: held.append(route))
    page.click(ON_DISC)
    page.click(ON_GROUND, button="right")
    page.press("ArrowRight")
    page.text("#name").to_have_text("p1.png")
    page.wait()
    page.click(ON_SQUARE)
    lose_the_server(page, held)
    page.text("#message").not_to_contain_text("could not be made")
    assert [prompt["points_yx"] for prompt in prompts_in(out)] == [[ON_DISC], [ON_GROUND]]
    assert [prompt["points_yx"] for prompt in prompts_in(out, "p1")] == [[ON_SQUARE]]


def test_a_step_that_was_saved_though_its_answer_was_lost_is_not_made_twice(page, out) -> None:
    held = []
    page.page.route("**/actions", lambda route: held.append(route))
    page.click(ON_DISC)
    page.click(ON_GROUND, button="right")
    page.page.wait_for_timeout(200)
    held[0].fetch()
    lose_the_server(page, held)
    assert [prompt["points_yx"] for prompt in prompts_in(out)] == [[ON_DISC], [ON_GROUND]]


def test_an_open_page_goes_on_when_the_server_was_killed_and_started_again(
    browser, tmp_path
) -> None:
    folder = write_images(tmp_path / "photos")[0].parent
    with contextlib.ExitStack() as servers:  # which end after the page
        first = servers.enter_context(running(folder))
        port = first.url.rstrip("/").rpartition(":")[2]
        with opened(browser, first.url) as page:
            page.click(ON_GROUND, button="right")
            page.text("#undo").to_be_enabled()
            first.status_after(signal.SIGKILL)
            page.press("ArrowRight")  # nobody answers, and the page does not wait for a key
            page.text("#message.error").to_contain_text("cannot be reached")
            for name in ("#undo", "#next", "#done"):
                page.text(name).to_be_disabled()
            servers.enter_context(running(folder, "--port", port))
            page.wait_for_message("the server is back")
            page.text("#name").to_have_text("p1.png")
            page.wait()
            page.problems.clear()  # the browser says that nobody answered
            page.click(ON_DISC)
            page.text("#open-area").to_contain_text("no. 1")
            page.text("#busy").to_be_hidden()


def test_an_image_that_cannot_be_read_is_passed_over(browser, tmp_path, out) -> None:
    paths = write_images(tmp_path / "photos")
    paths[1].write_bytes(b"no image")
    with served(annotate_app(paths, out)) as url, opened(browser, url) as page:
        page.press("d")
        page.text("#name").to_have_text("p1.png")
        page.text("#message.error").to_contain_text("cannot be read")
        page.press("d")
        page.text("#name").to_have_text("p2.png")
        page.wait()
        page.press("d")
        page.wait_for_message("all images are done, but 1 that cannot be read")


def test_all_is_within_reach_in_a_small_window(page) -> None:
    page.page.set_viewport_size({"width": 640, "height": 420})
    page.press("?")
    page.text("#help").to_be_visible()
    sizes = page.page.evaluate("""() => {
        const { scrollTop, scrollWidth, clientWidth } = document.getElementById("help");
        return [scrollTop, scrollWidth - clientWidth];
    }""")
    assert sizes == [0, 0]
    page.press("Escape")
    page.page.click("#done")
    page.text("#name").to_have_text("p1.png")
