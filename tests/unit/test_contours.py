"""Boundaries of nested partitions against several annotators."""

from __future__ import annotations

import dataclasses
import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from test_callbacks import scene

from maskfeat.evaluate.hierarchies import GRANULARITIES, tree_boundary_counts
from maskfeat.evaluate.metrics import (
    BoundaryOverScales,
    boundary_counts,
    boundary_f,
    boundary_fs,
)
from maskfeat.evaluate.metrics.boundaries import matched, num_matched
from maskfeat.features.color import LabEncoder
from maskfeat.segment.hierarchy import hierarchy
from maskfeat.segment.superpixels import border_pixels


def columns(*edges: int) -> np.ndarray:
    """Six rows of eight columns; a new segment begins at each of these columns."""
    return np.searchsorted(edges, np.arange(8), side="right")[None].repeat(6, 0)


# --- counts of one image -------------------------------------------------------------------------


def test_counts_by_hand_without_tolerance() -> None:
    # The partition has boundaries in columns 2 and 5; one annotator has 2 alone, the other 2 and 3.
    counts = boundary_counts(columns(3, 6), [columns(3), columns(3, 4)], tolerance=0)
    assert counts.tolist() == [6, 12, 6 + 6, 6 + 12]


def test_a_boundary_of_any_annotator_is_right_and_each_annotator_is_to_be_found() -> None:
    counts = boundary_counts(columns(3, 6), [columns(3), columns(6)], tolerance=0)
    assert counts.tolist() == [12, 12, 12, 12]
    counts = boundary_counts(columns(3), [columns(3), columns(6)], tolerance=0)
    assert counts.tolist() == [6, 6, 6, 12]


def test_the_tolerance_is_a_share_of_the_diagonal() -> None:
    # Six by eight pixels have a diagonal of ten: a tenth of it reaches the next column.
    near, far = [boundary_counts(columns(3), [columns(4)], t)[0] for t in (0.1, 0.0999)]
    assert (near, far) == (6, 0)


def test_thick_boundaries_are_matched_once() -> None:
    counts = boundary_counts(columns(2, 3, 4), [columns(3)], tolerance=0.1)
    assert counts.tolist() == [6, 18, 6, 6]


def test_boundaries_beside_unmarked_pixels_are_not_judged_unless_another_annotator_judges() -> None:
    half = columns(3)
    half[:, 4:] = -1
    counts = boundary_counts(columns(3, 6), [half], tolerance=0)
    assert counts.tolist() == [6, 6, 6, 6]  # column 5 is unmarked
    counts = boundary_counts(columns(3, 6), [half, columns(3)], tolerance=0)
    assert counts.tolist() == [6, 12, 12, 12]


def test_counts_refuse_no_annotator_other_sizes_and_negative_tolerances() -> None:
    with pytest.raises(ValueError, match="expected a target"):
        boundary_counts(columns(3), [])
    with pytest.raises(ValueError, match="tolerance of at least 0, got 1 and -1"):
        boundary_counts(columns(3), [columns(3)], tolerance=-1)
    with pytest.raises(ValueError, match="shape"):
        boundary_counts(columns(3), [columns(3), columns(3)[1:]])


def largest_match(first: np.ndarray, second: np.ndarray, radius: float) -> int:
    """Every way to pair the pixels, tried."""
    left, right = np.argwhere(first).tolist(), np.argwhere(second).tolist()
    if len(left) > len(right):
        left, right = right, left
    return max(
        sum(math.dist(a, b) <= radius for a, b in zip(left, chosen, strict=True))
        for chosen in itertools.permutations(right, len(left))
    )


small = hnp.arrays(bool, (2, 3))


@settings(max_examples=40, deadline=None)
@given(small, small, st.sampled_from([0, 1, 1.5, 2]))
def test_matched_pixels_are_as_many_as_can_be(first, second, radius) -> None:
    pixels = matched(first, second, radius)
    assert len(pixels) == num_matched(first, second, radius)
    assert len(pixels) == largest_match(first, second, radius)
    assert first[tuple(pixels.T)].all()
    assert len(np.unique(pixels, axis=0)) == len(pixels)


def test_with_one_annotator_it_is_boundary_f() -> None:
    rng = np.random.default_rng(0)
    for _ in range(5):
        labels, target = (rng.integers(0, 3, (4, 5)).repeat(4, 0).repeat(4, 1) for _ in range(2))
        labels = np.roll(labels, 1, axis=1)
        counts = boundary_counts(labels, [target], tolerance=0.05)
        assert boundary_fs(counts[None, None]).ods == pytest.approx(
            boundary_f(labels, target, 0.05)
        )


# --- scores of many ------------------------------------------------------------------------------


def test_ods_and_ois_by_hand() -> None:
    # Two images, two thresholds; (right, found, matched, true).
    counts = np.array([[[4, 4, 4, 8], [6, 12, 6, 8]], [[1, 4, 1, 2], [2, 4, 2, 2]]], float)
    # Of all: threshold 0 has P 5/8, R 5/10; threshold 1 has P 8/16, R 8/10.
    # Image 0 is best at 0 (F 2/3 against 3/5), image 1 at 1: together P 6/8, R 6/10.
    found = boundary_fs(counts)
    assert found.ods == pytest.approx(2 * 0.5 * 0.8 / 1.3)
    assert found.ois == pytest.approx(2 * 0.75 * 0.6 / 1.35)
    assert found.best == 1
    assert boundary_fs(np.zeros((1, 2, 4))) == (0, 0, 0)


def test_the_metric_is_the_function_over_images_and_processes() -> None:
    rng = np.random.default_rng(0)
    counts = rng.integers(1, 100, (5, 3, 4)).astype(float)
    metrics = [BoundaryOverScales(3), BoundaryOverScales(3)]
    for number, one in enumerate(counts):
        metrics[number % 2].update(one)
    merged = BoundaryOverScales(3)
    merged.totals = sum(metric.totals for metric in metrics)  # as torchmetrics sums over ranks
    merged.best = sum(metric.best for metric in metrics)
    merged._update_count = 5
    found = merged.compute()
    expected = boundary_fs(counts)
    assert [found[name].item() for name in ("ods", "ois", "scale")] == pytest.approx(list(expected))


# --- trees of drawn scenes -----------------------------------------------------------------------


def test_cuts_of_a_tree_are_counted_as_label_maps_are() -> None:
    image = scene(3)
    image = dataclasses.replace(image, partitions=(*image.partitions, image.partitions[0] // 2))
    found = hierarchy(LabEncoder().features(image.image))
    granularities = GRANULARITIES[::20]
    altitudes = [1 - granularity for granularity in granularities]
    counts = tree_boundary_counts(found.tree, found.superpixel_labels, image, altitudes)
    for row, granularity in zip(counts, granularities, strict=True):
        cut = found.cut(granularity=granularity)
        assert row.tolist() == boundary_counts(cut, image.partitions).tolist()
        assert row[1] == border_pixels(cut).sum()
    coarse = tree_boundary_counts(
        found.tree, found.superpixel_labels, image, altitudes, max_segments=20
    )
    for row, few, altitude in zip(counts, coarse, altitudes, strict=True):
        is_fine = found.tree.groups_at(altitude).max() + 1 > 20
        assert few.tolist() == ([0, 0, 0, row[3]] if is_fine else row.tolist())
    scores = boundary_fs(counts[None])
    assert scores.ods == scores.ois > 0.5
    assert torch.as_tensor(counts).shape == (len(altitudes), 4)
