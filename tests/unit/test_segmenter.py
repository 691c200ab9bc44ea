from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import binary_dilation, binary_erosion, distance_transform_edt, gaussian_filter
from skimage.color import rgb2lab
from skimage.measure import label

from maskfeat.features.pyramid import FeaturePyramid
from maskfeat.features.reading import Features
from maskfeat.interactive.prompts import distance_to_outline
from maskfeat.interactive.segmenter import InteractiveSegmenter


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
    # From few columns, so that opposite clicks often share a superpixel.
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


def test_a_user_reaches_the_ring_in_ten_clicks() -> None:
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
    segmenter.set_features(Lab().features(RGB), RGB)
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
        ([[3.0, 4.0]], [True], "must be integers"),
        ([[3, 4]], [2], "is_positive must be True or 1 for the object, False or 0 .*, got 2"),
        ([3, 4], [True], r"must have shape \(N, 2\)"),
        ([[3, 4]], [True, False], r"got \(2,\) for clicks of shape \(1, 2\)"),
        ([[3, 4], [5]], [True, False], "got rows of different lengths"),
        ([[3, 4], [3, 4]], [True, False], r"\(3, 4\) is labeled as background and as object"),
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


@pytest.mark.parametrize("sign", [-1, 2, 0.0, "no", None])
def test_a_sign_is_true_or_false(sign: object) -> None:
    segmenter = segmenter_of(RGB)
    before = segmenter.click(32, 30)
    for prompt in (
        lambda: segmenter.click(5, 5, sign),
        lambda: segmenter.scribble([(5, 5), (5, 6)], sign),
        lambda: segmenter.predict([[32, 30]], [True], scribbles=[([(5, 5)], sign)]),
    ):
        with pytest.raises(ValueError, match="is_positive must be True or 1 for the object"):
            prompt()
    segmenter.click(5, 5, np.False_)
    np.testing.assert_array_equal(segmenter.undo(), before)


def test_signs_may_be_zeros_and_ones() -> None:
    clicks = [[32, 30], [5, 5]]
    expected = segmenter_of(RGB).predict(clicks, [True, False])
    for signs in ([1, 0], np.array([1, 0], np.uint8), np.array([1.0, 0.0])):
        np.testing.assert_array_equal(segmenter_of(RGB).predict(clicks, signs), expected)
    np.testing.assert_array_equal(
        segmenter_of(RGB).click(32, 30, 1), segmenter_of(RGB).click(32, 30)
    )


def test_a_scribble_is_kept_as_it_was_drawn() -> None:
    segmenter, pen = segmenter_of(RGB), np.array([[32, 30]])
    segmenter.scribble(pen)
    pen[0] = 5, 5  # a program that draws on with the same array
    mask = segmenter.click(2, 90, False)
    assert mask[32, 30]
    assert not mask[5, 5]
    with pytest.raises(ValueError, match="a scribble must have at least one pixel, got none"):
        segmenter.scribble([], False)


def test_nothing_beyond_the_box_is_object_where_the_image_is_reduced() -> None:
    segmenter = InteractiveSegmenter(Lab(), max_megapixels=0.001)
    segmenter.set_image(RGB)
    for box in ((17, 11, 47, 49), (20, 20, 41, 42)):
        for clicks in ((), [[32, 30]]):
            mask = segmenter.predict(clicks, [True] * len(clicks), box_yxyx=box)
            inside = np.zeros(mask.shape, bool)
            inside[box[0] : box[2], box[1] : box[3]] = True
            assert mask.any()
            assert not (mask & ~inside).any()


@pytest.mark.parametrize("rgb", [RGB.tolist(), None])
def test_what_is_no_array_is_refused(rgb: object) -> None:
    net = FeaturePyramid(pretrained=False)
    for take in (net.features, InteractiveSegmenter(net).set_image):
        with pytest.raises(ValueError, match=r"rgb must be a uint8 array .* got \w+"):
            take(rgb)


def test_an_image_that_the_model_refuses_leaves_the_one_before() -> None:
    segmenter = segmenter_of(RGB)
    with pytest.raises(ValueError, match="rgb must be a uint8 array"):
        segmenter.set_image(np.zeros((4, 4), np.uint8))
    assert segmenter.predict([[32, 30]], [True]).shape == (64, 96)


