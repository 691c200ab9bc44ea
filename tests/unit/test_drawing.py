from __future__ import annotations

import numpy as np
import pytest

from maskfeat.evaluate.drawing import (
    DARK,
    GREEN,
    RED,
    ColorProjection,
    draw_borders,
    draw_clicks,
    feature_colors,
    label_colors,
    overlay_mask,
    strip,
)
from maskfeat.features.reading import Features


def noise(channels: int, seed: int = 0, size: tuple[int, int] = (24, 30)) -> Features:
    rng = np.random.default_rng(seed)
    std = np.linspace(1, 0.1, channels)
    return Features.from_dense(rng.normal(size=(*size, channels)) * std)


def test_one_channel_becomes_grey_from_minus_one_to_one() -> None:
    features = Features.from_dense(np.array([[[-1.0], [0.0], [1.0], [3.0]]]))
    colors = feature_colors(features, ColorProjection())
    assert colors[0].tolist() == [[0] * 3, [128] * 3, [255] * 3, [255] * 3]


def test_one_channel_of_a_sigmoid_becomes_grey_from_zero_to_one() -> None:
    features = Features.from_dense(np.array([[[0.0], [0.2], [1.0]]]))
    colors = feature_colors(features, ColorProjection(value_range=(0, 1)))
    assert colors[0, :, 0].tolist() == [0, 51, 255]


def test_a_projection_does_not_turn_after_its_first_use() -> None:
    projection = ColorProjection()
    features = noise(5)
    before = feature_colors(features, projection)
    feature_colors(noise(5, seed=1), projection)
    np.testing.assert_array_equal(feature_colors(features, projection), before)


def test_colors_follow_the_directions_of_largest_variance_with_fixed_signs() -> None:
    # Independent channels, sorted by std: red must rise with channel 0, green with 1.
    features = noise(6, size=(80, 80))
    colors = feature_colors(features, ColorProjection()).astype(float)
    dense = features.dense()
    for color in range(3):
        assert np.corrcoef(colors[..., color].ravel(), dense[..., color].ravel())[0, 1] > 0.9


def test_the_same_features_give_the_same_projection_whatever_their_sign_convention() -> None:
    one, two = ColorProjection(seed=3), ColorProjection(seed=3)
    one.fit([noise(8), noise(8, seed=1)])
    two.fit([noise(8), noise(8, seed=1)])
    vectors = noise(8, seed=2).dense()
    np.testing.assert_array_equal(one(vectors), two(vectors))


def test_constant_features_become_middle_grey() -> None:
    features = Features.from_dense(np.full((4, 4, 3), 0.7))
    assert (feature_colors(features, ColorProjection()) == 128).all()


def test_two_channels_leave_blue_in_the_middle() -> None:
    colors = feature_colors(noise(2), ColorProjection())
    assert (colors[..., 2] == 128).all()
    assert colors[..., 1].std() > 30


def test_a_projection_refuses_features_of_other_channels() -> None:
    projection = ColorProjection()
    projection.fit([noise(4)])
    with pytest.raises(ValueError, match="fitted on 4 channels, got 5"):
        feature_colors(noise(5), projection)
    with pytest.raises(ValueError, match="one number of channels"):
        projection.fit([noise(4), noise(5)])
    with pytest.raises(ValueError, match="low < high"):
        ColorProjection(value_range=(1, 0))


def test_a_segment_keeps_its_color_and_near_numbers_differ() -> None:
    numbers = np.arange(2000)
    colors = label_colors(numbers).astype(int)
    np.testing.assert_array_equal(label_colors(np.array([[7, 1999]]))[0], colors[[7, 1999]])
    for step in range(1, 6):
        assert np.abs(colors[step:] - colors[:-step]).max(axis=1).min() >= 25


def test_pixels_of_no_segment_are_black() -> None:
    assert label_colors(np.array([-1, 0])).max(axis=1).tolist()[0] == 0


def test_borders_are_drawn_between_segments_only_and_on_a_copy() -> None:
    image = np.zeros((4, 6, 3), np.uint8)
    labels = np.zeros((4, 6), int)
    labels[:, 3:] = 1
    drawn = draw_borders(image, labels)
    assert (drawn[:, 2] == 255).all()
    assert drawn.sum() == 4 * 3 * 255
    assert image.sum() == 0


def test_a_mask_is_tinted_half_and_bordered() -> None:
    image = np.full((8, 8, 3), 100, np.uint8)
    mask = np.zeros((8, 8), bool)
    mask[2:6, 2:6] = True
    drawn = overlay_mask(image, mask, color=(200, 0, 100), alpha=0.5)
    assert drawn[4, 4].tolist() == [150, 50, 100]
    assert drawn[0, 0].tolist() == [100, 100, 100]
    assert drawn[4, 5].tolist() == [200, 0, 100]


def test_positive_clicks_are_green_negative_red_and_both_have_a_dark_outline() -> None:
    image = np.full((40, 60, 3), 255, np.uint8)
    clicks = np.array([[10, 15], [30, 45]])  # (row, column)
    drawn = draw_clicks(image, clicks, np.array([True, False]), radius=6)
    assert tuple(drawn[10, 15]) == GREEN
    assert tuple(drawn[30, 45]) == RED
    assert tuple(drawn[10, 9]) == DARK
    assert tuple(drawn[15, 10]) == (255, 255, 255)
    assert (image == 255).all()


def test_a_strip_holds_its_images_from_left_to_right() -> None:
    one, two = np.zeros((3, 2, 3), np.uint8), np.full((3, 4, 3), 9, np.uint8)
    joined = strip([one, two], gap=1)
    assert joined[0, :, 0].tolist() == [0, 0, 255, 9, 9, 9, 9]


def test_a_strip_of_two_heights_is_refused() -> None:
    with pytest.raises(ValueError, match=r"one height, got heights \[2, 3\]"):
        strip([np.zeros((2, 2, 3), np.uint8), np.zeros((3, 2, 3), np.uint8)])
