"""`maskfeat segment`, as users type it."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import zlib

import forked_python
import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as coco

import maskfeat
from maskfeat.app.nested_masks import annotate_cut
from maskfeat.cli import main
from maskfeat.data.annotations import rle
from maskfeat.data.annotations.painting import decode
from maskfeat.data.annotations.sample import read_sample
from maskfeat.data.folder import read_image
from maskfeat.data.heldout import ShardImages
from maskfeat.evaluate.drawing import contour_image, nearest_cells, overlay_labels
from maskfeat.features.pyramid import FeaturePyramid
from maskfeat.features.weights import save
from maskfeat.formats.sa1b import label_components


def scene(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Blocks of colors with some noise, uint8 RGB."""
    rng = np.random.default_rng(seed)
    blocks = rng.integers(30, 226, (3, 4, 3))
    rows, columns = nearest_cells(3, height), nearest_cells(4, width)
    noise = rng.integers(-8, 9, (height, width, 3))
    return (blocks[np.ix_(rows, columns)] + noise).astype(np.uint8)


def image(path, height: int = 48, width: int = 64, seed: int = 0, **settings):
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(scene(height, width, seed)).save(path, **settings)
    return path


def segment(*words: object) -> None:
    main(["segment", *map(str, words)])


def refusal(*words: object) -> str:
    with pytest.raises(SystemExit) as stop:
        segment(*words)
    assert isinstance(stop.value.code, str)  # which the shell sees as status 1
    assert "\n" not in stop.value.code
    return stop.value.code


def masks_of(path) -> tuple[list[dict], np.ndarray]:
    annotations = json.loads(path.read_text())["annotations"]
    masks = [coco.decode(one["segmentation"]) for one in annotations]
    return annotations, np.array(masks, bool)


def read_back(jpg, json_path):
    return read_sample(jpg.stem, "", jpg.read_bytes(), json_path.read_bytes())


@pytest.fixture(scope="module")
def net(tmp_path_factory):
    path = tmp_path_factory.mktemp("net") / "net.safetensors"
    with torch.random.fork_rng():
        torch.manual_seed(0)
        save(FeaturePyramid(width=8), path)
    return path


def test_a_network_gives_label_map_overlay_contours_and_training_data(net, tmp_path, capsys):
    jpg = image(tmp_path / "photos/a.jpg")
    segment(jpg, "--num_segments", 12, "--model", net, "--out", tmp_path / "out")
    assert "1 image segmented into" in capsys.readouterr().out
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"a_labels.png", "a_overlay.png", "a_contours.png", "a.json"}

    opened = Image.open(tmp_path / "out/a_labels.png")
    assert opened.mode == "I;16"
    labels = np.asarray(opened)
    features = maskfeat.load(net).features(read_image(jpg))
    assert np.array_equal(labels, maskfeat.hierarchy(features).cut(12))
    assert np.array_equal(np.unique(labels), np.arange(12))

    overlay = np.asarray(Image.open(tmp_path / "out/a_overlay.png"))
    assert np.array_equal(overlay, overlay_labels(read_image(jpg), labels))
    assert Image.open(tmp_path / "out/a_contours.png").mode == "L"
    assert Image.open(tmp_path / "out/a_contours.png").size == (64, 48)

    content = json.loads((tmp_path / "out/a.json").read_text())
    where = {"file_name": "a.jpg", "path": "../photos/a.jpg"}
    assert content["image"] == {"image_id": 0, "width": 64, "height": 48, **where}
    sample = read_back(jpg, tmp_path / "out/a.json")
    assert sample.runs.size == (48, 64)
    masks = decode(sample.runs)
    for number in range(12):
        if (labels == number).sum() > 1:  # the reader drops single pixels
            (place,) = np.flatnonzero(sample.runs.annotation == number)
            assert np.array_equal(masks[place], labels == number)