def test_clicks_without_an_image_are_refused() -> None:
    with pytest.raises(ValueError, match="no image is set"):
        InteractiveSegmenter(Lab()).predict([[0, 0]], [True])


def test_scribbles_are_obeyed_pixel_by_pixel() -> None:
    line, other = [[32, x] for x in range(24, 36)], [[y, 48] for y in range(28, 37)]
    mask = SEGMENTER.predict((), (), scribbles=[(line, True), (other, False)])
    assert mask[32, 24:36].all()
    assert not mask[28:37, 48].any()


def test_a_box_alone_finds_what_fills_it_and_nothing_beyond_is_object() -> None:
    rgb = np.full((80, 120, 3), (60, 90, 150), np.uint8)
    rgb[20:60, 30:70] = (190, 80, 60)
    segmenter = segmenter_of(rgb)
    mask = segmenter.predict((), (), box_yxyx=(17, 27, 63, 73))
    truth = np.zeros((80, 120), bool)
    truth[20:60, 30:70] = True
    assert (mask & truth).sum() / (mask | truth).sum() > 0.9
    small = segmenter.predict([[30, 40]], [True], box_yxyx=(20, 30, 40, 50))
    assert small[30, 40]
    assert not small[40:].any()
    with pytest.raises(ValueError, match=r"positive click .* \(5, 5\) lies outside the box"):
        segmenter.predict([[5, 5]], [True], box_yxyx=(17, 27, 63, 73))


def test_a_mask_to_start_from_is_a_hint() -> None:
    hint = binary_erosion(RING, iterations=2)
    mask = SEGMENTER.predict((), (), mask=hint)
    assert (mask & RING).sum() / (mask | RING).sum() > 0.8
    assert not SEGMENTER.predict([[30, 26]], [False], mask=hint)[30, 26]
    with pytest.raises(ValueError, match="mask must be bool, of the size of the image"):
        SEGMENTER.predict((), (), mask=hint[1:])
    with pytest.raises(ValueError, match="at least one click must be positive"):
        SEGMENTER.predict((), (), mask=np.zeros_like(RING))


def test_parts_without_a_prompt_stay_if_asked() -> None:
    rgb = np.full((60, 120, 3), (60, 90, 150), np.uint8)
    rgb[20:40, 20:40] = rgb[20:40, 80:100] = (190, 80, 60)
    both = rgb[..., 0] == 190
    segmenter = segmenter_of(rgb)
    clicks, signs = [[30, 30], [5, 5]], [True, False]
    one = segmenter.predict(clicks, signs, mask=both)
    two = segmenter.predict(clicks, signs, mask=both, keep_all=True)
    assert one[30, 30]
    assert not one[30, 90]
    assert two[30, 90]
    assert (one <= two).all()


def test_labels_are_kept_by_their_prompts_and_parted_within_a_superpixel() -> None:
    labels = SEGMENTER.graph.labels
    y, x = np.argwhere(labels[:, :-1] == labels[:, 1:])[100]
    clicks, numbers = [[y, x], [y, x + 1], [32, 30], [5, 5]], [4, 9, 2, 0]
    colored = SEGMENTER.predict_labels(clicks, numbers)
    assert colored[tuple(np.transpose(clicks))].tolist() == numbers
    assert set(np.unique(colored)) == {0, 2, 4, 9}
    again = SEGMENTER.predict_labels(clicks[::-1], numbers[::-1])
    np.testing.assert_array_equal(colored, again)
    with pytest.raises(ValueError, match="at least one prompt is needed"):
        SEGMENTER.predict_labels((), ())


def test_three_things_are_colored_in_one_pass() -> None:
    rgb = np.full((60, 120, 3), (60, 90, 150), np.uint8)
    rgb[10:50, 10:50], rgb[10:50, 70:110] = (190, 80, 60), (90, 160, 60)
    truth = np.zeros((60, 120), int)
    truth[10:50, 10:50], truth[10:50, 70:110] = 1, 2
    colored = segmenter_of(rgb).predict_labels([[30, 30], [30, 90], [5, 60]], [1, 2, 0])
    assert (colored == truth).mean() > 0.98


