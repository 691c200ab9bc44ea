from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.metrics import roc_auc_score

from maskfeat.evaluate.metrics import (
    MeanScores,
    achievable_segmentation_accuracy,
    boundary_precision,
    boundary_recall,
    covering,
    iou,
    noc,
    pair_auc,
)
from maskfeat.evaluate.metrics.pairs import draw_nearby_pairs, weighted_auc
from maskfeat.features.reading import Features

# Two segments against three true ones; -1 is not counted. Worked by hand below.
LABELS = np.array([[5, 5, 5, 9], [5, 5, 9, 9]])
TARGET = np.array([[0, 0, 1, 1], [0, -1, 2, 2]])

SHAPE = (5, 6)
label_maps = hnp.arrays(np.int64, SHAPE, elements=st.integers(0, 3))
targets = hnp.arrays(np.int64, SHAPE, elements=st.integers(-1, 3)).filter(
    lambda target: (target >= 0).any()
)


quick = settings(max_examples=60, deadline=None)


# --- regions -------------------------------------------------------------------------------------


def test_asa_of_the_worked_case_is_five_sevenths() -> None:
    # Segment 5 holds {0: 3, 1: 1}, segment 9 holds {1: 1, 2: 2}: (3 + 2) of 7 counted pixels.
    assert achievable_segmentation_accuracy(LABELS, TARGET) == pytest.approx(5 / 7)


def test_covering_of_the_worked_case_weighs_true_segments_by_size() -> None:
    # 0 (3 px): 3/4 with 5. 1 (2 px): 1/5 with 5, 1/4 with 9. 2 (2 px): 2/3 with 9.
    expected = (3 * 3 / 4 + 2 * 1 / 4 + 2 * 2 / 3) / 7
    assert covering(LABELS, TARGET) == pytest.approx(expected)


def naive_asa(labels, target):
    right = 0
    for segment in set(labels.ravel().tolist()):
        inside = [t for t in target[labels == segment].tolist() if t >= 0]
        right += max((inside.count(t) for t in set(inside)), default=0)
    return right / (target >= 0).sum()


def naive_covering(labels, target):
    counted, total = target >= 0, 0.0
    for true in set(target[counted].tolist()):
        region = target == true
        best = max(
            (region & (labels == s)).sum() / (region | ((labels == s) & counted)).sum()
            for s in set(labels.ravel().tolist())
        )
        total += region.sum() * best
    return total / counted.sum()


@quick
@given(label_maps, targets)
def test_region_metrics_agree_with_naive_loops(labels, target) -> None:
    assert achievable_segmentation_accuracy(labels, target) == pytest.approx(
        naive_asa(labels, target)
    )
    assert covering(labels, target) == pytest.approx(naive_covering(labels, target))


@quick
@given(targets)
def test_the_target_itself_scores_one_in_every_metric(target) -> None:
    labels = np.where(target < 0, 99, target)
    assert achievable_segmentation_accuracy(labels, target) == 1
    assert covering(labels, target) == 1
    assert boundary_recall(labels, target) in (1, pytest.approx(math.nan, nan_ok=True))


@quick
@given(label_maps, targets, st.permutations([7, -3, 0, 2]))
def test_renumbering_segments_changes_nothing(labels, target, numbers) -> None:
    renumbered = np.array(numbers)[labels]
    for metric in (achievable_segmentation_accuracy, covering, boundary_recall, boundary_precision):
        assert metric(renumbered, target) == pytest.approx(metric(labels, target), nan_ok=True)


@quick
@given(label_maps, label_maps, targets)
def test_a_refinement_never_lowers_asa_or_boundary_recall(labels, cut, target) -> None:
    finer = labels * 10 + cut
    assert achievable_segmentation_accuracy(finer, target) >= achievable_segmentation_accuracy(
        labels, target
    )
    before = boundary_recall(labels, target)
    assert math.isnan(before) or boundary_recall(finer, target) >= before


@quick
@given(label_maps, targets, label_maps)
def test_labels_under_uncounted_pixels_change_no_region_metric(labels, target, other) -> None:
    changed = np.where(target < 0, other, labels)
    for metric in (achievable_segmentation_accuracy, covering):
        assert metric(changed, target) == pytest.approx(metric(labels, target))


def test_a_target_without_counted_pixels_has_no_score() -> None:
    nothing = np.full((2, 4), -1)
    assert math.isnan(achievable_segmentation_accuracy(LABELS, nothing))
    assert math.isnan(covering(LABELS, nothing))
    assert math.isnan(boundary_recall(LABELS, nothing))
    assert math.isnan(boundary_precision(LABELS, nothing))


def test_torch_label_maps_score_like_numpy_ones() -> None:
    score = covering(torch.from_numpy(LABELS), torch.from_numpy(TARGET))
    assert score == covering(LABELS, TARGET)


