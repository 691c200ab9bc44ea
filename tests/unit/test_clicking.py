from __future__ import annotations

import numpy as np
import pytest
from drawn_images import four_fields

from maskfeat.batch import ClickTarget, HeldOutImage
from maskfeat.evaluate.clicking import (
    IOU_CLICKS,
    ClicksWithRadius,
    Step,
    click_score_names,
    order_iou,
    pick_target,
    run_session,
    session_ious,
    summarize_clicks,
)
from maskfeat.evaluate.metrics import iou
from maskfeat.evaluate.simulated_users import random_click
from maskfeat.features.color import LabEncoder
from maskfeat.features.reading import Features
from maskfeat.interactive.segmenter import InteractiveSegmenter


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


def test_the_user_stops_at_a_right_mask_and_its_iou_is_repeated() -> None:
    target = square_target()
    segmenter = Perfect(target.target)
    assert session_ious(segmenter, target, max_clicks=6) == [0.95, 0.95, 1, 1, 1, 1]
    assert len(segmenter.clicks) == 3


def test_the_segmenter_is_given_all_clicks_so_far_with_their_signs() -> None:
    target = square_target()
    segmenter = Perfect(target.target)
    steps = run_session(segmenter, target, 5)
    clicks, signs = segmenter.clicks[-1]
    assert clicks.tolist() == [[3, 3], [2, 3], [2, 4]]  # middle, then each missing pixel
    assert signs.tolist() == [True, True, True]
    assert len(steps) == 3
    assert steps[0].clicks_yx.tolist() == [[3, 3]]


def test_a_segmenter_that_never_listens_is_clicked_at_new_places() -> None:
    class Deaf(Perfect):
        def predict(self, clicks_yx, is_positive):
            self.clicks.append((clicks_yx, is_positive))
            return np.zeros((10, 10), bool)

    target = square_target()
    segmenter = Deaf(target.target)
    assert session_ious(segmenter, target, max_clicks=30) == [0.0] * 30
    places = segmenter.clicks[-1][0].tolist()
    assert len(places) == 20  # every pixel of the object once, then nothing is left to click
    assert len({tuple(place) for place in places}) == 20


def test_a_target_without_object_is_refused() -> None:
    nothing = ClickTarget("nothing", np.zeros((4, 4, 3), np.uint8), np.zeros((4, 4), np.int8))
    with pytest.raises(ValueError, match="'nothing' has no object pixel"):
        session_ious(Perfect(nothing.target), nothing)
    with pytest.raises(ValueError, match="max_clicks must be at least 1, got 0"):
        session_ious(Perfect(nothing.target), square_target(), max_clicks=0)


def test_clicks_on_a_field_of_one_color_click_radius_it() -> None:
    image = four_fields()
    target = pick_target(image)
    assert target is not None
    ious = session_ious(InteractiveSegmenter(LabEncoder()), target, max_clicks=5)
    assert ious[-1] > 0.9


def test_the_summary_reads_the_right_clicks() -> None:
    ious = [0.1, 0.2, 0.86, 0.4, 0.5, 0.91] + [0.6] * 4 + [0.7] * 10
    assert summarize_clicks(ious) == {
        "noc_80": 3,
        "noc_85": 3,
        "noc_90": 6,
        "noc_95": 20,
        "iou_1": 0.1,
        "iou_3": 0.86,
        "iou_5": 0.5,
        "iou_10": 0.6,
        "iou_20": 0.7,
        "iou_mean": pytest.approx(sum(ious) / 20),
    }


def test_a_short_session_counts_its_own_length_as_never() -> None:
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
    assert pick_target(crowded, shares=(0.0, 0.005)).key == "a/0"  # the speck alone
    assert pick_target(crowded, 1, shares=(0.0, 0.005)) is None