@pytest.mark.parametrize("method", ["pixelcut", "coloring"])
def test_former_methods_are_refused(method: str) -> None:
    with pytest.raises(ValueError, match=r"method must be 'cut', got .* are gone"):
        InteractiveSegmenter(Lab(), method=method)  # type: ignore[arg-type]


def test_clicks_that_are_kept_can_be_undone_and_forgotten() -> None:
    segmenter = segmenter_of(RGB)
    first = segmenter.click(32, 30)
    second = segmenter.click(5, 5, is_positive=False)
    click_radius = distance_to_outline(first, [5, 5])
    clicks = [[5, 5], [32, 30]], [False, True]
    again = segmenter.predict(*clicks, click_radius_px=[click_radius, np.inf], within=first)
    np.testing.assert_array_equal(second, again)
    with pytest.raises(ValueError, match="inside the image"):
        segmenter.click(99, 0)
    np.testing.assert_array_equal(segmenter.undo(), first)
    assert segmenter.undo() is None
    with pytest.raises(ValueError, match="no click to take back"):
        segmenter.undo()
    segmenter.scribble([(32, 30), (32, 31)])
    segmenter.reset()
    with pytest.raises(ValueError, match="at least one click must be positive"):
        segmenter.click(5, 5, is_positive=False)


def test_a_large_image_is_worked_on_reduced_and_clicks_are_obeyed_at_full_size() -> None:
    large = RGB.repeat(4, axis=0).repeat(4, axis=1)
    segmenter = InteractiveSegmenter(Lab(), max_megapixels=RGB.size / 3e6)
    segmenter.set_image(large)
    assert segmenter.graph.labels.shape == RING.shape
    clicks = [[130, 120], [131, 120], [20, 20], [128, 192]]  # the first two share a pixel
    signs = [True, False, False, False]
    mask = segmenter.predict(clicks, signs)
    assert mask.shape == large.shape[:2]
    assert mask[tuple(np.transpose(clicks))].tolist() == signs
    colored = segmenter.predict_labels(clicks, [3, 1, 0, 0])
    assert colored[tuple(np.transpose(clicks))].tolist() == [3, 1, 0, 0]


def test_features_are_kept_on_disk_and_give_the_same_mask(tmp_path) -> None:
    model = FeaturePyramid()
    clicks = [[32, 30], [5, 5]], [True, False]
    masks = []
    for _ in range(2):
        segmenter = InteractiveSegmenter(model, cache_dir=tmp_path)
        segmenter.set_image(RGB)
        masks.append(segmenter.predict(*clicks))
        model.features = lambda rgb: pytest.fail("encoded twice")
    np.testing.assert_array_equal(*masks)
    del model.features
    segmenter.set_image(RGB[::-1])
    assert len(list(tmp_path.iterdir())) == 2
    with pytest.raises(ValueError, match=r"cache_dir needs a model that is an nn\.Module, got Lab"):
        InteractiveSegmenter(Lab(), cache_dir=tmp_path)


def test_features_of_a_model_by_name_are_kept_on_disk_too(tmp_path) -> None:
    segmenter = InteractiveSegmenter("maskfeat-b0", cache_dir=tmp_path)
    segmenter.set_image(RGB)
    assert len(list(tmp_path.iterdir())) == 1


def test_features_that_are_not_finite_leave_the_image_before() -> None:
    segmenter = segmenter_of(RGB)
    features = Lab().features(RGB)
    features.pyramid[0][0, 3, 4] = np.nan
    with pytest.raises(ValueError, match="features must be finite"):
        segmenter.set_features(features, RGB)
    with pytest.raises(ValueError, match="rgb and features must have the same size"):
        segmenter.set_features(Lab().features(RGB), RGB[1:])
    assert segmenter.predict([[32, 30]], [True]).shape == (64, 96)


def test_threads_that_share_a_segmenter_get_what_they_asked_for() -> None:
    rng = np.random.default_rng(0)
    asked = []
    for _ in range(12):
        pixels = rng.choice(RING.size, size=5, replace=False)
        clicks = np.stack(np.unravel_index(pixels, RING.shape), axis=1)
        asked.append((clicks, np.array([True, False, True, False, False])))
    expected = [segmenter_of(RGB).predict(*prompts) for prompts in asked]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda prompts: SEGMENTER.predict(*prompts), asked * 3))
    for mask, wanted in zip(found, expected * 3, strict=True):
        np.testing.assert_array_equal(mask, wanted)


