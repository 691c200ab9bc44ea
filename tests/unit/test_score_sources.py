from __future__ import annotations

import numpy as np
import pytest
import torch
from drawn_images import ON_DISC, ON_GROUND, SIZE, drawn
from sklearn.naive_bayes import GaussianNB
from sklearn.svm import LinearSVC

from maskfeat.features.color import LabEncoder
from maskfeat.features.pyramid import FeaturePyramid
from maskfeat.labeling.classifier import RegionClassifier
from maskfeat.labeling.descriptors import (
    BackboneMaps,
    ColorAndTexture,
    Joined,
    PyramidLevels,
    default_extractor,
    describe,
    extractor_key,
    weights_key,
)
from maskfeat.segment.inputs import RegionReader

HALVES = np.repeat([0, 1], [65, 65])[None].repeat(90, axis=0)


def read_at(maps, place) -> np.ndarray:
    """All channels at a pixel."""
    y, x = place
    return np.concatenate(
        [one[y * len(one) // SIZE[0], x * one.shape[1] // SIZE[1]] for one in maps]
    )


def test_color_and_texture_tells_a_disc_from_the_ground() -> None:
    features = LabEncoder().features(drawn())
    maps = ColorAndTexture(has_place=False)(drawn(), features)
    assert np.abs(read_at(maps, ON_DISC) - read_at(maps, ON_GROUND)).max() > 0.3
    placed = ColorAndTexture()(drawn(), features)[0]
    np.testing.assert_allclose(placed[0, 0, -4:], [-1, -1, 1, 1])
    np.testing.assert_array_equal(placed[..., :-4], maps[0])


def test_every_source_gives_finite_descriptors_of_regions() -> None:
    net = FeaturePyramid().eval()
    features = net.features(drawn())
    reader = RegionReader(HALVES, 2)
    for extractor in (
        default_extractor(net),
        BackboneMaps(net),
        PyramidLevels(),
        ColorAndTexture(),
    ):
        found = describe(extractor(drawn(), features), reader)
        assert len(found) == 2
        assert np.isfinite(found).all()
        assert np.abs(found[0] - found[1]).max() > 1e-6
    assert all(
        len(one) * stride >= SIZE[0]
        for one, stride in zip(BackboneMaps(net)(drawn(), features), (4, 8, 16, 32), strict=True)
    )
    assert not net.training


def test_a_source_is_known_by_its_weights_and_a_function_by_its_name() -> None:
    first, second = FeaturePyramid(), FeaturePyramid()
    assert extractor_key(BackboneMaps(first)) == extractor_key(BackboneMaps(first))
    assert extractor_key(BackboneMaps(first)) != extractor_key(BackboneMaps(second))

    def mine(rgb, features):
        return [rgb[::4, ::4].astype(float)]

    assert "mine" in extractor_key(Joined([mine, PyramidLevels()]))
    both = Joined([mine, PyramidLevels()])(drawn(), LabEncoder().features(drawn()))
    np.testing.assert_array_equal(both[0], mine(drawn(), None)[0])


def test_a_source_that_gives_something_else_is_refused() -> None:
    reader = RegionReader(HALVES, 2)
    with pytest.raises(ValueError, match=r"finite maps of shape \(h, w, C\), got \(3, 4\)"):
        describe([np.zeros((3, 4))], reader)
    with pytest.raises(ValueError, match="finite False"):
        describe([np.full((3, 4, 1), np.nan)], reader)


def blobs(seed: int, std: float, num: int = 600):
    """Three classes around three means in 5 dimensions, from 12 images."""
    rng = np.random.default_rng(seed)
    classes = rng.integers(0, 3, num)
    descriptors = np.eye(5)[classes] * 3 + rng.normal(0, std, (num, 5))
    return descriptors, classes, np.ones(num), np.arange(num) % 12


def test_classes_are_learned_and_their_probabilities_can_be_trusted() -> None:
    model = RegionClassifier(3, class_power=0, strength=1e3)
    train, test = blobs(0, 2.0, 120), blobs(1, 2.0, 4000)
    model.fit(*train)
    chances = model.probabilities(test[0])
    np.testing.assert_allclose(chances.sum(axis=1), 1)
    best = chances.argmax(axis=1)
    assert (best == test[1]).mean() > 0.65
    assert chances.max(axis=1).mean() == pytest.approx((best == test[1]).mean(), abs=0.06)


def test_labels_by_chance_make_the_temperature_rise() -> None:
    descriptors, _, weights, images = blobs(0, 1.0, 120)
    wide = np.random.default_rng(1).normal(size=(120, 80))
    model = RegionClassifier(3, class_power=0, strength=100)
    model.fit(wide, np.random.default_rng(2).integers(0, 3, 120), weights, images)
    hot = model.temperature
    sure = RegionClassifier(3, class_power=0, strength=100)
    sure.fit(*blobs(0, 0.5, 120))
    assert hot > 2 > 1.01 > sure.temperature
    assert len(descriptors) == 120


def test_the_temperature_is_found_as_soon_as_a_third_image_comes() -> None:
    rng = np.random.default_rng(1)
    wide, images = rng.normal(size=(120, 80)), np.repeat([0, 1, 2], [55, 55, 10])
    guesses, weights = rng.integers(0, 3, 120), np.ones(120)
    all_at_once, by_and_by = (RegionClassifier(3, class_power=0, strength=100) for _ in range(2))
    all_at_once.fit(wide, guesses, weights, images)
    for some in (slice(110), slice(120)):  # less than a quarter more
        by_and_by.fit(wide[some], guesses[some], weights[some], images[some])
    assert by_and_by.temperature == all_at_once.temperature > 2


def test_a_refit_ends_where_a_first_fit_does() -> None:
    first, second = blobs(0, 1.0), blobs(3, 1.0)
    warm, cold = RegionClassifier(3), RegionClassifier(3)
    warm.set_scale(first[0])
    cold.set_scale(first[0])
    warm.fit(*first)
    warm.fit(*second)
    cold.fit(*second)
    np.testing.assert_allclose(
        warm.probabilities(first[0]), cold.probabilities(first[0]), atol=0.03
    )


def test_class_weights_help_a_rare_class() -> None:
    descriptors, classes, weights, images = blobs(0, 2.0, 3000)
    kept = (classes != 2) | (np.arange(3000) % 20 == 0)
    shares = []
    for power in (0.0, 1.0):
        model = RegionClassifier(3, class_power=power)
        model.fit(descriptors[kept], classes[kept], weights[kept], images[kept])
        shares.append((model.probabilities(descriptors).argmax(axis=1) == 2).mean())
    assert shares[0] < 0.2 < shares[1]


def test_before_two_classes_are_known_nothing_is_claimed() -> None:
    model = RegionClassifier(3)
    np.testing.assert_allclose(model.probabilities(np.zeros((2, 5))), 1 / 3)
    model.fit(np.zeros((2, 5)), np.array([1, 1]), np.ones(2), np.zeros(2, int))
    assert model.probabilities(np.zeros((1, 5))).argmax() == 1
    model.forget()
    np.testing.assert_allclose(model.probabilities(np.zeros((2, 5))), 1 / 3)


def test_any_classifier_of_scikit_learn_with_probabilities_will_do() -> None:
    model = RegionClassifier(3, estimator=GaussianNB())
    model.fit(*blobs(0, 1.0))
    assert (model.probabilities(blobs(1, 1.0)[0]).argmax(axis=1) == blobs(1, 1.0)[1]).mean() > 0.9
    with pytest.raises(ValueError, match="must have predict_proba, LinearSVC has none"):
        RegionClassifier(3, estimator=LinearSVC())
    with pytest.raises(ValueError, match="num_classes must be at least 2"):
        RegionClassifier(1)
    with pytest.raises(ValueError, match="class_power must lie in"):
        RegionClassifier(2, class_power=2)
    with pytest.raises(ValueError, match="strength must be above 0"):
        RegionClassifier(2, strength=0)
    with pytest.raises(ValueError, match="must have one length"):
        RegionClassifier(2).fit(np.zeros((3, 1)), np.zeros(2, int), np.ones(2), np.zeros(2, int))
    with pytest.raises(ValueError, match="classes must lie in 0 to 1, got 0 to 2"):
        RegionClassifier(2).fit(np.zeros((2, 1)), np.array([0, 2]), np.ones(2), np.zeros(2, int))


def test_a_key_tells_networks_of_equal_weights_apart_by_class_and_settings() -> None:
    class Negated(FeaturePyramid):
        def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
            return [-level for level in super().forward(images)]

    tanh, sigmoid = FeaturePyramid(width=8), FeaturePyramid(width=8, bound="sigmoid")
    negated = Negated(width=8)
    for other in (sigmoid, negated):
        other.load_state_dict(tanh.state_dict())
    assert len({weights_key(net) for net in (tanh, sigmoid, negated)}) == 3
