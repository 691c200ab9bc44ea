"""Objects pasted onto other images; colors inverted and recolored; the same again on resume."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from data_settings import data_module
from example_making import example_maker
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from shard_factory import annotation_of, jpg_bytes, write_shard
from skimage.measure import label

from maskfeat.data.annotations.painting import decode
from maskfeat.data.annotations.sample import AnnotatedImage, read_sample
from maskfeat.data.augment import jitter_color
from maskfeat.data.composition import LUMA, paste, pasteable, runs_of
from maskfeat.data.datamodule import ShardDataModule
from maskfeat.data.settings import Augmentation

STILL = {"brightness": 0, "contrast": 0, "saturation": 0, "hue_degrees": 0, "grey": 0}


def square(top: int, left: int, side: int, size: int = 20) -> np.ndarray:
    mask = np.zeros((size, size), bool)
    mask[top : top + side, left : left + side] = True
    return mask


def flat(value: int, size: int = 20) -> np.ndarray:
    return np.full((size, size, 3), value, np.uint8)


def test_an_object_comes_with_its_parts_and_hides_what_lies_behind_it() -> None:
    masks = np.stack([square(0, 0, 20), square(6, 6, 12)])
    thing, part, elsewhere = square(4, 4, 8), square(5, 5, 3), square(14, 14, 4)
    around = square(2, 2, 16)
    image, found = paste(
        flat(100), masks, flat(100), np.stack([thing, part, elsewhere, around]), number=0
    )
    assert (found == np.stack([masks[0] & ~thing, masks[1] & ~thing, thing, part])).all()
    assert (image == 100).all()


def test_brightness_is_matched_and_edges_are_soft() -> None:
    other = flat(60)
    other[square(5, 5, 10)] = 90  # mean luminance 67.5; the object is 22.5 above it
    image, _ = paste(flat(150), square(0, 0, 20)[None], other, square(5, 5, 10)[None], 0)
    assert (image[8:12, 8:12] == 172).all()  # 150 + 22.5, rounded to even
    assert (image[:2] == 150).all()
    row = image[10, :, 0].astype(int)
    # Half a pixel outside and inside, the ground of the other at 142.5: a Gaussian of 0.7 pixels.
    assert row[4] == pytest.approx(150 + 0.24 * (142.5 - 150), abs=1)
    assert row[5] == pytest.approx(150 + 0.76 * 22.5, abs=1)
    assert LUMA.sum() == pytest.approx(1)


def test_only_whole_objects_of_fitting_size_are_pasted() -> None:
    masks = np.stack([square(4, 4, 8), square(4, 4, 1), square(0, 0, 16), square(0, 9, 5)])
    edge = np.zeros((20, 20), bool)
    edge[0] = True
    assert pasteable(masks, edge).tolist() == [0]  # too small, too large, cut
    assert pasteable(masks, edge & False).tolist() == [0, 3]


@given(hnp.arrays(bool, st.tuples(st.integers(1, 3), st.integers(1, 6), st.integers(1, 6))))
@settings(max_examples=60, deadline=None)
def test_runs_of_decoded_masks_are_their_components(masks) -> None:
    runs = runs_of(masks, min_area_px=1)
    expected = [
        labels == number
        for labels in (label(mask, connectivity=1) for mask in masks)
        for number in range(1, labels.max() + 1)
    ]
    found = {mask.tobytes() for mask in decode(runs)}
    assert found == {mask.tobytes() for mask in expected}
    assert runs.num_masks == len(expected)


def sample_of(rgb: np.ndarray, masks: np.ndarray, key: str = "a") -> AnnotatedImage:
    return read_sample(key, "", jpg_bytes(rgb), json.dumps(annotation_of(masks)).encode())


def test_points_of_a_composed_example_are_held_by_what_is_seen() -> None:
    # The target has two halves, the donor a bright square of two halves on dark ground.
    halves = np.stack([square(0, 0, 64, 64), ~square(0, 0, 64, 64)])
    halves[0, :, 32:] = False
    halves[1] = ~halves[0]
    thing = square(20, 16, 30, 64)
    upper = thing & (np.arange(64)[:, None] < 35)
    rgb = np.where(thing[..., None], 230, 20).astype(np.uint8).repeat(3, 2)
    rgb[upper] = 160
    target = sample_of(flat(90, 64), halves)
    donor = sample_of(rgb, np.stack([thing, upper]))
    still = Augmentation(
        min_scale=1, max_scale=1, max_stretch=1, flip=0, paste=1, max_pasted=1, **STILL
    )
    make = example_maker(64, 400, 10, still, boundaries=True)
    for seed in range(6):
        example = make(target, np.random.default_rng(seed), lambda rng: donor)
        y, x = example.points_yx.T
        sets = [frozenset(np.flatnonzero(column)) for column in example.membership.T]
        value = example.image[y, x, 0].astype(int)
        part, rest, ground = value > 200, value < 110, (value > 130) & (value < 190)
        assert all(sets)
        assert (part | ground).any()
        # Half of the target cannot be told by color; nothing of it holds the object.
        on_target = set().union(*(s for s, yes in zip(sets, rest, strict=True) if yes))
        on_object = set().union(*(s for s, yes in zip(sets, value > 215, strict=True) if yes))
        assert not on_target & on_object
        boundary = example.local["boundary"]
        assert boundary[0, 5, 31] == 1


def test_without_a_donor_and_with_no_share_examples_are_as_they_were() -> None:
    sample = sample_of(flat(90, 64), square(10, 10, 20, 64)[None])
    plain, may = (
        example_maker(48, 30, 5, augmentation)
        for augmentation in (Augmentation(), Augmentation(paste=1.0))
    )
    first, again = (make(sample, np.random.default_rng(3)) for make in (plain, may))
    unasked = plain(sample, np.random.default_rng(3), lambda _: pytest.fail("nothing is pasted"))
    for other in (again, unasked):
        assert (first.points_yx == other.points_yx).all()
        assert (first.image == other.image).all()


# --- colors --------------------------------------------------------------------------------------


def test_inverted_colors_are_255_minus_them() -> None:
    image = np.random.default_rng(0).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    found = jitter_color(image, Augmentation(invert=1.0, **STILL), np.random.default_rng(0))
    assert abs(found.astype(int) - (255 - image.astype(int))).max() <= 1


def test_recolored_grey_stays_grey_and_colors_change_much() -> None:
    rng = np.random.default_rng(0)
    image = np.zeros((4, 4, 3), np.uint8)
    image[:] = (200, 80, 60)
    strong = Augmentation(recolor=1.0, **STILL)
    found = np.stack([jitter_color(image, strong, rng)[0, 0] for _ in range(60)]).astype(int)
    assert len({int(color.argmax()) for color in found}) == 3
    grey = jitter_color(flat(77, 4), strong, rng)
    assert abs(grey.astype(int) - 77).max() <= 1


def test_shares_beyond_one_are_refused() -> None:
    for name in ("paste", "invert", "recolor"):
        with pytest.raises(ValueError, match=f"{name} must lie between 0 and 1, got 1.5"):
            Augmentation(**{name: 1.5})
    with pytest.raises(ValueError, match="max_pasted must be at least 1, got 0"):
        Augmentation(max_pasted=0)


# --- both reading modes --------------------------------------------------------------------------


def data_of(folder: Path, mode: str, **settings) -> ShardDataModule:
    return data_module(
        train=str(folder / "*.tar"),
        val=str(folder / "0.tar"),
        mode=mode,
        crop_size=48,
        num_points=30,
        num_workers=0,
        batch_size=4,
        **settings,
    )


@pytest.mark.parametrize("mode", ["indexed", "streaming"])
def test_composed_batches_are_the_same_after_a_resume(tmp_path, mode) -> None:
    for number in range(2):
        write_shard(tmp_path / f"{number}.tar", 8, number, size=(60, 80), first_id=100 * number)
    strong = Augmentation(paste=1.0, invert=0.3, recolor=0.3)
    data = data_of(tmp_path, mode, augmentation=strong)
    whole = list(data.train_dataloader())
    plain = list(data_of(tmp_path, mode).train_dataloader())
    assert [b["keys"] for b in plain] == [b["keys"] for b in whole]
    assert not all((a["images"] == b["images"]).all() for a, b in zip(plain, whole, strict=True))

    first = data_of(tmp_path, mode, augmentation=strong)
    loader = iter(first.train_dataloader())
    for _ in range(2):
        next(loader)
    state = first.state_dict()
    second = data_of(tmp_path, mode, augmentation=strong)
    second.load_state_dict(state)
    for again, expected in itertools.zip_longest(second.train_dataloader(), whole[2:]):
        assert again["keys"] == expected["keys"]
        for name in ("images", "points_yx", "membership"):
            assert (again[name] == expected[name]).all()
