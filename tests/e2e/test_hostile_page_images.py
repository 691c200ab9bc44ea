"""Images that change under an open page, two tabs on one image, both modes in one image."""

from __future__ import annotations

import json
import os

from drawn_images import ON_DISC, ON_GROUND, ON_SQUARE, click, drawn, write_images
from PIL import Image
from served_pages import act, annotate_app, client_of, label_app, ready_view, refusal


def post(client, action: dict, revision: str):
    return client.post("/api/images/0/actions", json={**action, "revision": revision})


def ids(path) -> list[int]:
    return [one["id"] for one in json.loads(path.read_text())["annotations"]]


def test_an_action_based_on_what_another_tab_has_changed_is_refused(client, paths, out) -> None:
    first = second = ready_view(client)["revision"]
    first = post(client, click(ON_DISC), first).json()["revision"]
    answer = post(client, click(ON_SQUARE), second)
    assert "changed elsewhere" in refusal(answer, 409)
    assert answer.json()["is_stale"]
    view = ready_view(client)
    assert (len(view["prompts"]), view["revision"]) == (1, first)
    assert client.get("/api/alive?number=0").json() == {"revision": first}
    assert client.get("/api/alive?number=2").json() == {"revision": None}  # nobody looked at it
    with client_of(annotate_app(paths, out)) as again:  # the page stays open meanwhile
        ready_view(again)
        assert len(post(again, click(ON_GROUND, 0), first).json()["prompts"]) == 2


def test_an_image_replaced_while_it_is_open_is_noticed_and_its_prompts_set_aside(
    client, paths, out
) -> None:
    ready_view(client)
    revision = act(client, click(ON_DISC))["revision"]
    jpeg = client.get("/api/images/0/image").content
    Image.fromarray(drawn()[::-1].copy()).save(paths[0])
    assert client.get("/api/alive?number=0").json() == {"revision": "replaced"}
    assert "changed elsewhere" in refusal(post(client, click(ON_SQUARE), revision), 409)
    view = ready_view(client)
    assert view["prompts"] == []
    assert "set aside" in view["notice"]
    assert client.get("/api/images/0/image").content != jpeg
    assert "notice" not in post(client, click(ON_SQUARE), view["revision"]).json()
    assert len(list(out.glob("set_aside/*/p0.prompts.json"))) == 1


def test_a_click_of_a_class_based_on_what_another_tab_has_changed_is_refused(paths, out) -> None:
    action = {"do": "click", "at_yx": ON_DISC, "class": 1, "granularity": 0.5}
    with client_of(label_app(paths, out, ["a", "b"])) as client:
        first = second = ready_view(client)["revision"]
        other = ready_view(client, 1)["revision"]
        first = post(client, action, first).json()["revision"]
        assert first != second
        assert client.get("/api/alive?number=0").json() == {"revision": first}
        assert "changed elsewhere" in refusal(post(client, action, second), 409)
        assert len(ready_view(client)["clicks"]) == 1
        assert client.get("/api/alive?number=1").json() == {"revision": other}  # of one image
        assert len(post(client, action, first).json()["clicks"]) == 2
        assert client.get("/api/alive").json() == {"revision": None}


def test_a_name_that_is_not_utf_8_costs_nothing_with_classes(paths, out) -> None:
    paths[1] = paths[1].rename(paths[1].with_name(os.fsdecode(b"caf\xe9.png")))
    with client_of(label_app(paths, out, ["a", "b"])) as client:
        assert client.get("/api/folder").json()["names"][1] == paths[1].name
        ready_view(client, 1)
        act(client, {"do": "click", "at_yx": ON_DISC, "class": 1, "granularity": 0.5}, 1)
        assert act(client, {"do": "done", "is_done": True}, 1)["is_done"]
        answer = client.post("/api/export", json={})
        assert answer.json()["num"] == 1, answer.text


def test_an_image_without_prompts_replaced_while_it_is_open_is_noticed(client, paths) -> None:
    revision = ready_view(client)["revision"]
    Image.fromarray(drawn()[::-1].copy()).save(paths[0])
    refusal(post(client, click(ON_DISC), revision), 409)


def test_an_image_deleted_while_it_is_open_costs_itself_alone(client, paths, out) -> None:
    ready_view(client)
    act(client, click(ON_DISC))
    paths[0].unlink()
    assert "p0.png' cannot be read" in refusal(client.get("/api/images/0?wait=1"))
    assert ready_view(client, 1)["is_ready"]
    with client_of(annotate_app(paths, out)) as again:
        assert "p0.png' cannot be read" in refusal(again.get("/api/images/0?wait=1"))
        write_images(paths[0].parent / "again", 1)[0].rename(paths[0])
        assert len(ready_view(again)["prompts"]) == 1


def test_results_of_both_modes_are_kept(client, out) -> None:
    ready_view(client)
    for place in (ON_DISC, ON_SQUARE, ON_GROUND):
        act(client, click(place))
        act(client, {"do": "finish"})
    act(client, {"do": "mode", "mode": "labels"})
    act(client, click(ON_DISC, 4))
    act(client, {"do": "done", "is_done": True})
    assert ids(out / "p0.json") == [1, 2, 3]
    assert ids(out / "labels" / "p0.json") == [4]
    act(client, {"do": "mode", "mode": "object"})
    act(client, {"do": "done", "is_done": True})
    assert ids(out / "labels" / "p0.json") == [4]


def test_undo_says_what_it_takes_back(client) -> None:
    assert ready_view(client)["undo"] is None
    assert act(client, click(ON_DISC))["undo"] == "a click"
    assert act(client, {"do": "finish"})["undo"] == "finishing an object"
    assert act(client, {"do": "done", "is_done": True})["undo"] == "calling the image done"
    assert act(client, {"do": "undo"})["undo"] == "finishing an object"


def test_a_full_disk_in_done_leaves_the_image_not_done(client, out, monkeypatch) -> None:
    def full(*args: object, **settings: object) -> None:
        raise OSError(28, "No space left on device")

    ready_view(client)
    act(client, click(ON_DISC))
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    with monkeypatch.context() as patch:
        patch.setattr("maskfeat.app.annotation_results.png_bytes", full)
        done = client.post("/api/images/0/actions", json={"do": "done", "is_done": True})
    assert "No space left" in refusal(done, 500)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    assert not ready_view(client)["is_done"]
    assert act(client, {"do": "done", "is_done": True})["is_done"]
    assert ids(out / "p0.json") == [1]
