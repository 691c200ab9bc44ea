from __future__ import annotations

import numpy as np
import pytest
from click_scenes import GRAPH, TRUTH

from maskfeat.labeling.click_log import Click
from maskfeat.labeling.examples import (
    LabeledSuperpixels,
    labeled_superpixels,
    superpixel_at,
    with_clicks,
)
from maskfeat.labeling.image_store import PreparedImage
from maskfeat.segment.hierarchy import hierarchy
from maskfeat.segment.score_cut import cut_costs

DESCRIPTORS = np.zeros((GRAPH.num_superpixels, 1), np.float16)
IMAGE = PreparedImage(
    GRAPH, cut_costs(GRAPH), hierarchy(GRAPH, merge_classifier=None).tree, DESCRIPTORS, (60, 100)
)


def click(row: int, column: int, number: int, granularity: float = 0.7) -> Click:
    return Click(0, row, column, number, granularity, None)


def said(numbers: list[int], credence: list[list[float]]) -> LabeledSuperpixels:
    none = np.zeros(len(credence[0]))
    regions = [np.zeros(0, int)] * len(numbers)
    return LabeledSuperpixels(
        none > 0, none.astype(int), regions, np.array(numbers), np.array(credence)
    )


def test_clicks_and_classifier_are_mixed_as_by_hand() -> None:
    chances = np.full((3, 2), 0.5)
    # No click near; one of class 1, sure by .8; both near, by .8 and .5: odds 4 and 1.
    found = with_clicks(chances, said([1, 0, 1], [[0, 0.8, 0.8], [0, 0, 0.5], [0, 0.3, 0.2]]))
    expected = [[0.5, 0.5], [0.1, 0.9], [0.1 + 0.8 * 0.2, 0.1 + 0.8 * 0.8]]
    np.testing.assert_allclose(found, expected)


def test_without_clicks_the_classifier_alone_decides() -> None:
    chances = np.random.default_rng(0).dirichlet(np.ones(3), GRAPH.num_superpixels)
    np.testing.assert_array_equal(with_clicks(chances, labeled_superpixels(IMAGE, [])), chances)


def test_credence_is_the_square_of_the_probability_of_the_smallest_common_node() -> None:
    clicks = [click(30, 25, 1), click(5, 50, 0)]
    labeled = labeled_superpixels(IMAGE, clicks)
    assert labeled.region_classes.tolist() == [1, 0]
    for one, credence in zip(clicks, labeled.credence, strict=True):
        superpixel = superpixel_at(IMAGE, one.row, one.column)
        assert credence[superpixel] == 1
        own_path = IMAGE.tree.ancestors(superpixel)
        for other in range(0, GRAPH.num_superpixels, 17):
            common = np.intersect1d(own_path, IMAGE.tree.ancestors(other)).min()
            assert credence[other] == pytest.approx((1 - IMAGE.tree.altitudes[common]) ** 2)


def test_a_click_counts_for_its_object_more_than_beyond_it() -> None:
    credence = labeled_superpixels(IMAGE, [click(30, 25, 1)]).credence[0][GRAPH.labels]
    assert credence[TRUTH == 1].mean() > 5 * credence[TRUTH != 1].mean()


def test_the_order_of_clicks_is_nothing() -> None:
    clicks = [click(30, 25, 1), click(5, 50, 0), click(30, 72, 2), click(33, 20, 1)]
    chances = np.random.default_rng(0).dirichlet(np.ones(3), GRAPH.num_superpixels)
    found = with_clicks(chances, labeled_superpixels(IMAGE, clicks))
    np.testing.assert_allclose(found.sum(axis=1), 1)
    np.testing.assert_array_equal(
        found, with_clicks(chances, labeled_superpixels(IMAGE, clicks[::-1]))
    )
