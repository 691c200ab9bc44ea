"""Masks in the formats of other tools, read back by readers that are not ours."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path

import numpy as np
import pytest
import shapely
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pycocotools import mask as pycoco
from pycocotools.coco import COCO
from scipy import ndimage
from skimage.draw import polygon2mask

from maskfeat.cli import main
from maskfeat.data.annotations.painting import decode, encode
from maskfeat.data.annotations.read_as import ReadAs
from maskfeat.data.convert import Settings, convert_inputs, find_inputs
from maskfeat.data.convert.mask_sets import list_masks
from maskfeat.data.shards.indexed import IndexedShards
from maskfeat.formats.coverage import as_one_line, label_polygons, mask_polygons
from maskfeat.formats.image_masks import ImageMasks
from maskfeat.formats.writers import FORMATS, write_masks, writer_of


def a_label_map(seed: int, size: tuple[int, int] = (40, 56)) -> np.ndarray:
    """Blobs, slanted bands and specks, so that parts, holes and touching corners occur."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: size[0], : size[1]]
    labels = np.zeros(size, np.int64)
    for number in range(1, int(rng.integers(2, 9))):
        row, column = rng.uniform(0, size[0]), rng.uniform(0, size[1])
        long, wide, turn = rng.uniform(3, 30), rng.uniform(1, 10), rng.uniform(0, np.pi)
        along = (x - column) * np.cos(turn) + (y - row) * np.sin(turn)
        across = (y - row) * np.cos(turn) - (x - column) * np.sin(turn)
        shape = (along / long) ** 2 + (across / wide) ** 2
        labels[(shape < 1) & ((shape > 0.3) | (rng.random() < 0.5))] = number
    specks = rng.random(size) < 0.01
    labels[specks] = rng.integers(0, 9, specks.sum())
    return labels


def filled(parts: list[list[np.ndarray]], size: tuple[int, int]) -> np.ndarray:
    """Pixels whose centers lie within, by shapely."""
    y, x = np.mgrid[: size[0], : size[1]] + 0.5
    shape = shapely.union_all([shapely.Polygon(rings[0], rings[1:]) for rings in parts])
    return shapely.contains_xy(shape, x, y)


def iou(first: np.ndarray, second: np.ndarray) -> float:
    return float((first & second).sum() / max(1, (first | second).sum()))


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([0.5, 1.0, 2.0]))
def test_polygons_of_neighbors_leave_no_gap_and_do_not_overlap(seed: int, tolerance: float) -> None:
    labels = a_label_map(seed)
    found = label_polygons(labels, tolerance)
    assert list(found) == np.unique(labels).tolist()
    shapes = [shapely.Polygon(rings[0], rings[1:]) for parts in found.values() for rings in parts]
    assert shapely.is_valid(shapes).all()
    assert shapely.coverage_is_valid(shapes)
    whole = shapely.union_all(shapes)
    assert whole.area == pytest.approx(shapely.area(shapes).sum())  # no overlap
    assert len(whole.interiors) == 0  # no gap
    assert whole.area == labels.size
    if tolerance == 0.5:
        for label, parts in found.items():
            assert (filled(parts, labels.shape) == (labels == label)).all()


@pytest.mark.long
def test_a_thousand_label_maps_come_back_from_polygons() -> None:
    worst = 1.0
    for seed in range(1000):
        labels = a_label_map(seed)
        for label, parts in label_polygons(labels).items():
            worst = min(worst, iou(filled(parts, labels.shape), labels == label))
    assert worst >= 0.99


def test_polygons_by_hand() -> None:
    labels = np.array([[0, 0, 0], [0, 7, 0], [0, 0, 0]])
    found = label_polygons(labels)
    (ring,) = found[7][0]
    assert set(map(tuple, ring.tolist())) == {(1, 1), (2, 1), (2, 2), (1, 2)}
    outline, hole = found[0][0]
    assert set(map(tuple, outline.tolist())) == {(0, 0), (3, 0), (3, 3), (0, 3)}
    assert set(map(tuple, hole.tolist())) == {(1, 1), (2, 1), (2, 2), (1, 2)}
    assert outline[0].tolist() == outline[-1].tolist()


