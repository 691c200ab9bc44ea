from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from skimage.metrics import variation_of_information as skimage_voi
from sklearn.metrics import rand_score

from maskfeat.evaluate.metrics import (
    compactness,
    explained_variation,
    probabilistic_rand_index,
    undersegmentation_error,
    variation_of_information,
)

# 5 holds {0: 3, 1: 1} and 9 holds {1: 1, 2: 2} of the seven counted pixels.
LABELS = np.array([[5, 5, 5, 9], [5, 5, 9, 9]])
TARGET = np.array([[0, 0, 1, 1], [0, -1, 2, 2]])
TARGET_METRICS = (undersegmentation_error, probabilistic_rand_index, variation_of_information)

SHAPE = (5, 6)
label_maps = hnp.arrays(np.int64, SHAPE, elements=st.integers(0, 3))
targets = hnp.arrays(np.int64, SHAPE, elements=st.integers(-1, 3)).filter(
    lambda target: (target >= 0).sum() > 1
)
images = hnp.arrays(np.uint8, (*SHAPE, 2))

quick = settings(max_examples=50, deadline=None)


# --- against a target ----------------------------------------------------------------------------


def test_undersegmentation_error_of_the_worked_case_is_four_sevenths() -> None:
    # Smaller of inside and outside: (5, 0) 3|1, (5, 1) 1|3, (9, 1) 1|2, (9, 2) 2|1, each time 1.
    assert undersegmentation_error(LABELS, TARGET) == pytest.approx(4 / 7)


def test_rand_index_of_the_worked_case_is_five_sevenths() -> None:
    # Of 21 pairs 9 are together in the labels, 5 in the target, 4 in both: 6 are disputed.
    assert probabilistic_rand_index(LABELS, TARGET) == pytest.approx(15 / 21)


def test_variation_of_information_of_the_worked_case_is_eight_sevenths_of_a_bit() -> None:
    # H(labels | target): only true segment 1 (2 of 7 px) is split, in halves, 2/7 bit.
    # H(target | labels): 4/7 H(1/4) + 3/7 H(1/3) = (8 - 3 log 3 + 3 log 3 - 2) / 7 bit.
    assert variation_of_information(LABELS, TARGET) == pytest.approx(2 / 7 + 6 / 7)


def test_two_independent_halvings_differ_by_two_bits() -> None:
    rows, columns = np.indices((4, 4)) // 2
    assert variation_of_information(rows, columns) == pytest.approx(2)
    assert undersegmentation_error(rows, columns) == 1


def naive_undersegmentation_error(labels, target):
    leak = 0
    counted = [(s, t) for s, t in zip(labels.ravel(), target.ravel(), strict=True) if t >= 0]
    for segment in {s for s, _ in counted}:
        for true in {t for _, t in counted}:
            inside = sum(s == segment and t == true for s, t in counted)
            outside = sum(s == segment and t != true for s, t in counted)
            leak += min(inside, outside)
    return leak / len(counted)


@quick
@given(label_maps, targets)
def test_undersegmentation_error_agrees_with_naive_loops(labels, target) -> None:
    expected = naive_undersegmentation_error(labels, target)
    assert undersegmentation_error(labels, target) == pytest.approx(expected)


@quick
@given(label_maps, targets)
def test_rand_index_is_that_of_scikit_learn_on_the_counted_pixels(labels, target) -> None:
    counted = target >= 0
    expected = rand_score(target[counted], labels[counted])
    assert probabilistic_rand_index(labels, target) == pytest.approx(expected)


@quick
@given(label_maps, targets)
def test_variation_of_information_is_that_of_scikit_image(labels, target) -> None:
    counted = target >= 0
    splits, merges = skimage_voi(target[counted], labels[counted])  # bits
    assert variation_of_information(labels, target) == pytest.approx(splits + merges, abs=1e-9)


@quick
@given(targets)
def test_the_target_itself_has_no_error(target) -> None:
    labels = np.where(target < 0, 99, target)
    assert undersegmentation_error(labels, target) == 0
    assert probabilistic_rand_index(labels, target) == 1
    assert variation_of_information(labels, target) == pytest.approx(0, abs=1e-12)