def test_a_click_with_little_click_radius_leaves_the_rest_as_it_is_and_undo_restores_it() -> None:
    segmenter = segmenter_of(RGB)
    rng = np.random.default_rng(1)
    pixels = rng.choice(RING.size, size=12, replace=False)
    masks = [segmenter.click(32, 30)]
    is_ground = np.zeros_like(RING)
    is_ground.ravel()[pixels[~RING.ravel()[pixels]]] = True
    for row, column in zip(*np.unravel_index(pixels, RING.shape), strict=True):
        masks.append(segmenter.click(int(row), int(column), bool(RING[row, column])))
    near: list[np.ndarray] = []
    for _ in range(8):
        # Missing and next to the outline: no click reaches less.
        missing = np.argwhere(~masks[-1] & binary_dilation(masks[-1]) & ~is_ground)
        click = missing[rng.integers(len(missing))]
        assert distance_to_outline(masks[-1], click) == 1
        masks.append(segmenter.click(*click.tolist()))
        near.append(click)
        changed = np.argwhere(masks[-1] != masks[-2])
        # What it may change lies around it, or around clicks of the same reach.
        assert np.abs(changed[:, None] - near).max(axis=2).min(axis=1).max() <= 24
    for mask in masks[-2::-1]:
        np.testing.assert_array_equal(segmenter.undo(), mask)


def test_clicks_with_click_radius_give_one_mask_in_any_order() -> None:
    rng = np.random.default_rng(2)
    pixels = rng.choice(RING.size, size=20, replace=False)
    clicks = np.stack(np.unravel_index(pixels, RING.shape), axis=1)
    signs = RING[tuple(clicks.T)]
    signs[0] = True
    click_radii = np.where(rng.random(20) < 0.2, np.inf, rng.uniform(0, 30, 20))
    mask = SEGMENTER.predict(clicks, signs, click_radius_px=click_radii)
    np.testing.assert_array_equal(mask[tuple(clicks.T)], signs)
    order = rng.permutation(20)
    other = segmenter_of(RGB).predict(
        clicks[order], signs[order], click_radius_px=click_radii[order]
    )
    np.testing.assert_array_equal(mask, other)
    whole = SEGMENTER.predict(clicks, signs, click_radius_px=np.full(20, np.inf))
    np.testing.assert_array_equal(whole, SEGMENTER.predict(clicks, signs))


def test_a_prompt_said_twice_is_said_once() -> None:
    rng = np.random.default_rng(3)
    for _ in range(8):
        clicks = rng.integers(0, RING.shape, (8, 2))
        signs = RING[tuple(clicks.T)]
        signs[0] = RING[32, 30]
        clicks[0] = 32, 30
        click_radii = np.full(8, 20.0)
        mask = SEGMENTER.predict(clicks, signs, click_radius_px=click_radii)
        for again in (0, 5):
            more = np.append(np.arange(8), again)
            same = SEGMENTER.predict(clicks[more], signs[more], click_radius_px=click_radii[more])
            np.testing.assert_array_equal(same, mask)


@pytest.mark.parametrize("click_radius_px", [[1.0], [1.0, -1.0], [1.0, np.nan], [[1.0, 1.0]]])
def test_bad_click_radii_are_refused(click_radius_px) -> None:
    with pytest.raises(ValueError, match=r"click_radius_px must be one number .* \(2\), got"):
        SEGMENTER.predict([[32, 30], [5, 5]], [True, False], click_radius_px=click_radius_px)


def test_a_box_and_a_hint_go_with_clicks_that_have_a_click_radius() -> None:
    box = [4, 20, 60, 76]
    shown = SEGMENTER.predict((), (), box_yxyx=box)
    assert shown.any()
    click = [int(v) for v in np.argwhere(shown)[0]]
    click_radius = [distance_to_outline(shown, click)]
    mask = SEGMENTER.predict([click], [False], box_yxyx=box, click_radius_px=click_radius)
    assert not mask[tuple(click)]
    assert (mask & shown).sum() > 0.5 * shown.sum()
    hint = SEGMENTER.predict([click], [False], mask=shown, click_radius_px=[1e300])
    assert not hint[tuple(click)]
