"""Distillation: what it costs, what the teacher says, what is saved."""

from __future__ import annotations

import math

import pytest
import torch
from test_local import local_batch
from test_task import Loader, fit

import maskfeat
from maskfeat.features.distill import (
    DistillationLoss,
    boundary_distillation_loss,
    pair_distillation_loss,
    pair_probabilities,
)
from maskfeat.features.losses import MaskConsistencyLoss
from maskfeat.features.pyramid import FeaturePyramid
from maskfeat.features.reading import sample_pyramid
from maskfeat.features.task import FeatureTask
from maskfeat.features.weights import save


def network(seed: int = 0, **settings) -> FeaturePyramid:
    torch.manual_seed(seed)
    return FeaturePyramid("test_efficientnet", width=8, **settings)


def features_of(seed: int) -> torch.Tensor:
    return torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(seed))


def test_pairs_cost_the_divergence_of_a_naive_loop() -> None:
    student, teacher = features_of(0), features_of(1) / 2
    total = 0.0
    for image in range(2):
        for i in range(5):
            for j in range(5):
                if i == j:
                    continue
                p, q = (
                    2 / (1 + math.exp(k * float((f[image, i] - f[image, j]).square().sum()) + 1e-4))
                    for f, k in ((student, 0.7), (teacher, 1.3))
                )
                total += q * math.log(q / p) + (1 - q) * math.log((1 - q) / (1 - p))
    found = pair_distillation_loss(student, 0.7, pair_probabilities(teacher, 1.3))
    assert found.item() == pytest.approx(total / 40, rel=1e-4)


def test_a_student_that_is_the_teacher_has_the_least_cost_and_no_slope() -> None:
    student = features_of(0).requires_grad_()
    target = pair_probabilities(features_of(0), 0.7)
    loss = pair_distillation_loss(student, 0.7, target)
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-5)
    assert student.grad.abs().max() < 1e-4
    for seed in (2, 3):
        other = pair_distillation_loss(features_of(0) + 0.1 * features_of(seed), 0.7, target)
        assert other > loss + 1e-4


def test_boundaries_cost_the_divergence_and_unknown_ones_nothing() -> None:
    logits = torch.tensor([0.3, -1.0, 2.0]).view(1, 1, 1, 3)
    target = torch.tensor([0.5, 0.2, -1.0]).view(1, 1, 1, 3)
    expected = 0.0
    for x, q in ((0.3, 0.5), (-1.0, 0.2)):
        p = 1 / (1 + math.exp(-x))
        expected += q * math.log(q / p) + (1 - q) * math.log((1 - q) / (1 - p))
    found = boundary_distillation_loss(logits, target)
    assert found.item() == pytest.approx(expected / 2, rel=1e-4)
    assert boundary_distillation_loss(logits, logits.sigmoid()).item() == pytest.approx(0, abs=1e-6)


def test_the_teacher_is_read_at_the_same_places_of_every_view() -> None:
    """Views of an image made of blocks: a network that copies pixels sees the same in all."""

    class Copies(FeaturePyramid):
        def maps(self, images):
            right = (images[:, :1, :, :1] * 0).expand(-1, 1, *images.shape[-2:]).clone()
            right[..., :-1] = (images[:, :1, :, 1:] - images[:, :1, :, :-1]).abs() * 20 - 10
            return [images], torch.cat([right, right * 0], dim=1)

    net = Copies(width=8, levels=(0,))
    net.boundary_heads["1"] = torch.nn.Identity()
    images = torch.randint(0, 2, (1, 3, 4, 6), generator=torch.Generator().manual_seed(0)).float()
    images = images.repeat_interleave(8, 2).repeat_interleave(8, 3)
    centers = torch.tensor([[[4, 4], [4, 12], [20, 28], [28, 44]]])
    plain = DistillationLoss(net)
    views = DistillationLoss(net, flip=True, scales=[1.0, 2.0])
    assert len(views.views) == 4
    expected, found = (loss.teach(images, centers)[0] for loss in (plain, views))
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    right = DistillationLoss(net, flip=True).teach(images, centers)[1][:, 0]
    torch.testing.assert_close(right[..., :-1], plain.teach(images, centers)[1][:, 0, :, :-1])
    assert (right[..., -1] == -1).all()


