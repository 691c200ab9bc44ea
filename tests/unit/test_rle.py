from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pycocotools import mask as coco
from skimage.measure import label

from maskfeat.data.annotations.painting import decode, decode_annotations, encode
from maskfeat.data.annotations.rle import (
    Runs,
    membership,
    parse_counts,
    runs_from_counts,
    sample_border_points,
)

quick = settings(deadline=None, max_examples=60)
SA1B = Path(__file__).parents[3] / "shared" / "data" / "sa1b_sample" / "sa_1.json"

masks_2d = hnp.arrays(bool, hnp.array_shapes(min_dims=2, max_dims=2, max_side=12))
mask_stacks = hnp.arrays(
    bool, hnp.array_shapes(min_dims=3, max_dims=3, max_side=9), elements=st.booleans()
)


def coco_counts(masks: np.ndarray) -> list[str]:
    return [
        coco.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"].decode() for mask in masks
    ]


def components_by_hand(masks: np.ndarray, min_area_px: int = 2) -> list[tuple[int, np.ndarray]]:
    """Annotation and mask of each component, by scikit-image, in column-major order."""
    found = []
    for number, mask in enumerate(masks):
        labels = label(mask, connectivity=1)
        parts = [labels == i for i in range(1, labels.max() + 1)]
        parts.sort(key=lambda part: int(np.argmax(part.T.ravel())))
        found += [(number, part) for part in parts if part.sum() >= min_area_px]
    return found


def border_by_hand(masks: np.ndarray) -> np.ndarray:
    """Pixels with a neighbor of another value in any mask, by a double loop, bool (H, W)."""
    _, height, width = masks.shape
    border = np.zeros((height, width), bool)
    for mask in masks:
        for y in range(height):
            for x in range(width):
                for ny, nx in ((y + 1, x), (y, x + 1)):
                    if ny < height and nx < width and mask[y, x] != mask[ny, nx]:
                        border[y, x] = border[ny, nx] = True
    return border


def test_a_mask_worked_by_hand_is_read_as_its_columns() -> None:
    # 0 1 1      column-major: 0 0 1 | 1 1 0 | 1 1 0: counts 2, 3, 1, 2, 1
    # 0 1 1
    # 1 0 0
    runs = runs_from_counts([[2, 3, 1, 2, 1]], (3, 3), min_area_px=1)

    assert runs.starts.tolist() == [2, 3, 6]
    assert runs.stops.tolist() == [3, 5, 8]
    assert runs.mask_of_run.tolist() == [0, 1, 1]  # the pixel below left touches by a corner only
    assert runs.areas.tolist() == [1, 4]
    assert runs.annotation.tolist() == [0, 0]


@quick
@given(masks_2d)
def test_encode_writes_the_very_string_of_pycocotools(mask: np.ndarray) -> None:
    assert encode(mask) == coco_counts(mask[None])[0]


@quick
@given(mask_stacks)
def test_decoding_annotations_gives_back_the_masks(masks: np.ndarray) -> None:
    size = masks.shape[1:]
    counts = coco_counts(masks)
    lists = [
        np.diff(np.flatnonzero(np.diff(m.T.ravel(), prepend=False)), prepend=0, append=m.size)
        for m in masks
    ]

    np.testing.assert_array_equal(decode_annotations(counts, size), masks)
    np.testing.assert_array_equal(decode_annotations([c.encode() for c in counts], size), masks)
    np.testing.assert_array_equal(decode_annotations([c.tolist() for c in lists], size), masks)


@quick
@given(mask_stacks, st.integers(1, 4))
def test_components_are_those_of_scikit_image(masks: np.ndarray, min_area_px: int) -> None:
    runs = runs_from_counts(coco_counts(masks), masks.shape[1:], min_area_px)
    expected = components_by_hand(masks, min_area_px)

    assert runs.annotation.tolist() == [number for number, _ in expected]
    assert runs.areas.tolist() == [int(part.sum()) for _, part in expected]
    parts = np.array([part for _, part in expected], bool).reshape(-1, *masks.shape[1:])
    np.testing.assert_array_equal(decode(runs), parts)
    check_order(runs)