@quick
@given(label_maps, targets, st.permutations([7, -3, 0, 10**15]))
def test_renumbering_segments_changes_no_region_metric(labels, target, numbers) -> None:
    renumbered = np.array(numbers)[labels]
    for metric in TARGET_METRICS:
        assert metric(renumbered, target) == pytest.approx(metric(labels, target), abs=1e-12)
    assert compactness(renumbered) == pytest.approx(compactness(labels))


@quick
@given(label_maps, label_maps)
def test_rand_index_and_variation_of_information_are_symmetric(labels, target) -> None:
    for metric in (probabilistic_rand_index, variation_of_information):
        assert metric(labels, target) == pytest.approx(metric(target, labels), abs=1e-12)


@quick
@given(label_maps, targets)
def test_scores_against_a_target_stay_in_their_ranges(labels, target) -> None:
    assert 0 <= undersegmentation_error(labels, target) <= 1
    assert 0 <= probabilistic_rand_index(labels, target) <= 1
    # Never more than the logarithm of the number of pixels (Meila, 2003).
    assert 0 <= variation_of_information(labels, target) <= math.log2((target >= 0).sum()) + 1e-9


@quick
@given(label_maps, targets, label_maps)
def test_labels_under_uncounted_pixels_change_no_score(labels, target, other) -> None:
    changed = np.where(target < 0, other, labels)
    for metric in TARGET_METRICS:
        assert metric(changed, target) == pytest.approx(metric(labels, target), abs=1e-12)


def test_many_far_apart_numbers_score_like_few_near_ones() -> None:
    rng = np.random.default_rng(0)
    labels, target = rng.integers(0, 300, (30, 30)), rng.integers(-1, 300, (30, 30))
    for metric in TARGET_METRICS:
        assert metric(labels * 10**12 - 10**14, target) == pytest.approx(metric(labels, target))


def test_the_rand_index_of_a_large_image_is_exact() -> None:
    # A million pixels have 5e11 pairs, beyond int32; halves against quarters dispute a quarter.
    rows, columns = np.indices((1000, 1000)) // 500
    in_halves, in_quarters = 2 * math.comb(500_000, 2), 4 * math.comb(250_000, 2)
    disputed = (in_halves - in_quarters) / math.comb(1_000_000, 2)
    assert probabilistic_rand_index(rows, 2 * rows + columns) == pytest.approx(1 - disputed)


def test_without_counted_pixels_there_is_no_score() -> None:
    for metric in TARGET_METRICS:
        assert math.isnan(metric(LABELS, np.full((2, 4), -1)))


def test_one_counted_pixel_makes_no_pair() -> None:
    target = np.full((2, 4), -1)
    target[0, 0] = 0
    assert math.isnan(probabilistic_rand_index(LABELS, target))
    assert variation_of_information(LABELS, target) == 0


def test_torch_label_maps_have_the_scores_of_numpy_ones() -> None:
    for metric in TARGET_METRICS:
        found = metric(torch.from_numpy(LABELS), torch.from_numpy(TARGET))
        assert found == metric(LABELS, TARGET)
    assert compactness(torch.from_numpy(LABELS)) == compactness(LABELS)


def test_region_metrics_refuse_label_maps_of_two_shapes() -> None:
    for metric in TARGET_METRICS:
        with pytest.raises(ValueError, match=r"same shape, got \(2, 4\) and \(4, 2\)"):
            metric(LABELS, TARGET.T)


# --- compactness ---------------------------------------------------------------------------------


def test_compactness_of_the_worked_case_weighs_segments_by_area() -> None:
    # 5 has 5 px and 10 sides, 9 has 3 px and 8 sides.
    expected = (5 * 4 * math.pi * 5 / 10**2 + 3 * 4 * math.pi * 3 / 8**2) / 8
    assert compactness(LABELS) == pytest.approx(expected)


@pytest.mark.parametrize("side", [1, 2, 5])
def test_squares_of_any_size_have_compactness_a_quarter_of_pi(side) -> None:
    squares = np.arange(6).reshape(2, 3).repeat(side, 0).repeat(side, 1)
    assert compactness(squares) == pytest.approx(math.pi / 4)


