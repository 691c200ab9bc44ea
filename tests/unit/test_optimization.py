"""Groups of weights, the schedule, averaged weights."""

import math

import pytest
import torch
from torch import nn

from maskfeat.features.optimization import averaged_copy, warmup_cosine, weight_groups
from maskfeat.features.pyramid import FeaturePyramid


def test_the_learning_rate_rises_then_falls_to_its_share() -> None:
    share = warmup_cosine(warmup_steps=10, total_steps=110, final_share=0.1)
    assert share(0) == pytest.approx(1 / 11)
    assert share(10) == pytest.approx(1.0)
    assert share(60) == pytest.approx(0.1 + 0.9 * 0.5)
    assert share(110) == share(500) == pytest.approx(0.1)
    assert warmup_cosine(10, math.inf, 0.1)(10_000) == 1


def test_each_weight_is_in_one_group_and_only_matrices_decay() -> None:
    net = FeaturePyramid(width=8, levels=(0, 1))
    groups = weight_groups(net, nn.Linear(2, 1), rate=0.1, backbone_rate=0.5, weight_decay=0.02)
    found = [id(p) for group in groups for p in group["params"]]
    backbone = {id(p) for p in net.backbone.parameters()}
    assert len(found) == len(set(found))
    assert {id(p) for p in net.parameters()} <= set(found)
    for group in groups[:-1]:
        is_slow = {id(p) in backbone for p in group["params"]}
        assert len(is_slow) == 1
        assert group["lr"] == pytest.approx(0.05 if is_slow.pop() else 0.1)
        assert {p.ndim >= 2 for p in group["params"]} == {group["weight_decay"] > 0}
    assert groups[-1]["weight_decay"] == 0


def test_a_young_average_follows_faster_than_an_old_one() -> None:
    net = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(net.weight)
    averaged = averaged_copy(net, decay=0.99)
    with torch.no_grad():
        net.weight.fill_(1.0)
    kept = 1.0
    averaged.update_parameters(net)  # the first one copies
    net.weight.data.fill_(2.0)
    for number in range(1, 4):
        averaged.update_parameters(net)
        kept *= min(0.99, (1 + number) / (10 + number))
    assert averaged.module.weight.item() == pytest.approx(2 - kept)