def test_lab_needs_no_network_and_the_default_finds_things_not_crumbs(tmp_path):
    path = image(tmp_path / "photos/a.png")
    segment(path, "--model=lab", "--out", tmp_path / "out")
    labels = np.asarray(Image.open(tmp_path / "out/a_labels.png"))
    assert np.array_equal(labels, maskfeat.hierarchy(scene(48, 64)).cut(granularity=0.4))
    assert len(np.unique(labels)) == 12  # the blocks of the scene


@pytest.mark.real
def test_by_default_one_segment_in_ten_of_an_image_is_a_crumb_at_most(shared_data, tmp_path):
    """Of 100 segments a third were below 50 pixels."""
    images = ShardImages(f"{shared_data}/coco_mini/train-000000.tar", 3, index_dir=tmp_path)
    (tmp_path / "photos").mkdir()
    for number in range(3):
        Image.fromarray(images[number].image).save(tmp_path / f"photos/{number}.png")
    segment(tmp_path / "photos", "--out", tmp_path / "out")
    sizes = [np.bincount(np.asarray(Image.open(tmp_path / f"out/{n}_labels.png")).ravel())
             for n in range(3)]  # fmt: skip
    assert all(3 <= len(one) <= 40 for one in sizes)
    assert np.mean(np.concatenate(sizes) < 50) < 0.1


def test_granularity_cuts_instead_of_a_number(tmp_path):
    path = image(tmp_path / "photos/a.png")
    segment(path, "--granularity", 0.3, "--model=lab", "--out", tmp_path / "out")
    labels = np.asarray(Image.open(tmp_path / "out/a_labels.png"))
    assert np.array_equal(labels, maskfeat.hierarchy(scene(48, 64)).cut(granularity=0.3))


def test_masks_are_the_segments_and_the_merges_of_whole_segments(tmp_path):
    path = image(tmp_path / "photos/a.png")
    segment(path, "--num_segments=20", "--model=lab", "--out", tmp_path / "out")
    labels = np.asarray(Image.open(tmp_path / "out/a_labels.png"))
    annotations, masks = masks_of(tmp_path / "out/a.json")
    assert len(masks) == 20 + 18
    assert [one["id"] for one in annotations] == list(range(1, 39))
    assert np.array_equal(masks[:20], labels == np.arange(20)[:, None, None])
    seen = [frozenset([number]) for number in range(20)]
    for mask in masks[20:]:
        parts = frozenset(np.unique(labels[mask]).tolist())
        assert np.array_equal(mask, np.isin(labels, list(parts)))
        assert any(parts == one | other for one in seen for other in seen if not one & other)
        assert np.ptp(label_components(mask)[mask]) == 0
        seen.append(parts)
    assert len(set(seen)) == 38
    assert max(map(len, seen)) < 20


def test_boxes_areas_and_points_fit_the_masks(tmp_path):
    path = image(tmp_path / "photos/a.png")
    segment(path, "--num_segments=20", "--model=lab", "--out", tmp_path / "out")
    annotations, masks = masks_of(tmp_path / "out/a.json")
    for one, mask in zip(annotations, masks, strict=True):
        y, x = np.nonzero(mask)
        assert one["area"] == len(y)
        assert one["bbox"] == [x.min(), y.min(), np.ptp(x) + 1, np.ptp(y) + 1]
        assert one["crop_box"] == [0, 0, 64, 48]
        ((column, row),) = one["point_coords"]
        assert mask[int(row), int(column)]
    # A block without noise at its border: its point is not on the rim.
    largest = int(masks[:20].sum((1, 2)).argmax())
    ((column, row),) = annotations[largest]["point_coords"]
    around = masks[largest, int(row) - 1 : int(row) + 2, int(column) - 1 : int(column) + 2]
    assert around.shape == (3, 3)
    assert around.all()


