"""Sets that mark some objects: unmarked pixels are unknown, or a background of their own."""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from data_settings import data_module
from example_making import example_maker
from shard_factory import annotation_of, jpg_bytes, write_shard

from maskfeat.data.annotations.painting import decode
from maskfeat.data.annotations.sample import AnnotatedImage, read_sample, with_background
from maskfeat.data.training_set import sets_of


def sample_of(masks: np.ndarray) -> AnnotatedImage:
    rgb = np.zeros((*masks.shape[1:], 3), np.uint8)
    return read_sample("a", "", jpg_bytes(rgb), json.dumps(annotation_of(masks)).encode())


def test_each_unmarked_region_becomes_a_mask() -> None:
    masks = np.zeros((2, 8, 9), bool)
    masks[0, :, 3:6] = True  # parts left from right
    masks[1, 2:5, 4:7] = True  # overlaps, and reaches into the right
    found = with_background(sample_of(masks))
    left, right = ~masks.any(axis=0), ~masks.any(axis=0)
    left[:, 3:], right[:, :6] = False, False
    assert (decode(found.runs) == np.stack([masks[0], masks[1], left, right])).all()
    assert found.runs.annotation.tolist() == [0, 1, 2, 2]
    assert found.runs.areas.tolist() == [24, 9, 24, 21]
    assert len(found.annotators) == len(found.levels) == 3


def test_small_gaps_stay_unmarked_and_a_full_image_is_left_alone() -> None:
    masks = np.ones((1, 8, 9), bool)
    sample = sample_of(masks)
    assert with_background(sample) is sample
    masks[0, :3, :5] = False  # 15 pixels
    sample = sample_of(masks)
    assert with_background(sample) is sample
    assert with_background(sample, min_area_px=15).runs.num_masks == 2


def test_pixels_of_a_background_are_alike_and_of_unknown_ones_nothing_is_said() -> None:
    masks = np.zeros((1, 40, 40), bool)
    masks[0, 10:20, 10:20] = True
    make = example_maker(40, 60, 10, num_pairs=50, boundaries=True)
    unknown, background = (
        make(one, np.random.default_rng(0))
        for one in (sample_of(masks), with_background(sample_of(masks)))
    )
    assert unknown.membership.any(axis=0).mean() < 1
    assert background.membership.any(axis=0).all()
    assert (unknown.local["boundary"][:, :8] == -1).all()
    assert (background.local["boundary"][:, :8, :-1] == 0).all()
    assert background.local["pair_similarity"].min() >= 0 > unknown.local["pair_similarity"].min()


def write_sets(folder: Path) -> dict[str, Any]:
    """Two sets with one small mask in each image, keys below and above 1000."""
    for name, first_id in (("some", 0), ("plain", 1000)):
        write_shard(folder / f"{name}.tar", 8, 0, size=(60, 60), num_masks=1, first_id=first_id)
    return {
        "some": {"shards": str(folder / "some.tar"), "weight": 1},
        "plain": {"shards": str(folder / "plain.tar"), "weight": 1, "unmarked": "background"},
    }


@pytest.mark.parametrize("mode", ["indexed", "streaming"])
def test_the_setting_of_a_set_reaches_its_batches_alone(tmp_path, mode) -> None:
    sets = write_sets(tmp_path)
    data = data_module(
        train=sets, val=sets["some"]["shards"], mode=mode, crop_size=64, num_workers=0, batch_size=4
    )
    seen = {"some": [], "plain": []}
    for batch in itertools.islice(data.train_dataloader(), 4):
        marked = batch["membership"].any(dim=1).float().mean(dim=1)
        for key, share in zip(batch["keys"], marked.tolist(), strict=True):
            is_plain = int(re.sub(r"\D", "", key)) >= 1000
            seen["plain" if is_plain else "some"].append(share)
    assert min(map(len, seen.values())) > 0
    assert min(seen["some"]) < 0.9
    assert min(seen["plain"]) > max(0.9, np.mean(seen["some"]))


@pytest.mark.parametrize("mode", ["indexed", "streaming"])
def test_images_can_be_read_without_their_masks(tmp_path, mode) -> None:
    sets = write_sets(tmp_path)
    sets["plain"]["unmarked"] = "everything"
    local = {"num_pairs": 20, "boundaries": True}
    data = data_module(
        train=sets,
        val=sets["some"]["shards"],
        mode=mode,
        crop_size=64,
        num_workers=0,
        batch_size=8,
        **local,
    )
    batch = next(iter(data.train_dataloader()))
    is_plain = np.array([int(re.sub(r"\D", "", key)) >= 1000 for key in batch["keys"]])
    held = batch["membership"].any(dim=2).any(dim=1).numpy()
    assert (held == ~is_plain).all()
    assert (batch["boundary"][is_plain] == -1).all()
    assert (batch["pair_similarity"][is_plain] == -1).all()
    assert (batch["boundary"][~is_plain] == 1).any()


def test_another_word_is_refused() -> None:
    entry = {"shards": "a.tar", "weight": 1, "unmarked": "nothing"}
    with pytest.raises(ValueError, match=r"or everything, got 'nothing' for 'a'"):
        sets_of({"a": entry})
    assert sets_of({"a": entry | {"unmarked": "background"}})[0].unmarked == "background"
    assert sets_of({"a.tar": 2})[0].unmarked == "unknown"
