"""The cut of pixels: exact, within its window, and bound by what is fixed."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maskfeat.interactive.cut import PIXEL_PAIRWISE_WEIGHT, OutlineCutter


def energy(labels: np.ndarray, unary: np.ndarray, right: np.ndarray, below: np.ndarray) -> float:
    """The energy of the docstring, pixel by pixel."""
    mean = (right.sum() + below.sum()) / (right.size + below.size)
    total = (unary * (1 - 2 * labels.astype(int)) / 2).sum()
    for y, x in np.ndindex(labels.shape):
        if x + 1 < labels.shape[1] and labels[y, x] != labels[y, x + 1]:
            total += PIXEL_PAIRWISE_WEIGHT * np.exp(-right[y, x] / mean)
        if y + 1 < labels.shape[0] and labels[y, x] != labels[y + 1, x]:
            total += PIXEL_PAIRWISE_WEIGHT * np.exp(-below[y, x] / mean)
    return float(total)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000))
def test_no_labels_of_the_free_pixels_have_less_energy(seed: int) -> None:
    rng = np.random.default_rng(seed)
    right, below = rng.exponential(size=(3, 3)), rng.exponential(size=(2, 4))
    unary, mask, is_free = (
        rng.normal(0, 6, (3, 4)),
        rng.random((3, 4)) < 0.5,
        np.zeros((3, 4), bool),
    )
    is_free.ravel()[rng.choice(12, 7, replace=False)] = True
    window = slice(0, 3), slice(0, 4)

    found = OutlineCutter(right, below).cut(mask, unary, is_free, window)

    np.testing.assert_array_equal(found[~is_free], mask[~is_free])
    least = np.inf
    for values in itertools.product((False, True), repeat=7):
        labels = mask.copy()
        labels[is_free] = values
        least = min(least, energy(labels, unary, right, below))
    assert energy(found, unary, right, below) == pytest.approx(least, abs=1e-5)


def test_a_window_of_one_pixel_follows_its_logit_and_an_outline_follows_an_edge() -> None:
    values = np.where(np.arange(12) < 7, 0.0, 1.0)[None].repeat(9, axis=0)
    cutter = OutlineCutter(np.diff(values) ** 2, np.diff(values, axis=0) ** 2)
    one = slice(4, 5), slice(6, 7)
    for sign in (1, -1):
        found = cutter.cut(
            np.zeros((1, 1), bool), np.full((1, 1), sign), np.ones((1, 1), bool), one
        )
        assert found.item() == (sign > 0)
    # The mask ends at column 5; between there and column 9 the logits say nothing.
    mask, is_free = np.zeros((9, 12), bool), np.zeros((9, 12), bool)
    mask[:, :5], is_free[:, 4:10] = True, True
    found = cutter.cut(mask, np.zeros((9, 12)), is_free, (slice(0, 9), slice(0, 12)))
    np.testing.assert_array_equal(found, values == 0)
