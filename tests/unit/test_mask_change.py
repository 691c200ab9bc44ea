"""How likely superpixels are to change their label for a prompt."""

from __future__ import annotations

import math

import numpy as np
import pytest

from maskfeat.features.lab import LabEncoder
from maskfeat.interactive.evidence import SUPERPIXEL_FEATURES
from maskfeat.interactive.mask_change import CHANGE_FEATURES, MaskChangeReader, RefinementStep
from maskfeat.interactive.prompts import Prompt, radius_of_octave
from maskfeat.segment.mlp import Mlp
from maskfeat.segment.superpixels import superpixels

SIZE = (48, 60)
RGB = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), dtype=np.uint8)
GRAPH = superpixels(LabEncoder(sigma=1.0).features(RGB), 26_000)
ALL = slice(0, SIZE[0]), slice(0, SIZE[1])


def net_of(**weights: float) -> Mlp:
    """A network whose logits are about a sum of features, by their first words, and of `bias`."""
    count = len(CHANGE_FEATURES)
    first = np.zeros((1, count), np.float32)
    bias = np.full(1, weights.pop("bias", 0.0) / 1e3, np.float32)
    for name, weight in weights.items():
        first[0, CHANGE_FEATURES.index(name)] = weight
    # No input is clipped, and tanh is about linear.
    spread, zero = np.full(count, 1e3, np.float32), np.zeros(1, np.float32)
    last, one = np.full((1, 1), 1e3, np.float32), np.ones((1, 1), np.float32)
    return Mlp(
        CHANGE_FEATURES, np.zeros(count, np.float32), spread, (first, one, last), (bias, zero, zero)
    )


BY_PROMPTS = np.random.default_rng(1).normal(size=(len(SUPERPIXEL_FEATURES), GRAPH.num_superpixels))


def half() -> np.ndarray:
    mask = np.zeros(SIZE, bool)
    mask[:, :30] = True
    return mask


def superpixels_of(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """All superpixels, and whether each is the object: where most of it is."""
    share = np.bincount(GRAPH.labels.ravel(), mask.ravel(), GRAPH.num_superpixels) / GRAPH.sizes
    return np.arange(GRAPH.num_superpixels), share > 0.5


@pytest.mark.parametrize("to_object", [True, False])
def test_what_is_measured_is_what_a_naive_search_finds(to_object: bool) -> None:
    below = half()
    columns = (41, 20) if to_object else (11, 40)  # one wrong, one that the mask obeys
    prompt = Prompt(np.array([[22, columns[0]]]), to_object, 12.0)
    satisfied = Prompt(np.array([[30, columns[1]]]), to_object, 12.0)
    step = RefinementStep(below, [prompt, satisfied], 5)
    asked = np.flatnonzero(superpixels_of(below)[1] != to_object)
    logits = np.linspace(-3, 3, len(asked)).astype(np.float32)
    reader = MaskChangeReader(net_of(), GRAPH)
    found = reader.click_features(logits, BY_PROMPTS[:, asked], asked, to_object, step, [ALL])
    click_radius, root = radius_of_octave(prompt.octave), math.sqrt(SIZE[0] * SIZE[1])
    others = np.argwhere(below == to_object)
    for superpixel, odd, values in zip(asked, logits, found.T, strict=True):
        known = dict(zip(CHANGE_FEATURES, values, strict=True))
        pixels = np.argwhere(GRAPH.labels == superpixel)
        distance = np.hypot(*(pixels.mean(axis=0) - prompt.pixels_yx[0]))
        region = [below[tuple(pixel)] != to_object for pixel in pixels]
        depths = [
            np.hypot(*(others - pixel).T).min() if inside else 0.0
            for pixel, inside in zip(pixels, region, strict=True)
        ]
        depth = np.mean(depths) + 0.5
        assert known["logit of the change, by all prompts"] == odd * (1 if to_object else -1)
        assert known["the change is to the object"] == (1 if to_object else -1)
        assert known["log distance to the prompt, by its click radius"] == pytest.approx(
            math.log((distance + 0.5) / click_radius), abs=1e-4
        )
        assert known["log depth under the outline, by the click radius"] == pytest.approx(
            math.log(depth / click_radius), abs=1e-4
        )
        assert known["log depth under the outline, of the image"] == pytest.approx(
            math.log(depth / root), abs=1e-4
        )
        assert known["log click radius, of the image"] == pytest.approx(
            math.log(click_radius / root)
        )
        assert known["log number of prompts"] == pytest.approx(math.log(5))
        assert known["log share of the image that has the label"] == pytest.approx(
            math.log(0.5), abs=1e-3
        )
        assert known["log click radius, of the object"] == pytest.approx(
            math.log(click_radius / math.sqrt(below.sum()))
        )
        by_prompts = dict(zip(SUPERPIXEL_FEATURES, BY_PROMPTS[:, superpixel], strict=True))
        sides = ("object", "background") if to_object else ("background", "object")
        for side, label in zip(sides, ("new", "old"), strict=True):
            assert known[f"prompts of the {label} label: feature distance"] == pytest.approx(
                by_prompts[f"{side}: feature distance"], abs=1e-5
            )
        ratio = by_prompts["object against background: distance in the image"]
        assert known["new against old label: distance in the image"] == pytest.approx(
            ratio if to_object else -ratio, abs=1e-5
        )
        assert known["under a salient node"] == pytest.approx(
            by_prompts["under a salient node"], abs=1e-5
        )


def test_what_no_prompt_is_about_keeps_its_label() -> None:
    below = half()
    everyone, is_object = superpixels_of(below)
    step = RefinementStep(below, [Prompt(np.array([[22, 40]]), True, 10.0)], 2)
    logits = np.zeros(len(everyone), np.float32)
    for bias, mask_change in ((5.0, True), (-5.0, False)):
        reader = MaskChangeReader(net_of(bias=bias), GRAPH)
        revised = reader.revised(logits, BY_PROMPTS, everyone, is_object, step, [ALL])
        assert (revised[is_object] > 4).all()
        assert ((revised[~is_object] > 0) == mask_change).all()


def test_prompts_of_both_signs_change_what_they_are_about() -> None:
    below = half()
    everyone, is_object = superpixels_of(below)
    prompts = [Prompt(np.array([[22, 40]]), True, 10.0), Prompt(np.array([[22, 20]]), False, 10.0)]
    near = MaskChangeReader(
        net_of(**{"log distance to the prompt, by its click radius": -9.0}), GRAPH
    )
    logits = np.zeros(len(everyone), np.float32)
    revised = near.revised(
        logits, BY_PROMPTS, everyone, is_object, RefinementStep(below, prompts, 3), [ALL]
    )
    changed = (revised > 0) != is_object
    wrong = np.where(is_object[:, None], [22, 20], [22, 40])  # the prompt that is about each
    distance = np.hypot(*(GRAPH.centroids_yx - wrong).T)
    click_radius = radius_of_octave(prompts[0].octave)
    clear = np.abs(distance - click_radius) > 1
    np.testing.assert_array_equal(changed[clear], (distance < click_radius)[clear])


def test_a_mask_of_one_label_has_a_depth_too() -> None:
    below = np.zeros(SIZE, bool)
    step = RefinementStep(below, [Prompt(np.array([[22, 40]]), True, 10.0)], 1)
    everyone, _ = superpixels_of(below)
    reader = MaskChangeReader(net_of(), GRAPH)
    logits = np.zeros(len(everyone), np.float32)
    assert np.isfinite(reader.click_features(logits, BY_PROMPTS, everyone, True, step, [ALL])).all()
