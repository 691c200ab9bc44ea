from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from skimage.color import rgb2lab

from maskfeat.batch import ClickTarget, HeldOutImage
from maskfeat.data.heldout import ShardImages
from maskfeat.evaluate.baselines import LabEncoder
from maskfeat.evaluate.metrics import iou
from maskfeat.evaluate.protocol import (
    click_rounds,
    click_score_names,
    num_components,
    partition_score_names,
    pick_target,
    play_clicks,
    score_pairs,
    score_partition,
    summarize_clicks,
)
from maskfeat.features.reading import Features
from maskfeat.segment.interactive import InteractiveSegmenter

COLORS = np.array([[200, 40, 40], [40, 180, 60], [50, 60, 200], [220, 210, 60]], np.uint8)


def four_fields(key: str = "fields", size: int = 48) -> HeldOutImage:
    """Four fields of one color each, a little noise, and their masks."""
    half = np.arange(size) // (size // 2)
    labels = (2 * half[:, None] + half).astype(np.int64)
    noise = np.random.default_rng(0).integers(-6, 7, (size, size, 3))
    image = (COLORS[labels].astype(int) + noise).clip(0, 255).astype(np.uint8)
    return HeldOutImage(key, image, labels == np.arange(4)[:, None, None], (labels,))


class Perfect:
    """Obeys every click by answering the object itself, less one pixel until click 3."""

    def __init__(self, target: np.ndarray) -> None:
        self.target = target
        self.clicks: list[tuple[np.ndarray, np.ndarray]] = []

    def set_image(self, rgb: np.ndarray) -> None:
        assert rgb.dtype == np.uint8

    def predict(self, clicks_yx: np.ndarray, is_positive: np.ndarray) -> np.ndarray:
        self.clicks.append((clicks_yx, is_positive))
        mask = self.target == 1
        if len(clicks_yx) < 3:
            mask = mask.copy()
            mask[tuple(np.argwhere(mask)[len(clicks_yx)])] = False
        return mask


def square_target() -> ClickTarget:
    target = np.zeros((10, 10), np.int8)
    target[2:6, 2:7] = 1  # 20 pixels
    return ClickTarget("square", np.zeros((10, 10, 3), np.uint8), target)


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


def test_the_robot_stops_at_a_right_mask_and_its_iou_is_repeated() -> None:
    target = square_target()
    segmenter = Perfect(target.target)
    assert play_clicks(segmenter, target, max_clicks=6) == [0.95, 0.95, 1, 1, 1, 1]
    assert len(segmenter.clicks) == 3


def test_the_segmenter_is_given_all_clicks_so_far_with_their_signs() -> None:
    target = square_target()
    segmenter = Perfect(target.target)
    rounds = click_rounds(segmenter, target, 5)
    clicks, signs = segmenter.clicks[-1]
    assert clicks.tolist() == [[3, 3], [2, 3], [2, 4]]  # middle, then each missing pixel
    assert signs.tolist() == [True, True, True]
    assert len(rounds) == 5
    assert rounds[-1] is rounds[2]
    assert rounds[0][1].tolist() == [[3, 3]]


def test_a_segmenter_that_never_listens_is_clicked_at_new_places() -> None:
    class Deaf(Perfect):
        def predict(self, clicks_yx, is_positive):
            self.clicks.append((clicks_yx, is_positive))
            return np.zeros((10, 10), bool)

    target = square_target()
    segmenter = Deaf(target.target)
    assert play_clicks(segmenter, target, max_clicks=30) == [0.0] * 30
    places = segmenter.clicks[-1][0].tolist()
    assert len(places) == 20  # every pixel of the object once, then nothing is left to click
    assert len({tuple(place) for place in places}) == 20


def test_a_target_without_object_is_refused() -> None:
    nothing = ClickTarget("nothing", np.zeros((4, 4, 3), np.uint8), np.zeros((4, 4), np.int8))
    with pytest.raises(ValueError, match="'nothing' has no object pixel"):
        play_clicks(Perfect(nothing.target), nothing)
    with pytest.raises(ValueError, match="max_clicks must be at least 1, got 0"):
        play_clicks(Perfect(nothing.target), square_target(), max_clicks=0)


def test_clicks_on_a_field_of_one_color_reach_it() -> None:
    image = four_fields()
    target = pick_target(image)
    assert target is not None
    ious = play_clicks(InteractiveSegmenter(LabEncoder()), target, max_clicks=5)
    assert ious[-1] > 0.9


def test_the_summary_reads_the_right_clicks() -> None:
    ious = [0.1, 0.2, 0.86, 0.4, 0.5, 0.91] + [0.6] * 4 + [0.7] * 10
    assert summarize_clicks(ious) == {
        "noc_85": 3,
        "noc_90": 6,
        "iou_1": 0.1,
        "iou_3": 0.86,
        "iou_5": 0.5,
        "iou_10": 0.6,
        "iou_20": 0.7,
        "iou_mean": pytest.approx(sum(ious) / 20),
    }


def test_a_short_game_counts_its_own_length_as_never() -> None:
    scores = summarize_clicks([0.5] * 4)
    assert scores["noc_85"] == 4
    assert list(scores) == click_score_names(4)
    assert "iou_5" not in scores


def test_picked_targets_are_fair_different_and_always_the_same() -> None:
    image = four_fields()
    speck, whole = np.zeros((2, 48, 48), bool)
    speck[0, 0], whole[:] = True, True
    crowded = HeldOutImage("a", image.image, np.stack([speck, *image.masks, whole]), ())
    picked = [pick_target(crowded, turn) for turn in range(5)]
    assert picked[4] is None  # the speck and the whole image are no objects
    keys = [target.key for target in picked[:4]]
    assert set(keys) == {"a/1", "a/2", "a/3", "a/4"}
    assert keys == [pick_target(crowded, turn).key for turn in range(4)]
    index = int(keys[0].split("/")[1])
    assert iou(crowded.masks[index], picked[0].target) == 1


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
    with pytest.raises(ValueError, match="scale and sigma must be positive"):
        LabEncoder(sigma=0)


@pytest.mark.real
def test_lab_tells_pairs_of_photographs_and_smooth_lab_tells_more(tmp_path: Path) -> None:
    folder = Path(__file__).resolve().parents[2] / "shared" / "data" / "bsds500"
    if not folder.is_dir():
        pytest.skip("the photographs of BSDS500 are not beside the repository")
    images = ShardImages(str(folder / "val-*.tar"), num_images=12, index_dir=tmp_path)

    def mean_auc(encoder: LabEncoder) -> float:
        scores = [score_pairs(encoder.features(i.image), i, num_pairs=4000) for i in images]
        return float(np.mean([score["auc"] for score in scores]))

    lab = mean_auc(LabEncoder())
    assert 0.78 < lab < 0.92  # 0.848 on 50 of them
    assert mean_auc(LabEncoder(sigma=2.0)) > lab