def test_a_segment_in_two_parts_counts_as_one_with_both_perimeters() -> None:
    # Segment 0 is two single pixels (2 px, 8 sides), segment 1 a single one (1 px, 4 sides).
    expected = (2 * 4 * math.pi * 2 / 8**2 + 1 * 4 * math.pi * 1 / 4**2) / 3
    assert compactness(np.array([[0, 1, 0]])) == pytest.approx(expected)


def naive_compactness(labels):
    height, width = labels.shape
    areas, sides = {}, {}
    for y, x in itertools.product(range(height), range(width)):
        segment = labels[y, x]
        areas[segment] = areas.get(segment, 0) + 1
        for v, u in ((y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)):
            inside = 0 <= v < height and 0 <= u < width
            if not inside or labels[v, u] != segment:
                sides[segment] = sides.get(segment, 0) + 1
    isoperimetric = {s: 4 * math.pi * areas[s] / sides[s] ** 2 for s in areas}
    return sum(areas[s] * isoperimetric[s] for s in areas) / labels.size


@quick
@given(label_maps)
def test_compactness_agrees_with_naive_loops_and_stays_in_its_range(labels) -> None:
    found = compactness(labels)
    assert found == pytest.approx(naive_compactness(labels))
    assert 0 < found <= math.pi / 4 + 1e-12


# --- explained variation -------------------------------------------------------------------------


def test_explained_variation_of_the_worked_case_is_eight_ninths() -> None:
    # Mean 3, squared deviations 9 + 1 + 4 + 4; the means 1 and 5 keep 4 for each pixel.
    labels, image = np.array([[0, 0], [1, 1]]), np.array([[0, 2], [5, 5]])[..., None]
    assert explained_variation(labels, image) == pytest.approx(16 / 18)


def naive_explained_variation(labels, image):
    pixels = [
        (int(s), tuple(map(float, color)))
        for s, color in zip(labels.ravel(), image.reshape(labels.size, -1), strict=True)
    ]

    def mean(colors):
        return [sum(column) / len(colors) for column in zip(*colors, strict=True)]

    everywhere = mean([color for _, color in pixels])
    means = {s: mean([c for t, c in pixels if t == s]) for s, _ in pixels}
    kept = sum(math.dist(means[s], everywhere) ** 2 for s, _ in pixels)
    return kept / sum(math.dist(color, everywhere) ** 2 for _, color in pixels)


@quick
@given(label_maps, images)
def test_explained_variation_agrees_with_naive_loops_and_stays_in_its_range(labels, image) -> None:
    assume(len(np.unique(image.reshape(-1, 2), axis=0)) > 1)
    found = explained_variation(labels, image)
    assert found == pytest.approx(naive_explained_variation(labels, image), abs=1e-12)
    assert 0 <= found <= 1


@quick
@given(label_maps, label_maps, images)
def test_a_refinement_never_explains_less(labels, cut, image) -> None:
    assume(len(np.unique(image.reshape(-1, 2), axis=0)) > 1)
    finer = labels * 10 + cut
    assert explained_variation(finer, image) >= explained_variation(labels, image) - 1e-12


def test_one_segment_explains_nothing_and_single_pixels_everything() -> None:
    image = np.random.default_rng(0).random((7, 9, 3))
    assert explained_variation(np.zeros((7, 9), int), image) == pytest.approx(0, abs=1e-12)
    assert explained_variation(np.arange(63).reshape(7, 9), image) == pytest.approx(1)


@pytest.mark.parametrize("color", [0.0, 0.1, 0.7, 255.0])  # the mean of 35 times 0.1 is not 0.1
def test_an_image_of_one_color_has_no_variation_to_explain(color) -> None:
    image = np.full((5, 7, 3), color)
    assert math.isnan(explained_variation(np.arange(35).reshape(5, 7), image))


def test_an_image_of_another_size_than_the_labels_is_refused() -> None:
    with pytest.raises(ValueError, match=r"image must have shape \(2, 4\) \+ \(C,\)"):
        explained_variation(LABELS, np.zeros((4, 2, 3)))
    with pytest.raises(ValueError, match=r"image must have shape \(2, 4\) \+ \(C,\)"):
        explained_variation(LABELS, np.zeros((2, 4)))
