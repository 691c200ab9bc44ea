"""The server of `maskfeat annotate`, without a browser, and the command itself."""

from __future__ import annotations

import gzip
import json
import signal

import numpy as np
import pytest
from drawn_images import (
    ON_DISC,
    ON_GROUND,
    ON_SQUARE,
    SIZE,
    click,
    disc,
    iou,
    square,
    write_images,
)
from PIL import Image
from served_pages import (
    Slow,
    act,
    annotate_app,
    client_of,
    ready_view,
    refusal,
    refused_start,
    running,
)
from waiting import wait_until

from maskfeat.app import image_at_work, open_images
from maskfeat.app.annotation_store import AnnotationStore
from maskfeat.app.open_images import OpenImages
from maskfeat.app.server import create_app
from maskfeat.data.annotations.painting import decode_annotations
from maskfeat.data.convert.mask_sets import list_masks
from maskfeat.segment.hierarchy import hierarchy
from maskfeat.segment.inputs import as_features, model_of


def mask_of(encoded: dict) -> np.ndarray:
    return decode_annotations([encoded["counts"]], tuple(encoded["size"]))[0]


def distance_to_outline(mask: np.ndarray, place: list[int]) -> float:
    """To the nearest pixel of the other label."""
    others = np.argwhere(mask != mask[tuple(place)])
    return float(np.hypot(*(others - place).T).min())


def test_a_click_a_finished_object_and_a_done_image_end_in_files(client, out) -> None:
    ready_view(client)
    act(client, click(ON_GROUND, 0))
    (encoded,) = act(client, click(ON_DISC))["masks"]
    assert iou(mask_of(encoded), disc()) > 0.9
    view = act(client, {"do": "finish"})
    assert (view["prompts"], view["masks"], view["open_number"]) == ([], [], 2)
    (finished,) = view["finished"]
    assert (finished["number"], finished["counts"]) == (1, encoded["counts"])
    assert "finished" not in act(client, click(ON_SQUARE))  # it did not change
    view = act(client, {"do": "done", "is_done": True})  # finishes what is at hand
    assert (view["is_done"], view["num_done"], len(view["finished"])) == (True, 1, 2)
    labels = np.array(Image.open(out / "p0_mask.png"))
    np.testing.assert_array_equal(labels == 1, mask_of(encoded))
    assert labels[tuple(ON_SQUARE)] == 2
    annotations = json.loads((out / "p0.json").read_text())["annotations"]
    assert [one["id"] for one in annotations] == [1, 2]


def test_results_follow_undo_delete_and_reopen(client, out) -> None:
    for step in (click(ON_DISC), {"do": "finish"}, click(ON_SQUARE), {"do": "finish"}):
        act(client, step)

    def ids() -> list[int]:
        return [one["id"] for one in json.loads((out / "p0.json").read_text())["annotations"]]

    assert ids() == [1, 2]
    act(client, {"do": "delete", "number": 1})
    assert ids() == [2]
    act(client, {"do": "undo"})
    assert ids() == [1, 2]
    view = act(client, {"do": "reopen", "number": 1})
    assert ids() == [2]
    assert view["masks"][0]["counts"]
    act(client, {"do": "reopen", "number": 2})  # finishes the one at hand first
    assert ids() == [1]


def test_every_prompt_is_in_its_file_before_the_answer_comes(client, paths, out) -> None:
    for place in (ON_DISC, ON_SQUARE):
        act(client, click(place))
    content = json.loads((out / "p0.prompts.json").read_text())
    assert [step["prompt"]["points_yx"] for step in content["steps"]] == [[ON_DISC], [ON_SQUARE]]
    assert [path.name for path in out.iterdir()] == ["p0.prompts.json"]  # nothing half written
    expected = ready_view(client)
    with client_of(
        annotate_app(paths, out)
    ) as again:  # as after a kill: nothing is kept but the files
        view = ready_view(again)
        assert {**view, "moment": 0} == {**expected, "moment": 0}
        assert act(again, {"do": "undo"})["can_redo"]


def test_a_prompt_made_before_the_features_are_there_is_saved_at_once(paths, out) -> None:
    model = Slow()
    with client_of(annotate_app(paths, out, model)) as client:
        assert not client.get("/api/images/0?wait=1").json()["is_ready"]
        view = act(client, click(ON_DISC))
        assert (len(view["prompts"]), view["masks"]) == (1, [])
        assert len(json.loads((out / "p0.prompts.json").read_text())["steps"]) == 1
        model.go.set()
        assert iou(mask_of(ready_view(client)["masks"][0]), disc()) > 0.9