def check_order(runs: Runs) -> None:
    keys = runs.mask_of_run.astype(np.int64) * 10**9 + runs.starts
    assert (np.diff(keys) > 0).all()
    assert (runs.starts // runs.size[0] == (runs.stops - 1) // runs.size[0]).all()


@quick
@given(mask_stacks, st.integers(0, 2**32 - 1))
def test_membership_equals_looking_into_the_decoded_masks(masks: np.ndarray, seed: int) -> None:
    runs = runs_from_counts(coco_counts(masks), masks.shape[1:], min_area_px=1)
    points = np.random.default_rng(seed).integers(0, masks.shape[1:], (20, 2))

    expected = decode(runs)[:, points[:, 0], points[:, 1]]
    np.testing.assert_array_equal(membership(runs, points), expected)


@quick
@given(mask_stacks, st.data())
def test_border_points_are_all_pixels_at_a_border_in_the_box_and_no_others(
    masks: np.ndarray, data: st.DataObject
) -> None:
    _, height, width = masks.shape
    runs = runs_from_counts(coco_counts(masks), (height, width), min_area_px=2)
    top, left = data.draw(st.integers(-1, height)), data.draw(st.integers(-1, width))
    box = (
        top,
        left,
        data.draw(st.integers(top, height + 1)),
        data.draw(st.integers(left, width + 1)),
    )
    border = border_by_hand(decode(runs))
    is_inside = np.zeros_like(border)
    is_inside[max(top, 0) : max(box[2], 0), max(left, 0) : max(box[3], 0)] = True

    points = sample_border_points(runs, 1000, np.random.default_rng(0), box)

    assert sorted(map(tuple, points.tolist())) == sorted(
        map(tuple, np.argwhere(border & is_inside).tolist())
    )
    whole = sample_border_points(runs, 1000, np.random.default_rng(0))
    assert len(whole) == border.sum()


def test_every_border_pixel_is_drawn_equally_often() -> None:
    mask = np.zeros((1, 12, 12), bool)
    mask[0, 3:9, 3:9] = True
    mask[0, 4, 2] = True
    runs = runs_from_counts(coco_counts(mask), (12, 12))
    rng = np.random.default_rng(0)
    hits = np.zeros((12, 12))
    for _ in range(2000):
        points = sample_border_points(runs, 8, rng)
        assert len({tuple(p) for p in points.tolist()}) == 8
        hits[points[:, 0], points[:, 1]] += 1

    border = border_by_hand(mask)
    expected = 2000 * 8 / border.sum()
    assert (hits[~border] == 0).all()
    assert np.abs(hits[border] - expected).max() < 5 * np.sqrt(expected)


def test_a_mask_of_the_whole_image_has_no_border() -> None:
    runs = runs_from_counts([[0, 12]], (3, 4))
    assert runs.num_masks == 1
    assert sample_border_points(runs, 5, np.random.default_rng(0)).shape == (0, 2)


def test_no_annotations_are_no_masks() -> None:
    runs = runs_from_counts([], (3, 4))
    assert runs.num_masks == 0
    assert membership(runs, np.array([[0, 0]])).shape == (0, 1)
    assert sample_border_points(runs, 5, np.random.default_rng(0)).shape == (0, 2)
    assert decode(runs).shape == (0, 3, 4)


def test_empty_runs_in_the_middle_join_their_neighbors() -> None:
    starts, stops, owner = parse_counts([[1, 2, 0, 3, 6], [12], [0, 12]], (4, 3))
    assert starts.tolist() == [1, 0]
    assert stops.tolist() == [6, 12]
    assert owner.tolist() == [0, 2]


@pytest.mark.parametrize(
    ("counts", "size", "message"),
    [
        (["12\x7f"], (3, 3), "code 48 to 111, got 127 in annotation 0"),
        (["9", "1 "], (3, 3), "code 48 to 111, got 32 in annotation 1"),
        (["é"], (3, 3), "must be ASCII"),
        (["o"], (3, 3), "breaks off"),
        (["oooooooo1"], (3, 3), "at most 7 characters"),
        (["8"], (3, 3), "must sum to 9 .* got 8 in annotation 0"),
        ([""], (3, 3), "must sum to 9 .* got 0 in annotation 0"),
        (["9", "O9"], (3, 3), r"must lie in 0..9 .* got -1 in annotation 1"),
        ([[3, -1, 7]], (3, 3), "whole numbers"),
        ([[3.0, 6]], (3, 3), "whole numbers"),
        ([[2**70, 6]], (3, 3), "whole numbers"),
        ([{"a": 1}], (3, 3), "string or a list"),
        ([None], (3, 3), "string or a list"),
        (["0"], (0, 3), "above 0"),
        (["0"], (2**20, 2**20), "at most 67108864 pixels"),
    ],
)
def test_malformed_counts_are_refused(counts: list, size: tuple[int, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        runs_from_counts(counts, size)


def test_points_beyond_the_image_are_refused() -> None:
    runs = runs_from_counts([[0, 12]], (3, 4))
    for bad in ([[3, 0]], [[0, 4]], [[-1, 0]]):
        with pytest.raises(ValueError, match="inside the image"):
            membership(runs, np.array(bad))
    with pytest.raises(ValueError, match="integers of shape"):
        membership(runs, np.array([[0.5, 1.0]]))


def test_ten_thousand_corrupted_strings_end_in_an_error_or_in_valid_runs() -> None:
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:30, :40]
    masks = np.array([(y - 15) ** 2 + (x - 20) ** 2 < r * r for r in (5, 9, 13)])
    masks[2] &= (x + y) % 3 > 0
    good = [c.encode() for c in coco_counts(masks)]
    points = rng.integers(0, (30, 40), (10, 2))
    num_valid = 0
    for number in range(10_000):
        text = bytearray(good[number % 3])
        for _ in range(rng.integers(1, 4)):
            place = int(rng.integers(len(text)))
            kind = rng.integers(4)
            if kind == 0:
                text[place] = int(rng.integers(256))
            elif kind == 1:
                text[place] = int(rng.integers(48, 112))
            elif kind == 2:
                del text[place]
            else:
                text.insert(place, int(rng.integers(48, 112)))
        try:
            runs = runs_from_counts([bytes(text)], (30, 40))
        except ValueError:
            continue
        num_valid += 1
        check_order(runs)
        assert ((runs.starts >= 0) & (runs.starts < runs.stops) & (runs.stops <= 1200)).all()
        assert membership(runs, points).shape == (runs.num_masks, 10)
        np.testing.assert_array_equal(
            np.logical_or.reduce(decode(runs), axis=0),
            np.logical_or.reduce(
                [p for _, p in components_by_hand(decode_annotations([bytes(text)], (30, 40)))]
                or [np.zeros((30, 40), bool)],
                axis=0,
            ),
        )
    assert 0 < num_valid < 5_000


@pytest.mark.real
def test_genuine_sa1b_masks_agree_with_pycocotools_and_scikit_image() -> None:
    if not SA1B.is_file():
        pytest.skip(f"no genuine SA-1B material at {SA1B}")
    annotations = json.loads(SA1B.read_bytes())["annotations"]
    rles = [one["segmentation"] for one in annotations]
    size = tuple(rles[0]["size"])
    masks = np.stack([coco.decode(rle).astype(bool) for rle in rles])
    counts = [rle["counts"] for rle in rles]

    np.testing.assert_array_equal(decode_annotations(counts, size), masks)
    assert [encode(mask) for mask in masks] == counts
    expected = components_by_hand(masks)
    runs = runs_from_counts(counts, size)
    assert runs.annotation.tolist() == [number for number, _ in expected]
    for got, (_, part) in zip(decode(runs), expected, strict=True):
        np.testing.assert_array_equal(got, part)
    rng = np.random.default_rng(0)
    points = sample_border_points(runs, 500, rng, (100, 100, 900, 700))
    assert len(points) == 500
    inside = membership(runs, points)
    for shift in ((0, 1), (0, -1), (1, 0), (-1, 0)):
        inside |= membership(runs, points + shift) != membership(runs, points)
    assert inside.any(axis=0).all()


def test_a_hundred_masks_of_sa1b_size_are_read_in_hundredths_of_a_second() -> None:
    height, width = 1500, 2250
    rng = np.random.default_rng(0)
    y, x = np.ogrid[:height, :width]
    counts = []
    for _ in range(100):
        cy, cx = rng.uniform(0, height), rng.uniform(0, width)
        radius = np.exp(rng.uniform(np.log(30), np.log(350)))
        mask = (y - cy) ** 2 + (x - cx) ** 2 < radius**2
        mask[int(cy) % height, int(cx) % width] = True
        counts.append(encode(mask))
    points = rng.integers(0, (height, width), (512, 2))
    times = []
    for _ in range(5):
        start = time.process_time()
        membership(runs_from_counts(counts, (height, width)), points)
        times.append(time.process_time() - start)
    assert min(times) < 0.05  # 0.01 on a quiet core; pycocotools needs half a second
