"""Corrupted annotations end in a clean skip or in the masks that they say: nothing else."""

from __future__ import annotations

import json
import time
import tracemalloc
from collections import Counter

import numpy as np
import pytest
from example_making import example_maker
from fuzzed_samples import expected_components, mutate
from PIL import Image
from shard_factory import annotation_of, draw_scene, jpg_bytes

from maskfeat.data.annotations.image import SampleError
from maskfeat.data.annotations.painting import decode
from maskfeat.data.annotations.rle import MAX_RUNS
from maskfeat.data.annotations.sample import read_sample
from maskfeat.data.augment import choose_window
from maskfeat.data.settings import Augmentation

SIZE = (18, 24)
CROP = 12


def fuzz(num_cases: int, seed: int) -> Counter[str]:
    """Read corrupted samples; count what became of them."""
    rng = np.random.default_rng(seed)
    rgb, masks = draw_scene(rng, SIZE, 3)
    masks[2] ^= rng.random(SIZE) < 0.03  # many components, many of one pixel
    jpg, sound = jpg_bytes(rgb), json.dumps(annotation_of(masks)).encode()
    outcomes: Counter[str] = Counter()
    for case in range(num_cases):
        outcomes[_read_one(jpg, mutate(sound, rng), case)] += 1
    return outcomes


def _read_one(jpg: bytes, text: bytes, case: int) -> str:
    make = example_maker(CROP, 64, 10_000, Augmentation())
    tracemalloc.start()
    begin = time.process_time()
    try:
        sample = read_sample("k", "s.tar", jpg, text)
        example = make(sample, np.random.default_rng(case))
    except SampleError as error:
        sample, outcome = None, error.reason
    seconds = time.process_time() - begin
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert seconds < 2, f"case {case} took {seconds} s"
    assert peak < 32e6, f"case {case} took {peak} bytes"

    expected = expected_components(text)
    if expected is not None and expected[0].shape != SIZE:
        expected = None  # not the image's size
    if sample is None:
        assert expected is None, f"case {case} is sound, but was skipped: {outcome}"
        return outcome
    assert expected is not None, f"case {case} breaks a rule, but was read: {text[:500]!r}"
    np.testing.assert_array_equal(decode(sample.runs), np.array(expected))
    window = choose_window(SIZE, CROP, np.random.default_rng(case), Augmentation())
    held = []
    for y, x in example.points_yx.tolist():
        x = CROP - 1 - x if window.flip else x
        row = int(np.floor(window.top + (y + 0.5) * window.height / CROP))
        column = int(np.floor(window.left + (x + 0.5) * window.width / CROP))
        is_inside = 0 <= row < SIZE[0] and 0 <= column < SIZE[1]
        held.append([is_inside and bool(mask[row, column]) for mask in expected])
    columns = np.array(held).T
    np.testing.assert_array_equal(example.membership, columns[columns.any(axis=1)])
    return "read"


def check(outcomes: Counter[str]) -> None:
    assert {"read", "bad json", "bad rle", "size mismatch"} <= set(outcomes)
    assert outcomes["read"] > sum(outcomes.values()) / 50
    assert outcomes["bad rle"] > sum(outcomes.values()) / 50


def test_five_hundred_corrupted_annotations_are_skipped_or_read_right() -> None:
    check(fuzz(500, seed=0))


@pytest.mark.long
def test_ten_thousand_corrupted_annotations_are_skipped_or_read_right() -> None:
    outcomes = fuzz(10_000, seed=1)
    print(dict(outcomes))
    check(outcomes)


def test_a_mask_without_a_size_beside_sound_ones_is_a_mismatch() -> None:
    rgb, masks = draw_scene(np.random.default_rng(0), SIZE, 3)
    content = annotation_of(masks)
    content["annotations"][1]["segmentation"]["size"] = None
    with pytest.raises(SampleError, match="size mismatch"):
        read_sample("k", "s", jpg_bytes(rgb), json.dumps(content).encode())


def test_a_small_file_cannot_claim_more_runs_than_memory_holds() -> None:
    height, width = 64, 4096  # 2**18 pixels
    whole = {"segmentation": {"size": [height, width], "counts": "0PPP8"}}
    jpg = jpg_bytes(np.zeros((height, width, 3), np.uint8))
    text = json.dumps({"annotations": [whole] * (MAX_RUNS // width + 1)}).encode()
    assert len(text) < 100_000
    tracemalloc.start()
    try:
        with pytest.raises(SampleError, match="at most 4194304 runs") as caught:
            read_sample("k", "s", jpg, text)
        assert tracemalloc.get_traced_memory()[1] < 10e6
    finally:
        tracemalloc.stop()
    assert caught.value.reason == "bad rle"


def test_colors_are_changed_as_in_float64_to_one_level() -> None:
    from maskfeat.data.augment import _color_matrix, jitter_color

    image = np.random.default_rng(0).integers(0, 256, (50, 60, 3), np.uint8)
    for seed in range(20):
        got = jitter_color(image, Augmentation(), np.random.default_rng(seed))
        matrix = np.reshape(_color_matrix(Augmentation(), np.random.default_rng(seed)), (3, 4))
        exact = image.astype(float) @ matrix[:, :3].T + matrix[:, 3]
        exact = np.clip(np.floor(exact + 0.5), 0, 255)
        assert np.abs(got - exact).max() <= 1
        assert (got != exact).mean() < 1e-3  # ties of float32


def test_a_cut_equals_one_by_way_of_arrays() -> None:
    from maskfeat.data.augment import cut_image

    rng = np.random.default_rng(0)
    rgb, masks = draw_scene(rng, (120, 170), 3)
    sample = read_sample("k", "s", jpg_bytes(rgb), json.dumps(annotation_of(masks)).encode())
    for seed in range(20):
        window = choose_window((120, 170), 48, np.random.default_rng(seed), Augmentation())
        scale = min(1.0, 48 / max(window.height, window.width))
        pixels = sample.decode(scale)
        shrink = np.array(pixels.shape[:2]) / (120, 170)
        top, left = np.array(window[:2]) * shrink
        bottom, right = top + window.height * shrink[0], left + window.width * shrink[1]
        box = (left, top, min(right, pixels.shape[1]), min(bottom, pixels.shape[0]))
        small = Image.fromarray(pixels).resize(
            (48, 48), Image.Resampling.BILINEAR, box=box, reducing_gap=2.0
        )
        expected = np.asarray(small)[:, :: -1 if window.flip else 1]
        np.testing.assert_array_equal(np.asarray(cut_image(sample, window, 48)), expected)
