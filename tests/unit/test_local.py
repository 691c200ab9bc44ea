"""Losses of nearby pixels and of boundaries, the head, and where it is used."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from test_task import fit, quadrants_batch, small_task
from torch.nn.functional import softplus

import maskfeat
from maskfeat.features.cache import FeatureCache, model_digest
from maskfeat.features.local import agreement, boundary_loss, local_pairs_loss
from maskfeat.features.losses import mask_consistency_loss
from maskfeat.features.pyramid import FeaturePyramid
from maskfeat.features.reading import Features
from maskfeat.features.task import FeatureTask
from maskfeat.features.weights import save
from maskfeat.segment.superpixels import graph_of_labels

# --- losses --------------------------------------------------------------------------------------


def random_pairs(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    first, second = torch.randn(2, 2, 7, 3, generator=generator, dtype=torch.float64)
    similarity = torch.tensor([[1, 0, 0.5, -1, 0.2, 1, 0], [0, 0, 0, -1, -1, -1, 0.75]])
    return first, second, similarity.double()


def test_local_pairs_cost_what_a_naive_loop_says() -> None:
    first, second, similarity = random_pairs()
    expected = 0.0
    for image in range(2):
        pull = push = pull_weight = push_weight = 0.0
        for n in range(7):
            s = float(similarity[image, n])
            if s < 0:
                continue
            d2 = float((first[image, n] - second[image, n]).square().sum())
            p = 2 / (1 + math.exp(0.7 * d2 + 1e-4))
            pull, pull_weight = pull - s * math.log(p), pull_weight + s
            push, push_weight = push - (1 - s) * math.log(1 - p), push_weight + 1 - s
        expected += (pull / pull_weight + push / push_weight) / 2 / 2
    found = local_pairs_loss(first, second, similarity, scale=0.7)
    assert found.item() == pytest.approx(expected, rel=1e-5)


def test_local_pairs_are_the_mask_consistency_of_two_points() -> None:
    features = torch.randn(1, 2, 3, generator=torch.Generator().manual_seed(1))
    membership = torch.tensor([[[1, 1], [0, 1]]], dtype=torch.bool)
    whole = mask_consistency_loss(features, membership, 0.7).total
    local = local_pairs_loss(features[:, :1], features[:, 1:], torch.tensor([[0.5]]), 0.7)
    assert local.item() == pytest.approx(whole.item(), rel=1e-5)


def test_slopes_of_local_pairs_are_those_of_small_steps() -> None:
    first, second, similarity = random_pairs()
    scale = torch.tensor(0.7, requires_grad=True)
    leaves = [first.float().requires_grad_(), second.float().requires_grad_(), scale]
    local_pairs_loss(leaves[0], leaves[1], similarity.float(), scale).backward()
    for leaf in leaves:
        with torch.no_grad():
            index = (0,) * leaf.ndim
            old, step, values = leaf[index].item(), 1e-2, []
            for value in (old + step, old - step):
                leaf[index] = value
                loss = local_pairs_loss(leaves[0], leaves[1], similarity.float(), leaves[2])
                values.append(loss.item())
            leaf[index] = old
        assert leaf.grad[index] == pytest.approx((values[0] - values[1]) / 2 / step, abs=2e-3)


def test_pixels_that_coincide_across_a_border_have_a_finite_slope() -> None:
    first = torch.zeros(1, 1, 3, requires_grad=True)
    loss = local_pairs_loss(first, torch.zeros(1, 1, 3), torch.zeros(1, 1), 1.0)
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(first.grad).all()


def test_boundaries_cost_what_a_naive_loop_says() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 2, 3, 4, generator=generator)
    boundary = torch.randint(-1, 3, (2, 2, 3, 4), generator=generator) / 2
    boundary[boundary < 0] = -1
    expected = 0.0
    for image in range(2):
        sums = np.zeros(4)
        places = zip(logits[image].flatten(), boundary[image].flatten(), strict=True)
        for x, b in ((float(x), float(b)) for x, b in places):
            if b < 0:
                continue
            p = 1 / (1 + math.exp(-x))
            sums += [-b * math.log(p), b, -(1 - b) * math.log(1 - p), 1 - b]
        expected += (sums[0] / sums[1] + sums[2] / sums[3]) / 2 / 2
    assert boundary_loss(logits, boundary).item() == pytest.approx(expected, rel=1e-5)


def test_slopes_of_boundaries_are_exact_and_unknown_ones_have_none() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(1, 2, 3, 3, generator=generator, requires_grad=True)
    boundary = torch.randint(-1, 2, (1, 2, 3, 3), generator=generator).float()
    boundary_loss(logits, boundary).backward()
    p = logits.detach().sigmoid()
    one, zero = (boundary == 1).float(), (boundary == 0).float()
    expected = (p - 1) * one / one.sum() / 2 + p * zero / zero.sum() / 2
    torch.testing.assert_close(logits.grad, expected)
    nothing = boundary_loss(logits, torch.full_like(boundary, -1))
    assert nothing.item() == 0


def two_annotators(columns: tuple[int, int]) -> torch.Tensor:
    """Boundaries of two annotators who each draw one line, down a map of 9 x 12 pixels."""
    boundary = torch.zeros(1, 2, 9, 12)
    for column in columns:
        boundary[:, 0, :, column] += 1
    return 2 * boundary / (2 + boundary)  # 2 K / (N + K)


def test_annotators_agree_where_their_lines_are_at_most_two_pixels_apart() -> None:
    for columns, expected in (((4, 4), 1.0), ((4, 5), 1.0), ((4, 6), 1.0), ((2, 9), 0.5)):
        agreed = agreement(two_annotators(columns))[0, 0]
        for column in columns:
            assert agreed[4, column].item() == pytest.approx(expected)
    unknown = torch.full((1, 2, 9, 12), -1.0)
    assert (agreement(unknown) == 0).all()


def test_what_too_few_annotators_have_drawn_is_left_out() -> None:
    logits = torch.randn(1, 2, 9, 12, generator=torch.Generator().manual_seed(0))
    boundary = two_annotators((2, 9))  # each line by one of two; rows at the rim have less around
    boundary[:, 0, :, 4] = -1
    rest = softplus(logits[boundary == 0]).mean() / 2
    assert boundary_loss(logits, boundary, 0.6).item() == pytest.approx(rest.item(), rel=1e-5)
    weights = torch.tensor([0.3, 0.4, 0.5, 0.5, 0.5, 0.5, 0.5, 0.4, 0.3])
    for consensus, counted in ((0.2, weights > 0), (0.35, weights > 0.35)):
        weight = (weights * counted)[:, None]
        costs = softplus(-logits[0, 0, :, [2, 9]])
        found = (costs * weight).sum() / (2 * weight.sum()) / 2
        total = boundary_loss(logits, boundary, consensus).item()
        assert total == pytest.approx((found + rest).item(), rel=1e-5)


# --- the head, and its use -----------------------------------------------------------------------


def test_the_head_adds_two_maps_of_the_size_of_the_image_and_leaves_the_rest_alone() -> None:
    nets = []
    for boundary in (False, True):
        torch.manual_seed(0)
        nets.append(FeaturePyramid(width=8, boundary=boundary).eval())
    images = torch.randn(2, 3, 45, 50)
    pyramid, logits = nets[1].maps(images)
    assert logits.shape == (2, 2, 45, 50)
    assert nets[0].maps(images)[1] is None
    for plain, withhead, forward in zip(nets[0](images), pyramid, nets[1](images), strict=True):
        assert torch.equal(plain, withhead)
        assert torch.equal(plain, forward)


def test_channels_of_the_finest_level_can_be_set_alone() -> None:
    net = FeaturePyramid(width=8, levels=(0, 1, 2), finest_channels=3).eval()
    assert [level.shape[1] for level in net(torch.randn(1, 3, 32, 32))] == [3, 4, 16]
    with pytest.raises(ValueError, match="finest_channels must be"):
        FeaturePyramid(width=8, finest_channels=0)


def test_borders_have_the_mean_predicted_probability_and_distances_stay() -> None:
    level = torch.zeros(1, 3, 4)
    level[0, :, 2:] = 2.0
    logits = torch.full((2, 3, 4), -30.0)
    logits[0, 1, 1] = math.log(3)  # right of pixel (1, 1), with probability 3/4
    features = Features([level], [1], (3, 4), 0.5, logits)
    labels = np.array([[0, 0, 1, 1]] * 2 + [[2, 2, 1, 1]])
    graph = graph_of_labels(features, labels)
    assert graph.edges.tolist() == [[0, 1], [0, 2], [1, 2]]
    assert graph.boundary_probabilities.tolist() == pytest.approx([3 / 8, 0, 0], abs=1e-6)
    assert graph.boundary_strengths.tolist() == [4, 0, 4]
    plain = Features([level], [1], (3, 4), 0.5)
    assert graph_of_labels(plain, labels).boundary_probabilities is None


def test_logits_that_are_no_numbers_are_refused() -> None:
    with pytest.raises(ValueError, match="features must be finite"):
        Features([torch.zeros(1, 2, 2)], [1], (2, 2), 1.0, torch.full((2, 2, 2), math.nan))


def test_a_network_with_the_head_is_saved_loaded_and_cached_with_its_boundaries(tmp_path) -> None:
    torch.manual_seed(0)
    net = FeaturePyramid(width=8, boundary=True, finest_channels=2)
    save(net, tmp_path / "net.safetensors", dtype=torch.float32)
    loaded = maskfeat.load(tmp_path / "net.safetensors")
    rgb = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    found = loaded.features(rgb)
    assert found.boundary_logits.shape == (2, 40, 50)
    torch.testing.assert_close(found.boundary_logits, net.eval().features(rgb).boundary_logits)
    cache = FeatureCache(tmp_path / "cache", loaded)
    for _ in range(2):
        kept = cache.features(rgb).boundary_logits
        torch.testing.assert_close(kept, found.boundary_logits, atol=1e-3, rtol=1e-3)


def test_weights_and_digests_of_networks_without_the_head_are_what_they_were() -> None:
    net = FeaturePyramid(width=8)
    assert net.features(np.zeros((32, 32, 3), np.uint8)).boundary_logits is None
    digest = model_digest(net)
    del net.config["boundary"], net.config["finest_channels"], net.config["color"]
    assert model_digest(net) == digest


def test_a_network_with_the_head_can_start_from_weights_without_it(tmp_path) -> None:
    torch.manual_seed(0)
    save(FeaturePyramid(width=8), tmp_path / "plain.safetensors", dtype=torch.float32)
    task = FeatureTask(
        FeaturePyramid(width=8, boundary=True), start_from=str(tmp_path / "plain.safetensors")
    )
    plain = maskfeat.load(tmp_path / "plain.safetensors")
    assert torch.equal(task.net.heads[0].weight, plain.heads[0].weight)
    with pytest.raises(ValueError, match="finest_channels 3"):
        FeatureTask(
            FeaturePyramid(width=8, finest_channels=3),
            start_from=str(tmp_path / "plain.safetensors"),
        )


# --- training ------------------------------------------------------------------------------------


def local_batch(**settings) -> dict:
    """The quadrants of `test_task`, with pairs across their borders and the map of these."""
    batch = quadrants_batch(**settings)
    size, count = batch["images"].shape[-1], len(batch["images"])
    middle = size // 2
    first = torch.tensor([[8, middle - 1], [8, 8], [middle + 8, 9]])
    second = torch.tensor([[8, middle], [8, 10], [middle + 9, 9]])
    boundary = torch.zeros(count, 2, size, size)
    boundary[:, 0, :, middle - 1] = boundary[:, 1, middle - 1] = 1
    boundary[:, 0, :, -1] = boundary[:, 1, -1] = -1
    return batch | {
        "pairs_yx": torch.stack([first, second]).expand(count, -1, -1, -1),
        "pair_similarity": torch.tensor([[0.0, 1.0, 1.0]]).expand(count, -1),
        "boundary": boundary,
    }


def test_the_task_adds_both_terms_by_their_weights() -> None:
    torch.manual_seed(0)
    net = FeaturePyramid(width=8, boundary=True)
    plain, both = FeatureTask(net), FeatureTask(net, local_weight=0.3, boundary_weight=0.2)
    batch = local_batch()
    expected, found = (task._loss(net.eval(), batch) for task in (plain, both))
    terms = 0.3 * found.parts["local"] + 0.2 * found.parts["boundary"]
    assert found.total.item() == pytest.approx((expected.total + terms).item(), rel=1e-5)
    logits = net.maps(batch["images"])[1]
    direct = boundary_loss(logits, batch["boundary"])
    assert found.parts["boundary"].item() == pytest.approx(direct.item(), rel=1e-5)


def test_training_learns_the_boundaries(tmp_path) -> None:
    torch.manual_seed(0)
    task = FeatureTask(
        FeaturePyramid(width=8, boundary=True), boundary_weight=1.0, warmup_steps=2, ema_decay=0
    )
    batch = local_batch()
    optimizer = torch.optim.AdamW(task.parameters(), lr=5e-3)
    losses = []
    for _ in range(25):
        loss = task._loss(task.net, batch)
        optimizer.zero_grad()
        loss.total.backward()
        optimizer.step()
        losses.append(loss.parts["boundary"].item())
    assert losses[-1] < 0.6 * losses[0]
    assert all(head.weight.grad.abs().sum() > 0 for head in task.net.boundary_heads.values())


def test_what_a_term_needs_is_said(tmp_path) -> None:
    with pytest.raises(ValueError, match=r"boundary_weight needs model.net.init_args.boundary"):
        FeatureTask(FeaturePyramid(width=8), boundary_weight=0.5)
    with pytest.raises(ValueError, match="must not be negative, got -1"):
        FeatureTask(FeaturePyramid(width=8), local_weight=-1)
    with pytest.raises(ValueError, match=r"boundary_consensus must lie in \[0, 1\], got 2"):
        FeatureTask(FeaturePyramid(width=8), boundary_consensus=2)
    with pytest.raises(ValueError, match=r"local_weight needs data.examples.num_pairs above 0"):
        fit(small_task(local_weight=0.5), 1, tmp_path)
    net = FeaturePyramid(width=8, boundary=True)
    with pytest.raises(ValueError, match=r"boundary_weight needs data.examples.boundaries: true"):
        fit(FeatureTask(net, boundary_weight=0.5), 1, tmp_path)
