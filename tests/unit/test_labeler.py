from __future__ import annotations

import errno
import json
import shutil
import threading
from contextlib import contextmanager

import forked_python
import numpy as np
import pytest
from drawn_images import ON_DISC, ON_GROUND, ON_SQUARE, SIZE, disc, drawn, iou, square
from PIL import Image

from maskfeat import Labeler, ReadAs
from maskfeat.data.annotations.painting import decode_annotations
from maskfeat.features.color import LabEncoder
from maskfeat.files import file_digest
from maskfeat.labeling.image_store import _MOST_OPEN

CLASSES = ["ground", "disc", "square"]


class CountingEncoder(LabEncoder):
    """Lab color that counts how often it is asked."""

    num_calls = 0

    def features(self, rgb):
        type(self).num_calls += 1
        return super().features(rgb)


def image(number: int) -> np.ndarray:
    """The drawn image with noise of its own."""
    noise = np.random.default_rng(number).normal(0, 6, (*SIZE, 3))
    return (drawn() + noise).clip(0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    for number in range(4):
        Image.fromarray(image(number)).save(folder / f"p{number}.png")
    return folder


@pytest.fixture(scope="module")
def prepared(photos, tmp_path_factory):
    """A folder in which all is computed."""
    out = tmp_path_factory.mktemp("labels")
    labeler(photos, out).prepare()
    return out


@pytest.fixture
def out(prepared, tmp_path):
    """That folder, without clicks."""
    (tmp_path / "prepared").symlink_to(prepared / "prepared")
    return tmp_path


def labeler(photos, out, **settings) -> Labeler:
    settings = {"per_megapixel": 40_000, "pairwise_weight": 3.0, "acquisition": "given", **settings}
    if "num_segments" not in settings:  # the images are of three regions, not of 200
        settings.setdefault("granularity", 0.5)
    return Labeler(photos, CLASSES, CountingEncoder(sigma=1), out, **settings)


def click_all(one: Labeler, image: int) -> None:
    one.correct(image, tuple(ON_GROUND), "ground")
    one.correct(image, tuple(ON_DISC), "disc")
    one.correct(image, tuple(ON_SQUARE), "square")


def test_a_click_gives_its_whole_region_the_class(photos, out) -> None:
    one = labeler(photos, out)
    one.correct(0, tuple(ON_GROUND), "ground")
    proposal = one.correct(0, tuple(ON_DISC), "disc")
    assert iou(proposal.labels == 1, disc()) > 0.95
    assert proposal.labels[tuple(ON_GROUND)] == 0
    assert proposal.confidence[tuple(ON_DISC)] == 1


def test_an_ignored_region_is_kept_and_is_in_no_export_and_teaches_nothing(photos, out) -> None:
    one = labeler(photos, out)
    one.correct(1, tuple(ON_DISC), None)  # alone it teaches nothing at all
    assert (one.knows_classes, one.is_fresh) == (False, True)
    click_all(one, 0)
    before = one.proposal(2)
    num_examples = one.num_examples
    proposal = one.correct(0, tuple(ON_SQUARE), None)  # the later of two clicks on one region
    assert one.num_examples < num_examples
    assert iou(proposal.labels == -1, square()) > 0.95
    assert set(np.unique(proposal.labels)) == {-1, 0, 1}
    assert (before.labels == 2).any()
    assert not (one.proposal(2).labels == 2).any()  # nobody says any more what a square is
    one.set_done(0)

    one.close()
    one = labeler(photos, out)
    np.testing.assert_array_equal(one.proposal(0).labels, proposal.labels)
    assert one.export(out / "exported") == 1
    written = np.array(Image.open(out / "exported/p0_classes.png"))
    np.testing.assert_array_equal(written, proposal.labels + 1)
    sa1b = json.loads((out / "exported/p0.json").read_text())
    assert {annotation["label"] for annotation in sa1b["annotations"]} == {"ground", "disc"}
    coco = json.loads((out / "exported/coco.json").read_text())
    assert {annotation["category_id"] for annotation in coco["annotations"]} == {1, 2}
    counts = [annotation["segmentation"]["counts"] for annotation in sa1b["annotations"]]
    row, column = ON_SQUARE
    assert not decode_annotations(counts, SIZE)[:, row, column].any()
    one.undo()
    assert (one.proposal(0).labels == 2)[tuple(ON_SQUARE)]


def test_what_is_to_be_checked_is_kept_is_not_done_and_comes_last(photos, out) -> None:
    one = labeler(photos, out)
    one.set_done(1)
    for number in (0, 1):
        one.set_to_check(number)
    assert [one.review(number) for number in range(4)] == ["check", "check", "open", "open"]
    assert not list((out / "labels").iterdir())
    one.set_done(2)
    one.close()
    one = labeler(photos, out)
    assert [one.review(number) for number in range(4)] == ["check", "check", "done", "open"]
    assert one.next() == 3
    one.set_done(3)
    one.set_to_check(3, False)  # it was not asked for
    assert (one.review(3), one.next()) == ("done", 0)
    assert (out / "labels/p3.png").is_file()
    one.click(0, tuple(ON_DISC), "disc")
    assert one.review(0) == "check"
    one.set_done(0)
    one.set_to_check(1, False)
    assert [one.review(number) for number in range(4)] == ["done", "open", "done", "done"]


def test_clicks_on_a_page_count_for_no_other_page(tmp_path) -> None:
    (tmp_path / "photos").mkdir()
    pages = [Image.fromarray(image(number)) for number in range(2)]
    pages[0].save(tmp_path / "photos/a.tif", save_all=True, append_images=pages[1:])

    def on_page(page: int) -> Labeler:
        return labeler(tmp_path / "photos", tmp_path / "out", read_as=ReadAs(page=page))

    one = on_page(1)
    one.correct(0, tuple(ON_DISC), "disc")
    one.set_done(0)
    other, again = on_page(2), on_page(1)
    assert (len(other.clicks), other.is_done(0)) == (0, False)
    assert (len(again.clicks), again.is_done(0)) == (1, True)


def test_what_was_learned_from_one_image_labels_the_next(photos, out) -> None:
    one = labeler(photos, out)
    assert iou(one.proposal(1).labels == 1, disc()) < 0.3
    click_all(one, 0)
    labels = one.proposal(1).labels
    assert iou(labels == 1, disc()) > 0.9
    assert iou(labels == 2, square()) > 0.9
    assert len({click.image for click in one.clicks}) == 1


def test_clicks_are_saved_at_once_and_another_labeler_goes_on(photos, out) -> None:
    one = labeler(photos, out)
    click_all(one, 0)
    one.set_done(0)
    one.correct(2, tuple(ON_DISC), "disc")
    saved = json.loads((out / "clicks.json").read_text())
    assert saved["clicks"][-1] == ["p2.png", *ON_DISC, 1, 0.5]
    assert saved["done"] == ["p0.png"]
    again = labeler(photos, out)
    assert again.clicks == one.clicks
    assert again.progress == (4, 4, 1, 4, 0)
    assert again.proposal(0).is_done
    for image in range(4):
        np.testing.assert_array_equal(again.proposal(image).labels, one.proposal(image).labels)


def test_a_click_means_one_of_200_segments_unless_it_is_told_otherwise(photos, out) -> None:
    labeler(photos, out, granularity=None).click(2, tuple(ON_DISC), "disc")
    saved = json.loads((out / "clicks.json").read_text())
    assert saved["clicks"] == [["p2.png", *ON_DISC, 1, 200]]


def test_undo_takes_the_last_click_back_and_all_that_it_did(photos, out) -> None:
    one = labeler(photos, out)
    click_all(one, 0)
    before = one.proposal(1).labels
    one.correct(1, tuple(ON_DISC), "square")
    assert (one.proposal(1).labels != before).mean() > 0.05
    assert one.undo() == 1
    np.testing.assert_array_equal(one.proposal(1).labels, before)
    assert len(labeler(photos, out).clicks) == 3
    for _ in range(3):
        one.undo()
    with pytest.raises(ValueError, match="there is no click to take back"):
        one.undo()


def test_a_click_of_another_class_makes_the_region_of_the_first_smaller(photos, out) -> None:
    one = labeler(photos, out, granularity=1e-9)  # a region is all of the image
    assert (one.correct(0, tuple(ON_GROUND), "ground").labels == 0).all()
    labels = one.correct(0, tuple(ON_DISC), "disc").labels
    assert labels[tuple(ON_DISC)] == 1
    assert labels[tuple(ON_GROUND)] == 0
    other_way = labeler(photos, out / "other", granularity=1e-9)
    other_way.correct(0, tuple(ON_DISC), "disc")
    np.testing.assert_array_equal(other_way.correct(0, tuple(ON_GROUND), "ground").labels, labels)


def test_the_granularity_of_a_click_decides_how_much_it_covers(photos, out) -> None:
    one = labeler(photos, out)
    sizes = [
        one.region(0, tuple(ON_GROUND), granularity).sum() for granularity in (1e-9, 0.5, 1 - 1e-9)
    ]
    assert SIZE[0] * SIZE[1] == sizes[0] > sizes[1] > sizes[2] > 0
    covered = one.correct(0, tuple(ON_GROUND), "ground", 1 - 1e-9).confidence == 1
    one.correct(0, tuple(ON_DISC), "disc", 1 - 1e-9)
    assert one.region(0, tuple(ON_GROUND), 1 - 1e-9)[tuple(ON_GROUND)]
    assert covered[tuple(ON_GROUND)]
    with pytest.raises(ValueError, match="granularity must be a finite number above 0 and below 1"):
        one.correct(0, (0, 0), "disc", 0)


def test_a_click_may_take_one_of_a_number_of_segments(photos, out) -> None:
    one = labeler(photos, out)
    sizes = [one.region(0, tuple(ON_DISC), num_segments=num).sum() for num in (1, 3, 10**6)]
    assert SIZE[0] * SIZE[1] == sizes[0] > sizes[1] > sizes[2] > 0
    tree, superpixels = one.store.get(0).tree, one.store.get(0).graph.labels
    segment = tree.groups(5)[superpixels]
    covered = one.region(0, tuple(ON_DISC), num_segments=5)
    np.testing.assert_array_equal(covered, segment == segment[tuple(ON_DISC)])
    one.correct(0, tuple(ON_DISC), "disc", num_segments=5)
    fixed = one.superpixel_proposal(0).is_fixed[superpixels]
    np.testing.assert_array_equal(fixed, covered)
    again = labeler(photos, out, num_segments=5)  # read back as a number
    assert again.clicks == one.clicks
    np.testing.assert_array_equal(again.superpixel_proposal(0).is_fixed[superpixels], covered)
    with pytest.raises(ValueError, match="give granularity or num_segments, not both"):
        labeler(photos, out, num_segments=5, granularity=0.5)
    with pytest.raises(ValueError, match="num_segments must be a whole number"):
        one.region(0, (0, 0), num_segments=0)


def test_what_was_taken_back_can_be_given_again(photos, out) -> None:
    one = labeler(photos, out)
    click_all(one, 0)
    clicks, before = one.clicks, one.proposal(1).labels
    one.undo()
    one.undo()
    again = labeler(photos, out)
    assert (again.redo(), again.redo(), again.num_undone) == (0, 0, 0)
    assert again.clicks == clicks
    np.testing.assert_array_equal(again.proposal(1).labels, before)
    with pytest.raises(ValueError, match="there is no click to do again"):
        again.redo()
    with pytest.raises(ValueError, match="was changed by another program"):
        one.undo()  # the first labeler does not know what the second did


def test_a_proposal_without_learning_holds_the_click_by_what_was_known(photos, out) -> None:
    one = labeler(photos, out)
    click_all(one, 0)
    before = one.superpixel_proposal(1).classes
    one.click(1, tuple(ON_DISC), "square")
    quick = one.superpixel_proposal(1, learn=False)
    assert not one.is_fresh
    assert (quick.classes[quick.is_fixed] == 2).all()
    assert (quick.classes == before)[~quick.is_fixed].mean() > 0.9
    one.learn()
    assert one.is_fresh
    expected = labeler(photos, out).superpixel_proposal(1).classes
    np.testing.assert_array_equal(one.superpixel_proposal(1).classes, expected)


def test_the_next_image_is_one_that_is_not_done(photos, out) -> None:
    one = labeler(photos, out)
    assert [one.next(), one.next(after=0), one.next(after=3)] == [0, 1, 0]
    for image in (0, 1, 3):
        one.set_done(image)
    assert one.next() == one.next(after=2) == 2
    one.set_done(2)
    assert one.next() is None
    one.set_done(1, False)
    assert one.next() == 1
    one.correct(3, tuple(ON_DISC), "disc")
    assert one.next(after=1) == 3


@pytest.mark.parametrize("acquisition", ["uncertain", "energy"])
def test_the_image_that_differs_is_proposed_first(acquisition, photos, tmp_path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(4):
        rgb = image(number)
        if number == 2:  # between the colors of the classes, and unknown
            rgb[:] = (
                np.random.default_rng(5).integers(0, 255, (9, 13, 3)).repeat(10, 0).repeat(10, 1)
            )
        Image.fromarray(rgb).save(folder / f"p{number}.png")
    one = labeler(folder, tmp_path / "out", acquisition=acquisition)
    one.prepare()
    click_all(one, 0)
    assert one.next(after=0) == 2


def test_images_are_computed_once_and_few_are_held(photos, tmp_path) -> None:
    one = labeler(photos, tmp_path)
    CountingEncoder.num_calls = 0
    one.prepare(in_background=True)
    one.proposal(3)
    one.prepare()
    one.close()
    assert CountingEncoder.num_calls == 4
    again = labeler(photos, tmp_path)
    assert again.progress.num_prepared == 4
    again.proposal(1)
    assert CountingEncoder.num_calls == 4
    assert len(again.store._open) <= _MOST_OPEN
    for file in tmp_path.glob("prepared/*/p0-*.npz"):
        file.write_bytes(file.read_bytes()[:100])  # cut short: computed again
    labeler(photos, tmp_path).proposal(0)
    assert CountingEncoder.num_calls == 5


def test_threads_may_click_at_once(photos, out) -> None:
    one = labeler(photos, out)
    threads = [threading.Thread(target=click_all, args=(one, image)) for image in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(labeler(photos, out).clicks) == 12


def test_exports_say_the_same_in_three_formats(photos, out, tmp_path) -> None:
    one = labeler(photos, out)
    click_all(one, 0)
    one.set_done(0)
    folder = tmp_path / "exported"
    assert one.export(folder) == 1
    labels = np.asarray(Image.open(folder / "p0_classes.png")).astype(int) - 1
    np.testing.assert_array_equal(labels, one.proposal(0).labels)
    assert (folder / "classes.txt").read_text().split() == CLASSES
    coco = json.loads((folder / "coco.json").read_text())
    assert [one["name"] for one in coco["categories"]] == CLASSES
    sa1b = json.loads((folder / "p0.json").read_text())
    path = sa1b["image"].pop("path")
    assert sa1b["image"] == {"image_id": 0, "width": 130, "height": 90, "file_name": "p0.png"}
    assert (folder / path).samefile(photos / "p0.png")
    for found, number_of in (
        (coco["annotations"], lambda a: a["category_id"] - 1),
        (sa1b["annotations"], lambda a: CLASSES.index(a["label"])),
    ):
        masks = decode_annotations([a["segmentation"]["counts"] for a in found], SIZE)
        painted = np.full(SIZE, -1)
        for annotation, mask in zip(found, masks, strict=True):
            assert annotation["area"] == mask.sum() >= 16
            painted[mask] = number_of(annotation)
        np.testing.assert_array_equal(painted[painted >= 0], labels[painted >= 0])
        assert (painted >= 0).mean() > 0.99
    assert one.export(folder, ["png"], only_done=False) == 4


def test_an_export_removes_what_it_wrote_of_images_that_are_not_done_any_more(
    photos, out, tmp_path
) -> None:
    one, folder = labeler(photos, out), tmp_path / "exported"
    click_all(one, 0)
    for number in (0, 1, 2):
        one.set_done(number)
    one.export(folder)
    (folder / "mine.txt").write_text("mine")
    (folder / "p1.json").write_text("changed by hand")
    for number in (0, 1):
        one.set_done(number, False)
    assert one.export(folder) == 1
    names = {path.name for path in folder.iterdir() if not path.name.startswith(".")}
    of_done = {"p2_classes.png", "p2.json", "coco.json", "classes.txt"}
    assert names == of_done | {"p1.json", "mine.txt"}
    assert [
        image["file_name"] for image in json.loads((folder / "coco.json").read_text())["images"]
    ] == ["p2.png"]
    assert one.export(folder, ["png"]) == 1  # other formats of the same images stay
    assert {"p2.json", "p2_classes.png"} <= {path.name for path in folder.iterdir()}
    one.set_done(2, False)
    assert one.export(folder) == 0
    assert not list(folder.glob("p2*"))


def test_a_list_of_exports_from_elsewhere_removes_nothing_outside(photos, out, tmp_path) -> None:
    folder, outside = tmp_path / "exported", tmp_path / "p0.json"
    folder.mkdir()
    outside.write_text("{}")
    files = {"../p0.json": ["p0.png", file_digest(outside)], "x": 5}
    for content in (json.dumps({"files": files}), "[]", "no json", '{"files": 3}'):
        (folder / ".maskfeat_export.json").write_text(content)
        assert labeler(photos, out).export(folder) == 0
        assert outside.exists()


def test_an_image_named_coco_is_not_written_over_the_list_of_all(tmp_path) -> None:
    Image.fromarray(image(0)).save(tmp_path / "coco.png")
    one = labeler([tmp_path / "coco.png"], tmp_path / "out")
    one.set_done(0)
    with pytest.raises(ValueError, match=r"would both be written to '.*coco.json'"):
        one.export(tmp_path / "exported")
    assert one.export(tmp_path / "exported", ["sa1b"]) == 1


def test_a_broken_image_is_named_and_passed_over(photos, tmp_path, caplog) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    (folder / "a.png").write_bytes(b"no image")
    Image.fromarray(image(0)).save(folder / "b.png")
    one = labeler(folder, tmp_path / "out")
    one.prepare()
    assert "a.png' cannot be read as an image" in caplog.text
    assert one.next() == 1
    assert one.progress.num_failed == 1
    with pytest.raises(ValueError, match="cannot be read as an image"):
        one.proposal(0)


def test_a_file_that_cannot_be_written_ends_preparing_with_a_word(photos, tmp_path, caplog) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "prepared").write_text("no folder")
    one = labeler(photos, tmp_path / "out")
    one.prepare()
    assert caplog.text.count("preparing ahead ended: a file could not be written") == 1


def test_bad_input_is_refused_in_one_sentence(photos, out) -> None:
    one = labeler(photos, out)
    with pytest.raises(ValueError, match="there is no image 4 among 4"):
        one.correct(4, (0, 0), "disc")
    with pytest.raises(ValueError, match="the class must be one of"):
        one.correct(0, (0, 0), "cat")
    with pytest.raises(ValueError, match=r"the click .* = \(90, 0\) lies outside the image"):
        one.correct(0, (90, 0), "disc")
    assert not one.clicks
    with pytest.raises(ValueError, match="formats must be of png, coco and sa1b, got 'gif'"):
        one.export(out / "exported", ["gif"])
    with pytest.raises(ValueError, match="classes must be at least two different names"):
        Labeler(photos, ["a", "a"], LabEncoder(), out)
    with pytest.raises(ValueError, match="granularity must be a finite number above 0 and below 1"):
        labeler(photos, out, granularity=1)
    with pytest.raises(ValueError, match="acquisition must be uncertain, energy or given"):
        labeler(photos, out, acquisition="random")
    with pytest.raises(ValueError, match="out must be another folder"):
        labeler(photos, photos)
    with pytest.raises(FileNotFoundError, match="no image or folder"):
        labeler(photos / "nowhere", out)
    with pytest.raises(ValueError, match="the folder to export to must be another folder"):
        one.export(photos)
    with pytest.raises(ValueError, match="num_segments must be a whole number of at least 1, got"):
        one.click(0, (0, 0), "disc", num_segments=1.5)
    for click in ((1.5, 2), (1, 2, 3), ("a", 1), None, (np.nan, 1)):
        with pytest.raises(ValueError, match="a click must be two whole numbers"):
            one.click(0, click, "disc")
    for image in (0.5, "0", None):
        with pytest.raises(ValueError, match=r"there is no image .* among 4"):
            one.click(image, (0, 0), "disc")
    assert not one.clicks


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        (["road", " road"], "at least two different names; spaces around a name do not count"),
        (["road"], "at least two different names"),
        ("road", "at least two different names"),
        (None, "at least two different names"),
        ({"road": 1, "sky": 2}, "at least two different names"),
        (["road", ""], "printable text"),
        (["road", "  "], "printable text"),
        (["road", "a\nb"], "printable text"),
        (["road", 7], "printable text"),
    ],
)
def test_names_of_classes_are_different_lines_of_text(photos, out, classes, message) -> None:
    with pytest.raises(ValueError, match=message):
        Labeler(photos, classes, LabEncoder(), out)
    assert not (out / "clicks.json").exists()


