"""Which timm networks can be a backbone, and where their maps lie."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from maskfeat.features.pyramid import FeaturePyramid
from maskfeat.labeling.descriptors import BackboneMaps


@pytest.mark.parametrize(
    ("backbone", "multiple"),
    [
        ("mobilevitv2_050", 64),  # enlarges its coarsest map where a side of it is odd
        ("mambaout_femto", 32),  # its maps are (B, h, w, C)
        ("test_convnext", 32),
        ("test_efficientnet", 32),
    ],
)
def test_every_map_lies_at_its_stride_in_both_directions(backbone: str, multiple: int) -> None:
    net = FeaturePyramid(backbone, levels=range(6), c0=0.01, width=8).eval()
    assert net.size_multiple == multiple
    for height, width in ((224, 288), (64, 96), (17, 200), (1, 1)):
        padded = [-(-side // multiple) * multiple for side in (height, width)]
        features = net.features(np.zeros((height, width, 3), np.uint8))
        for level, stride in zip(features.pyramid, net.strides, strict=True):
            assert [side * stride for side in level.shape[1:]] == padded
        assert features.dense().shape[:2] == (height, width)


def test_a_bright_spot_is_where_it_was_in_a_map_whose_order_is_turned_round() -> None:
    torch.manual_seed(0)
    net = FeaturePyramid("mambaout_femto", levels=[0, 1], width=8).eval()
    plain, spot = np.zeros((2, 64, 192, 3), np.uint8)
    spot[8:24, 168:184] = 255  # of the coarsest map the cell (0, 5)
    source = BackboneMaps(net)
    changed = [a - b for a, b in zip(source(spot, None), source(plain, None), strict=True)]
    assert [one.shape[:2] for one in changed] == [(16, 48), (8, 24), (4, 12), (2, 6)]
    change = np.square(changed[-1]).sum(axis=2)
    assert np.unravel_index(change.argmax(), change.shape) == (0, 5)


@pytest.mark.parametrize(
    ("backbone", "fault"),
    [
        ("vit_tiny_patch16_224", "it fails at 16 x 528 pixels .Input height"),
        ("efficientformerv2_s0", "it fails at 32 x 1056 pixels"),
        # It has a table of places that ends at 224 pixels.
        ("mvitv2_tiny", "it fails at 32 x 1056 pixels .index 260 is out of bounds"),
        # Convolutions without padding: its maps are smaller than their strides say.
        ("legacy_xception", r"its map of stride 2 is \(64, 13, 525\) and not \(64, 16, 528\)"),
    ],
)
def test_a_network_for_one_size_is_refused_when_it_is_built(backbone: str, fault: str) -> None:
    with pytest.raises(ValueError, match=f"does not work for images of any size: {fault}") as error:
        FeaturePyramid(backbone, levels=[0, 1], width=8)
    assert "\n" not in str(error.value)


def test_a_network_without_maps_of_any_size_is_refused_in_any_version_of_timm() -> None:
    told = "cannot give feature maps|it fails at 32 x 1056 pixels .Input height .32. doesn't match"
    with pytest.raises(ValueError, match=told) as error:
        FeaturePyramid("coat_tiny", levels=[0, 1], width=8)
    assert "\n" not in str(error.value)


def test_torch_export_leaves_the_size_open() -> None:
    torch.manual_seed(0)
    net = FeaturePyramid("test_resnet", levels=[0], width=8).eval()
    # Torch 2.8 finds no bounds of sizes that have a name.
    open_size = {axis: torch.export.Dim.DYNAMIC(min=33, max=4096) for axis in (2, 3)}
    exported = torch.export.export(net, (torch.rand(1, 3, 70, 101),), dynamic_shapes=(open_size,))
    for size in ((64, 96), (45, 200)):
        image = torch.rand(1, 3, *size)
        for found, expected in zip(exported.module()(image), net(image), strict=True):
            torch.testing.assert_close(found, expected)
