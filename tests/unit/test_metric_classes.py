from __future__ import annotations

import math
import pickle

import numpy as np
import pytest
import torch
from torchmetrics.utilities.data import dim_zero_sum

from maskfeat.evaluate.metrics import MeanScores, OverScales


def summed(first, second, states):
    """What `first` becomes when two processes add up their states."""
    for name in states:
        assert first._reductions[name] is dim_zero_sum
        setattr(first, name, getattr(first, name) + getattr(second, name))
    return first


def test_two_processes_have_the_means_of_one() -> None:
    scores = [{"a": 1.0, "b": 0.5}, {"a": math.nan}, {"b": 0.25}, {"a": 4.0, "b": 1.0}]
    whole, first, second = (MeanScores(["a", "b", "c"]) for _ in range(3))
    for number, row in enumerate(scores):
        for metric in (whole, second if number < 2 else first):
            metric.update(row)
    assert found(summed(first, second, ("totals", "counts"))) == pytest.approx(found(whole))
    assert found(whole) == pytest.approx({"a": 2.5, "b": 1.75 / 3})


def test_a_metric_survives_pickling_with_what_it_has_counted() -> None:
    metric = MeanScores(["a"])
    metric.update({"a": 0.5})
    copy = pickle.loads(pickle.dumps(metric))
    copy.update({"a": 1.0})
    assert found(copy) == {"a": 0.75}


# --- over scales ---------------------------------------------------------------------------------


def found(metric: MeanScores | OverScales) -> dict[str, float]:
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