def test_a_slash_is_part_of_the_name_of_a_class(photos, out, tmp_path) -> None:
    one = Labeler(photos, ("sky/clouds", "../road"), LabEncoder(), out, per_megapixel=40_000)
    one.correct(0, tuple(ON_DISC), "../road", granularity=0.5)
    one.set_done(0)
    assert one.export(tmp_path / "exported") == 1
    assert (tmp_path / "exported" / "classes.txt").read_text() == "sky/clouds\n../road\n"
    one.close()


def test_numbers_of_numpy_are_numbers(photos, out) -> None:
    one = labeler(photos, out, granularity=None, num_segments=np.int64(100))
    one.click(np.int64(0), np.array(ON_DISC), "disc")
    one.click(0, np.array(ON_SQUARE), "square", num_segments=np.int32(50))
    one.click(1, np.array(ON_SQUARE), "square", granularity=np.float32(0.5))
    assert labeler(photos, out).clicks == one.clicks
    assert [click[4:] for click in one.clicks] == [(None, 100), (None, 50), (0.5, None)]


def test_what_cannot_be_written_has_not_happened(photos, out, monkeypatch) -> None:
    one = labeler(photos, out)
    click_all(one, 0)
    one.undo()
    one.set_done(1)
    before = one.clicks, one.num_undone, one.progress

    @contextmanager
    def full(path):
        raise OSError(errno.ENOSPC, "No space left on device")
        yield

    monkeypatch.setattr("maskfeat.labeling.click_log.whole_file", full)
    for change in (
        lambda: one.click(0, tuple(ON_DISC), "ground"),
        one.undo,
        one.redo,
        lambda: one.set_done(1, False),
        lambda: one.set_done(2),
    ):
        with pytest.raises(OSError, match="No space left"):
            change()
        assert (one.clicks, one.num_undone, one.progress) == before
    monkeypatch.undo()
    one.redo()
    assert labeler(photos, out).clicks == one.clicks
    one.correct(0, (1, 1), "disc")
    with pytest.raises(ValueError, match="was written for the classes"):
        Labeler(photos, ["x", "y"], LabEncoder(), out)
    (out / "clicks.json").write_text("{")
    with pytest.raises(ValueError, match=r"cannot be read: .*; move it away to begin anew"):
        labeler(photos, out)


