"""Several sets by weight: their shares, everywhere."""

from __future__ import annotations

import re
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maskfeat.data.order.schedule import Mixture, seed_of_set
from maskfeat.data.training_set import sets_of


@given(
    weights=st.lists(st.floats(0.01, 10), min_size=2, max_size=5),
    seed=st.integers(0, 3),
    start=st.integers(0, 30_000),
    length=st.integers(1, 3000),
)
@settings(max_examples=40, deadline=None)
def test_the_share_of_a_set_holds_in_any_run_of_places(
    weights: list[float], seed: int, start: int, length: int
) -> None:
    mixture = Mixture(weights, seed)
    counts = Counter(mixture.at(place)[0] for place in range(start, start + length))
    for which, weight in enumerate(weights):
        share = weight / sum(weights)
        slack = 2 * (1 + (len(weights) - 2) * share)  # as the docstring says, at either end
        rounding = 1e-4 * len(weights) * (length + 10_000)
        assert abs(counts[which] - share * length) <= slack + rounding


def test_a_cycle_has_the_shares_exactly_and_rare_sets_are_not_lost() -> None:
    mixture = Mixture([0.7, 0.3], 0)
    assert Counter(mixture.at(i)[0] for i in range(20_000)) == {0: 14_000, 1: 6_000}
    assert Mixture([1e6, 1, 1], 0).quotas == (9998, 1, 1)
    assert sum(Mixture([1, 1, 1], 0).quotas) == 10_000


def test_each_set_counts_its_own_places_without_a_gap() -> None:
    mixture = Mixture([2, 5, 3], 4)
    turns: dict[int, list[int]] = {0: [], 1: [], 2: []}
    for place in range(25_000):
        which, turn = mixture.at(place)
        turns[which].append(turn)
    for one in turns.values():
        assert one == list(range(len(one)))


@pytest.mark.parametrize("weights", [[3.0], [2, 5, 3], [1e6, 1]])
def test_turns_before_a_place_are_those_counted_one_by_one(weights: list[float]) -> None:
    mixture = Mixture(weights, 4)
    counted = [0] * len(weights)
    for place in range(20_050):
        if place % 37 == 0 or place in (9_999, 10_000, 10_001):
            assert mixture.draws_before(place) == counted
        counted[mixture.at(place)[0]] += 1


def test_equal_weights_do_not_fall_in_step_with_the_ranks() -> None:
    mixture = Mixture([1, 1], 0)
    shares = [np.mean([mixture.at(place)[0] for place in range(r, 4000, 2)]) for r in (0, 1)]
    assert np.abs(np.array(shares) - 0.5).max() < 0.05


def test_one_set_is_left_as_it_was() -> None:
    assert [Mixture([3.0], 1).at(place) for place in (0, 7)] == [(0, 0), (0, 7)]
    assert seed_of_set(5, 0, 1) == 5
    assert len({seed_of_set(5, k, 3) for k in range(3)}) == 3


def test_sets_are_given_by_pattern_or_by_name() -> None:
    rest = ("unknown",)
    assert sets_of("a-*.tar") == [("a-*.tar", 1.0, *rest)]
    assert sets_of(["a.tar", "b.tar"]) == [(["a.tar", "b.tar"], 1.0, *rest)]
    assert sets_of({"a.tar": 2, "b.tar": 0.5}) == [("a.tar", 2.0, *rest), ("b.tar", 0.5, *rest)]
    named = {"x": {"shards": ["a.tar", "b.tar"], "weight": 3}, "y": {"shards": "c", "weight": 1}}
    assert sets_of(named) == [(["a.tar", "b.tar"], 3.0, *rest), ("c", 1.0, *rest)]


@pytest.mark.parametrize(
    ("train", "sentence"),
    [
        ({"a.tar": 0}, "must be a number above 0, got 0 for 'a.tar'"),
        ({"a.tar": -1.5}, "must be a number above 0, got -1.5"),
        ({"a.tar": "much"}, "got 'much'"),
        ({"a.tar": float("nan")}, "got nan"),
        ({"a": {"shards": "a.tar"}}, "needs 'shards' and 'weight', got ['shards'] for 'a'"),
        ({}, "is an empty mapping"),
    ],
)
def test_a_wrong_weight_gets_one_sentence(train: dict, sentence: str) -> None:
    with pytest.raises(ValueError, match=re.escape(sentence)):
        sets_of(train)