def test_a_refused_prompt_leaves_prompts_file_and_redo_as_they_were(client, out) -> None:
    ready_view(client)
    act(client, click(ON_DISC))
    act(client, click(ON_SQUARE))
    act(client, {"do": "undo"})
    before = (out / "p0.prompts.json").read_bytes()
    post = client.post("/api/images/0/actions", json=click(ON_DISC, 0))
    assert "clicked" in refusal(post) or "labeled" in refusal(post)
    assert (out / "p0.prompts.json").read_bytes() == before
    view = ready_view(client)
    assert (len(view["prompts"]), view["can_redo"]) == (1, True)


def test_prompts_that_contradict_one_another_in_the_file_can_be_taken_back(paths, out) -> None:
    with client_of(annotate_app(paths, out)) as client:
        act(client, click(ON_DISC))
    path = out / "p0.prompts.json"  # as a kill between saving and refusing leaves it
    content = json.loads(path.read_text())
    content["steps"].append(click(ON_DISC, 0))
    content["position"] = 2
    path.write_text(json.dumps(content))
    with client_of(annotate_app(paths, out)) as client:
        assert ready_view(client)["problem"]
        view = act(client, {"do": "undo"})
        assert "problem" not in view
        assert view["masks"]


def test_a_later_click_carries_its_click_radius_whatever_the_browser_says(client, out) -> None:
    ready_view(client)
    act(client, click(ON_DISC, click_radius=0.0))  # nothing is shown yet
    act(client, click(ON_GROUND, 0))
    beside = [45, 67]
    expected = distance_to_outline(mask_of(ready_view(client)["masks"][0]), beside)
    assert expected < 5
    act(client, click(beside, click_radius=500.0))
    act(client, click([50, 105], kind="segment", granularity=0.5, click_radius=7.0))
    shown = mask_of(ready_view(client)["masks"][0])
    assert shown[50, 105]
    act(client, click([50, 104], 0))  # in the segment
    view = act(client, click([70, 100], 0))  # below it: what is shown says the same
    click_radii = [one.get("click_radius") for one in view["prompts"]]
    assert click_radii[::3] == [None, None]
    assert click_radii[2] == pytest.approx(expected)
    assert click_radii[4] == pytest.approx(distance_to_outline(shown, [50, 104]))
    assert (click_radii[1], click_radii[5]) == (0, 0)
    content = json.loads((out / "p0.prompts.json").read_text())
    assert [step["prompt"] for step in content["steps"]] == view["prompts"]


def test_a_background_click_after_a_click_in_a_segment_is_obeyed(client) -> None:
    ready_view(client)
    act(client, click(ON_DISC))
    act(client, click(ON_SQUARE, kind="segment", granularity=0.5))
    shown = mask_of(act(client, click(ON_SQUARE))["masks"][0])  # says what is shown
    mask = mask_of(act(client, click([45, 50], 0))["masks"][0])
    assert [mask[tuple(place)] for place in (ON_DISC, ON_SQUARE, [45, 50])] == [True, True, False]
    assert not (mask & ~shown).any()


def test_the_click_radius_of_a_large_image_is_in_its_own_pixels(paths, out) -> None:
    with client_of(annotate_app(paths, out, max_megapixels=SIZE[0] * SIZE[1] / 4e6)) as client:
        ready_view(client)
        act(client, click(ON_GROUND, 0))
        small = mask_of(act(client, click(ON_DISC))["masks"][0])
        click_radius = act(client, click([45, 80]))["prompts"][2]["click_radius"]
    assert click_radius == pytest.approx(2 * distance_to_outline(small, [22, 40]))


def test_prompts_that_label_and_prompts_before_the_features_are_there_have_no_click_radius(
    paths, out
) -> None:
    model = Slow()
    with client_of(annotate_app(paths, out, model)) as client:
        act(client, click(ON_DISC))
        act(client, click(ON_GROUND, 0, click_radius=1.0))
        model.go.set()
        ready_view(client)
        act(client, {"do": "mode", "mode": "labels"})
        act(client, click(ON_SQUARE, 2))
        act(client, click(ON_DISC, 3, click_radius=1.0))
    prompts = [
        one.get("prompt", {}) for one in json.loads((out / "p0.prompts.json").read_text())["steps"]
    ]
    assert len(prompts) == 5
    assert not any("click_radius" in one for one in prompts)