def test_label_maps_of_two_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"same shape, got \(2, 4\) and \(4, 2\)"):
        covering(LABELS, TARGET.T)
    with pytest.raises(ValueError, match="labels must be an integer label map"):
        covering(LABELS.astype(float), TARGET)


# --- boundaries ----------------------------------------------------------------------------------


def test_a_border_three_pixels_away_is_found_from_tolerance_three_on() -> None:
    target, labels = np.zeros((30, 40), int), np.zeros((30, 40), int)  # diagonal 50
    target[:, 20:], labels[:, 23:] = 1, 1
    assert boundary_recall(labels, target, tolerance=2.9 / 50) == 0
    assert boundary_recall(labels, target, tolerance=3.0 / 50) == 1
    assert boundary_precision(labels, target, tolerance=2.9 / 50) == 0
    assert boundary_precision(labels, target, tolerance=3.0 / 50) == 1


def test_an_extra_border_costs_precision_and_no_recall() -> None:
    target, labels = np.zeros((30, 40), int), np.zeros((30, 40), int)
    target[:, 20:] = 1
    labels[:, 20:], labels[:, 35:] = 1, 2
    assert boundary_recall(labels, target) == 1
    assert boundary_precision(labels, target) == 0.5


def naive_border(labels, counted):
    marked = set()
    for y, x in itertools.product(range(SHAPE[0]), range(SHAPE[1])):
        for v, u in ((y, x + 1), (y + 1, x)):
            if v < SHAPE[0] and u < SHAPE[1] and counted[y, x] and counted[v, u]:
                if labels[y, x] != labels[v, u]:
                    marked.add((y, x))
    return marked


def naive_near(place, others, radius):
    return any(math.dist(place, other) <= radius for other in others)


@quick
@given(label_maps, targets, st.floats(0, 0.4))
def test_boundary_metrics_agree_with_naive_loops(labels, target, tolerance) -> None:
    radius = tolerance * math.hypot(*SHAPE)
    true = naive_border(target, target >= 0)
    found = naive_border(labels, np.ones(SHAPE, bool))
    unknown = set(zip(*np.nonzero(target < 0), strict=True))
    recall = [naive_near(place, found, radius) for place in true]
    calibrated = [place for place in found if not naive_near(place, unknown, radius)]
    precision = [naive_near(place, true, radius) for place in calibrated]
    assert boundary_recall(labels, target, tolerance) == pytest.approx(
        np.mean(recall) if recall else math.nan, nan_ok=True
    )
    assert boundary_precision(labels, target, tolerance) == pytest.approx(
        np.mean(precision) if precision else math.nan, nan_ok=True
    )


def test_a_negative_tolerance_is_refused() -> None:
    with pytest.raises(ValueError, match="tolerance must not be negative, got -1"):
        boundary_recall(LABELS, TARGET, tolerance=-1)


# --- masks and clicks ----------------------------------------------------------------------------


def test_iou_counts_no_ignored_pixel() -> None:
    pred = np.array([[True, True, True, False, True]])
    target = np.array([[1, 1, 0, 1, -1]], np.int8)
    assert iou(pred, target) == 2 / 4


def test_iou_of_two_empty_masks_is_one() -> None:
    pred = np.array([[True, False]])
    assert iou(pred, np.array([[-1, 0]], np.int8)) == 1


def test_noc_counts_the_first_click_that_reaches_the_threshold() -> None:
    assert noc([0.5, 0.85, 0.8, 0.9], 0.85) == 2
    assert noc([0.5, 0.85, 0.8, 0.9], 0.90) == 4
    assert noc([0.9], 0.90) == 1


def test_noc_of_a_target_never_reached_is_max_clicks() -> None:
    assert noc([0.1] * 30, 0.85, max_clicks=20) == 20
    assert noc([0.1] * 20 + [0.99], 0.85, max_clicks=20) == 20


# --- pairs ---------------------------------------------------------------------------------------


@quick
@given(
    st.lists(
        st.tuples(st.integers(0, 3), st.integers(0, 2), st.integers(0, 2)), min_size=2, max_size=12
    ).filter(lambda rows: sum(r[1] for r in rows) and sum(r[2] for r in rows))
)
def test_weighted_auc_is_that_of_scikit_learn_and_of_counting(rows) -> None:
    scores, positive, negative = (np.array(c, float) for c in zip(*rows, strict=True))
    truth = np.repeat([1, 0], len(rows))
    weights = np.concatenate([positive, negative])
    found = weighted_auc(scores, positive, negative)
    assert found == pytest.approx(roc_auc_score(truth, np.tile(scores, 2), sample_weight=weights))
    wins = sum(
        p * n * (1.0 if s > t else 0.5 if s == t else 0.0) for s, p, _ in rows for t, _, n in rows
    )
    assert found == pytest.approx(wins / (positive.sum() * negative.sum()))