@pytest.fixture
def own_photos(photos, tmp_path):
    """A copy of the images, to be changed."""
    return shutil.copytree(photos, tmp_path / "own")


def test_clicks_on_an_image_that_was_replaced_or_is_gone_wait_for_it(
    own_photos, tmp_path, caplog
) -> None:
    one = labeler(own_photos, tmp_path / "out")
    click_all(one, 0)
    click_all(one, 1)
    one.set_done(0)
    clicks = one.clicks
    first = own_photos / "p0.png"
    old = first.read_bytes()

    Image.fromarray(image(7)).save(first)  # of the same size, in mid-session
    assert not one.proposal(0).is_done
    assert one.clicks == clicks[3:]
    assert one.set_aside == {"p0.png": 3}
    assert "'p0.png' is gone or has changed since it was clicked; its 3 clicks" in caplog.text
    assert not (tmp_path / "out" / "labels" / "p0.png").exists()

    first.unlink()  # the others go on, and so does a new start
    with pytest.raises(ValueError, match=r"p0\.png' cannot be read as an image"):
        one.proposal(0)
    assert one.next() == 1
    assert one.proposal(2).labels.shape == SIZE
    again = labeler(own_photos, tmp_path / "out")
    assert [click.image for click in again.clicks] == [0, 0, 0]  # of p1
    again.correct(0, (1, 1), "ground")

    first.write_bytes(old)
    back = labeler(own_photos, tmp_path / "out")
    assert back.clicks == [*[c._replace(image=1) for c in again.clicks], *clicks[:3]]
    assert not back.set_aside