def test_undo_and_redo_give_the_same_mask_to_the_pixel(client, paths, out) -> None:
    ready_view(client)
    clicks = (click(ON_DISC), click([45, 67]), click([24, 40], 0), click(ON_SQUARE))
    masks = [act(client, one)["masks"] for one in clicks]
    assert len({one["counts"] for (one,) in masks}) == 4
    for back in (2, 1, 0):
        assert act(client, {"do": "undo"})["masks"] == masks[back]
    for forth in (1, 2, 3):
        assert act(client, {"do": "redo"})["masks"] == masks[forth]
    with client_of(annotate_app(paths, out)) as again:  # also after a new start
        assert ready_view(again)["masks"] == masks[3]
        assert act(again, {"do": "undo"})["masks"] == masks[2]


def test_a_chosen_mask_is_kept_corrected_taken_back_and_finished(client, paths, out) -> None:
    ready_view(client)
    first = act(client, click(ON_DISC))
    seen = [act(client, {"do": "candidate"})]
    while seen[-1]["chosen"]:
        seen.append(act(client, {"do": "candidate"}))
    num_masks = seen[0]["chosen"]["num_masks"]
    assert num_masks == len(seen) >= 2
    assert seen[-1]["masks"] == first["masks"]  # once around
    masks = [mask_of(one["masks"][0]) for one in seen]
    assert all(mask[tuple(ON_DISC)] for mask in masks)
    assert all(iou(one, masks[-1]) < 0.8 for one in masks[:-1])

    act(client, {"do": "candidate"})
    inside = np.argwhere(masks[0])
    place = inside[np.abs(inside - ON_DISC).sum(axis=1).argmax()].tolist()
    corrected = act(client, click(place, 0))
    after = mask_of(corrected["masks"][0])
    assert not after[tuple(place)]
    assert after[tuple(ON_DISC)]
    assert not (after & ~masks[0]).any()  # it is the chosen mask that is corrected
    refused = client.post("/api/images/0/actions", json={"do": "candidate"})
    assert "corrected" in refusal(refused)
    with client_of(annotate_app(paths, out)) as again:  # also after a new start
        assert ready_view(again)["masks"] == corrected["masks"]
        undone = act(again, {"do": "undo"})
        assert (undone["masks"], undone["chosen"]) == (seen[0]["masks"], seen[0]["chosen"])
        assert act(again, {"do": "undo"})["masks"] == first["masks"]
        assert act(again, {"do": "redo"})["masks"] == seen[0]["masks"]
        act(again, {"do": "finish"})
        assert act(again, {"do": "reopen", "number": 1})["masks"] == seen[0]["masks"]


def test_without_clicks_and_with_segments_there_is_no_other_mask(client) -> None:
    ready_view(client)
    refused = client.post("/api/images/0/actions", json={"do": "candidate"})
    assert "click one first" in refusal(refused)
    act(client, click(ON_DISC, kind="segment", granularity=0.5))
    refused = client.post("/api/images/0/actions", json={"do": "candidate"})
    assert "segments taken whole, boxes and paint have none" in refusal(refused)


def test_labels_color_the_image_and_are_named_in_the_json(client, out) -> None:
    act(client, {"do": "mode", "mode": "labels"})
    for place, label in ((ON_DISC, 3), (ON_SQUARE, 5), (ON_GROUND, 1)):
        view = act(client, click(place, label))
    masks = {one["label"]: mask_of(one) for one in ready_view(client)["masks"]}
    assert set(masks) == {1, 3, 5}
    assert sum(mask.sum() for mask in masks.values()) == SIZE[0] * SIZE[1]
    assert iou(masks[5], square()) > 0.9
    assert "one by one" in refusal(client.post("/api/images/0/actions", json={"do": "finish"}))
    view = act(client, {"do": "done", "is_done": True})
    assert view["is_done"]
    annotations = json.loads((out / "labels" / "p0.json").read_text())["annotations"]
    assert [one["label"] for one in annotations] == [1, 3, 5]


def test_an_object_left_open_for_the_labels_is_finished_with_the_image(client, out) -> None:
    ready_view(client)
    shown = mask_of(act(client, click(ON_DISC))["masks"][0])
    act(client, {"do": "mode", "mode": "labels"})
    act(client, click(ON_SQUARE, 3))
    act(client, {"do": "done", "is_done": True})
    objects = np.array(Image.open(out / "p0_mask.png"))
    np.testing.assert_array_equal(objects == 1, shown)
    assert (np.array(Image.open(out / "labels" / "p0_mask.png")) == 3).all()
    act(client, {"do": "mode", "mode": "object"})
    act(client, click(ON_GROUND, 0))  # of no object
    act(client, {"do": "mode", "mode": "labels"})
    act(client, {"do": "done", "is_done": True})
    assert len(json.loads((out / "p0.json").read_text())["annotations"]) == 1