def test_masks_that_nest_share_their_borders() -> None:
    labels = a_label_map(3)
    masks = [labels > 0, labels > 2, labels == 3, np.zeros_like(labels, bool), labels == 0]
    found = mask_polygons(masks, tolerance_px=1.0)
    assert found[3] == []
    shapes = [
        shapely.union_all([shapely.Polygon(rings[0], rings[1:]) for rings in parts])
        for parts in found
    ]
    assert shapely.difference(shapes[1], shapes[0]).area == pytest.approx(0)
    assert shapely.difference(shapes[2], shapes[1]).area == pytest.approx(0)
    assert shapely.intersection(shapes[0], shapes[4]).area == pytest.approx(0)
    assert shapes[0].area + shapes[4].area == pytest.approx(shapely.union_all(shapes).area)


def test_what_is_no_label_map_is_refused() -> None:
    with pytest.raises(ValueError, match="labels must be integers of shape"):
        label_polygons(np.zeros((3, 3)))
    with pytest.raises(ValueError, match="tolerance_px must be a number of at least 0, got -1"):
        label_polygons(np.zeros((3, 3), int), tolerance_px=-1)
    with pytest.raises(ValueError, match="masks must have the same shape"):
        mask_polygons([np.ones((3, 3), bool), np.ones((3, 4), bool)])


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10**6))
def test_holes_and_parts_become_one_line_of_the_same_area(seed: int) -> None:
    labels = a_label_map(seed)
    for label, parts in label_polygons(labels).items():
        line = as_one_line(parts)
        x, y = line.T
        doubled = np.sum(x * np.roll(y, -1) - np.roll(x, -1) * y)
        assert doubled / 2 == (labels == label).sum()


@pytest.fixture(scope="module")
def images() -> list[ImageMasks]:
    """Two images; the second has a mask over the others, and one that is empty."""
    found = []
    for number in (1, 2):
        labels = a_label_map(number, (60, 80))
        masks = [labels == label for label in np.unique(labels)[1:]]
        if number == 2:
            masks += [labels > 1, np.zeros_like(labels, bool)]
        names = tuple("cat" if i % 2 else 'a "dog"' for i in range(len(masks)))
        counts = tuple(encode(mask) for mask in masks)
        found.append(ImageMasks(f"image{number}.jpg", number, labels.shape, counts, names))
    return found


@pytest.mark.parametrize("format_name", ["coco", "coco_rle"])
def test_coco_is_read_by_pycocotools(tmp_path: Path, images, format_name: str) -> None:
    assert write_masks(images, writer_of(format_name, tmp_path, 0.5)) == 2
    coco = COCO(tmp_path / "annotations.json")
    for image in images:
        masks = [mask for mask in image if mask.any()]
        annotations = coco.loadAnns(coco.getAnnIds(imgIds=image.image_id))
        assert len(annotations) == len(masks)
        assert coco.loadImgs(image.image_id)[0]["file_name"] == image.file_name
        for mask, one, name in zip(masks, annotations, image.names, strict=False):
            # pycocotools draws outlines on a grid of its own: single pixels may differ.
            least = 1.0 if format_name == "coco_rle" else 0.9
            assert iou(coco.annToMask(one).astype(bool), mask) >= least
            assert one["area"] == mask.sum()
            assert coco.loadCats(one["category_id"])[0]["name"] == name
            box = pycoco.toBbox(pycoco.encode(np.asfortranarray(mask.astype(np.uint8))))
            assert one["bbox"] == box.tolist()


