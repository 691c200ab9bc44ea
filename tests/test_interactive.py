from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import distance_transform_edt, gaussian_filter
from skimage.color import rgb2lab
from skimage.measure import label

from maskfeat.features.pyramid import FeaturePyramid
from maskfeat.features.reading import Features
from maskfeat.segment.interactive import InteractiveSegmenter


class Lab:
    """The color of a pixel as its feature."""

    def features(self, rgb: np.ndarray) -> Features:
        if rgb.ndim != 3:
            raise ValueError(f"rgb must have shape (H, W, 3), got {rgb.shape}")
        return Features.from_dense(rgb2lab(rgb) / 100, scale=12.0)


def scene(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """A ring of one color on a ground of two others, noisy; and the ring."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:64, :96]
    radius = np.hypot(rows - 32, columns - 48)
    ring = (radius < 26) & (radius > 10)
    ground = np.where((columns < 50)[..., None], [60, 90, 150], [90, 120, 60])
    rgb = np.where(ring[..., None], [190, 80, 60], ground).astype(float)
    rgb += 60 * gaussian_filter(rng.normal(size=rgb.shape), (1, 1, 0))
    return rgb.clip(0, 255).astype(np.uint8), ring


def segmenter_of(rgb: np.ndarray) -> InteractiveSegmenter:
    segmenter = InteractiveSegmenter(Lab())
    segmenter.set_image(rgb)
    return segmenter


RGB, RING = scene()
SEGMENTER = segmenter_of(RGB)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 100_000), st.integers(2, 60))
def test_every_click_is_obeyed_in_any_order_and_the_object_is_what_was_clicked(
    seed: int, num_clicks: int
) -> None:
    rng = np.random.default_rng(seed)
    # From few columns, so that opposite clicks often share an atom.
    pixels = rng.choice(64 * 6, size=num_clicks, replace=False)
    clicks = np.stack([pixels // 6, pixels % 6 + 20], axis=1)
    signs = rng.random(num_clicks) < 0.5
    signs[0] = True
    mask = SEGMENTER.predict(clicks, signs)
    np.testing.assert_array_equal(mask[tuple(clicks.T)], signs)
    parts = label(mask, connectivity=1)
    assert set(np.unique(parts[mask])) == set(parts[tuple(clicks[signs].T)])
    order = rng.permutation(num_clicks)
    np.testing.assert_array_equal(mask, SEGMENTER.predict(clicks[order], signs[order]))
    fresh = segmenter_of(RGB)
    np.testing.assert_array_equal(mask, fresh.predict(clicks[order], signs[order]))


def test_opposite_clicks_on_neighboring_pixels_part_them() -> None:
    labels = SEGMENTER.graph.labels
    y, x = np.argwhere(labels[:, :-1] == labels[:, 1:])[100]
    mask = SEGMENTER.predict([[y, x], [y, x + 1]], [True, False])
    assert mask[y, x]
    assert not mask[y, x + 1]


def test_a_robot_user_reaches_the_ring_in_ten_clicks() -> None:
    mask = np.zeros_like(RING)
    clicks: list[tuple[int, int]] = []
    signs: list[bool] = []
    for _ in range(10):
        missed, surplus = (distance_transform_edt(e) for e in (RING & ~mask, mask & ~RING))
        signs.append(bool(missed.max() > surplus.max()))
        depth = missed if signs[-1] else surplus
        clicks.append(tuple(int(i) for i in np.unravel_index(depth.argmax(), depth.shape)))
        mask = SEGMENTER.predict(clicks, signs)
        if (mask & RING).sum() / (mask | RING).sum() > 0.9:
            return
    pytest.fail("ten clicks were not enough")


def test_a_hundred_true_clicks_are_better_than_five() -> None:
    rng = np.random.default_rng(0)
    pixels = rng.choice(RING.size, size=100, replace=False)
    clicks = np.stack(np.unravel_index(pixels, RING.shape), axis=1)
    clicks[0] = (32, 30)
    signs = RING[tuple(clicks.T)]
    ious = []
    for count in (5, 100):
        mask = SEGMENTER.predict(clicks[:count], signs[:count])
        ious.append((mask & RING).sum() / (mask | RING).sum())
    assert ious[1] > 0.93
    assert ious[1] >= ious[0]


def test_an_untrained_network_obeys_every_click_too() -> None:
    segmenter = InteractiveSegmenter(FeaturePyramid())
    segmenter.set_image(RGB)
    clicks, signs = [[32, 30], [5, 5], [32, 48], [33, 30]], [True, False, False, True]
    assert segmenter.predict(clicks, signs)[tuple(np.transpose(clicks))].tolist() == signs


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (3, 2)])
def test_tiny_images_work(shape: tuple[int, int]) -> None:
    segmenter = segmenter_of(np.full((*shape, 3), 90, np.uint8))
    clicks = [[0, 0], [shape[0] - 1, shape[1] - 1]]
    assert segmenter.predict(clicks[:1], [True])[0, 0]
    if shape != (1, 1):
        mask = segmenter.predict(clicks, [True, False])
        assert mask[0, 0]
        assert not mask[-1, -1]


def test_features_can_be_set_without_a_model() -> None:
    segmenter = InteractiveSegmenter()
    segmenter.set_features(Lab().features(RGB))
    clicks, signs = [[32, 30], [5, 5]], [True, False]
    np.testing.assert_array_equal(
        segmenter.predict(clicks, signs), SEGMENTER.predict(clicks, signs)
    )
    with pytest.raises(ValueError, match="set_image needs a model"):
        segmenter.set_image(RGB)


@pytest.mark.parametrize(
    ("clicks", "signs", "message"),
    [
        ([[64, 0]], [True], r"inside the image of 64 x 96 pixels.*\(64, 0\)"),
        ([[3, -1]], [True], r"inside the image.*\(3, -1\)"),
        ([[3, 4]], [False], "at least one click must be positive"),
        (np.zeros((0, 2), int), np.zeros(0, bool), "at least one click must be positive"),
        ([[3.0, 4.0]], [True], "clicks_yx must be integers"),
        ([[3, 4]], [1], "is_positive bool, got int64 and int64"),
        ([3, 4], [True], r"clicks_yx must have shape \(N, 2\)"),
        ([[3, 4]], [True, False], r"got \(1, 2\) and \(2,\)"),
        ([[3, 4], [3, 4]], [True, False], r"\(3, 4\) is clicked as object and as background"),
    ],
)
def test_bad_clicks_are_refused_in_one_sentence_and_change_nothing(
    clicks: object, signs: object, message: str
) -> None:
    good = ([[32, 30], [5, 5]], [True, False])
    before = SEGMENTER.predict(*good)
    with pytest.raises(ValueError, match=message):
        SEGMENTER.predict(clicks, signs)  # type: ignore[arg-type]
    np.testing.assert_array_equal(SEGMENTER.predict(*good), before)


def test_an_image_that_the_model_refuses_leaves_the_one_before() -> None:
    segmenter = segmenter_of(RGB)
    with pytest.raises(ValueError, match="rgb must have shape"):
        segmenter.set_image(np.zeros((4, 4), np.uint8))
    assert segmenter.predict([[32, 30]], [True]).shape == (64, 96)


def test_clicks_without_an_image_are_refused() -> None:
    with pytest.raises(ValueError, match="no image is set"):
        InteractiveSegmenter(Lab()).predict([[0, 0]], [True])
