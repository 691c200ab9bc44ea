from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from maskfeat.interactive.networks import default_networks
from maskfeat.interactive.refine import PIXEL_FEATURES, RADIUS, Refiner

HEIGHT, WIDTH = 40, 60
LABELS = (np.arange(HEIGHT)[:, None] // 5 * 12 + np.arange(WIDTH) // 5).astype(np.int32)
NETWORK = default_networks().pixels
RNG = np.random.default_rng(0)
FINE = RNG.normal(size=(HEIGHT, WIDTH, 5)).astype(np.float32)
COLORS = RNG.random((HEIGHT, WIDTH, 3)).astype(np.float32)


def refiner() -> Refiner:
    return Refiner(LABELS, FINE, COLORS)


def cut_of(seed: int) -> tuple[np.ndarray, np.ndarray]:
    logits = np.random.default_rng(seed).normal(0, 3, 96).astype(np.float32)
    return logits > 0, logits


def row_of(name: str) -> int:
    return PIXEL_FEATURES.index(name)


def test_distances_to_the_nearest_click_are_those_of_a_naive_search() -> None:
    clicks = np.array([[3, 4], [20, 33], [22, 30], [39, 59]])
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[10:30, 10:50] = True
    pixels = clicks @ (WIDTH, 1)
    places, click_features = refiner().click_features(mask, cut_of(0)[1], pixels[:2], pixels[2:])
    for place, values in list(zip(places, click_features.T, strict=True))[::7]:
        y, x = divmod(int(place), WIDTH)
        for kind, of_kind in (("object", clicks[:2]), ("background", clicks[2:])):
            distances = {
                "distance": 24.0,
                "distance and features": 24.0,
                "distance and color": 24.0,
            }
            for row, column in of_kind:
                if max(abs(row - y), abs(column - x)) > RADIUS:
                    continue
                d = np.hypot(row - y, column - x)
                f = np.linalg.norm(FINE[row, column] - FINE[y, x])
                c = np.linalg.norm(COLORS[row, column] - COLORS[y, x])
                for name, value in zip(distances, (d, d + 8 * f, d + 30 * c), strict=True):
                    distances[name] = min(distances[name], value)
            for name, value in distances.items():
                np.testing.assert_allclose(values[row_of(f"{kind}: {name}")], value, rtol=1e-5)


def test_what_lies_far_from_outline_and_opposite_clicks_is_left_alone() -> None:
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[:, :30] = True
    logits = np.zeros(96, np.float32)
    none = np.empty(0, np.int64)
    places, _ = refiner().click_features(mask, logits, np.array([20 * WIDTH + 3]), none)
    columns = places % WIDTH
    assert columns.min() > 15  # a click on the object asks about no pixel of the object
    assert columns.max() < 45
    places, _ = refiner().click_features(mask, logits, np.array([20 * WIDTH + 55]), none)
    assert (places % WIDTH).max() == 59


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000))
def test_another_click_moves_pixels_its_own_way_alone_and_order_is_nothing(seed: int) -> None:
    rng = np.random.default_rng(seed)
    is_object, logits = cut_of(seed)
    clicks = rng.choice(HEIGHT * WIDTH, 12, replace=False)
    inside, outside, more = clicks[:5], clicks[5:11], clicks[11:]
    kept = refiner()
    found = kept.refine(NETWORK, is_object, logits, inside, outside)
    with_one = kept.refine(NETWORK, is_object, logits, np.append(inside, more), outside)
    with_other = kept.refine(NETWORK, is_object, logits, inside, np.append(outside, more))
    assert (found <= with_one).all()
    assert (found >= with_other).all()
    again = refiner().refine(NETWORK, is_object, logits, inside[::-1], rng.permutation(outside))
    np.testing.assert_array_equal(found, again)
    np.testing.assert_array_equal(kept.refine(NETWORK, is_object, logits, inside, outside), found)


def test_without_color_the_color_says_nothing() -> None:
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[10:30, 10:50] = True
    pixels = np.array([20 * WIDTH + 12]), np.array([5 * WIDTH + 5])
    _, click_features = Refiner(LABELS, FINE).click_features(mask, cut_of(0)[1], *pixels)
    for kind in ("object", "background"):
        np.testing.assert_array_equal(
            click_features[row_of(f"{kind}: distance and color")],
            click_features[row_of(f"{kind}: distance")],
        )


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000), st.integers(0, 8))
def test_a_window_is_refined_as_all_of_the_image(seed: int, num_clicks: int) -> None:
    rng = np.random.default_rng(seed)
    is_object, logits = cut_of(seed)
    mask = is_object[LABELS]
    pixels = rng.choice(HEIGHT * WIDTH, num_clicks, replace=False)
    clicks = np.stack(np.divmod(pixels, WIDTH), axis=1)
    half = num_clicks // 2
    whole = refiner().refine(NETWORK, is_object, logits, pixels[:half], pixels[half:])
    window = slice(8, 30), slice(20, 60)
    both = clicks[:half], clicks[half:]
    part = refiner().refine_within(NETWORK, mask, logits, both, window)
    np.testing.assert_array_equal(part, whole[window])