def test_yolo_is_read_by_labelformat(tmp_path: Path, images) -> None:
    from labelformat.formats import YOLOv8InstanceSegmentationInput

    write_masks(images, writer_of("yolo", tmp_path, 0.5))
    (tmp_path / "images").mkdir()
    for image in images:
        Image.new("RGB", image.size[::-1]).save(tmp_path / "images" / image.file_name)
    names = yaml.safe_load((tmp_path / "data.yaml").read_text())["names"]
    assert set(names.values()) == {"cat", 'a "dog"'}
    read = YOLOv8InstanceSegmentationInput(tmp_path / "data.yaml", input_split="train")
    by_name = {label.image.filename: label.objects for label in read.get_labels()}
    for image in images:
        masks = [mask for mask in image if mask.any()]
        assert len(by_name[image.file_name]) == len(masks)
        for mask, one, name in zip(masks, by_name[image.file_name], image.names, strict=False):
            assert one.category.name == name
            (line,) = one.segmentation.polygons
            drawn = polygon2mask(image.size, np.array(line)[:, ::-1] - 0.5)
            assert iou(drawn, mask) >= 0.95


def test_voc_is_read_by_pillow(tmp_path: Path, images) -> None:
    write_masks(images, writer_of("voc", tmp_path, 0.5))
    assert (tmp_path / "labels.txt").read_text().split("\n") == ['a "dog"', "cat", ""]
    for image in images:
        objects = Image.open(tmp_path / "SegmentationObject" / f"{image.key}.png")
        assert objects.mode == "P"
        assert objects.getpalette()[:12] == [0, 0, 0, 128, 0, 0, 0, 128, 0, 128, 128, 0]
        assert (np.asarray(objects) == image.label_map()).all()
        classes = np.asarray(Image.open(tmp_path / "SegmentationClass" / f"{image.key}.png"))
        for index, name in enumerate(image.names):
            is_mine = image.label_map() == index + 1
            assert (classes[is_mine] == (2 if name == "cat" else 1)).all()


def test_more_masks_than_a_palette_has_are_refused(tmp_path: Path) -> None:
    counts = tuple(encode(np.ones((2, 2), bool)) for _ in range(255))
    crowded = ImageMasks("a.jpg", 1, (2, 2), counts, ("object",) * 255)
    with pytest.raises(ValueError, match=r"'a.jpg' has 255 masks, and the PNGs of VOC number 254"):
        write_masks([crowded], writer_of("voc", tmp_path, 0.5))
    assert not (tmp_path / "SegmentationObject").exists()


def test_labelme_polygons_are_drawn_by_scikit_image(tmp_path: Path, images) -> None:
    write_masks(images, writer_of("labelme", tmp_path, 0.5))
    for image in images:
        content = json.loads((tmp_path / f"{image.key}.json").read_text())
        assert (content["imageHeight"], content["imageWidth"]) == image.size
        assert content["imagePath"] == image.file_name
        drawn: dict[object, np.ndarray] = {}
        for number, shape in enumerate(content["shapes"]):
            key = shape["group_id"] or f"alone {number}"
            one = polygon2mask(image.size, np.array(shape["points"])[:, ::-1] - 0.5)
            drawn[key] = drawn.get(key, False) | one
        masks = [mask for mask in image if mask.any()]
        assert len(drawn) == len(masks)
        for mask, one in zip(masks, drawn.values(), strict=True):
            assert iou(one, mask) >= 0.95


def test_geojson_is_read_by_shapely(tmp_path: Path, images) -> None:
    write_masks(images, writer_of("geojson", tmp_path, 0.5))
    for image in images:
        content = json.loads((tmp_path / f"{image.key}.geojson").read_text())
        y, x = np.mgrid[: image.size[0], : image.size[1]] + 0.5
        assert len(content["features"]) == sum(mask.any() for mask in image)
        for feature in content["features"]:
            shape = shapely.from_geojson(json.dumps(feature["geometry"]))
            assert shape.is_valid
            assert all(part.exterior.is_ccw for part in shape.geoms)
            assert (shapely.contains_xy(shape, x, y) == image[feature["id"] - 1]).all()
            assert feature["properties"]["name"] == image.names[feature["id"] - 1]


EXACT = ("coco_rle", "geojson", "labelme", "sa1b", "voc")


