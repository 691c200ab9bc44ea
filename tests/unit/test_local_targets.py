"""Pairs of nearby pixels and boundaries from masks, against masks that are decoded."""

from __future__ import annotations

import json

import numpy as np
import pytest
from example_making import example_maker
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from shard_factory import annotation_of, jpg_bytes

from maskfeat.batch import Example, collate
from maskfeat.data.annotations.painting import decode
from maskfeat.data.annotations.sample import AnnotatedImage, read_sample
from maskfeat.data.local_targets import boundary_map, pair_similarity
from maskfeat.data.settings import Augmentation


def sample_of(masks: np.ndarray) -> AnnotatedImage:
    rgb = np.zeros((*masks.shape[1:], 3), np.uint8)
    text = json.dumps(annotation_of(masks)).encode()
    return read_sample("a", "s.tar", jpg_bytes(rgb), text)


def similarity(sets: np.ndarray, one: tuple[int, int], other: tuple[int, int]) -> float:
    """Of two pixels of decoded masks (M, H, W), by Python's own sets."""
    size = sets.shape[1:]
    if not all(0 <= p < s for pixel in (one, other) for p, s in zip(pixel, size, strict=True)):
        return -1
    first, second = (set(np.flatnonzero(sets[:, y, x]).tolist()) for y, x in (one, other))
    return len(first & second) / len(first | second) if first | second else -1


def test_boundaries_of_an_object_with_a_part_by_hand() -> None:
    # Columns: unmarked, unmarked, object, object with part, object with part, object.
    masks = np.zeros((2, 3, 6), bool)
    masks[0, :, 2:] = True
    masks[1, :, 3:5] = True
    found = boundary_map(sample_of(masks).runs, np.arange(3), np.arange(6))
    assert found[0, 0].tolist() == [-1, 1, 0.5, 0, 0.5, -1]
    assert found[1].tolist() == [[-1, -1, 0, 0, 0, 0], [-1, -1, 0, 0, 0, 0], [-1] * 6]


def test_annotators_who_disagree_are_graded() -> None:
    masks = np.zeros((5, 4, 4), bool)  # two annotators part left from right, one does not
    masks[0, :, :2] = masks[1, :, 2:] = True
    masks[2, :, :2] = masks[3, :, 2:] = True
    masks[4] = True
    found = boundary_map(sample_of(masks).runs, np.arange(4), np.arange(4))
    assert found[0, 0].tolist() == pytest.approx([0, 1 - 1 / 5, 0, -1])


@given(
    hnp.arrays(bool, (4, 6, 7)),
    st.lists(st.integers(-2, 8), min_size=2, max_size=6),
    st.lists(st.integers(-2, 8), min_size=2, max_size=6),
)
@settings(max_examples=60, deadline=None)
def test_maps_and_pairs_are_those_of_decoded_masks(masks, rows, columns) -> None:
    masks[0, :2] = True  # a sample has at least one mask
    runs = sample_of(masks).runs
    sets = decode(runs)
    found = boundary_map(runs, np.array(rows), np.array(columns))
    for i, y in enumerate(rows):
        for j, x in enumerate(columns):
            expected = [-1.0, -1.0]
            if j + 1 < len(columns):
                s = similarity(sets, (y, x), (y, columns[j + 1]))
                expected[0] = 1 - s if s >= 0 else -1
            if i + 1 < len(rows):
                s = similarity(sets, (y, x), (rows[i + 1], x))
                expected[1] = 1 - s if s >= 0 else -1
            assert found[:, i, j].tolist() == pytest.approx(expected)
    num = min(len(rows), len(columns))
    first = np.stack([rows[:num], columns[:num]], axis=1)
    second = first[:, ::-1]
    expected = [similarity(sets, tuple(a), tuple(b)) for a, b in zip(first, second, strict=True)]
    assert pair_similarity(runs, first, second).tolist() == pytest.approx(expected)


def quarters() -> AnnotatedImage:
    """Three marked quarters of 60 x 80 pixels; the last is unmarked."""
    masks = np.zeros((3, 60, 80), bool)
    masks[0, :30, :40] = masks[1, :30, 40:] = masks[2, 30:, :40] = True
    return sample_of(masks)


def make(seed: int = 0, **settings) -> Example:
    maker = example_maker(48, 20, 10, Augmentation(), num_pairs=300, boundaries=True, **settings)
    return maker(quarters(), np.random.default_rng(seed))


@pytest.mark.parametrize("seed", range(4))
def test_pairs_are_near_and_agree_with_the_map_between_them(seed) -> None:
    example = make(seed, pair_radius=3)
    (first, second), boundary = example.local["pairs_yx"], example.local["boundary"]
    steps = abs(first - second)
    assert min(first.min(), second.min()) >= 0
    assert max(first.max(), second.max()) < 48
    assert steps.max() == 3
    assert (steps.sum(axis=1) > 0).mean() > 0.98
    for a, b, s in zip(first, second, example.local["pair_similarity"], strict=True):
        if abs(a - b).sum() != 1:
            continue
        y, x = np.minimum(a, b)
        known = boundary[int(a[0] != b[0]), y, x]
        assert known == (1 - s if s >= 0 else -1)


def test_nothing_is_taught_of_what_no_mask_holds() -> None:
    # Sets that mark some objects: the rest is not one thing.
    runs = quarters().runs
    grid = np.argwhere(np.ones((20, 30), bool)) + np.array([35, 45])
    assert (pair_similarity(runs, grid, grid[::-1]) == -1).all()
    assert (boundary_map(runs, np.arange(31, 60), np.arange(41, 80)) == -1).all()
    across = boundary_map(runs, np.arange(60), np.arange(80))
    assert (across[0, 30:, 39] == 1).all()  # where a marked object ends is known


def test_examples_without_them_are_as_they_were_and_batches_hold_what_examples_hold() -> None:
    with_local = make()
    plain = example_maker(48, 20, 10, Augmentation())(quarters(), np.random.default_rng(0))
    assert (plain.image == with_local.image).all()
    assert (plain.points_yx == with_local.points_yx).all()
    assert (plain.membership == with_local.membership).all()
    assert not {"pairs_yx", "pair_similarity", "boundary"} & collate([[plain]]).keys()
    batch = collate([[with_local], [make(1)]])
    assert batch["pairs_yx"].shape == (2, 2, 300, 2)
    assert batch["pair_similarity"].shape == (2, 300)
    assert batch["boundary"].shape == (2, 2, 48, 48)
    assert (batch["boundary"][1].numpy() == make(1).local["boundary"]).all()
