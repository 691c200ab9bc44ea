"""The server of `maskfeat annotate --classes`, without a browser, and the command itself."""

from __future__ import annotations

import json
import signal

import numpy as np
import pytest
from drawn_images import ON_DISC, ON_GROUND, ON_SQUARE, SIZE, disc, iou, write_images
from PIL import Image
from served_pages import act, client_of, label_app, ready_view, refusal, refused_start, running
from starlette.testclient import TestClient

CLASSES = ["ground", "disc", "square"]


def serve(paths, out) -> TestClient:
    settings = {"per_megapixel": 40_000, "pairwise_weight": 3, "acquisition": "given"}
    return client_of(label_app(paths, out, CLASSES, **settings))


@pytest.fixture
def client(paths, out):
    with serve(paths, out) as client:
        yield client


def click(place, number: int, granularity: float = 0.5) -> dict:
    return {"do": "click", "at_yx": list(place), "class": number, "granularity": granularity}


def click_all(client, number: int = 0) -> dict:
    for place, of in ((ON_GROUND, 0), (ON_DISC, 1), (ON_SQUARE, 2)):
        answer = act(client, click(place, of), number)
    return answer


def view_of(client, number: int = 0) -> dict:
    """When it is prepared and all is learned."""
    ready_view(client, number)
    return client.get(f"/api/images/{number}?learn=1").json()


def labels_of(client, number: int = 0) -> np.ndarray:
    """Class of each pixel, as the page makes it of superpixels."""
    content = client.get(f"/api/images/{number}/partition").content
    height, width, num_superpixels, _ = np.frombuffer(content, "<u4", 4)
    superpixels = np.frombuffer(content, "<i4", offset=16 + 12 * (2 * int(num_superpixels) - 1))
    return np.array(view_of(client, number)["classes"])[superpixels.reshape(height, width)]


def test_clicks_teach_the_classes_of_all_images(client) -> None:
    folder = client.get("/api/folder").json()
    assert (folder["names"], folder["classes"]) == (["p0.png", "p1.png", "p2.png"], CLASSES)
    assert (folder["first"], folder["is_done"]) == (0, [False] * 3)
    assert not view_of(client)["knows_classes"]
    answer = click_all(client)
    assert not answer["is_fresh"]  # it does not wait for what is learned
    assert answer["progress"]["num_clicks"] == 3
    assert [one["class"] for one in answer["clicks"]] == [0, 1, 2]
    assert "classes" not in answer
    view = client.get("/api/images/0").json()  # by what was known before
    assert set(np.array(view["classes"])[view["fixed"]]) == {0, 1, 2}
    view = view_of(client)
    assert (view["is_fresh"], view["knows_classes"]) == (True, True)
    assert view["size"] == list(SIZE)
    for number in (0, 2):
        assert iou(labels_of(client, number) == 1, disc()) > 0.9
    assert view_of(client, 2)["fixed"] == []


def test_undo_and_redo_say_which_image_they_changed(client, paths, out) -> None:
    click_all(client)
    act(client, click(ON_DISC, 2), 1)
    before = view_of(client, 1)["classes"]
    answer = act(client, {"do": "undo"}, 0)
    assert (answer["number"], answer["clicks"], answer["can_redo"]) == (1, [], True)
    with serve(paths, out) as again:  # also after a new start
        answer = act(again, {"do": "redo"}, 0)
        assert (answer["number"], answer["can_redo"]) == (1, False)
        assert view_of(again, 1)["classes"] == before
        act(again, {"do": "undo"})
        act(again, click(ON_DISC, 1), 1)
        post = again.post("/api/images/0/actions", json={"do": "redo"})
        assert "no click to do again" in refusal(post)


def test_done_images_keep_what_was_shown_and_are_exported(client, out) -> None:
    click_all(client)
    view_of(client)
    shown = labels_of(client)
    assert act(client, {"do": "done", "is_done": True})["is_done"]
    assert client.get("/api/next?after=0").json() == {"number": 1}
    act(client, click(ON_DISC, 2), 1)  # what is learned later changes it no more
    np.testing.assert_array_equal(labels_of(client), shown)
    answer = client.post("/api/export", json={}).json()
    assert answer == {"num": 1, "folder": str(out / "exported")}
    files = {one.name for one in (out / "exported").iterdir() if not one.name.startswith(".")}
    assert files == {"p0_classes.png", "classes.txt", "coco.json", "p0.json"}
    written = np.array(Image.open(out / "exported" / "p0_classes.png"))
    np.testing.assert_array_equal(written, shown + 1)
    assert not act(client, {"do": "done", "is_done": False})["is_done"]
    post = client.post("/api/export", json={"formats": ["gif"]})
    assert "formats must be of png" in refusal(post)


