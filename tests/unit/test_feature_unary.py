"""The unary term without a decoder: signs, sets of clicks, and what a click corrects."""

from __future__ import annotations

import numpy as np
from click_scenes import GRAPH, TRUTH, VALUES

from maskfeat.interactive.feature_unary import FeatureUnary
from maskfeat.interactive.prompts import Prompt, PromptSet
from maskfeat.segment.hierarchy import hierarchy

TREE = hierarchy(GRAPH, merge_classifier=None).tree


def click(row: int, column: int, is_object: bool, radius: float = np.inf) -> Prompt:
    return Prompt(np.array([[row, column]]), is_object, radius)


def unary(is_learned: bool = False) -> FeatureUnary:
    return FeatureUnary(GRAPH, TREE, is_learned, VALUES.astype(np.float32) / 10)


def test_the_logit_of_a_superpixel_is_that_of_the_formula() -> None:
    logits = unary().whole(PromptSet([click(30, 25, True), click(3, 3, False)]))

    inside, outside = GRAPH.labels[30, 25], GRAPH.labels[3, 3]
    for place in ((30, 72), (30, 48), (10, 60)):
        i = GRAPH.labels[place]
        expected = 0.0
        for j, sign in ((inside, 1), (outside, -1)):
            d2 = GRAPH.scale * ((GRAPH.features[i] - GRAPH.features[j]) ** 2).sum()
            d2 += 16 * ((GRAPH.centroids_yx[i] - GRAPH.centroids_yx[j]) ** 2).sum() / TRUTH.size
            p = 2 / (1 + np.exp(d2))
            logit = np.clip(np.log(p / (1 - p)), -6, 6)
            expected += logit if sign > 0 else -max(logit, 0)
        np.testing.assert_allclose(logits[place], expected, rtol=1e-3, atol=1e-3)
    assert logits[30, 25] > 4
    assert logits[3, 3] < -4


def test_the_tree_counts_for_learned_features_alone() -> None:
    given = PromptSet([click(30, 25, True)])
    difference = unary(is_learned=True).whole(given) - unary().whole(given)
    p = 1 - TREE.altitudes[TREE.meeting_nodes(int(GRAPH.labels[30, 25]))]
    with np.errstate(divide="ignore"):
        expected = np.clip(np.log(p) - np.log1p(-p), -6, 6)
    np.testing.assert_allclose(difference, expected[GRAPH.labels], atol=1e-4)


def test_clicks_are_a_set() -> None:
    clicks = [click(30, 25, True), click(30, 72, True), click(3, 3, False), click(30, 48, False)]
    used = unary(is_learned=True)
    used.whole(PromptSet(clicks[:2]))
    np.testing.assert_array_equal(
        used.whole(PromptSet([*clicks[::-1], clicks[0]])),
        unary(is_learned=True).whole(PromptSet(clicks)),
    )


def test_a_click_on_the_background_raises_no_logit() -> None:
    used, inside = unary(is_learned=True), [click(30, 25, True)]
    before = used.whole(PromptSet(inside))
    for place in ((3, 3), (30, 72), (30, 48)):
        assert (used.whole(PromptSet([*inside, click(*place, False)])) <= before).all()


def test_a_box_and_a_mask_stand_for_what_they_hold() -> None:
    disc = TRUTH == 1
    of_mask = unary().whole(PromptSet([], None, disc)) > 0
    of_box = unary().whole(PromptSet([], (15, 10, 45, 40))) > 0
    for found in (of_mask, of_box):
        assert (found & disc).sum() / (found | disc).sum() > 0.8


def test_a_correction_follows_what_looks_like_the_prompt() -> None:
    mask = np.zeros(TRUTH.shape, bool)
    mask[15:45, 10:25] = True  # half of the left disc, and some ground
    prompt = click(30, 32, True, 7.0)
    window = slice(10, 50), slice(15, 48)

    change = unary().around(prompt, PromptSet([prompt], None, mask), window)

    assert change[30 - 10, 32 - 15] > 3
    missed = (TRUTH == 1)[window] & ~mask[window]
    ground = (TRUTH == 0)[window]
    assert change[missed].mean() > change[ground].mean() + 2
    removed = click(30, 32, False, 7.0)
    np.testing.assert_array_equal(
        unary().around(removed, PromptSet([removed], None, ~mask), window), -change
    )