def test_an_image_made_smaller_costs_itself_alone(own_photos, tmp_path) -> None:
    one = labeler(own_photos, tmp_path / "out")
    click_all(one, 0)
    click_all(one, 1)
    one.set_done(1)
    one.click(0, (SIZE[0] - 1, SIZE[1] - 1), "ground")
    Image.fromarray(image(0)[:20, :30]).save(own_photos / "p0.png")
    again = labeler(own_photos, tmp_path / "out")
    assert again.proposal(0).labels.shape == (20, 30)
    assert {click.image for click in again.clicks} == {1}
    assert again.export(tmp_path / "exported") == 1


def test_an_image_that_breaks_costs_itself_alone(own_photos, tmp_path, caplog) -> None:
    one = labeler(own_photos, tmp_path / "out")
    for image in (0, 1):
        click_all(one, image)
        one.set_done(image)
    (own_photos / "p0.png").write_bytes(b"no image")
    assert one.export(tmp_path / "exported", only_done=False) == 3
    assert "not exported: " in caplog.text
    one.correct(2, tuple(ON_DISC), "disc")
    assert one.next() == 2


@pytest.mark.parametrize("harm", ["removed", "cut", "no image", "of another size"])
def test_a_done_image_without_sound_labels_is_not_done(photos, out, harm, caplog) -> None:
    one = labeler(photos, out)
    click_all(one, 0)
    one.set_done(0)
    path = out / "labels" / "p0.png"
    content = path.read_bytes()
    if harm == "removed":
        path.unlink()
    elif harm == "of another size":
        Image.fromarray(np.zeros((5, 5), np.uint16)).save(path)
    else:
        path.write_bytes(content[:60] if harm == "cut" else b"no image")
    again = labeler(photos, out)
    labels = again.proposal(0).labels
    assert iou(labels == 1, disc()) > 0.9
    assert not again.is_done(0)
    assert f"'{path}', the labels of an image that was done, is missing or damaged" in caplog.text