def test_an_image_that_cannot_be_read_is_named_and_left_out(paths, out) -> None:
    paths[0].write_bytes(b"no image")
    with serve(paths, out) as client:
        for _ in range(60):
            response = client.get("/api/images/0?wait=1")
            if response.status_code == 400:
                break
        assert "p0.png' cannot be read as an image" in refusal(response)
        progress = client.get("/api/progress").json()
        assert list(progress["failed"]) == ["p0.png"]
        assert client.get("/api/next").json() == {"number": 1}


@pytest.mark.parametrize(
    ("action", "match"),
    [
        ({"do": "click"}, "at_yx must be whole numbers, got None"),
        ({**click([1, 1], 0), "at_yx": [1, 2, 3]}, "at_yx must be whole numbers"),
        (click([90, 0], 0), r"lies outside the image"),
        (click([1.5, 0], 0), "must be whole numbers"),
        (click([1, 1], 3), "no class 3 among 3"),
        (click([1, 1], -2), "no class -2 among 3"),
        (
            click([1, 1], 0, granularity=1),
            "granularity must be a finite number above 0",
        ),
        (click([1, 1], 0, granularity="x"), "granularity must be a number"),
        ({"do": "fly"}, "an action must be click, undo, redo, done or check, got 'fly'"),
        ({"do": "undo"}, "no click to take back"),
    ],
)
def test_a_malformed_action_is_refused_and_changes_nothing(client, out, action, match) -> None:
    post = client.post("/api/images/0/actions", json=action)
    assert match in refusal(post)
    assert not (out / "clicks.json").exists()


def test_only_its_own_page_is_answered(client, out) -> None:
    assert "no image 3 among 3" in refusal(client.get("/api/images/3"))
    assert "no image 3 among 3" in refusal(client.get("/api/images/3/image"))
    assert client.get("/").headers["content-security-policy"].startswith("default-src 'self'")
    assert client.get("/page/label.js").status_code == 200
    assert client.get("/page/..%2fcli.py").status_code == 404
    for headers in (
        {"host": "evil.example"},
        {"origin": "http://evil.example"},
        {"sec-fetch-site": "cross-site"},
        {"content-type": "text/plain"},
    ):
        headers = {"content-type": "application/json", **headers}
        for address in ("/api/images/0/actions", "/api/export"):
            post = client.post(address, content=json.dumps(click(ON_DISC, 1)), headers=headers)
            refusal(post, status=403)
    assert not (out / "clicks.json").exists()


def test_two_programs_do_not_write_over_each_other(client, paths, out) -> None:
    for number in range(3):
        view_of(client, number)
    with serve(paths, out) as other:
        act(other, click(ON_DISC, 1))
    post = client.post("/api/images/0/actions", json=click(ON_DISC, 1))
    assert "changed by another program" in refusal(post)
    assert len(json.loads((out / "clicks.json").read_text())["clicks"]) == 1


@pytest.mark.slow
def test_a_click_answered_is_there_after_a_kill_and_the_next_start_goes_on(tmp_path) -> None:
    write_images(tmp_path / "photos", 2)
    words = ("--classes", ",".join(CLASSES), "--acquisition", "given")
    with running(tmp_path / "photos", *words) as server:
        assert "0 of 2 images done" in server.said
        server.ask("images/0/actions", click(ON_DISC, 1))
        server.ask("images/0/actions", {"do": "done", "is_done": True})
        server.ask("images/1/actions", click(ON_SQUARE, 2))
    with running(tmp_path / "photos", *words) as server:
        assert "1 of 2 images done" in server.said
        folder = server.ask("folder")
        assert (folder["first"], folder["is_done"]) == (1, [True, False])
        assert folder["progress"]["num_clicks"] == 2
        assert (tmp_path / "photos_labels" / "labels" / "p0.png").exists()
        assert server.status_after(signal.SIGINT) in (0, -signal.SIGINT)


@pytest.mark.parametrize(
    ("words", "match"),
    [
        (["--classes", "sky"], "at least two different names with commas between, got 'sky'"),
        (["--classes", "a,b,a"], "at least two different names"),
        (["--classes", "a,,b"], "at least two different names"),
        (
            ["--classes", "a,b", "--acquisition", "best"],
            "acquisition must be uncertain, energy or given",
        ),
        (["--classes", "a,b", "--out", "photos"], "out must be another folder"),
        (["--classes", "a,b", "--out", "labeled"], "was written for the classes"),
    ],
)
def test_what_cannot_be_served_is_said_in_one_sentence(tmp_path, monkeypatch, words, match) -> None:
    write_images(tmp_path / "photos")
    (tmp_path / "labeled").mkdir()
    content = {"version": 1, "classes": ["x", "y"], "clicks": [], "done": []}
    (tmp_path / "labeled" / "clicks.json").write_text(json.dumps(content))
    monkeypatch.chdir(tmp_path)
    assert match in refused_start("photos", "--model", "lab", *words)
