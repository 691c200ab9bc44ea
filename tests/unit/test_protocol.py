from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from drawn_images import four_fields
from skimage.color import rgb2lab

from maskfeat.batch import HeldOutImage
from maskfeat.data.heldout import ShardImages
from maskfeat.evaluate.protocol import (
    num_components,
    partition_score_names,
    score_pairs,
    score_partition,
)
from maskfeat.features.color import LabEncoder
from maskfeat.features.reading import Features


def test_features_that_know_the_fields_get_them_exactly() -> None:
    image = four_fields()
    features = Features.from_dense(np.eye(4)[image.partitions[0]])
    scores = score_partition(features, image, [4])
    assert scores == {
        "asa_4": 1,
        "boundary_recall_4": 1,
        "covering_4": 1,
        "components_4": 4,
    }


def test_scores_are_the_mean_over_annotators() -> None:
    image = four_fields()
    whole = np.zeros_like(image.partitions[0])
    two = HeldOutImage("two", image.image, image.masks, (image.partitions[0], whole))
    features = Features.from_dense(np.eye(4)[image.partitions[0]])
    scores = score_partition(features, two, [4])
    assert scores["asa_4"] == 1
    assert scores["covering_4"] == pytest.approx((1 + 1 / 4) / 2)
    assert scores["boundary_recall_4"] == 1  # the second annotator has no border to find


def test_score_names_are_those_of_the_scores() -> None:
    image = four_fields()
    scores = score_partition(LabEncoder().features(image.image), image, [4, 9])
    assert set(scores) == set(partition_score_names([4, 9]))


def test_an_image_without_a_true_partition_is_refused() -> None:
    image = four_fields()
    empty = HeldOutImage("empty", image.image, image.masks, ())
    with pytest.raises(ValueError, match="'empty' has no true partition"):
        score_partition(LabEncoder().features(image.image), empty, [4])


def test_features_of_another_image_are_refused() -> None:
    features = LabEncoder().features(four_fields(size=40).image)
    with pytest.raises(ValueError, match="same size"):
        score_partition(features, four_fields(), [4])


def test_pairs_of_an_image_depend_on_its_key_and_the_seed_alone() -> None:
    image = four_fields()
    lab = LabEncoder().features(image.image)
    noisy = Features.from_dense(np.random.default_rng(1).normal(size=(48, 48, 2)))
    first = score_pairs(noisy, image, num_pairs=500)
    score_pairs(lab, four_fields("other"), num_pairs=500)
    assert score_pairs(noisy, image, num_pairs=500) == first
    assert score_pairs(noisy, image, num_pairs=500, seed=1) != first
    assert score_pairs(noisy, four_fields("other"), num_pairs=500) != first
    assert score_pairs(lab, image)["auc"] == 1


def test_components_are_counted_by_sides_not_corners() -> None:
    assert num_components(np.array([[0, 1], [1, 0]])) == 4
    assert num_components(np.array([[0, 0, 1], [1, 0, 1], [1, 1, 1]])) == 2
    assert num_components(np.array([[3]])) == 1


def test_lab_features_are_lab_over_one_hundred() -> None:
    image = four_fields().image
    features = LabEncoder(scale=3.0).features(image)
    np.testing.assert_allclose(features.dense(), rgb2lab(image) / 100, atol=1e-6)
    assert features.scale == 3.0
    white = LabEncoder().features(np.full((2, 2, 3), 255, np.uint8)).dense()
    np.testing.assert_allclose(white[0, 0], [1, 0, 0], atol=1e-3)


def test_smoothing_takes_noise_out_of_lab_features() -> None:
    image = four_fields().image
    rough = LabEncoder().features(image).dense()[4:20, 4:20].std(axis=(0, 1))
    smooth = LabEncoder(sigma=2.0).features(image).dense()[4:20, 4:20].std(axis=(0, 1))
    assert (smooth < 0.4 * rough).all()


def test_lab_refuses_what_is_no_rgb() -> None:
    with pytest.raises(ValueError, match="rgb must be a uint8 array"):
        LabEncoder().features(np.zeros((4, 4, 3)))
    with pytest.raises(ValueError, match="sigma must be a finite number above 0, got 0"):
        LabEncoder(sigma=0)


@pytest.mark.real
def test_lab_tells_pairs_of_images_and_smooth_lab_tells_more(tmp_path: Path) -> None:
    folder = Path(__file__).resolve().parents[3] / "shared" / "data" / "bsds500"
    if not folder.is_dir():
        pytest.skip("the images of BSDS500 are not beside the repository")
    images = ShardImages(str(folder / "val-*.tar"), num_images=12, index_dir=tmp_path)

    def mean_auc(encoder: LabEncoder) -> float:
        scores = [score_pairs(encoder.features(i.image), i, num_pairs=4000) for i in images]
        return float(np.mean([score["auc"] for score in scores]))

    lab = mean_auc(LabEncoder())
    assert 0.78 < lab < 0.92  # 0.848 on 50 of them
    assert mean_auc(LabEncoder(sigma=2.0)) > lab