def test_what_turns_out_not_to_be_done_is_not_exported_as_done(own_photos, tmp_path) -> None:
    one = labeler(own_photos, tmp_path / "out")
    click_all(one, 0)
    for number in range(4):
        one.set_done(number)
    Image.fromarray(image(0)[:20, :30]).save(own_photos / "p0.png")  # clicked
    Image.fromarray(image(1)[::-1]).save(own_photos / "p1.png")  # not clicked
    (tmp_path / "out" / "labels" / "p2.png").write_bytes(b"no image")
    assert one.export(tmp_path / "exported", ["png"]) == 1
    names = {path.name for path in (tmp_path / "exported").iterdir() if path.name[0] != "."}
    assert names == {"p3_classes.png", "classes.txt"}


@pytest.mark.parametrize("what", ["click", "undo", "redo", "reopen"])
def test_labels_of_an_image_that_is_not_done_any_more_are_gone(photos, out, what) -> None:
    one = labeler(photos, out)
    click_all(one, 0)
    if what == "redo":
        one.undo()
    one.set_done(0)
    assert (out / "labels" / "p0.png").is_file()
    {
        "click": lambda: one.click(0, (1, 1), "ground"),
        "undo": one.undo,
        "redo": one.redo,
        "reopen": lambda: one.set_done(0, False),
    }[what]()
    assert not list((out / "labels").iterdir())


