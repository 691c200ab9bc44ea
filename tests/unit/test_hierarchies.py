"""Scores of hierarchies, alone and by the callback."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from test_callbacks import LabTask, Scenes, scene, trainer

from maskfeat.evaluate.hierarchies import (
    BOUNDARY_GRANULARITIES,
    GRANULARITIES,
    HierarchyEvaluation,
    score_hierarchy,
    tree_boundary_counts,
)
from maskfeat.evaluate.metrics import boundary_fs, covering, variation_of_information
from maskfeat.features.color import LabEncoder
from maskfeat.segment.hierarchy import Hierarchy, hierarchy


def lab_hierarchy(image) -> Hierarchy:
    return hierarchy(LabEncoder().features(image.image))


def test_curves_are_the_scores_of_the_cuts() -> None:
    image = scene(3)
    found = lab_hierarchy(image)
    scores = score_hierarchy(found, image, granularities=[0.9, 0.5, 0.1])
    cuts = [found.cut(granularity=g) for g in (0.9, 0.5, 0.1)]
    (target,) = image.partitions
    np.testing.assert_allclose(
        scores.curves["covering"], [covering(cut, target) for cut in cuts], rtol=1e-12
    )
    np.testing.assert_allclose(
        scores.curves["voi"], [variation_of_information(cut, target) for cut in cuts], atol=1e-9
    )
    assert scores.singles["segments_at_half"] == cuts[1].max() + 1
    assert scores.singles["covering_own_level"] == max(scores.curves["covering"])
    assert scores.singles["covering_any_node"] >= max(scores.curves["covering"])
    assert scores.singles["ar_10"] <= scores.singles["ar_100"] <= scores.singles["ar_1000"]


def test_annotators_are_averaged_and_the_median_one_is_recalled() -> None:
    image = scene(3)
    halves = np.arange(40)[:, None].repeat(40, 1) // 20
    quarters = halves * 2 + halves.T
    both = dataclasses.replace(image, partitions=(quarters, *image.partitions, halves))
    found = lab_hierarchy(image)
    one_each = [
        score_hierarchy(found, dataclasses.replace(image, partitions=(p,))) for p in both.partitions
    ]
    scores = score_hierarchy(found, both)
    np.testing.assert_allclose(
        scores.curves["pri"], np.mean([one.curves["pri"] for one in one_each], axis=0)
    )
    # 4, 2 and 2 segments: the second annotator with two is the median.
    assert scores.singles["ar_1000"] == one_each[2].singles["ar_1000"]


def test_an_image_without_true_partitions_is_refused() -> None:
    image = scene(0)
    with pytest.raises(ValueError, match="has no true partition"):
        score_hierarchy(lab_hierarchy(image), dataclasses.replace(image, partitions=()))


def test_the_callback_logs_the_best_common_and_the_best_own_granularity(tmp_path) -> None:
    callback = HierarchyEvaluation(num_images=3)
    trainer(tmp_path, [callback]).fit(LabTask(), datamodule=Scenes(3))
    events = EventAccumulator(str(tmp_path / "run"))
    events.Reload()
    logged = {
        tag.removeprefix("val/hierarchy/"): events.Scalars(tag)[-1].value
        for tag in events.Tags()["scalars"]
        if tag.startswith("val/hierarchy/")
    }
    curves = [
        score_hierarchy(hierarchy(LabTask().features(image.image)), image).curves
        for image in map(scene, range(3))
    ]
    coverings = np.array([curve["covering"] for curve in curves])
    assert logged["covering_ods"] == pytest.approx(coverings.mean(0).max(), abs=1e-6)
    assert logged["covering_ois"] == pytest.approx(coverings.max(1).mean(), abs=1e-6)
    best = np.abs(np.array(GRANULARITIES) - logged["covering_granularity"]).argmin()
    assert coverings.mean(0)[best] == pytest.approx(coverings.mean(0).max(), abs=1e-6)
    voi = np.array([curve["voi"] for curve in curves])
    assert logged["voi_ods"] == pytest.approx(voi.mean(0).min(), abs=1e-6)
    counts = np.stack(
        [
            tree_boundary_counts(
                found.tree,
                found.superpixel_labels,
                image,
                [1 - granularity for granularity in BOUNDARY_GRANULARITIES],
            )
            for image in map(scene, range(3))
            for found in [hierarchy(LabTask().features(image.image))]
        ]
    )
    best = boundary_fs(counts)
    assert logged["boundary_f_ods"] == pytest.approx(best.ods, abs=1e-6)
    assert logged["boundary_f_ois"] == pytest.approx(best.ois, abs=1e-6)
