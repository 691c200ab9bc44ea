from __future__ import annotations

import numpy as np
import pytest
import torch
from click_scenes import VALUES

from maskfeat.features.reading import Features
from maskfeat.interactive.priors import TreePrior
from maskfeat.interactive.segmenter import InteractiveSegmenter
from maskfeat.segment.tree import PartitionTree

# Two sure segments of two superpixels each, {0, 1} and {2, 3}, joined by a root that is none.
PRIOR = TreePrior(
    PartitionTree(
        np.array([4, 4, 5, 5, 6, 6, 6]),
        np.array([0, 0, 0, 0, 0.2, 0.3, 0.9]),
        np.array([1.0, 1, 1, 1, 2, 2, 4]),
    )
)


@pytest.mark.parametrize(
    ("inside", "outside", "wanted"),
    [
        ([0], [], [8, 8, -8, -8]),
        ([0, 0, 1], [], [8, 8, -8, -8]),
        ([1, 2], [], [8, 8, 8, 8]),
        ([0], [3], [1.5, 1.5, -1.5, -1.5]),
        ([0], [1], [1.5, 0, -1.5, -1.5]),  # nobody knows what the rest of the segment is
        ([0, 2], [3], [1.5, 1.5, 1.5, 0]),
        ([0], [0], [1.5, 0, -1.5, -1.5]),
    ],
)
def test_the_segments_that_hold_the_clicks_are_the_object(inside, outside, wanted) -> None:
    logits = PRIOR.logits(np.array(inside, np.int64), np.array(outside, np.int64))
    np.testing.assert_array_equal(logits, np.array(wanted, np.float32))


def test_prompts_that_change_a_mask_are_not_bound_to_their_segments() -> None:
    logits = PRIOR.logits(np.array([0]), np.array([], np.int64), is_change=True)
    np.testing.assert_array_equal(logits, np.array([1.5, 1.5, -1.5, -1.5], np.float32))


def test_many_prompts_count_more_than_the_segments() -> None:
    count = 40  # superpixels, each a segment by itself
    parents = np.minimum(np.arange(2 * count - 1) // 2 + count, 2 * count - 2)
    tree = PartitionTree(parents, np.repeat([0, 0.9], [count, count - 1]), np.ones(2 * count - 1))
    logits = TreePrior(tree).logits(np.arange(12), np.arange(12, 18))
    np.testing.assert_allclose(logits, np.repeat([1 / 3, -1 / 3], [12, count - 12]), rtol=1e-6)


def test_the_first_click_and_the_first_scribble_are_answered_by_their_segment() -> None:
    # Half of each disc lies in a shade of its own: what is near in color is not all of it.
    shade = np.where(np.arange(VALUES.shape[1]) % 50 < 25, 0.3, -0.3)[:, None]
    level = torch.from_numpy((VALUES + shade).transpose(2, 0, 1).astype(np.float32))
    coarse = torch.nn.functional.avg_pool2d(level[None], 2)[0]
    segmenter = InteractiveSegmenter()
    segmenter.set_features(Features([level, coarse], [1, 2], VALUES.shape[:2]))
    segments = segmenter.hierarchy.cut(granularity=0.5)
    for prompt in ([(30, 20)], [(30, column) for column in range(14, 20)]):
        mask = segmenter.predict((), (), scribbles=[(prompt, True)])
        segment = segments == segments[30, 20]
        assert (mask & segment).sum() / (mask | segment).sum() > 0.9


def test_features_that_no_merge_classifier_knows_are_clicked_without_segments() -> None:
    segmenter = InteractiveSegmenter()
    segmenter.set_features(Features.from_dense(VALUES))
    assert segmenter.scene.tree_prior is None
    assert segmenter.predict([[30, 20]], [True])[30, 20]
