"""Several masks for a click: nested, told apart, best first, and true to every click."""

from __future__ import annotations

import numpy as np
import pytest

import maskfeat
from maskfeat.features.reading import Features
from maskfeat.interactive.candidates import candidates
from maskfeat.interactive.prompts import Prompt
from maskfeat.segment.hierarchy import Hierarchy
from maskfeat.segment.tree import PartitionTree


def nested_hierarchy() -> Hierarchy:
    """Four columns of superpixels: {0, 1} is a part of {0, 1, 2}, the rest is column 3."""
    labels = np.repeat(np.array([[0, 1, 2, 3]], np.int32), [2, 2, 6, 10], axis=1).repeat(10, 0)
    parents = np.array([4, 4, 5, 6, 5, 6, 6])
    altitudes = np.array([0, 0, 0, 0, 0.1, 0.4, 0.95])
    sizes = np.bincount(labels.ravel())
    return Hierarchy(labels, PartitionTree.of_merges(parents, altitudes, sizes))


def clicks(pixels: list[list[int]], labels: list[int]) -> list[Prompt]:
    return [Prompt(np.array([p]), label == 1) for p, label in zip(pixels, labels, strict=True)]


def test_the_predicted_iou_is_the_expectation_over_granularities() -> None:
    hierarchy = nested_hierarchy()
    labels = hierarchy.superpixel_labels
    whole = labels <= 2

    found = candidates(hierarchy, whole, clicks([[0, 0]], [1]), 3)

    # Meant: superpixel 0 (20 pixels) 0.1, {0, 1} (40) 0.3, {0, 1, 2} (100) 0.55, of 0.95.
    expected = np.array([0.1 * 0.2 + 0.3 * 0.4 + 0.55, 0.1 * 0.5 + 0.3 + 0.55 * 0.4]) / 0.95
    ious = [one.predicted_iou for one in found]
    np.testing.assert_allclose(ious[:2], expected, atol=1e-4)
    np.testing.assert_array_equal(found[0].mask, whole)
    np.testing.assert_array_equal(found[1].mask, labels <= 1)
    assert ious == sorted(ious, reverse=True)


def test_with_a_decoder_the_predicted_iou_is_that_with_its_probabilities() -> None:
    hierarchy = nested_hierarchy()
    labels = hierarchy.superpixel_labels
    logits = np.where(labels <= 1, 9.0, np.where(labels == 2, 0.0, -99.0)).astype(np.float32)

    found = candidates(hierarchy, labels == 0, clicks([[0, 0]], [1]), 3, logits)

    # Expected pixels: 40 of {0, 1}, 30 of superpixel 2.
    expected = {2: 70 / 100, 1: 40 / 70, 0: 20 / 70}
    assert [one.predicted_iou for one in found] == pytest.approx(list(expected.values()), abs=1e-3)
    for one, last in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one.mask, labels <= last)


def test_no_segment_with_a_background_click_is_offered() -> None:
    hierarchy = nested_hierarchy()
    labels = hierarchy.superpixel_labels

    found = candidates(hierarchy, labels == 0, clicks([[0, 0], [0, 5]], [1, 0]), 3)

    assert len(found) == 2
    assert not any(one.mask[labels == 2].any() for one in found)


def test_every_candidate_of_a_segmenter_satisfies_the_clicks() -> None:
    rng = np.random.default_rng(0)
    colors = rng.normal(0, 0.02, (60, 80, 3)).astype(np.float32)
    colors[10:50, 10:60] += 0.3
    colors[20:40, 20:40] += 0.3
    segmenter = maskfeat.InteractiveSegmenter()
    segmenter.set_features(Features.from_dense(colors, scale=20.0))

    found = segmenter.predict_candidates([[30, 30], [5, 70]], [True, False])

    assert 2 <= len(found) <= 3
    for one in found:
        assert one.mask[30, 30]
        assert not one.mask[5, 70]
        assert 0 <= one.predicted_iou <= 1
    predicted = segmenter.predict([[30, 30], [5, 70]], [True, False])
    assert any((one.mask == predicted).all() for one in found)
    assert len(segmenter.predict_candidates([[30, 30]], [True], num_masks=1)) == 1
    with pytest.raises(ValueError, match="num_masks"):
        segmenter.predict_candidates([[30, 30]], [True], num_masks=0)