def test_saving_writes_results_of_an_image_that_is_not_done(client, out) -> None:
    act(client, {"do": "mode", "mode": "labels"})
    act(client, click(ON_DISC, 3))
    assert not (out / "labels").exists()
    assert not act(client, {"do": "save"})["is_done"]
    assert np.array(Image.open(out / "labels" / "p0_mask.png"))[tuple(ON_DISC)] == 3


def test_the_partition_is_the_tree_of_the_page(client, paths) -> None:
    response = client.get("/api/images/0/partition")
    content = response.content
    height, width, num_superpixels, _ = np.frombuffer(content, "<u4", 4)
    altitudes = np.frombuffer(content, "<f8", 2 * num_superpixels - 1, 16)
    parents = np.frombuffer(content, "<i4", 2 * num_superpixels - 1, 16 + altitudes.nbytes)
    superpixels = np.frombuffer(content, "<i4", -1, 16 + altitudes.nbytes + parents.nbytes)
    assert (height, width) == SIZE
    # As the page does: each node joins its parent while the parent's altitude allows it.
    tops = np.arange(len(parents))
    for node in range(len(parents) - 2, -1, -1):
        if altitudes[parents[node]] <= 1 - 0.3:
            tops[node] = tops[parents[node]]
    cut = tops[superpixels].reshape(SIZE)
    rgb = np.asarray(Image.open(paths[0]))
    expected = hierarchy(as_features(rgb)).cut(granularity=0.3)
    pairs = np.unique(np.stack([cut.ravel(), expected.ravel()]), axis=1)
    assert pairs.shape[1] == len(np.unique(cut)) == len(np.unique(expected))
    assert len(gzip.compress(content)) < len(content)


