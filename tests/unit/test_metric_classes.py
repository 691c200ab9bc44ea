from __future__ import annotations

import math
import pickle

import numpy as np
import pytest
import torch
from torchmetrics.utilities.data import dim_zero_sum

from maskfeat.evaluate.metrics import (
    AverageRecall,
    BoundaryF,
    Compactness,
    ExplainedVariation,
    MeanOverImages,
    Nestedness,
    OverScales,
    ProbabilisticRandIndex,
    UndersegmentationError,
    VariationOfInformation,
    average_recall,
    boundary_f,
    compactness,
    explained_variation,
    nestedness,
    probabilistic_rand_index,
    undersegmentation_error,
    variation_of_information,
)

FINE = np.arange(16).reshape(4, 4)
HALVED = np.repeat([[0, 0, 1, 1]], 4, axis=0)
QUARTERED = HALVED + 2 * HALVED.T
NOTHING = np.full((4, 4), -1)


def random_partitions(count: int) -> list[np.ndarray]:
    return list(np.random.default_rng(0).integers(0, 3, (count, 6, 7)))


# --- means over images ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("metric", "function"),
    [
        (UndersegmentationError(), undersegmentation_error),
        (ProbabilisticRandIndex(), probabilistic_rand_index),
        (VariationOfInformation(), variation_of_information),
        (BoundaryF(0.3), lambda a, b: boundary_f(a, b, 0.3)),
        (BoundaryF(0.3, match="nearby"), lambda a, b: boundary_f(a, b, 0.3, "nearby")),
    ],
)
def test_annotators_are_averaged_first_and_images_next(metric, function) -> None:
    metric.update(HALVED, [FINE, QUARTERED, HALVED])
    metric.update(FINE, [HALVED, NOTHING])  # the empty annotator is not counted
    metric.update(HALVED, [NOTHING])  # nor is an image without any other
    first = np.mean([function(HALVED, target) for target in (FINE, QUARTERED, HALVED)])
    expected = (first + function(FINE, HALVED)) / 2
    assert metric.compute().item() == pytest.approx(expected)
    assert metric.count.item() == 2


def test_the_match_of_boundary_f_is_one_to_one_unless_said() -> None:
    one_to_one, nearby = BoundaryF(0.3), BoundaryF(0.3, match="nearby")
    for metric in (one_to_one, nearby):
        metric.update(FINE, [HALVED])
    assert one_to_one.compute() < nearby.compute()


def test_compactness_and_explained_variation_are_means_over_images() -> None:
    image = np.random.default_rng(0).random((4, 4, 3))
    compact, explained = Compactness(), ExplainedVariation()
    for labels in (HALVED, QUARTERED):
        compact.update(labels)
        explained.update(labels, image)
    explained.update(HALVED, np.full((4, 4, 3), 0.1))  # of one color: not counted
    assert compact.compute().item() == pytest.approx(
        (compactness(HALVED) + compactness(QUARTERED)) / 2
    )
    assert explained.compute().item() == pytest.approx(
        (explained_variation(HALVED, image) + explained_variation(QUARTERED, image)) / 2
    )


def test_average_recall_is_a_mean_over_images_not_over_true_segments() -> None:
    metric = AverageRecall(max_segments=1)
    many, one = np.ones((2, 9)), np.array([[0.2], [1.0]])  # what comes second is not read
    for iou in (many, one, np.zeros((2, 0))):  # without true segments: not counted
        metric.update(iou)
    assert metric.compute().item() == (average_recall(many, 1) + average_recall(one, 1)) / 2 == 0.5


def test_nestedness_is_a_mean_over_images() -> None:
    metric = Nestedness()
    metric.update([FINE, QUARTERED, HALVED])
    metric.update([HALVED, HALVED.T])
    assert metric.compute().item() == (1 + nestedness([HALVED, HALVED.T])) / 2 == 0.5


def test_every_score_says_which_direction_is_better() -> None:
    errors = (UndersegmentationError, VariationOfInformation)
    scores = (
        *(ProbabilisticRandIndex, BoundaryF, Compactness),
        *(ExplainedVariation, AverageRecall, Nestedness),
    )
    assert all(metric.higher_is_better is False for metric in errors)
    assert all(metric.higher_is_better is True for metric in scores)