def test_the_task_distills_masks_or_not(tmp_path) -> None:
    teacher = network(1, boundary=True)
    batch = local_batch()
    loss = DistillationLoss(teacher, boundary_weight=0.5, mask_weight=0.3, weight=2.0)
    task = FeatureTask(network(boundary=True), loss)
    task.net.eval()
    found = task._loss(task.net, batch)
    pyramid, logits = task.net.maps(batch["images"])
    features = sample_pyramid(pyramid, task.net.strides, batch["points_yx"])
    pairs, boundaries = loss.teach(batch["images"], batch["points_yx"])
    masks = MaskConsistencyLoss()(
        features, batch["membership"], task.net.scale, batch["points_yx"]
    ).total
    expected = (
        2 * pair_distillation_loss(features, task.net.scale, pairs)
        + 0.5 * boundary_distillation_loss(logits, boundaries)
        + 0.3 * masks
    )
    assert found.total.item() == pytest.approx(expected.item(), rel=1e-4)
    batch["membership"] = batch["membership"][:, :0]  # images without masks
    alone = task._loss(task.net, batch)
    assert alone.parts["masks"] == 0
    assert alone.total.item() == pytest.approx((expected - 0.3 * masks).item(), rel=1e-4)


def test_the_student_comes_near_the_teacher_which_stays_as_it_is(tmp_path) -> None:
    teacher = network(1)
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    loss = DistillationLoss(teacher, mask_weight=0)
    task = FeatureTask(network(0), loss, warmup_steps=2, ema_decay=0, learning_rate=5e-3)
    batch = Loader(1)[0]
    start = task._loss(task.net.train(), batch).total.item()
    fit(task, 25, tmp_path)
    assert task._loss(task.net.train(), batch).total.item() < 0.7 * start
    assert not teacher.training
    assert all(torch.equal(before[name], value) for name, value in teacher.state_dict().items())


def test_checkpoints_hold_no_teacher_and_training_goes_on(tmp_path) -> None:
    save(network(1), tmp_path / "teacher.safetensors")

    def task() -> FeatureTask:
        loss = DistillationLoss(str(tmp_path / "teacher.safetensors"), flip=True)
        return FeatureTask(network(0), loss, warmup_steps=2, ema_decay=0.9)

    plain = FeatureTask(network(0))
    assert task().state_dict().keys() == plain.state_dict().keys()
    first = task()
    fit(first, 2, tmp_path).save_checkpoint(tmp_path / "a.ckpt")
    again = task()
    again.load_state_dict(torch.load(tmp_path / "a.ckpt", weights_only=True)["state_dict"])
    for one, other in zip(first.parameters(), again.parameters(), strict=True):
        assert torch.equal(one, other)
    assert maskfeat.load(tmp_path / "a.ckpt").config == first.net.config


def test_what_cannot_be_distilled_is_said() -> None:
    with pytest.raises(ValueError, match="must not be negative"):
        DistillationLoss(network(), weight=-1)
    with pytest.raises(
        ValueError, match=r"scales must be positive factors, at least one, got \[\]"
    ):
        DistillationLoss(network(), scales=[])
    with pytest.raises(ValueError, match="needs a teacher with a head"):
        DistillationLoss(network(), boundary_weight=1)
    with pytest.raises(ValueError, match="teacher must be a FeaturePyramid, got LabEncoder"):
        DistillationLoss("lab")
    task = FeatureTask(network(), DistillationLoss(network(boundary=True), boundary_weight=1))
    with pytest.raises(ValueError, match=r"needs model.net.init_args.boundary: true"):
        task._loss(task.net.eval(), local_batch())
