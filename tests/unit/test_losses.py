"""The losses against naive loops and answers worked by hand."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from maskfeat.features.losses import (
    MaskConsistencyLoss,
    discriminative_loss,
    mask_consistency_loss,
    pair_distances,
    pair_similarity,
)


def random_case(seed, batch=2, points=7, masks=4, channels=3):
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(batch, points, channels, generator=generator, dtype=torch.float32)
    membership = torch.rand(batch, masks, points, generator=generator) < 0.4
    return features, membership


def naive_consistency(features, membership, scale, points_yx=None, locality_px=math.inf):
    """The docstring of `mask_consistency_loss`, as a double loop in float64, with `pull_far`."""
    per_image = []
    places = points_yx if points_yx is not None else torch.zeros(*features.shape[:2], 2)
    for f, held, at in zip(
        features.double().tolist(), membership.tolist(), places.tolist(), strict=True
    ):
        sums = {"similar": [0.0, 0.0], "dissimilar": [0.0, 0.0]}
        for p in range(len(f)):
            for q in range(len(f)):
                masks_p = {m for m, row in enumerate(held) if row[p]}
                masks_q = {m for m, row in enumerate(held) if row[q]}
                if p == q or not masks_p | masks_q:
                    continue
                if masks_p != masks_q and math.dist(at[p], at[q]) > locality_px:
                    continue
                s = len(masks_p & masks_q) / len(masks_p | masks_q)
                d2 = sum((a - b) ** 2 for a, b in zip(f[p], f[q], strict=True))
                prob = 2 / (1 + math.exp(scale * d2 + 1e-4))
                sums["similar"][0] += s * -math.log(prob)
                sums["similar"][1] += s
                sums["dissimilar"][0] += (1 - s) * -math.log(1 - prob)
                sums["dissimilar"][1] += 1 - s
        halves = [total / weight if weight else 0.0 for total, weight in sums.values()]
        per_image.append(sum(halves) / 2)
    return sum(per_image) / len(per_image)


def test_similarity_of_nested_masks_falls_from_subpart_to_part_to_object() -> None:
    # Points: two in the same subpart, one in the same part, one in the same object, one outside.
    masks = torch.tensor(
        [[1, 1, 0, 0, 0], [1, 1, 1, 0, 0], [1, 1, 1, 1, 0], [0, 0, 0, 0, 1]], dtype=torch.bool
    )
    similarity, union = pair_similarity(masks.unsqueeze(0))
    assert similarity[0, 0].tolist() == pytest.approx([1, 1, 2 / 3, 1 / 3, 0])
    assert union[0, 0].tolist() == [3, 3, 3, 3, 4]


@pytest.mark.parametrize("scale", [0.3, 1.0, 4.0])
def test_consistency_loss_is_that_of_a_double_loop(scale: float) -> None:
    features, membership = random_case(seed=1)
    loss = mask_consistency_loss(features, membership, scale)
    assert loss.total.item() == pytest.approx(
        naive_consistency(features, membership, scale), rel=1e-4
    )


def test_far_pairs_do_not_count_under_a_locality() -> None:
    features, membership = random_case(seed=2, batch=1, points=4)
    points = torch.tensor([[[0, 0], [0, 5], [100, 0], [100, 5]]])
    near = mask_consistency_loss(features, membership, 1.0, points, locality_px=10).total
    # Only the pairs (0, 1) and (2, 3) count; moving the two groups apart changes nothing ...
    points[:, 2:] += 1000
    again = mask_consistency_loss(features, membership, 1.0, points, locality_px=10).total
    assert near.item() == again.item()
    # ... and moving their features apart neither.
    features[:, 2:] += 7.0
    moved = mask_consistency_loss(features, membership, 1.0, points, locality_px=10).total
    assert moved.item() == pytest.approx(near.item(), rel=1e-4)


def test_far_points_of_the_same_masks_count_where_they_are_asked_to() -> None:
    features, membership = random_case(seed=4, batch=3, points=30, masks=3)
    points = torch.randint(0, 50, (3, 30, 2), generator=torch.Generator().manual_seed(0))
    found = [
        mask_consistency_loss(features, membership, 1.0, points, 12, pull_far=far).total.item()
        for far in (True, False)
    ]
    assert found[0] == pytest.approx(
        naive_consistency(features, membership, 1.0, points, 12), rel=1e-4
    )
    assert found[1] != pytest.approx(found[0], rel=1e-2)


def test_gradients_are_those_of_finite_differences() -> None:
    features, membership = random_case(seed=3)

    def loss(values: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        # The functions compute in float32; float64 copies of their formulas are not theirs.
        return mask_consistency_loss(values, membership, scale).total

    scale = torch.tensor(0.7, requires_grad=True)
    features.requires_grad_(True)
    loss(features, scale).backward()
    for index in [(0, 0, 0), (1, 3, 2), (0, 6, 1)]:
        step = torch.zeros_like(features)
        step[index] = 1e-2
        with torch.no_grad():
            slope = (loss(features + step, scale) - loss(features - step, scale)) / 2e-2
        assert features.grad is not None
        assert features.grad[index].item() == pytest.approx(slope.item(), abs=2e-3)


def test_equal_features_of_different_objects_give_a_finite_gradient() -> None:
    features = torch.zeros(1, 4, 3, requires_grad=True)
    membership = torch.tensor([[[1, 1, 0, 0], [0, 0, 1, 1]]], dtype=torch.bool)
    loss = mask_consistency_loss(features, membership, 1.0)
    loss.total.backward()
    assert torch.isfinite(loss.total)
    assert features.grad is not None
    assert torch.isfinite(features.grad).all()


def test_points_in_no_mask_and_empty_images_cost_nothing() -> None:
    features = torch.randn(1, 5, 3, requires_grad=True)
    loss = mask_consistency_loss(features, torch.zeros(1, 2, 5, dtype=torch.bool), 1.0)
    assert loss.total.item() == 0
    loss.total.backward()
    assert features.grad is not None
    assert features.grad.abs().max() == 0


@given(st.integers(0, 10_000))
@settings(max_examples=25, deadline=None)
def test_neither_the_order_of_masks_nor_of_points_matters(seed: int) -> None:
    features, membership = random_case(seed)
    generator = torch.Generator().manual_seed(seed + 1)
    points = torch.randperm(features.shape[1], generator=generator)
    masks = torch.randperm(membership.shape[1], generator=generator)
    for function in (lambda f, m: mask_consistency_loss(f, m, 1.0), discriminative_loss):
        plain = function(features, membership).total
        shuffled = function(features[:, points], membership[:, masks][:, :, points]).total
        assert plain.item() == pytest.approx(shuffled.item(), rel=1e-4, abs=1e-6)


def test_distances_are_exact_far_from_the_origin() -> None:
    near = torch.tensor([[[100.0, 0.0], [100.0, 0.01], [100.03, 0.0]]])
    assert pair_distances(near)[0, 0].tolist() == pytest.approx([0, 1e-4, 9e-4], rel=1e-2)


def test_discriminative_loss_by_hand() -> None:
    # Mask A: points at 0 and 2 on a line, mean 1. Mask B: both at 2.5. Delta_v 0.5, delta_d 1.
    features = torch.tensor([[[0.0], [2.0], [2.5], [2.5]]])
    membership = torch.tensor([[[1, 1, 0, 0], [0, 0, 1, 1], [0, 0, 0, 0]]], dtype=torch.bool)
    loss = discriminative_loss(features, membership, 0.5, 1.0, 0.1)
    pull = (0.25 + 0) / 2  # A: both points 1 from the mean, 0.5 over the margin
    push = 0.5**2  # means 1.5 apart, 2 asked
    norm = (1 + 2.5) / 2
    assert loss.parts["pull"].item() == pytest.approx(pull, rel=1e-3)
    assert loss.parts["push"].item() == pytest.approx(push, rel=1e-3)
    assert loss.total.item() == pytest.approx(pull + push + 0.1 * norm, rel=1e-3)


def test_discriminative_loss_does_not_push_a_part_from_its_object() -> None:
    features = torch.zeros(1, 4, 2)
    nested = torch.tensor([[[1, 1, 1, 1], [1, 1, 0, 0]]], dtype=torch.bool)
    assert discriminative_loss(features, nested).parts["push"].item() == 0


def test_mismatched_points_are_refused() -> None:
    with pytest.raises(ValueError, match="same batch size and number of points"):
        mask_consistency_loss(torch.zeros(1, 4, 2), torch.zeros(1, 2, 5, dtype=torch.bool))
    with pytest.raises(ValueError, match="locality_px needs points_yx"):
        mask_consistency_loss(
            torch.zeros(1, 4, 2), torch.ones(1, 2, 4, dtype=torch.bool), locality_px=3
        )


def test_gradients_are_those_of_autograd_on_the_formula() -> None:
    torch.manual_seed(3)
    features = torch.randn(2, 9, 4, dtype=torch.float64, requires_grad=True)
    scale = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    membership = torch.rand(2, 5, 9) < 0.4
    s, union = pair_similarity(membership)
    counted = (union > 0) & ~torch.eye(9, dtype=torch.bool)
    d2 = (features.unsqueeze(1) - features.unsqueeze(2)).square().sum(-1)
    p = 2 / (1 + torch.exp(scale * d2 + 1e-4))
    expected = torch.zeros((), dtype=torch.float64)
    for image in range(2):
        similar, dissimilar = (s * counted)[image], ((1 - s) * counted)[image]
        off = ~torch.eye(9, dtype=torch.bool)
        attract = (similar * -p[image].log())[off].sum() / similar.sum()
        repel = (dissimilar * -(1 - p[image]).log())[off].sum() / dissimilar.sum()
        expected = expected + (attract + repel) / 4
    wanted = torch.autograd.grad(expected, (features, scale))

    single = features.detach().float().requires_grad_()
    single_scale = scale.detach().float().requires_grad_()
    total = mask_consistency_loss(single, membership, single_scale).total
    got = torch.autograd.grad(total * 3, (single, single_scale))
    torch.testing.assert_close(total.double(), expected, rtol=1e-5, atol=1e-6)
    for ours, theirs in zip(got, wanted, strict=True):
        torch.testing.assert_close(ours.double(), 3 * theirs, rtol=1e-4, atol=1e-6)


def test_balance_lets_components_count_by_their_number_and_not_by_their_points() -> None:
    torch.manual_seed(0)
    component = torch.tensor([0, 0, 0, 0, 1, 1, 2, 2, 2])
    membership = (component == torch.arange(3).unsqueeze(1)).unsqueeze(0)
    features = torch.randn(1, 9, 2)
    loss = mask_consistency_loss(features, membership, graded=False, balance=1)
    d2 = (features[0].unsqueeze(0) - features[0].unsqueeze(1)).square().sum(-1)
    costs = -(1 - 2 / (1 + torch.exp(d2 + 1e-4))).log()
    means = [
        costs[component == a][:, component == b].mean()
        for a, b in ((0, 1), (0, 2), (1, 2))  # each pair of components once
    ]
    assert loss.parts["dissimilar"].item() == pytest.approx(sum(means).item() / 3, rel=1e-4)
    with pytest.raises(ValueError, match=r"balance must lie in \[0, 1\], got 2"):
        MaskConsistencyLoss(balance=2)


def test_softness_bounds_the_cost_of_dissimilar_points_that_coincide() -> None:
    membership = torch.eye(2, dtype=torch.bool).unsqueeze(0)
    features = torch.zeros(1, 2, 1)
    loss = mask_consistency_loss(features, membership, softness=0.5)
    expected = -math.log(1 - 2 / (1 + math.exp(0.5)))
    assert loss.parts["dissimilar"].item() == pytest.approx(expected, rel=1e-5)
    with pytest.raises(ValueError, match="softness must be positive, got 0"):
        MaskConsistencyLoss(softness=0)
