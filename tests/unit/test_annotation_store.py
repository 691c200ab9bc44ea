"""Prompts in files, the results that are derived from them, and what no longer fits its image."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path

import numpy as np
import pytest
from drawn_images import SIZE, disc, drawn, square, write_images
from PIL import Image
from pycocotools import mask as coco

from maskfeat.app import annotation_results
from maskfeat.app.annotation import AddPrompt, Annotation, FinishObject, SetDone, SetMode
from maskfeat.app.annotation_results import Results, written_results
from maskfeat.app.annotation_state import MaskRuns, Prompt
from maskfeat.app.annotation_store import AnnotationStore
from maskfeat.app.image_at_work import read_at_work
from maskfeat.app.label_map import LabelMapPainter
from maskfeat.app.revisions import StaleError
from maskfeat.data.annotations.painting import encode
from maskfeat.data.annotations.read_as import ReadAs
from maskfeat.data.annotations.sample import read_sample

RED = AddPrompt(Prompt("click", ((45, 40),), 1))
GREEN = AddPrompt(Prompt("click", ((45, 100),), 1))
DISC, SQUARE = (MaskRuns(SIZE, encode(mask)) for mask in (disc(), square()))
DONE = (RED, FinishObject(DISC), SetDone(True))


def after(*steps) -> Annotation:
    annotation = Annotation()
    for step in steps:
        annotation = annotation.with_step(step)
    return annotation


@pytest.fixture
def paths(tmp_path) -> list[Path]:
    return write_images(tmp_path / "photos", 2)


@pytest.fixture
def out(tmp_path) -> Path:
    return tmp_path / "out"


def load(store: AnnotationStore, number: int = 0) -> Annotation:
    image = read_at_work(store.paths[number], 1)
    return store.load(number, image.size, image.identity)


def save(store: AnnotationStore, annotation: Annotation, number: int = 0) -> None:
    image = read_at_work(store.paths[number], 1)
    store.save(number, image.size, image.identity, annotation, store.revision(number))


def saved(paths, out, *steps) -> AnnotationStore:
    store = AnnotationStore(out, paths)
    load(store)
    save(store, after(*steps))
    return store


def ids(path: Path) -> list[int]:
    return [one["id"] for one in json.loads(path.read_text())["annotations"]]


def write(folder: Path, size, masks: dict[int, np.ndarray], are_labels: bool) -> None:
    runs = {number: MaskRuns(mask.shape, encode(mask)) for number, mask in masks.items()}
    with written_results(
        Results(folder, folder / "a.jpg", 3, size, runs, are_labels), LabelMapPainter()
    ):
        pass


def test_results_are_a_label_map_and_training_data(tmp_path) -> None:
    ring = disc() & ~np.roll(disc(), 10, axis=0)
    masks = {2: square(), 5: disc(), 7: ring, 8: np.zeros(SIZE, bool)}
    write(tmp_path, SIZE, masks, are_labels=False)
    labels = np.array(Image.open(tmp_path / "a_mask.png"))
    expected = np.select([ring, disc(), square()], [7, 5, 2], 0)  # the smaller one on top
    np.testing.assert_array_equal(labels, expected)
    content = json.loads((tmp_path / "a.json").read_text())
    assert content["image"] == {
        "image_id": 3,
        "width": SIZE[1],
        "height": SIZE[0],
        "file_name": "a.jpg",
        "path": "a.jpg",
    }
    assert [one["id"] for one in content["annotations"]] == [2, 5, 7]
    for one in content["annotations"]:
        decoded = coco.decode(one["segmentation"]).astype(bool)
        np.testing.assert_array_equal(decoded, masks[one["id"]])
        assert one["area"] == decoded.sum()
        np.testing.assert_array_equal(one["bbox"], coco.toBbox(one["segmentation"]))
        x, y = one["point_coords"][0]
        assert decoded[int(y), int(x)]
        assert "label" not in one
    jpg = io.BytesIO()
    Image.fromarray(drawn()).save(jpg, "JPEG")
    sample = read_sample("a", "", jpg.getvalue(), (tmp_path / "a.json").read_bytes())
    assert sample.runs.num_masks == 3


def test_masks_of_a_reduced_image_are_enlarged_and_labels_named(tmp_path) -> None:
    size = (2 * SIZE[0], 2 * SIZE[1])
    write(tmp_path, size, {4: disc()}, are_labels=True)
    labels = np.array(Image.open(tmp_path / "a_mask.png"))
    np.testing.assert_array_equal(labels, 4 * disc().repeat(2, 0).repeat(2, 1))
    (one,) = json.loads((tmp_path / "a.json").read_text())["annotations"]
    assert (one["label"], one["area"]) == (4, 4 * disc().sum())


def test_a_store_goes_on_where_another_one_stopped(paths, out) -> None:
    annotation = after(RED, SetDone(True))
    saved(paths, out, RED, SetDone(True))
    second = AnnotationStore(out, paths)
    assert load(second) == annotation
    assert [second.is_done(0), second.is_done(1), second.num_done] == [True, False, 1]
    assert [second.next_not_done(start) for start in (0, 1, 2)] == [1, 1, 1]
    load(second, 1)
    save(second, after(SetDone(True)), 1)
    assert second.next_not_done(0) is None


def test_prompts_of_0_1_are_read_under_their_former_name_which_stays(paths, out) -> None:
    saved(paths, out, *DONE)
    (out / "p0.prompts.json").rename(out / "p0.marks.json")
    former = (out / "p0.marks.json").read_bytes().replace(b'"prompt"', b'"mark"')
    (out / "p0.marks.json").write_bytes(former)
    store = AnnotationStore(out, paths)
    assert load(store) == after(*DONE)
    save(store, after(*DONE, GREEN))
    assert (out / "p0.marks.json").read_bytes() == former
    assert load(AnnotationStore(out, paths)) == after(*DONE, GREEN)


def test_prompts_that_another_program_wrote_are_not_written_over(paths, out) -> None:
    mine, other = AnnotationStore(out, paths), AnnotationStore(out, paths)
    load(mine)
    load(other)
    save(other, after(GREEN))
    with pytest.raises(StaleError, match="changed by another program"):
        save(mine, after(RED))
    assert load(mine) == after(GREEN)
    save(mine, after(GREEN, RED))
    assert load(AnnotationStore(out, paths)) == after(GREEN, RED)


@pytest.mark.parametrize("lost", ["p0.json", "p0_mask.png"])
def test_results_that_a_kill_left_missing_or_stale_are_made_anew_at_the_start(
    paths, out, lost
) -> None:
    saved(paths, out, *DONE)
    stale = (out / lost).read_bytes()
    store = AnnotationStore(out, paths)
    load(store)
    save(store, after(*DONE, GREEN, FinishObject(SQUARE), SetDone(True)))
    expected = (out / lost).read_bytes()
    assert expected != stale
    (out / lost).unlink()
    AnnotationStore(out, paths)
    assert (out / lost).read_bytes() == expected
    (out / "p0.json").write_bytes((out / "p0.json").read_bytes().replace(b'of":"', b'of":"0'))
    AnnotationStore(out, paths)
    assert ids(out / "p0.json") == [1, 2]


@pytest.mark.parametrize("damaged", ["p0.json", "p0_mask.png"])
@pytest.mark.parametrize("harm", ["byte", "cut", "longer"])
def test_results_damaged_anywhere_are_made_anew_at_the_start(paths, out, damaged, harm) -> None:
    saved(paths, out, *DONE)
    expected = (out / damaged).read_bytes()
    assert len(expected) > 120
    harmed = {
        "byte": expected[:-20] + bytes([expected[-20] ^ 1]) + expected[-19:],
        "cut": expected[:100],
        "longer": expected + b" ",
    }
    (out / damaged).write_bytes(harmed[harm])
    AnnotationStore(out, paths)
    assert (out / damaged).read_bytes() == expected


def test_results_without_a_digest_are_made_anew_once(paths, out) -> None:
    saved(paths, out, *DONE)
    expected = (out / "p0.json").read_bytes()
    content = json.loads(expected)
    del content["digest"]  # as former versions wrote them
    (out / "p0.json").write_text(json.dumps(content, separators=(",", ":")))
    AnnotationStore(out, paths)
    written = (out / "p0.json").stat().st_mtime_ns
    assert (out / "p0.json").read_bytes() == expected
    AnnotationStore(out, paths)
    assert (out / "p0.json").stat().st_mtime_ns == written


@pytest.mark.parametrize("num_moved", [0, 1, 2])
def test_a_kill_between_prompts_and_results_is_mended(paths, out, monkeypatch, num_moved) -> None:
    saved(paths, out, *DONE)
    store = AnnotationStore(out, paths)
    load(store)
    replace, moved = Path.replace, []

    def killed(self: Path, target: Path) -> Path:
        if len(moved) == num_moved:
            raise KeyboardInterrupt  # no handler of the store's sees it, as with a kill
        moved.append(Path(target).name)
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        save(store, after(*DONE, GREEN, FinishObject(SQUARE), SetDone(True)))
    monkeypatch.undo()
    assert moved == ["p0.prompts.json", "p0_mask.png"][:num_moved]
    assert ids(out / "p0.json") == [1]
    store = AnnotationStore(out, paths)
    finished = [one.number for one in load(store).state.finished]
    assert ids(out / "p0.json") == finished == ([1, 2] if num_moved else [1])
    labels = np.array(Image.open(out / "p0_mask.png"))
    assert (labels == 2).sum() == (square().sum() if num_moved else 0)


def test_a_disk_that_is_full_changes_neither_prompts_nor_results(paths, out, monkeypatch) -> None:
    store = saved(paths, out, *DONE)
    before = {path.name: path.read_bytes() for path in out.iterdir()}

    def full(*args: object, **settings: object) -> None:
        raise OSError(28, "No space left on device")

    identity, more = read_at_work(paths[0], 1).identity, after(*DONE, GREEN, FinishObject(SQUARE))
    monkeypatch.setattr(annotation_results, "png_bytes", full)
    with pytest.raises(OSError, match="No space"):
        store.save(0, SIZE, identity, more, store.revision(0))
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


def test_objects_and_labels_have_files_of_their_own(paths, out) -> None:
    labels = SetDone(True, ((3, DISC), (5, SQUARE)))
    saved(paths, out, RED, FinishObject(DISC), SetMode("labels"), labels)
    assert ids(out / "p0.json") == [1]
    assert ids(out / "labels" / "p0.json") == [3, 5]
    store = AnnotationStore(out, paths)
    assert load(store).state.labels == labels.labels


def test_prompts_of_a_replaced_image_are_set_aside_with_their_results(paths, out) -> None:
    saved(paths, out, *DONE)
    Image.fromarray(drawn()[::-1]).save(paths[0])  # of equal size
    store = AnnotationStore(out, paths)
    assert load(store) == Annotation()
    assert not store.is_done(0)
    assert "p0.png' is not the image that its prompts were made on" in store.notices[0]
    (place,) = (out / "set_aside").iterdir()
    assert str(place) in store.notices[0]
    assert sorted(os.listdir(place)) == ["p0.json", "p0.prompts.json", "p0_mask.png"]
    assert os.listdir(out) == ["set_aside"]
    save(store, after(GREEN))
    Image.fromarray(drawn()).save(paths[0])  # it is back, with its prompts
    store = AnnotationStore(out, paths)
    assert load(store) == after(*DONE)
    assert (store.is_done(0), ids(out / "p0.json"), store.notices) == (True, [1], {})
    (kept,) = out.glob("set_aside/*/p0.prompts.json")
    assert len(json.loads(kept.read_text())["steps"]) == 1  # those of the other image


def test_an_image_replaced_while_it_is_open_or_made_smaller_begins_anew(paths, out) -> None:
    store = saved(paths, out, *DONE)
    Image.fromarray(drawn()[::2]).save(paths[0])
    assert load(store) == Annotation()
    other = AddPrompt(Prompt("click", ((9, 9),), 1))
    save(store, after(other))
    assert load(AnnotationStore(out, paths)) == after(other)
    assert len(list(out.glob("set_aside/*/p0.prompts.json"))) == 1


def test_prompts_of_another_page_wait_until_that_page_is_shown_again(tmp_path, out) -> None:
    path = tmp_path / "stack.tif"
    first, second = Image.fromarray(drawn()), Image.fromarray(drawn()[::-1])
    first.save(path, save_all=True, append_images=[second])
    store = AnnotationStore(out, [path], ReadAs(page=1))
    load(store)
    save(store, after(*DONE))
    store = AnnotationStore(out, [path], ReadAs(page=2))
    assert (store.is_done(0), load(store)) == (False, Annotation())
    save(store, after(GREEN))
    for page, is_done, steps in ((1, True, DONE), (2, False, (GREEN,))):
        store = AnnotationStore(out, [path], ReadAs(page=page))
        assert (store.is_done(0), load(store)) == (is_done, after(*steps))


def test_an_image_copied_or_with_other_tags_is_the_same(paths, out) -> None:
    saved(paths, out, *DONE)
    os.utime(paths[0], (1, 1))
    store = AnnotationStore(out, paths)
    assert store.is_done(0)
    image, tags = Image.open(paths[0]), Image.Exif()
    image.load()
    tags[0x4746] = 5  # rating
    image.save(paths[0], exif=tags)
    store = AnnotationStore(out, paths)
    assert store.is_done(0)
    assert load(store) == after(*DONE)
    assert not store.notices


def test_prompts_of_older_files_fit_by_name_and_size(paths, out) -> None:
    saved(paths, out, *DONE)
    path = out / "p0.prompts.json"
    content = json.loads(path.read_text())
    del content["image"]
    path.write_text(json.dumps(content))
    assert load(AnnotationStore(out, paths)) == after(*DONE)
    paths[0] = paths[0].rename(paths[0].with_suffix(".bmp"))
    assert load(AnnotationStore(out, paths)) == Annotation()


@pytest.mark.parametrize(
    ("content", "match"),
    [
        ('{"steps": [', "cannot be read"),
        ('{"version": 2, "steps": [], "position": 0}', "has version 2 of these files"),
        ('{"version": true}', "has version True"),
        ('{"size": [-1, 3]}', r"its size is \[-1, 3\]"),
        ('{"size": [9, 9], "steps": 3}', "needs a list of steps"),
    ],
)
def test_a_broken_or_newer_file_is_named_left_alone_and_costs_one_image(
    paths, out, caplog, content, match
) -> None:
    path = out / "p0.prompts.json"
    path.parent.mkdir()
    path.write_text(content)
    store = AnnotationStore(out, paths)
    assert "p0.prompts.json" in caplog.text
    if "size" not in content:
        with pytest.raises(ValueError, match=match):
            load(store)
    assert path.read_text() == content or "size" in content
    load(store, 1)
    save(store, after(*DONE), 1)
    assert ids(out / "p1.json") == [1]


def test_an_image_named_as_the_prompts_of_another_one_is_refused(paths, out) -> None:
    paths[1] = paths[1].rename(paths[1].with_name("p0.prompts.png"))
    store = AnnotationStore(out, paths)
    with pytest.raises(ValueError, match=r"written over the prompts of 'p0'; rename"):
        load(store, 1)
    load(store)


def test_a_name_too_long_for_its_prompts_costs_its_image_alone(paths, out) -> None:
    paths[1] = paths[1].rename(paths[1].with_name(f"{'n' * 250}.png"))
    out.mkdir()
    store = AnnotationStore(out, paths)
    with pytest.raises(ValueError, match="File name too long; rename the image"):
        load(store, 1)
    load(store)
    save(store, after(*DONE))
