"""What a stranger sends to the servers of `maskfeat annotate`, and how these start and end."""

from __future__ import annotations

import os
import signal
import tracemalloc

import numpy as np
import pytest
from drawn_images import ON_DISC, SIZE, click, write_images
from served_pages import (
    act,
    annotate_app,
    client_of,
    one_sentence,
    ready_view,
    refusal,
    refused_start,
    running,
)

from maskfeat.app import annotation_masks, open_images
from maskfeat.app.annotation_state import Prompt


def test_a_scribble_far_outside_takes_no_memory_and_says_nothing() -> None:
    far = tuple((-(10**6), 10**6 * (-1) ** n) for n in range(20))
    tracemalloc.start()
    click_radius = annotation_masks.click_radius_on(
        np.eye(*SIZE, dtype=bool), Prompt("scribble", far, 1), SIZE
    )
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert click_radius is None
    assert peak < 1_000_000


def test_a_line_clipped_is_the_part_inside_of_the_whole_line() -> None:
    rng = np.random.default_rng(0)
    num_touching = 0
    for _ in range(500):
        corners = rng.integers(-3 * SIZE[1], 3 * SIZE[1], (2, 2))
        num_steps = max(1, np.abs(corners[1] - corners[0]).max())
        whole = np.rint(np.linspace(*corners, num_steps + 1)).astype(int)
        expected = whole[((whole >= 0) & (whole < SIZE)).all(axis=1)]
        num_touching += len(expected) > 0
        np.testing.assert_array_equal(annotation_masks._line_inside(*corners, SIZE), expected)
    assert num_touching > 50


def test_a_scribble_of_too_many_corners_is_refused(client) -> None:
    scribble = {"kind": "scribble", "label": 1, "points_yx": [[0, 0]] * 50_001}
    post = client.post("/api/images/0/actions", json={"do": "prompt", "prompt": scribble})
    assert "at most 50000 points" in refusal(post)


def test_a_prompt_for_which_the_memory_is_too_small_is_not_saved(
    client, tmp_path, monkeypatch
) -> None:
    def fail(*args: object) -> None:
        raise MemoryError

    ready_view(client)
    act(client, click(ON_DISC))
    before = (tmp_path / "out" / "p0.prompts.json").read_bytes()
    monkeypatch.setattr(open_images, "object_mask", fail)
    post = client.post("/api/images/0/actions", json={"do": "clear"})
    assert "more memory than there is" in refusal(post)
    assert (tmp_path / "out" / "p0.prompts.json").read_bytes() == before


@pytest.mark.parametrize("what", ["reopen", "delete"])
def test_a_boolean_is_no_number_of_an_object(client, what) -> None:
    ready_view(client)
    act(client, click(ON_DISC))
    act(client, {"do": "finish"})
    post = client.post("/api/images/0/actions", json={"do": what, "number": True})
    assert "no such step" in refusal(post)


def test_a_name_that_is_not_utf_8_costs_nothing(client, paths, tmp_path) -> None:
    name = os.fsdecode(b"caf\xe9.png")
    paths[1].rename(paths[1].with_name(name))
    paths[1] = paths[1].with_name(name)
    with client_of(annotate_app(paths, tmp_path / "out")) as client:
        assert client.get("/api/folder").json()["names"] == ["p0.png", name, "p2.png"]
        assert ready_view(client, 1)["is_ready"]
        act(client, click(ON_DISC), 1)
        act(client, {"do": "done", "is_done": True}, 1)
        paths[1].unlink()
    assert sorted(os.listdir(os.fsencode(tmp_path / "out"))) == [
        b"caf\xe9.json",
        b"caf\xe9.prompts.json",
        b"caf\xe9_mask.png",
    ]
    with client_of(annotate_app(paths, tmp_path / "out")) as client:
        assert "cannot be read" in refusal(client.get("/api/images/1?wait=1"))


def test_names_as_long_as_the_file_system_has_them_are_written(tmp_path) -> None:
    path = write_images(tmp_path / "photos", 1)[0].rename(tmp_path / "photos" / f"{'n' * 226}.png")
    with client_of(annotate_app([path], tmp_path / "out")) as client:
        ready_view(client)
        act(client, click(ON_DISC))
        act(client, {"do": "finish"})
    assert len(list((tmp_path / "out").iterdir())) == 3


@pytest.mark.parametrize("classes", [[], ["--classes", "a,b"]])
def test_a_folder_that_cannot_be_written_to_is_found_out_at_the_start(paths, classes) -> None:
    words = [str(paths[0].parent), "--model", "lab", "--out", "/proc/annotations", *classes]
    assert "choose another one with --out" in refused_start(*words)


def test_one_server_works_in_a_folder_and_ctrl_c_ends_it_in_one_line(paths) -> None:
    folder = paths[0].parent
    with running(folder) as server:
        said = refused_start(str(folder), "--model", "lab")
        assert f"maskfeat annotate (process {server.process.pid} on" in said
        server.ask("images/0/actions", click(ON_DISC))
        assert server.status_after(signal.SIGINT) == 0
        assert one_sentence(server.process.stdout.read().strip()) == (
            "ended; all that was clicked is saved"
        )
        assert server.complaints() == ""