def test_a_long_session_is_read_at_fifty_and_a_hundred_clicks() -> None:
    scores = summarize_clicks([n / 100 for n in range(1, 101)])
    assert [scores[f"iou_{n}"] for n in IOU_CLICKS] == [n / 100 for n in IOU_CLICKS]
    assert scores["noc_95"] == 95


def test_steps_are_not_repeated_after_an_early_stop_but_ious_are() -> None:
    target = square_target()
    assert len(run_session(Perfect(target.target), target, 9)) == 3
    assert len(session_ious(Perfect(target.target), target, 9)) == 9


def clicks_of(target: ClickTarget, seed: int) -> list[list[int]]:
    class Deaf(Perfect):
        def predict(self, clicks_yx, is_positive):
            return np.zeros(self.target.shape, bool)

    steps = run_session(Deaf(target.target), target, 6, random_click, seed)
    return steps[-1].clicks_yx.tolist()


def test_a_random_user_is_the_same_for_a_seed_and_key_and_another_for_others() -> None:
    target = square_target()
    first = clicks_of(target, seed=3)
    assert clicks_of(target, seed=3) == first
    assert clicks_of(target, seed=4) != first
    assert clicks_of(ClickTarget("other", target.image, target.target), seed=3) != first


def test_order_iou_is_one_for_those_who_do_not_care_and_less_for_those_who_do() -> None:
    class First(Perfect):
        """Prompts what lies above the click that came first."""

        def predict(self, clicks_yx, is_positive):
            return np.arange(10)[:, None] < np.full(10, clicks_yx[0, 0])

    clicks_yx, signs = np.array([[2, 0], [8, 0]]), np.array([True, True])
    careless, careful = Perfect(square_target().target), First(square_target().target)
    rng = np.random.default_rng(0)
    mask = careless.predict(clicks_yx, signs)
    assert order_iou(careless, Step(mask, clicks_yx, signs), rng) == 1
    mask = careful.predict(clicks_yx, signs)
    found = {order_iou(careful, Step(mask, clicks_yx, signs), rng) for _ in range(20)}
    assert found == {1.0, 0.25}  # as it was; 2 of 8 rows


def test_clicks_with_click_radius_give_one_mask_in_any_order_and_sessions_start_afresh() -> None:
    rows, columns = np.mgrid[:48, :64]
    disc = (rows - 24) ** 2 + (columns - 32) ** 2 < 300
    noise = np.random.default_rng(0).normal(size=(48, 64, 1))
    image = np.where(disc[..., None], [190, 80, 60], [60, 90, 150]) + 25 * noise
    target = ClickTarget("disc", image.clip(0, 255).astype(np.uint8), disc.astype(np.int8))
    segmenter = ClicksWithRadius(InteractiveSegmenter(LabEncoder()))
    sessions = [run_session(segmenter, target, 6, random_click, seed=1) for _ in range(2)]
    for one, other in zip(*sessions, strict=True):
        np.testing.assert_array_equal(one.mask, other.mask)
    assert len(sessions[0]) > 2
    assert order_iou(segmenter, sessions[1][-1], np.random.default_rng(0)) == 1
    # The same as when the segmenter keeps the clicks itself.
    own = InteractiveSegmenter(LabEncoder())
    own.set_image(target.image)
    last = sessions[0][-1]
    for (row, column), sign in zip(last.clicks_yx.tolist(), last.is_positive, strict=True):
        mask = own.click(row, column, bool(sign))
    np.testing.assert_array_equal(mask, last.mask)


def test_an_image_that_is_set_is_not_prepared_again() -> None:
    class Counted(LabEncoder):
        calls = 0

        def features(self, rgb: np.ndarray) -> Features:
            self.calls += 1
            return super().features(rgb)

    encoder = Counted()
    segmenter = ClicksWithRadius(InteractiveSegmenter(encoder))
    image = four_fields().image
    for rgb in (image, image.copy(), 255 - image, image):
        segmenter.set_image(rgb)
        assert segmenter.predict(np.array([[3, 4]]), np.array([True]))[3, 4]
    assert encoder.calls == 3