def test_pairs_are_near_different_inside_and_uniform() -> None:
    rng = np.random.default_rng(0)
    first, second = draw_nearby_pairs((6, 7), 200_000, 2.5, rng)
    lengths = np.square(first - second).sum(axis=1)
    assert lengths.min() == 1
    assert lengths.max() == 5  # (1, 2) is within 2.5, (2, 2) is not
    assert (second >= 0).all()
    assert (second < (6, 7)).all()
    # Each of the 42 first pixels is as likely; from a corner each of its 7 partners.
    counts = np.bincount(first[:, 0] * 7 + first[:, 1], minlength=42)
    assert np.abs(counts / counts.mean() - 1).max() < 0.07
    from_corner = second[(first == 0).all(axis=1)]
    partners, counts = np.unique(from_corner, axis=0, return_counts=True)
    assert len(partners) == 7
    assert np.abs(counts / counts.mean() - 1).max() < 0.15


def halves(value: float = 1.0) -> tuple[Features, np.ndarray]:
    """An image of two halves, its features, and one mask for each half."""
    dense = np.zeros((20, 20, 2), np.float32)
    dense[:, 10:] = value
    masks = np.zeros((2, 20, 20), bool)
    masks[0, :, :10], masks[1, :, 10:] = True, True
    return Features.from_dense(dense), masks


def test_pair_auc_is_one_for_features_that_know_and_half_for_features_that_do_not() -> None:
    knowing, masks = halves()
    ignorant, _ = halves(0.0)
    assert pair_auc(knowing, masks, 2000, rng=np.random.default_rng(0)) == 1
    assert pair_auc(ignorant, masks, 2000, rng=np.random.default_rng(0)) == 0.5


def test_pair_auc_gives_each_annotator_one_vote() -> None:
    # A second annotator sees one whole: the pairs across are negative once and positive once.
    features, masks = halves()
    both = np.concatenate([masks, np.ones((1, 20, 20), bool)])
    first, second = draw_nearby_pairs((20, 20), 3000, 32, np.random.default_rng(5))
    across = (first[:, 1] < 10) != (second[:, 1] < 10)
    truth = np.concatenate([~across, np.ones_like(across)])  # pooled over annotators
    expected = roc_auc_score(truth, np.tile(-across.astype(float), 2))
    found = pair_auc(features, both, 3000, disputed="vote", rng=np.random.default_rng(5))
    assert found == pytest.approx(expected)


def test_pair_auc_leaves_out_what_annotators_dispute() -> None:
    # Three columns of 8: one annotator parts the first, another all, so the pairs between the
    # second and the third are disputed; features that miss that border lose nothing.
    dense = np.zeros((24, 24, 1), np.float32)
    dense[:, :8] = 1.0
    masks = np.zeros((5, 24, 24), bool)
    masks[0, :, :8], masks[1, :, 8:] = True, True
    for number in range(3):
        masks[2 + number, :, 8 * number : 8 * number + 8] = True
    features = Features.from_dense(dense)
    assert pair_auc(features, masks, 3000, rng=np.random.default_rng(0)) == 1
    votes = pair_auc(features, masks, 3000, disputed="vote", rng=np.random.default_rng(0))
    assert 0.7 < votes < 1


def test_pair_auc_without_a_border_has_no_value() -> None:
    features, _ = halves()
    assert math.isnan(pair_auc(features, np.ones((1, 20, 20), bool), rng=np.random.default_rng(0)))


def test_masks_of_another_size_than_the_features_are_refused() -> None:
    features, masks = halves()
    with pytest.raises(ValueError, match=r"masks must have shape \(M, 20, 20\)"):
        pair_auc(features, masks[:, :10], rng=np.random.default_rng(0))


def test_an_image_of_one_pixel_has_no_pairs() -> None:
    with pytest.raises(ValueError, match="pairs need an image of two pixels"):
        draw_nearby_pairs((1, 1), 5, 32, np.random.default_rng(0))


# --- classes -------------------------------------------------------------------------------------


def test_mean_scores_leaves_out_what_was_never_counted() -> None:
    metric = MeanScores(["a", "b", "c"])
    metric.update({"a": 1.0, "b": math.nan})
    metric.update({"a": 2.0, "b": 5.0})
    found = {name: value.item() for name, value in metric.compute().items()}
    assert found == {"a": 1.5, "b": 5.0}


def test_mean_scores_refuses_a_name_it_does_not_know() -> None:
    with pytest.raises(ValueError, match=r"got also \['z'\]"):
        MeanScores(["a"]).update({"z": 1.0})


def test_far_apart_and_many_segment_numbers_are_counted_alike() -> None:
    rng = np.random.default_rng(0)
    labels, target = rng.integers(0, 300, (30, 30)), rng.integers(-1, 300, (30, 30))
    assert covering(labels, target) == pytest.approx(naive_covering(labels, target))
    far = labels * 10**12 - 10**14
    assert covering(far, target) == covering(labels, target)
    assert achievable_segmentation_accuracy(far, target) == achievable_segmentation_accuracy(
        labels, target
    )
