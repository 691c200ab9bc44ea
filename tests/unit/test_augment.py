"""Crops: image, points and masks stay on top of each other."""

import io

import numpy as np
import pytest
from example_making import example_maker
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from shard_factory import annotation_of, draw_scene, jpg_bytes

from maskfeat.data.annotations.painting import decode
from maskfeat.data.annotations.sample import read_sample
from maskfeat.data.augment import (
    Augmentation,
    Window,
    choose_window,
    cut_image,
    jitter_color,
    sample_points,
)

PLAIN = Augmentation(brightness=0, contrast=0, saturation=0, hue_degrees=0, grey=0)


def sample_of(rgb, masks):
    import json

    return read_sample("a", "s.tar", jpg_bytes(rgb), json.dumps(annotation_of(masks)).encode())


@pytest.fixture(scope="module")
def stripes():
    """Six vertical and horizontal fields, the color of each says which masks hold it."""
    height, width = 120, 170
    y, x = np.mgrid[:height, :width]
    masks = np.stack([x < 60, x >= 60, y < 50, y >= 50])
    rgb = np.zeros((height, width, 3), np.uint8)
    rgb[..., 0] = np.where(masks[0], 220, 30)
    rgb[..., 1] = np.where(masks[2], 200, 40)
    rgb[..., 2] = 128
    return sample_of(rgb, masks)


@given(seed=st.integers(0, 10_000), crop_size=st.sampled_from([32, 64, 97]))
@settings(max_examples=40, deadline=None)
def test_the_color_at_each_point_is_that_of_the_masks_that_hold_it(stripes, seed, crop_size):
    make = example_maker(crop_size, num_points=200, max_masks=10, augmentation=PLAIN)
    example = make(stripes, np.random.default_rng(seed))
    y, x = example.points_yx.T
    colors = example.image[y, x].astype(int)
    # Which mask is which is found from the color of its points; borders blend, so leave them.
    clear = (abs(colors[:, 0] - 125) > 60) & (abs(colors[:, 1] - 120) > 50)
    held = example.membership[:, clear]
    left = colors[clear, 0] > 125
    upper = colors[clear, 1] > 120
    expected = {tuple(v) for v in (left, ~left, upper, ~upper) if v.any()}
    assert {tuple(row) for row in held if row.any()} == expected


@given(seed=st.integers(0, 10_000))
@settings(max_examples=30, deadline=None)
def test_membership_is_that_of_decoded_masks_cropped_pixel_by_pixel(seed):
    rng = np.random.default_rng(seed)
    rgb, masks = draw_scene(rng, (60, 90), 5)
    sample = sample_of(rgb, masks)
    make = example_maker(48, num_points=100, max_masks=50, augmentation=Augmentation())
    example = make(sample, np.random.default_rng(seed))
    window = choose_window((60, 90), 48, np.random.default_rng(seed), Augmentation())
    components = decode(sample.runs)
    columns = []
    for y, x in example.points_yx:
        x = 47 - x if window.flip else x
        row = int(np.floor(window.top + (y + 0.5) * window.height / 48))
        column = int(np.floor(window.left + (x + 0.5) * window.width / 48))
        inside = 0 <= row < 60 and 0 <= column < 90
        columns.append(components[:, row, column] if inside else np.zeros(len(components), bool))
    expected = np.stack(columns, axis=1)
    assert np.array_equal(example.membership, expected[expected.any(axis=1)])


def test_half_of_the_points_lie_near_borders(stripes):
    rng = np.random.default_rng(0)
    window = Window(0, 0, 120, 120, flip=False)
    points = sample_points(stripes.runs, window, 120, 400, 0.5, rng)
    near = np.minimum(abs(points[:, 1] - 59.5), abs(points[:, 0] - 49.5)) <= 3
    uniform_share = near[200:].mean()
    assert near[:200].all()
    assert uniform_share < 0.25


@given(
    height=st.integers(10, 300),
    width=st.integers(10, 300),
    seed=st.integers(0, 1000),
    short_side=st.sampled_from([None, 50, 100]),
)
@settings(max_examples=100, deadline=None)
def test_windows_stay_inside_images_that_are_large_enough(height, width, seed, short_side):
    augmentation = Augmentation(max_stretch=1.0)
    rng = np.random.default_rng(seed)
    window = choose_window((height, width), 64, rng, augmentation, short_side)
    base = min(1.0, short_side / min(height, width)) if short_side else 1.0
    if min(height, width) * base * augmentation.max_scale >= 64:
        assert window.top >= -1e-6
        assert window.left >= -1e-6
        assert window.top + window.height <= height + 1e-6
        assert window.left + window.width <= width + 1e-6


def test_a_small_image_is_padded_and_nothing_holds_the_padding():
    rgb, masks = draw_scene(np.random.default_rng(0), (20, 24), 3)
    sample = sample_of(rgb, np.concatenate([masks, np.ones((1, 20, 24), bool)]))
    make = example_maker(128, num_points=300, max_masks=10)
    example = make(sample, np.random.default_rng(0))
    assert example.image.shape == (128, 128, 3)
    held = example.membership.any(axis=0)
    y, x = example.points_yx.T
    inside = (y >= 54) & (y < 74) & (x >= 52) & (x < 76)
    assert np.array_equal(held, inside)