def test_scores_say_at_which_granularities_a_mask_is_a_segment():
    tree = maskfeat.hierarchy(scene(48, 64))
    annotations = annotate_cut(tree, tree.cut(20), (48, 64))
    assert 1 < sum(one["stability_score"] > 0.01 for one in annotations)
    for one in annotations:
        high, share = one["predicted_iou"], one["stability_score"]
        assert 0 <= share <= high <= 1
        if share < 0.01:
            continue
        mask = coco.decode(one["segmentation"]).astype(bool)
        for granularity, is_segment in [
            (high - 0.1 * share, True),
            (high - 0.9 * share, True),
            (high - 1.1 * share, False),
            (high + 0.1 * share, False),
        ]:
            if not 0 < granularity < 1:
                continue
            labels = tree.cut(granularity=granularity)
            found = labels == labels[mask][0]
            assert np.array_equal(found, mask) == is_segment


def test_no_more_runs_are_written_than_are_read(monkeypatch, caplog):
    tree = maskfeat.hierarchy(scene(48, 64))
    everything = annotate_cut(tree, tree.cut(20), (48, 64))
    runs = [
        len(
            np.flatnonzero(
                np.diff(np.pad(coco.decode(one["segmentation"]), ((1, 1), (0, 0))).T) == 1
            )
        )
        for one in everything
    ]
    monkeypatch.setattr(rle, "MAX_RUNS", sum(runs[:30]))
    assert annotate_cut(tree, tree.cut(20), (48, 64)) == everything[:30]
    assert f"the {len(everything) - 30} largest of {len(everything)} masks" in caplog.text


@pytest.mark.parametrize("num_segments", [1, 2])
def test_few_segments_have_no_merges_above_them(tmp_path, num_segments):
    path = image(tmp_path / "photos/a.png")
    segment(path, f"--num_segments={num_segments}", "--model=lab", f"--out={tmp_path / 'out'}")
    assert len(masks_of(tmp_path / "out/a.json")[1]) == num_segments


def test_an_image_of_one_pixel_is_one_segment(tmp_path):
    path = image(tmp_path / "photos/a.png", 1, 1)
    segment(path, "--model=lab", "--out", tmp_path / "out")
    assert np.asarray(Image.open(tmp_path / "out/a_labels.png")).tolist() == [[0]]
    (only,), _ = masks_of(tmp_path / "out/a.json")
    assert only["predicted_iou"] == only["stability_score"] == 1


def test_contours_hold_the_largest_side_or_corner_around_each_pixel():
    contour_map = np.random.default_rng(0).random((2 * 4 + 1, 2 * 5 + 1)).astype(np.float32)
    drawn = contour_image(contour_map)
    assert drawn.shape == (4, 5)
    for y in range(4):
        for x in range(5):
            around = contour_map[2 * y : 2 * y + 3, 2 * x : 2 * x + 3]
            assert drawn[y, x] == round(255 * float(around.max()))


def test_gray_images_are_segmented_too(tmp_path):
    (tmp_path / "photos").mkdir()
    gray = Image.fromarray(scene(30, 40)).convert("L")
    gray.save(tmp_path / "photos/a.jpg")
    words = ("--num_segments=100", "--model=lab", "--out", tmp_path / "out")
    segment(tmp_path / "photos/a.jpg", *words)
    assert Image.open(tmp_path / "out/a_labels.png").size == (40, 30)
    assert Image.open(tmp_path / "out/a_overlay.png").mode == "RGB"
    assert read_back(tmp_path / "photos/a.jpg", tmp_path / "out/a.json").runs.num_masks >= 20