@pytest.mark.parametrize("format_name", FORMATS)
def test_what_is_written_is_read_again(tmp_path: Path, images, format_name: str) -> None:
    images = [image.without_overlap() for image in images] if format_name == "voc" else images
    write_masks(images, writer_of(format_name, tmp_path / "out", 0.5))
    (tmp_path / "out/images").mkdir()
    for image in images:
        Image.new("RGB", image.size[::-1]).save(tmp_path / "out/images" / image.file_name)
    records = list_masks(tmp_path / "out")
    assert [record.file_name for record in records] == [image.file_name for image in images]
    for image, record in zip(images, records, strict=True):
        found, masks = record.masks(), [mask for mask in image if mask.any()]
        named = [name for mask, name in zip(image, image.names, strict=True) if mask.any()]
        assert (found.size, list(found.names)) == (image.size, named)
        for counts, mask in zip(found.counts, masks, strict=True):
            read = pycoco.decode({"size": list(image.size), "counts": counts}).astype(bool)
            least = 1.0 if format_name in EXACT else 0.99
            assert iou(read, mask) >= least, (format_name, iou(read, mask))


def in_pieces_of(mask: np.ndarray, min_area_px: int) -> np.ndarray:
    """A mask without its smaller pieces."""
    pieces, _ = ndimage.label(mask)
    areas = np.bincount(pieces.ravel())
    return mask & (areas[pieces] >= min_area_px)


@pytest.mark.parametrize("format_name", ["yolo", "voc", "labelme", "geojson", "sa1b"])
def test_shards_are_made_of_the_formats_of_others(tmp_path: Path, images, format_name: str) -> None:
    write_masks(images, writer_of(format_name, tmp_path / "set", 0.5))
    (tmp_path / "set/images").mkdir()
    for image in images:
        place = tmp_path / "set" / ("" if format_name == "sa1b" else "images") / image.file_name
        Image.new("RGB", image.size[::-1]).save(place)
    inputs = find_inputs([str(tmp_path / "set")])
    found = convert_inputs(inputs, tmp_path / "out", Settings(), num_workers=0).summary()
    assert (found["samples"], found["skipped"]) == (2, {})
    sample = next(iter(IndexedShards(str(tmp_path / "out"))))
    covered = np.any([in_pieces_of(mask, 16) for mask in images[0]], axis=0)
    assert iou(decode(sample.runs).any(axis=0), covered) > 0.98


@pytest.mark.parametrize("has_masks", [True, False])
def test_the_page_that_masks_are_of_is_kept(tmp_path: Path, has_masks: bool) -> None:
    pages = [Image.new("RGB", (8, 6), color) for color in ("red", "blue")]
    pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:])
    counts = (encode(np.ones((6, 8), bool)),) if has_masks else ()
    names = ("object",) * len(counts)
    page = ImageMasks("a.tif", 1, (6, 8), counts, names, tmp_path / "a.tif", ReadAs(page=2))
    write_masks([page], writer_of("sa1b", tmp_path / "one", 0.5))
    main(["convert", str(tmp_path / "one"), "--to", "sa1b", "--out", str(tmp_path / "two")])
    content = json.loads((tmp_path / "two/a.json").read_text())
    assert content["image"]["read_as"] == {"page": 2}


def test_shapes_of_labelme_by_hand(tmp_path: Path) -> None:
    mask = np.zeros((3, 4), np.uint8)
    mask[1:, 2:] = 255
    file = io.BytesIO()
    Image.fromarray(mask).save(file, "PNG")
    shapes = [
        {"label": "box", "shape_type": "rectangle", "points": [[2, 1], [6, 4]]},
        {"label": "disc", "shape_type": "circle", "points": [[20, 20], [25, 20]]},
        {
            "label": "mask",
            "shape_type": "mask",
            "points": [[10, 30], [13, 32]],
            "mask": base64.b64encode(file.getvalue()).decode(),
        },
        {"label": "line", "shape_type": "line", "points": [[0, 0], [9, 9]]},
    ]
    content = {"imageHeight": 40, "imageWidth": 50, "imagePath": "..\\a.jpg", "shapes": shapes}
    (tmp_path / "a.json").write_text(json.dumps(content))
    (record,) = list_masks(tmp_path)
    assert record.file_name == "a.jpg"
    found = record.masks()
    assert (found.names, found.left_out) == (("box", "disc", "mask"), 1)
    box, disc, pasted = (
        pycoco.decode({"size": [40, 50], "counts": counts}) > 0 for counts in found.counts
    )
    assert np.argwhere(box)[[0, -1]].tolist() == [[1, 2], [3, 5]]
    assert box.sum() == 12
    assert abs(disc.sum() - np.pi * 25) < 4
    assert np.argwhere(pasted).tolist() == [[31, 12], [31, 13], [32, 12], [32, 13]]