def test_a_file_of_a_newer_version_is_left_alone(photos, out) -> None:
    labeler(photos, out).click(0, (1, 1), "ground")
    content = json.loads((out / "clicks.json").read_text())
    newer = json.dumps({**content, "version": 4})
    (out / "clicks.json").write_text(newer)
    with pytest.raises(ValueError, match=r"newer maskfeat \(version 4 of the file, this one"):
        labeler(photos, out)
    assert (out / "clicks.json").read_text() == newer
    (out / "clicks.json").write_text(json.dumps({**content, "version": 2}))
    assert len(labeler(photos, out).clicks) == 1
    del content["images"], content["aside"]  # as version 1 was
    (out / "clicks.json").write_text(json.dumps({**content, "version": 1}))
    assert len(labeler(photos, out).clicks) == 1


@pytest.mark.parametrize(
    ("part", "value"),
    [
        ("clicks", '[["p0.png", 1, 1, 99, 0.5]]'),  # there are fewer classes
        ("clicks", '[["p0.png", 1, 1, -2, 0.5]]'),
        ("clicks", '[["p0.png", 1, 1, 0, 1e400]]'),
        ("undone", '[["p0.png", 1e400, 1, 0, 0.5]]'),
        ("version", "1e400"),
        ("aside", '[{"clicks": []}]'),
        ("aside", '[{"name": [], "digest": null, "clicks": []}]'),
        ("aside", '[{"name": "p9.png", "digest": null, "clicks": [["p9.png", 1, 1, 99, 0.5]]}]'),
    ],
)
def test_odd_values_in_the_file_of_clicks_are_one_sentence(photos, out, part, value) -> None:
    labeler(photos, out).click(0, (1, 1), "ground")
    content = json.loads((out / "clicks.json").read_text())
    odd = json.dumps({**content, part: "ODD"}).replace('"ODD"', value)
    (out / "clicks.json").write_text(odd)
    with pytest.raises(ValueError, match=r"clicks.json' cannot be read: .* move it away to begin"):
        labeler(photos, out)
    assert (out / "clicks.json").read_text() == odd


def test_one_process_labels_in_a_folder(photos, out) -> None:
    one = labeler(photos, out)
    program = (
        "import sys; from maskfeat import Labeler; from maskfeat.features.color import *\n"
        "Labeler(sys.argv[1], ['a', 'b'], LabEncoder(), sys.argv[2])"
    )
    words = ["-c", program, photos, out]
    second = forked_python.run(words)
    assert "is in use by a Labeler (process " in second.stderr
    one.close()
    forked_python.run(words, check=True)


def test_names_as_long_as_a_system_allows(photos, tmp_path) -> None:
    folder = tmp_path / "long"
    folder.mkdir()
    names = ["x" * 240 + end for end in ("a.png", "b.png")]
    for name in names:
        shutil.copy(photos / "p0.png", folder / name)
    one = labeler(folder, tmp_path / "out")
    one.prepare()
    assert one.progress.num_prepared == 2
    click_all(one, 0)
    one.set_done(0)
    assert labeler(folder, tmp_path / "out").is_done(0)