def test_an_image_turned_by_exif_is_segmented_upright_and_read_back_so(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter to the right
    jpg = image(tmp_path / "photos/a.jpg", 30, 40, exif=exif)
    segment(jpg, "--num_segments=12", "--model=lab", "--out", tmp_path / "out")
    labels = np.asarray(Image.open(tmp_path / "out/a_labels.png"))
    assert labels.shape == (40, 30)
    sample = read_back(jpg, tmp_path / "out/a.json")
    assert sample.runs.size == (40, 30)
    assert np.array_equal(sample.decode(), read_image(jpg))
    assert np.array_equal(labels, maskfeat.hierarchy(sample.decode()).cut(12))


def test_a_large_image_is_reduced_and_its_segments_are_enlarged(net, tmp_path, capsys):
    jpg = image(tmp_path / "photos/a.jpg", 151, 203)
    words = ("--num_segments=12", "--max_megapixels=0.003", "--out", tmp_path / "out")
    segment(jpg, *words, "--model", net)
    told = capsys.readouterr().err
    assert told.count("203 x 151, is reduced to 64 x 47") == 1
    labels = np.asarray(Image.open(tmp_path / "out/a_labels.png"))
    assert labels.shape == (151, 203)
    assert Image.open(tmp_path / "out/a_contours.png").size == (203, 151)
    overlay = np.asarray(Image.open(tmp_path / "out/a_overlay.png")).astype(int)
    photo = read_image(jpg)
    small = np.asarray(Image.fromarray(photo).resize((64, 47), Image.Resampling.BOX))
    found = maskfeat.hierarchy(maskfeat.load(net).features(small)).cut(12)
    rows, columns = nearest_cells(47, 151), nearest_cells(64, 203)
    assert np.array_equal(labels, found[rows][:, columns])
    # Away from borders the overlay keeps the detail of the full image: 0.6 of it.
    is_white = (overlay == 255).all(axis=2)
    tint = overlay[~is_white] - 0.6 * photo[~is_white]
    for number in range(12):
        values = tint[labels[~is_white] == number]
        assert not len(values) or np.ptp(values, axis=0).max() <= 1.01
    annotations, masks = masks_of(tmp_path / "out/a.json")
    assert np.array_equal(masks[:12], labels == np.arange(12)[:, None, None])
    for one, mask in zip(annotations, masks, strict=True):
        y, x = np.nonzero(mask)
        assert one["area"] == len(y)
        assert one["bbox"] == [x.min(), y.min(), np.ptp(x) + 1, np.ptp(y) + 1]
        ((column, row),) = one["point_coords"]
        assert mask[int(row), int(column)]
    assert read_back(jpg, tmp_path / "out/a.json").runs.size == (151, 203)


def test_a_large_image_is_segmented_whole_by_tiles(tmp_path, monkeypatch):
    """Colors depend on near pixels alone: by tiles all is as without."""
    path = image(tmp_path / "photos/a.png", 150, 210)
    monkeypatch.setattr("maskfeat.segment.superpixels.TILE_PX", 48)
    monkeypatch.setattr("maskfeat.app.segment_images._STRIP_PX", 40)
    monkeypatch.setattr("maskfeat.app.nested_masks._STRIP_PX", 40)
    segment(path, "--model=lab", "--out", tmp_path / "whole")
    words = ["--model=lab", "--max_megapixels=0.01", "--tile"]
    segment(path, *words, "--out", tmp_path / "tiles")
    for ending in ("_labels.png", "_overlay.png", "_contours.png"):
        one, other = (tmp_path / f"{out}/a{ending}" for out in ("whole", "tiles"))
        assert one.read_bytes() == other.read_bytes(), ending
    (whole, masks), (tiled, others) = (
        masks_of(tmp_path / f"{o}/a.json") for o in ("whole", "tiles")
    )
    assert np.array_equal(masks, others)
    assert [one["point_coords"] for one in whole] == [one["point_coords"] for one in tiled]


def test_points_of_large_maps_lie_in_their_masks(monkeypatch):
    monkeypatch.setattr("maskfeat.app.nested_masks._MOST_CELLS", 200)
    tree = maskfeat.hierarchy(scene(48, 64))
    for one in annotate_cut(tree, tree.cut(20), (48, 64)):
        ((column, row),) = one["point_coords"]
        assert coco.decode(one["segmentation"])[int(row), int(column)]


def test_an_image_within_the_limit_is_not_reduced(tmp_path, capsys):
    path = image(tmp_path / "photos/a.png", 30, 40)
    segment(path, "--max_megapixels=0.0012", "--model=lab", "--out", tmp_path / "out")
    assert "reduced" not in capsys.readouterr().err


def test_in_a_folder_what_is_no_image_is_named_and_counted(tmp_path, capsys):
    for number in range(2):
        image(tmp_path / f"photos/p{number}.jpg", seed=number)
    (tmp_path / "photos/broken.jpg").write_bytes(b"not an image")
    whole = (tmp_path / "photos/p0.jpg").read_bytes()
    (tmp_path / "photos/half.jpg").write_bytes(whole[: len(whole) // 2])
    segment(tmp_path / "photos", "--model=lab", "--out", tmp_path / "out")
    told = capsys.readouterr()
    assert told.err.count("left out") == 2
    assert "broken.jpg" in told.err
    assert "half.jpg" in told.err
    assert "2 images segmented" in told.out
    assert "2 left out" in told.out
    assert {path.stem for path in (tmp_path / "out").glob("*.json")} == {"p0", "p1"}
    ids = [
        json.loads((tmp_path / f"out/p{number}.json").read_text())["image"]["image_id"]
        for number in range(2)
    ]
    assert ids == [2, 3]


def test_a_link_that_leads_nowhere_costs_no_other_image(tmp_path, capsys):
    image(tmp_path / "photos/b.png")
    (tmp_path / "photos/a.jpg").symlink_to(tmp_path / "gone.jpg")
    segment(tmp_path / "photos", "--model=lab", "--out", tmp_path / "out")
    told = capsys.readouterr()
    assert "a.jpg' cannot be read: " in told.err
    assert "1 image segmented" in told.out
    assert "1 left out" in told.out
    assert (tmp_path / "out/b.json").is_file()


def test_a_folder_without_a_whole_image_is_an_error(tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/a.jpg").write_bytes(b"not an image")
    told = refusal(tmp_path / "photos", "--model=lab", "--out", tmp_path / "out")
    assert "none of the images in" in told
    assert "1 left out" in told


def test_a_file_that_is_no_image_is_one_sentence(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"not an image")
    told = refusal(tmp_path / "a.jpg", "--model=lab", "--out", tmp_path / "out")
    assert "a.jpg' cannot be read as an image" in told


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--num_segments=5", "--granularity=0.5"], "num_segments or granularity, not both"),
        (["--num_segments=0"], "num_segments must lie in 1 to 65,536, got 0"),
        (["--num_segments=65537"], "num_segments must lie in 1 to 65,536, got 65537"),
        (["--granularity=1"], "granularity must lie between 0 and 1"),
        (["--max_megapixels=0"], "max_megapixels must be above 0"),
        (["--model=nonesuch"], "no model file at 'nonesuch'"),
        (["--out=photos"], "out must be another folder than that of the images"),
        (["--out=photos/a.png"], "out must be a folder"),
    ],
)
def test_mistakes_get_one_sentence(tmp_path, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    image(tmp_path / "photos/a.png")
    monkeypatch.setattr("maskfeat.app.segment_images.load_fused", None)  # said before it is loaded
    for images in ("photos", "photos/a.png"):
        assert message in refusal(images, "--model=lab", "--out=out", *words)
    assert not (tmp_path / "out").exists()


def test_places_without_images_are_named(tmp_path):
    assert "'nowhere'" in refusal("nowhere", "--model=lab")
    assert "no image (.jpg" in refusal(tmp_path, "--model=lab")


def test_more_segments_than_16_bits_number_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("maskfeat.app.segment_images.MAX_SEGMENTS", 99)
    path = image(tmp_path / "photos/a.png")
    words = ("--num_segments=100", "--model=lab", "--out", tmp_path / "out")
    assert "a.png' has 100 segments" in refusal(path, *words)
    assert not (tmp_path / "out").exists()


def test_two_images_of_one_stem_are_refused_before_anything_is_written(tmp_path):
    for name in ("a.jpg", "a.png", "b.png"):
        image(tmp_path / "photos" / name)
    told = refusal(tmp_path / "photos", "--model=lab", "--out", tmp_path / "out")
    assert "'a.jpg' and 'a.png' would both be written as 'a'" in told
    assert not (tmp_path / "out").exists()


def test_all_names_that_clash_are_said_at_once_and_before_a_network_is_loaded(
    tmp_path, monkeypatch
):
    monkeypatch.setattr("maskfeat.app.segment_images.load_fused", None)
    monkeypatch.chdir(tmp_path)
    for name in ("a.jpg", "a.png", "b.jpg", "b.png", "b.webp", "c.png"):
        image(tmp_path / "photos" / name)
    told = refusal("photos", "--out=out")
    assert "'a.jpg' and 'a.png' would both be written as 'a'" in told
    assert "'b.jpg' and 'b.png' and 'b.webp' would all be written as 'b'" in told
    image(tmp_path / "others/c.png")
    told = refusal("photos/c.png", "others/c.png", "--out=out")
    assert "'photos/c.png' and 'others/c.png' would both be written as 'c'" in told
    for number in range(12):
        for ending in ("png", "bmp"):
            image(tmp_path / f"many/{number:02d}.{ending}")
    told = refusal("many", "--out=out")
    assert "'09.bmp' and '09.png'" in told
    assert told.endswith("; and 2 more names; rename one of each")


def test_several_images_and_folders_are_taken(tmp_path, capsys):
    for number in range(4):
        image(tmp_path / f"photos/p{number}.png", seed=number)
    one, other = (image(tmp_path / f"{name}.png") for name in ("x", "y z"))
    segment(one, "--model=lab", "--out", tmp_path / "out", other, tmp_path / "photos", one)
    assert "6 images segmented" in capsys.readouterr().out
    ids = {
        path.stem: json.loads(path.read_bytes())["image"]["image_id"]
        for path in (tmp_path / "out").glob("*.json")
    }
    assert ids == {"x": 0, "y z": 1, "p0": 2, "p1": 3, "p2": 4, "p3": 5}
    (tmp_path / "broken.png").write_bytes(b"not an image")
    segment(one, tmp_path / "broken.png", "--model=lab", "--out", tmp_path / "out")
    told = capsys.readouterr()
    assert "broken.png' cannot be read" in told.err
    assert "1 image segmented" in told.out
    assert "no image or folder 'none.png'" in refusal(one, "none.png", "--model=lab")


def test_results_are_passed_over_only_if_they_are_of_what_is_asked_for(net, tmp_path, capsys):
    photos, out = tmp_path / "photos", tmp_path / "out"
    for number in range(2):
        image(photos / f"p{number}.png", seed=number)

    def said(*more: object) -> str:
        segment(photos, "--skip-existing", *more, f"--out={out}")
        return capsys.readouterr().out

    assert said("--model=lab").startswith("2 images segmented")
    first = (out / "p0.json").read_bytes()
    assert json.loads(first)["made_of"]["settings"] == {
        "version": maskfeat.__version__,
        "model": "lab",
        "granularity": 0.4,
        "max_megapixels": 2.0,
    }
    again = said("--model=lab")
    assert "0 images segmented" in again
    assert "2 passed over" in again
    assert (out / "p0.json").read_bytes() == first
    # Other settings, another model, other weights under the same name.
    for more in (["--model=lab", "--granularity=0.5"], ["--model=lab", "--max_megapixels=1"]):
        assert "2 of them anew: what they were made of has changed" in said(*more)
    own = tmp_path / "net.safetensors"
    own.write_bytes(net.read_bytes())
    assert "2 of them anew" in said(f"--model={own}")
    assert "2 passed over" in said(f"--model={own}")
    with torch.random.fork_rng():
        torch.manual_seed(1)
        save(FeaturePyramid(width=8), own)
    assert "2 of them anew" in said(f"--model={own}")
    # Another image under the same name; the same one copied anew.
    image(photos / "p0.png", seed=5)
    told = said(f"--model={own}")
    assert "1 image segmented" in told
    assert "1 passed over" in told
    (photos / "p1.png").touch()
    assert "2 passed over" in said(f"--model={own}")
    # What says nothing of what it was made of, or is no JSON.
    (out / "p0.json").write_text('{"annotations": []}')
    (out / "p1.json").write_text("cut sho")
    assert "2 of them anew" in said(f"--model={own}")


def test_images_of_an_earlier_run_do_not_pass_for_those_of_a_later_one(tmp_path, capsys):
    path = image(tmp_path / "photos/a.png")
    words = ["--model=lab", "--out", tmp_path / "out"]
    segment(path, *words, "--num_segments=3")
    segment(path, *words, "--num_segments=9", "--outputs=none")
    segment(path, *words, "--num_segments=9", "--skip_existing")
    assert "passed over" not in capsys.readouterr().out
    assert len(np.unique(np.asarray(Image.open(tmp_path / "out/a_labels.png")))) == 9


def test_masks_that_were_clicked_are_not_written_over(tmp_path):
    path = image(tmp_path / "photos/a.png")
    out = tmp_path / "photos_annotations"
    out.mkdir()
    (out / "a.prompts.json").write_text("{}")
    (out / "a.json").write_text("mine")
    assert "'a.png' by maskfeat annotate" in refusal(path, "--model=lab", f"--out={out}")
    assert (out / "a.json").read_text() == "mine"


def test_ctrl_c_is_one_line_and_leaves_whole_results_of_one_origin(tmp_path, monkeypatch, capfd):
    photos, out = tmp_path / "photos", tmp_path / "out"
    for number in range(3):
        image(photos / f"p{number}.png", seed=number)
    segment(photos, "--model=lab", f"--out={out}")
    capfd.readouterr()
    calls = []

    def interrupted(*arguments):
        calls.append(arguments)
        if len(calls) == 2:  # the label map and the others of p1 are written already
            raise KeyboardInterrupt
        return annotate_cut(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr("maskfeat.app.segment_images.annotate_cut", interrupted)
        with pytest.raises(SystemExit) as stop:
            segment(photos, "--model=lab", "--num_segments=5", f"--out={out}")
    assert stop.value.code == 130
    told = [line for line in capfd.readouterr().err.splitlines() if "segmenting" not in line]
    assert [line for line in told if line.strip()] == [
        f"WARNING: stopped; 1 of 3 images are done in '{out}', and the same command with "
        "--skip_existing does the rest"
    ]
    # p1 has a new label map, so its old masks are gone; p2 is as it was.
    assert {path.stem for path in out.glob("*.json")} == {"p0", "p2"}
    assert not [path for path in out.iterdir() if path.name.startswith(".")]
    segment(photos, "--model=lab", "--num_segments=5", f"--out={out}", "--skip_existing")
    assert capfd.readouterr().out.startswith("2 images segmented")
    for number in range(3):
        labels = np.asarray(Image.open(out / f"p{number}_labels.png"))
        assert len(masks_of(out / f"p{number}.json")[1]) >= labels.max() + 1 == 5


def test_a_ctrl_c_that_a_library_swallows_is_kept(tmp_path, monkeypatch, capfd):
    """torch does so while it is imported: all images were segmented after it."""
    for number in range(2):
        image(tmp_path / f"photos/p{number}.png", seed=number)

    def swallowing(model, device):
        with contextlib.suppress(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        return lambda rgb: rgb

    monkeypatch.setattr("maskfeat.app.segment_images.encoder_of", swallowing)
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(SystemExit) as stop:
        segment(tmp_path / "photos", "--model=lab", f"--out={tmp_path / 'out'}")
    assert stop.value.code == 130
    assert "stopped; 0 of 2 images" in capfd.readouterr().err
    assert signal.getsignal(signal.SIGINT) is before
    assert not list(tmp_path.glob("out/*"))


def test_a_ctrl_c_before_the_work_begins_is_no_traceback(monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("maskfeat.cli._on_bare_words", interrupted)
    with pytest.raises(SystemExit) as stop:
        segment("photos")
    assert stop.value.code == 130


def test_what_needs_no_network_is_said_without_torch(tmp_path):
    image(tmp_path / "photos/a.png")
    image(tmp_path / "photos/a.bmp")
    (tmp_path / "b.png").write_bytes(b"not an image")
    (tmp_path / "file").touch()
    code = (
        "import sys\n"
        "from maskfeat.cli import main\n"
        "for words in (['photos'], ['b.png'], ['none'], ['b.png', '--model=none'],\n"
        "              ['b.png', '--out=file/out'], ['b.png', '--granularity=2']):\n"
        "    try: main(['segment', *words])\n"
        "    except SystemExit as stop: print(stop.code)\n"
        "assert not {'torch', 'timm'} & set(sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    said = done.stdout.splitlines()
    for line, part in zip(
        said,
        ("would both be", "cannot be read as", "no image or folder", "no model file",
         "Not a directory", "granularity must"),
        strict=True,
    ):  # fmt: skip
        assert line.startswith("error: ")
        assert part in line


def test_dashes_stand_for_underscores_in_names_alone(tmp_path):
    path = image(tmp_path / "my-photos/a-b.png")
    out = tmp_path / "my-out"
    segment(path, "--num-segments", 5, "--max-megapixels=1", "--model=lab", f"--out={out}")
    assert np.asarray(Image.open(out / "a-b_labels.png")).max() == 4


def test_without_an_image_the_usage_is_shown(capsys):
    with pytest.raises(SystemExit) as stop:
        segment()
    assert stop.value.code == 2
    assert "required: images" in capsys.readouterr().err


def test_pillows_limit_does_not_count_but_absurd_sizes_are_refused(tmp_path, monkeypatch):
    path = image(tmp_path / "a.png", 30, 40)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    assert read_image(path).shape == (30, 40, 3)
    assert Image.MAX_IMAGE_PIXELS == 10
    # A header that claims 30,000 x 20,000 pixels.
    data = bytearray(path.read_bytes())
    data[16:24] = (30_000).to_bytes(4, "big") + (20_000).to_bytes(4, "big")
    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    path.write_bytes(data)
    told = refusal(path, "--model=lab", "--out", tmp_path / "out")
    assert "30000 x 20000, above 400 megapixels" in told


def test_help_lists_the_files_and_needs_no_torch():
    code = (
        "import sys\n"
        "from maskfeat.cli import main\n"
        "try: main(['segment', '--help'])\n"
        "except SystemExit as stop: assert not stop.code\n"
        "assert not {'torch', 'timm'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for word in ("KEY_labels.png", "--num_segments", "--skip_existing", "images"):
        assert word in done.stdout


def test_the_command_is_in_the_help_of_the_program(command, capsys):
    command("--help")
    assert "maskfeat segment" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize(
    ("size", "width", "words", "gigabytes"),
    [
        ((5480, 7300), 8, ["--max_megapixels=0.5"], 3),  # what is done to all 40 megapixels
        pytest.param((5480, 7300), 64, [], 4, marks=pytest.mark.long),
        pytest.param((9000, 12000), 64, ["--outputs=none"], 4, marks=pytest.mark.long),
    ],
)
def test_40_and_108_megapixels_take_less_than_4_gigabytes(tmp_path, size, width, words, gigabytes):
    rng = np.random.default_rng(0)
    coarse = Image.fromarray(rng.integers(0, 256, (54, 73, 3), dtype=np.uint8))
    smooth = coarse.resize(size[::-1], Image.Resampling.BICUBIC)
    (tmp_path / "photos").mkdir()
    smooth.save(tmp_path / "photos/a.jpg", quality=90)
    save(FeaturePyramid(width=width), tmp_path / "net.safetensors")
    code = (
        "import resource, sys\n"
        "from maskfeat.cli import main\n"
        "main(sys.argv[1:])\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)\n"
    )
    words = ["segment", "photos/a.jpg", "--model=net.safetensors", "--out=out", *words]
    done = forked_python.run(["-c", code, *words], tmp_path, check=True)
    assert int(done.stdout.split()[-1]) * 1024 < gigabytes * 1e9
    found = json.loads((tmp_path / "out/a.json").read_text())["annotations"]
    assert found[0]["segmentation"]["size"] == list(size)
    if "--outputs=none" not in words:  # beyond 67 megapixels no image is trained on
        assert Image.open(tmp_path / "out/a_labels.png").size == size[::-1]
        assert read_back(tmp_path / "photos/a.jpg", tmp_path / "out/a.json").runs.size == size