@pytest.mark.parametrize(("margins", "height"), [(True, 96), (False, 60)])
def test_the_smallest_scale_holds_for_images_that_it_makes_smaller_than_a_crop(margins, height):
    augmentation = Augmentation(min_scale=0.5, max_scale=1, max_stretch=1, margins=margins)
    generators = map(np.random.default_rng, range(100))
    windows = [choose_window((60, 90), 48, one, augmentation) for one in generators]
    assert max(w.height for w in windows) == pytest.approx(height, rel=0.05)


def test_nothing_is_known_of_boundaries_in_margins(stripes):
    augmentation = Augmentation(min_scale=0.5, max_scale=0.5, max_stretch=1, margins=True)
    make = example_maker(96, num_points=2, max_masks=10, boundaries=True, augmentation=augmentation)
    boundary = make(stripes, np.random.default_rng(0)).local["boundary"]
    known = (boundary >= 0).any(axis=0)
    assert known.any(axis=1).sum() in (59, 60)  # 120 rows at half of their size
    assert known.any(axis=0).sum() in (84, 85, 86)


def test_too_many_masks_are_thinned_out(stripes):
    make = example_maker(64, num_points=50, max_masks=2)
    assert make(stripes, np.random.default_rng(0)).membership.shape[0] == 2


def test_a_crop_of_a_large_image_matches_one_cut_without_draft_decoding():
    y, x = np.mgrid[:600, :800]
    rgb = np.stack([x / 4, y / 3, 0 * x + 90], -1).astype(np.uint8)
    sample = sample_of(rgb, np.ones((1, 600, 800), bool))
    window = Window(100.0, 200.0, 400.0, 400.0, flip=False)
    crop = np.asarray(cut_image(sample, window, 64))  # scale 0.16: decoded at a quarter
    full = Image.open(io.BytesIO(sample.jpg)).crop((200, 100, 600, 500))
    expected = np.asarray(full.resize((64, 64), Image.Resampling.BOX))
    assert np.abs(crop.astype(int) - expected).mean() < 2


def test_color_jitter_keeps_grey_grey_and_changes_colors():
    rng = np.random.default_rng(0)
    image = rng.integers(40, 200, (16, 16, 3), dtype=np.uint8)
    grey = np.repeat(image[..., :1], 3, axis=2)
    for _ in range(10):
        changed = jitter_color(grey, Augmentation(), rng).astype(int)
        assert np.ptp(changed, axis=2).max() <= 1
    assert np.array_equal(jitter_color(image, PLAIN, rng), image)
    assert not np.array_equal(jitter_color(image, Augmentation(), rng), image)


def test_the_same_generator_gives_the_same_example(stripes):
    make = example_maker(64, num_points=50, max_masks=10, augmentation=Augmentation())
    first, again, other = (make(stripes, np.random.default_rng(s)) for s in (1, 1, 2))
    assert np.array_equal(first.image, again.image)
    assert np.array_equal(first.points_yx, again.points_yx)
    assert not np.array_equal(first.image, other.image)


def test_a_transposed_example_has_rows_and_columns_exchanged(stripes):
    plain, turned = (
        example_maker(32, 40, 16, Augmentation(transpose=share), num_pairs=20, boundaries=True)(
            stripes, np.random.default_rng(3)
        )
        for share in (1e-9, 1.0)
    )
    np.testing.assert_array_equal(turned.image, plain.image.transpose(1, 0, 2))
    np.testing.assert_array_equal(turned.points_yx, plain.points_yx[:, ::-1])
    np.testing.assert_array_equal(turned.membership, plain.membership)
    local, other = plain.local, turned.local
    np.testing.assert_array_equal(other["pairs_yx"], local["pairs_yx"][..., ::-1])
    np.testing.assert_array_equal(other["pair_similarity"], local["pair_similarity"])
    right, below = local["boundary"]
    np.testing.assert_array_equal(other["boundary"], [below.T, right.T])
    with pytest.raises(ValueError, match="transpose must lie between 0 and 1, got 2"):
        Augmentation(transpose=2)


def test_native_examples_are_the_pixels_of_the_image(stripes):
    rgb = np.asarray(stripes.decode_image())
    native = Augmentation(
        native=1.0, flip=0, brightness=0, contrast=0, saturation=0, hue_degrees=0, grey=0
    )
    make = example_maker(32, 10, 16, native)
    windows = np.lib.stride_tricks.sliding_window_view(rgb, (32, 32, 3))[:, :, 0]
    for seed in range(5):
        example = make(stripes, np.random.default_rng(seed))
        assert (windows == example.image).all(axis=(2, 3, 4)).any()


def test_scales_out_of_order_are_refused():
    with pytest.raises(ValueError, match="0 < min_scale <= max_scale"):
        Augmentation(min_scale=2.0, max_scale=1.0)