def test_label_maps_are_read(tmp_path: Path) -> None:
    labels = np.zeros((20, 30), np.uint8)
    labels[2:9], labels[12:15, 5:9] = 3, 200
    Image.fromarray(labels).save(tmp_path / "a.png")
    (record,) = list_masks(tmp_path)
    assert (record.key, record.image, len(record.masks().counts)) == ("a", None, 2)
    with pytest.raises(SystemExit, match="holds no masks in the format labelme"):
        main(["convert", str(tmp_path), "--to", "sa1b", "--out", "x", "--format", "labelme"])


def test_a_file_that_is_broken_is_named(tmp_path: Path) -> None:
    content = {"shapes": [{"points": 3}], "imageHeight": 4, "imageWidth": 4}
    (tmp_path / "a.json").write_text(json.dumps(content))
    with pytest.raises(SystemExit, match=r"a\.json' cannot be converted"):
        main(["convert", str(tmp_path), "--to", "coco", "--out", str(tmp_path / "out")])


def test_without_overlap_each_pixel_belongs_to_the_smallest_mask(images) -> None:
    apart = images[1].without_overlap()
    assert sum(mask.astype(int) for mask in apart).max() == 1
    assert (apart.label_map() > 0).tolist() == (images[1].label_map() > 0).tolist()
    assert all(mask.any() for mask in apart)


def test_an_unknown_format_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"must be one of {', '.join(FORMATS)}, got 'svg'"):
        writer_of("svg", tmp_path, 0.5)


def test_the_command_converts_what_segment_wrote(tmp_path: Path, capsys) -> None:
    rng = np.random.default_rng(0)
    pixels = np.repeat(np.repeat(rng.integers(0, 255, (4, 5, 3), np.uint8), 16, 0), 16, 1)
    Image.fromarray(pixels).save(tmp_path / "photo.jpg", quality=95)
    segments, out = str(tmp_path / "segments"), tmp_path / "coco"
    main(["segment", str(tmp_path / "photo.jpg"), "--model", "lab", "--out", segments])
    main(["convert", segments, "--to", "coco", "--out", str(out), "--flat"])
    assert "masks of 1 image written to" in capsys.readouterr().out
    coco = COCO(out / "annotations.json")
    labels = np.asarray(Image.open(tmp_path / "segments" / "photo_labels.png"))
    masks = [coco.annToMask(one).astype(bool) for one in coco.anns.values()]
    assert len(masks) == labels.max() + 1
    for label in range(len(masks)):
        assert max(iou(mask, labels == label) for mask in masks) >= 0.95


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--to", "svg", "--out", "x"], "to must be one of coco, coco_rle, yolo"),
        (
            ["--to", "coco", "--out", "{folder}"],
            "out must be another folder than that of the masks",
        ),
        (["--to", "coco", "--out", "x", "nowhere"], "no file or folder of masks at 'nowhere'"),
        (["--to", "coco", "--out", "{folder}/out"], "holds no masks in a format that is read"),
    ],
)
def test_what_cannot_be_converted_is_said_in_one_line(
    tmp_path: Path, words: list[str], said: str
) -> None:
    (tmp_path / "a.json").write_text("{}")
    with pytest.raises(SystemExit, match=said):
        main(["convert", str(tmp_path), *(word.format(folder=tmp_path) for word in words)])
    assert not (tmp_path / "out").exists()