def test_a_large_image_is_worked_on_reduced_and_its_masks_enlarged(paths, out) -> None:
    with client_of(annotate_app(paths, out, max_megapixels=SIZE[0] * SIZE[1] / 4e6)) as client:
        ready_view(client)
        act(client, click(ON_GROUND, 0))
        view = act(client, click(ON_DISC))
        assert view["masks"][0]["size"] == [SIZE[0] // 2, SIZE[1] // 2]
        act(client, {"do": "finish"})
    labels = np.array(Image.open(out / "p0_mask.png"))
    assert labels.shape == SIZE
    assert iou(labels == 1, disc()) > 0.9
    with client_of(
        annotate_app(paths, out)
    ) as client:  # worked on whole the next time: the mask is the same
        assert ready_view(client)["finished"][0]["size"] == [SIZE[0] // 2, SIZE[1] // 2]


def ready_ahead(images: OpenImages) -> set[int]:
    """The images whose features are there."""
    return {number for number, image in images._open.items() if image.segmenter.done()}


def test_features_of_the_next_images_to_be_done_are_computed_ahead(tmp_path, out) -> None:
    images = OpenImages(
        AnnotationStore(out, write_images(tmp_path / "many", 6)), model_of("lab"), 2.0
    )
    with client_of(create_app(images)) as client:
        ready_view(client, 2)
        act(client, {"do": "done", "is_done": True}, 2)
        ready_view(client, 1)
        wait_until(lambda: ready_ahead(images) == {1, 2, 3, 4, 5})
        ready_view(client, 5)  # after the last come the first
        wait_until(lambda: {5, 0, 1, 3} <= ready_ahead(images))


def test_fewer_large_images_are_computed_ahead(tmp_path, out, monkeypatch) -> None:
    monkeypatch.setattr(open_images, "_MOST_PIXELS", 3 * SIZE[0] * SIZE[1])
    images = OpenImages(
        AnnotationStore(out, write_images(tmp_path / "many", 6)), model_of("lab"), 2.0
    )
    with client_of(create_app(images)) as client:
        for number in range(3):
            ready_view(client, number)
            wanted = {number, number + 1, number + 2}
            wait_until(lambda wanted=wanted: ready_ahead(images) >= wanted)
            assert number + 3 not in images._open
            assert len(images._open) <= 4  # one that was looked at, until the next was read


def test_only_a_few_of_many_images_are_open_and_the_next_is_ready(tmp_path, out) -> None:
    paths = write_images(tmp_path / "many", 9)
    images = OpenImages(AnnotationStore(out, paths), model_of("lab"), 2.0)
    with client_of(create_app(images)) as client:
        for number in range(9):
            ready_view(client, number)
            act(client, click(ON_DISC), number)
            assert len(images._open) <= 7
        assert len(list(out.glob("*.prompts.json"))) == 9
        assert len(ready_view(client, 0)["prompts"]) == 1  # closed meanwhile, read again
        ready_view(client, 3)
        wait_until(lambda: client.get("/api/images/4").json()["is_ready"])


def test_an_image_that_cannot_be_read_is_named_and_others_go_on(paths, out) -> None:
    paths[1].write_bytes(b"no image")
    with client_of(annotate_app(paths, out)) as client:
        assert "p1.png' cannot be read" in refusal(client.get("/api/images/1?wait=1"))
        assert "p1.png' cannot be read" in refusal(client.get("/api/images/1/image"))
        assert ready_view(client, 2)["is_ready"]


@pytest.mark.slow
def test_a_prompt_answered_is_there_after_a_kill_and_the_next_start_goes_on(tmp_path) -> None:
    write_images(tmp_path / "photos", 2)
    with running(tmp_path / "photos") as server:
        server.ask("images/0/actions", {"do": "done", "is_done": True})
        server.ask("images/1/actions", click(ON_DISC))
    with running(tmp_path / "photos") as server:
        assert server.ask("folder")["first"] == 1
        assert len(server.ask("images/1?wait=1")["prompts"]) == 1
        assert (tmp_path / "photos_annotations" / "p0.json").exists()
        assert server.status_after(signal.SIGINT) in (0, -signal.SIGINT)


@pytest.mark.parametrize(
    ("words", "match"),
    [
        (["nowhere"], "no image or folder 'nowhere'"),
        (["photos", "--out", "photos"], "out must be another folder"),
        (["photos", "--max_megapixels", "0"], "must be above 0"),
        (["photos", "--port", "70000"], "0 to 65,535, got 70000"),
        (["photos", "--model", "lab", "--host", "192.0.2.1"], "cannot listen on 192.0.2.1"),
    ],
)
def test_what_cannot_be_served_is_said_in_one_sentence(tmp_path, monkeypatch, words, match) -> None:
    write_images(tmp_path / "photos")
    monkeypatch.chdir(tmp_path)
    assert match in refused_start(*words)


def test_masks_of_other_programs_are_finished_objects(paths, out, tmp_path) -> None:
    (tmp_path / "maps").mkdir()
    labels = np.where(disc(), 7, np.where(square(), 2, 0)).astype(np.uint8)
    Image.fromarray(labels).save(tmp_path / "maps/p0.png")
    Image.fromarray(labels[:5]).save(tmp_path / "maps/p1.png")
    begun = {record.key: record for record in list_masks(tmp_path / "maps")}
    store = AnnotationStore(out, paths, masks=begun)
    images = OpenImages(store, model_of("lab"), 2.0)
    with client_of(create_app(images, "127.0.0.1")) as client:
        view = ready_view(client)
        assert [one["number"] for one in view["finished"]] == [1, 2]
        assert iou(mask_of(view["finished"][1]), disc()) == 1
        opened = act(client, {"do": "reopen", "number": 1})
        assert iou(mask_of(opened["masks"][0]), square()) == 1
        refused = client.post("/api/images/0/actions", json={"do": "candidate"})
        assert "read from a file" in refusal(refused)
        corrected = mask_of(act(client, click([45, 90], 0))["masks"][0])
        assert not corrected[45, 90]
        assert corrected.any()
        again = act(client, {"do": "finish"})["finished"][0]
        np.testing.assert_array_equal(mask_of(again), corrected)
        act(client, {"do": "delete", "number": 1})
        act(client, click(ON_SQUARE))
        act(client, {"do": "done", "is_done": True})
        assert ready_view(client, 1)["finished"] == []  # of another size
    content = json.loads((out / "p0.json").read_text())
    assert [one["id"] for one in content["annotations"]] == [2, 3]
    again = AnnotationStore(out, paths, masks=begun)
    assert again.is_done(0)


def test_a_small_image_is_decoded_once_until_its_file_is_another(
    client, paths, monkeypatch
) -> None:
    num_read = []
    read = image_at_work.read_image
    monkeypatch.setattr(
        image_at_work, "read_image", lambda *args: num_read.append(1) or read(*args)
    )
    first, again = (client.get("/api/images/0/thumbnail").content for _ in range(2))
    assert (again, len(num_read)) == (first, 1)
    Image.fromarray(255 - np.array(Image.open(paths[0]))).save(paths[0])
    assert client.get("/api/images/0/thumbnail").content != first