def summed(first, second, states):
    """What `first` becomes when two processes add up their states."""
    for name in states:
        assert first._reductions[name] is dim_zero_sum
        setattr(first, name, getattr(first, name) + getattr(second, name))
    return first


def test_two_processes_have_the_mean_of_one() -> None:
    pairs = list(zip(random_partitions(5), random_partitions(10)[5:], strict=True))
    whole, first, second = (VariationOfInformation() for _ in range(3))
    for number, (labels, target) in enumerate(pairs):
        for metric in (whole, second if number < 2 else first):
            metric.update(labels, [target, labels])
    assert summed(first, second, ("total", "count")).compute() == pytest.approx(whole.compute())


def test_a_metric_survives_pickling_with_what_it_has_counted() -> None:
    for metric in (ProbabilisticRandIndex(), BoundaryF(0.3, match="nearby")):
        metric.update(FINE, [HALVED])
        copy = pickle.loads(pickle.dumps(metric))
        copy.update(HALVED, [HALVED])
        assert copy.count.item() == 2
        assert copy.compute().item() == pytest.approx((metric.compute().item() + 1) / 2)


def test_an_image_without_annotators_is_not_counted() -> None:
    metric = UndersegmentationError()
    metric.update(HALVED, [])
    assert metric.count.item() == 0
    assert isinstance(metric, MeanOverImages)


# --- over scales ---------------------------------------------------------------------------------


def found(metric: OverScales) -> dict[str, float]:
    return {name: value.item() for name, value in metric.compute().items()}


def test_ods_is_one_scale_for_all_and_ois_one_for_each() -> None:
    metric = OverScales(3)
    metric.update([0.25, 0.50, 0.75])
    metric.update([1.00, 0.75, 0.00])
    # Means 0.625, 0.625, 0.375: of equal ones the first. Bests 0.75 and 1.
    assert found(metric) == {"ods": 0.625, "ois": 0.875, "scale": 0}
    metric.update([0.25, 1.00, 0.00])  # means 0.5, 0.75, 0.25; bests 0.75, 1, 1
    assert found(metric) == {"ods": 0.75, "ois": pytest.approx(2.75 / 3), "scale": 1}


def test_where_smaller_is_better_the_smallest_are_best() -> None:
    metric = OverScales(3, higher_is_better=False)
    metric.update([0.25, 0.50, 2.00])
    metric.update([3.00, 1.00, 0.75])
    # Means 1.625, 0.75, 1.375; bests 0.25 and 0.75.
    assert found(metric) == {"ods": 0.75, "ois": 0.5, "scale": 1}


@pytest.mark.parametrize("higher_is_better", [True, False])
def test_two_processes_have_the_scales_of_one(higher_is_better) -> None:
    scores = np.random.default_rng(0).random((7, 4))
    whole, first, second = (OverScales(4, higher_is_better) for _ in range(3))
    for number, row in enumerate(scores):
        for metric in (whole, first if number < 3 else second):
            metric.update(row.tolist())
    parts = summed(first, second, ("totals", "best", "count"))
    assert found(parts) == pytest.approx(found(whole))
    best = np.max if higher_is_better else np.min
    assert found(whole)["ods"] == pytest.approx(best(scores.mean(axis=0)))
    assert found(whole)["ois"] == pytest.approx(best(scores, axis=1).mean())
    assert scores.mean(axis=0)[int(found(whole)["scale"])] == best(scores.mean(axis=0))


def test_an_image_without_a_score_is_left_out_of_all_scales() -> None:
    metric = OverScales(2)
    metric.update([0.25, 0.75])
    metric.update([math.nan, math.nan])
    metric.update([1.0, math.nan])
    assert found(metric) == {"ods": 0.75, "ois": 0.75, "scale": 1}
    assert metric.count.item() == 1


def test_another_number_of_scales_is_refused() -> None:
    with pytest.raises(ValueError, match=r"scores must be 3 numbers, got shape \(2,\)"):
        OverScales(3).update([0.1, 0.2])


def test_scores_may_come_as_a_tensor_and_reset_forgets_them() -> None:
    metric = OverScales(2)
    metric.update(torch.tensor([0.25, 0.75]))
    metric.reset()
    metric.update(torch.tensor([0.5, 0.25]))
    assert found(metric) == {"ods": 0.5, "ois": 0.5, "scale": 0}
