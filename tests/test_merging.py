"""Merges against a naive search."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maskfeat.segment.merging import merge_nearest


def naive(means, sizes, edges, num_groups, power):
    """Sets of regions; all pairs of touching sets are looked at for each merge."""
    groups = [{i} for i in range(len(sizes))]
    touching = {frozenset(edge) for edge in edges.tolist()}

    def mean(group):
        ids = sorted(group)
        return (means[ids] * sizes[ids, None]).sum(0) / sizes[ids].sum()

    while len(groups) > num_groups:
        pairs = [
            (
                np.linalg.norm(mean(a) - mean(b))
                * min(sizes[sorted(a)].sum(), sizes[sorted(b)].sum()) ** power,
                i,
                j,
            )
            for i, a in enumerate(groups)
            for j, b in enumerate(groups[:i])
            if any(frozenset((p, q)) in touching for p in a for q in b)
        ]
        if not pairs:
            break
        _, i, j = min(pairs)
        merged = groups[i] | groups[j]
        groups = [g for n, g in enumerate(groups) if n not in (i, j)] + [merged]
    return {frozenset(group) for group in groups}


@given(
    seed=st.integers(0, 10_000), num_groups=st.integers(1, 9), power=st.sampled_from([0, 0.15, 1])
)
@settings(max_examples=60, deadline=None)
def test_merges_are_those_of_a_naive_search(seed, num_groups, power):
    rng = np.random.default_rng(seed)
    count = 10
    means, sizes = rng.normal(size=(count, 3)), rng.integers(1, 50, count).astype(float)
    chain = np.stack([np.arange(count - 1), np.arange(1, count)], axis=1)
    more = rng.integers(0, count, (8, 2))
    edges = np.unique(np.sort(np.concatenate([chain, more[more[:, 0] != more[:, 1]]])), axis=0)
    groups = merge_nearest(means, sizes, edges, num_groups, power)
    found = {frozenset(np.flatnonzero(groups == g).tolist()) for g in range(groups.max() + 1)}
    assert found == naive(means, sizes, edges, num_groups, power)
    assert len(found) == num_groups
    firsts = [int(np.flatnonzero(groups == g)[0]) for g in range(num_groups)]
    assert firsts == sorted(firsts)


def test_parts_that_do_not_touch_stay_apart():
    edges = np.array([[0, 1], [2, 3]])
    groups = merge_nearest(np.zeros((4, 1)), np.ones(4), edges, 1)
    assert groups.tolist() == [0, 0, 1, 1]


@pytest.mark.parametrize("num_groups", [1, 5])
def test_equal_regions_and_a_single_one_are_no_special_case(num_groups):
    edges = np.stack([np.arange(4), np.arange(1, 5)], axis=1)
    groups = merge_nearest(np.ones((5, 2)), np.ones(5), edges, num_groups)
    assert groups.max() + 1 == num_groups
    assert merge_nearest(np.ones((1, 2)), np.ones(1), np.zeros((0, 2), int), 1).tolist() == [0]
