"""Networks fused for inference give the same features, and are not taken for others."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import maskfeat
from maskfeat.features import weights
from maskfeat.features.cache import model_digest
from maskfeat.features.folding import fold_norms
from maskfeat.features.pyramid import FeaturePyramid

RGB = np.random.default_rng(0).integers(0, 256, (70, 90, 3)).astype(np.uint8)


def num_norms(net: nn.Module) -> int:
    return sum(isinstance(part, nn.BatchNorm2d) for part in net.modules())


def with_random_norms(net: nn.Module) -> nn.Module:
    generator = torch.Generator().manual_seed(1)
    for part in net.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.running_mean.normal_(generator=generator)
            part.running_var.uniform_(0.5, 2, generator=generator)
            part.weight.data.uniform_(0.5, 1.5, generator=generator)
    return net.eval()


@pytest.mark.parametrize("backbone", ["efficientvit_b0", "resnet18", "mobilenetv4_conv_small"])
def test_a_fused_network_has_the_same_features_and_no_norms(backbone: str) -> None:
    torch.manual_seed(0)
    net = with_random_norms(FeaturePyramid(backbone, boundary=True))
    fused = net.fused()
    assert num_norms(net) > 20
    assert num_norms(fused) == 0
    features, found = net.features(RGB), fused.features(RGB)
    for old, new in zip(features.pyramid, found.pyramid, strict=True):
        torch.testing.assert_close(new, old, atol=1e-4, rtol=0)
    torch.testing.assert_close(found.boundary_logits, features.boundary_logits, atol=1e-3, rtol=0)


def test_a_convolution_and_its_norm_become_one_worked_by_hand() -> None:
    net = nn.Sequential(nn.Conv2d(1, 1, 1, bias=False), nn.BatchNorm2d(1, eps=0)).eval()
    net[0].weight.data.fill_(3)
    net[1].running_mean.fill_(1)
    net[1].running_var.fill_(4)
    fold_norms(net, lambda: [net(torch.ones(1, 1, 2, 2))])
    assert isinstance(net[1], nn.Identity)
    assert net[0].weight.item() == 1.5
    assert net[0].bias.item() == -0.5


class TwoReaders(nn.Module):
    """A norm and a sum read what the convolution gives."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Tensor:
        found = self.conv(x)
        return self.norm(found) + found


def test_a_norm_stays_where_something_else_reads_its_convolution() -> None:
    net = with_random_norms(TwoReaders())
    x = torch.randn(1, 3, 5, 5)
    before = net(x)
    fold_norms(net, lambda: [net(x)])
    assert num_norms(net) == 1
    torch.testing.assert_close(net(x), before, atol=0, rtol=0)


def test_a_norm_that_is_run_twice_stays() -> None:
    norm = nn.BatchNorm2d(3)
    net = with_random_norms(nn.Sequential(nn.Conv2d(3, 3, 1), norm, nn.Conv2d(3, 3, 1), norm))
    x = torch.randn(1, 3, 5, 5)
    fold_norms(net, lambda: [net(x)])
    assert net[1] is net[3] is norm


def test_what_is_kept_of_a_network_serves_the_fused_one() -> None:
    net = maskfeat.load()
    assert model_digest(net.fused()) == model_digest(net.fused().fuse()) == model_digest(net)


def test_fused_weights_are_not_saved(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="save the network that it was made from"):
        weights.save(maskfeat.load().fused(), tmp_path / "fused.safetensors")
    assert not list(tmp_path.iterdir())
