"""Maps inside the feature network: asked for, kept, read by a decoder, and never in the way."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from click_maps import maps_of_a_rectangle

import maskfeat
from maskfeat.features.cache import FeatureCache
from maskfeat.features.look import Look
from maskfeat.features.pyramid import FeaturePyramid
from maskfeat.features.reading import features_of
from maskfeat.interactive.decoder import ClickDecoder
from maskfeat.interactive.decoder_unary import ImageMaps, num_image_channels, num_prompt_channels
from maskfeat.interactive.segmenter import InteractiveSegmenter

RGB = np.random.default_rng(0).integers(0, 256, (50, 70, 3)).astype(np.uint8)
STRIDES = (4, 16)


@pytest.fixture(scope="module")
def net() -> FeaturePyramid:
    return maskfeat.load()


def test_inner_maps_come_along_and_change_no_feature(net: FeaturePyramid) -> None:
    plain, wanted = net.features(RGB), net.features(RGB, STRIDES)

    assert not plain.inner
    assert [wanted.inner[s].shape[0] for s in STRIDES] == [64, 64]
    for stride, level in wanted.inner.items():
        assert level.shape[1] * stride >= RGB.shape[0]
    for one, other in zip(plain.pyramid, wanted.pyramid, strict=True):
        assert torch.equal(one, other)


def test_a_network_without_such_maps_is_refused(net: FeaturePyramid) -> None:
    with pytest.raises(ValueError, match=r"at strides \[64\]"):
        features_of(net, RGB, (4, 64))
    with pytest.raises(ValueError, match="LabEncoder does not have"):
        features_of(maskfeat.load("lab"), RGB, STRIDES)


def test_a_cache_keeps_them_apart_from_features_without(
    net: FeaturePyramid, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not FeatureCache(tmp_path, net).features(RGB).inner
    made = FeatureCache(tmp_path, net, STRIDES).features(RGB)
    monkeypatch.setattr(net, "features", lambda *_: pytest.fail("made again"))

    kept = FeatureCache(tmp_path, net, STRIDES).features(RGB)

    assert set(kept.inner) == set(STRIDES)
    for stride in STRIDES:
        assert torch.equal(kept.inner[stride], made.inner[stride])
    assert not FeatureCache(tmp_path, net).features(RGB).inner


def test_a_decoder_reads_them_and_says_so_where_they_are_missing(net: FeaturePyramid) -> None:
    torch.manual_seed(0)
    channels = num_image_channels((1, 4, 16, 64), (64, 64)), num_prompt_channels(4)
    decoder = ClickDecoder(*channels, 8, (8, 8), (1, 1), inner_strides=STRIDES).eval()
    segmenter = InteractiveSegmenter(net, decoder=decoder)
    segmenter.set_image(RGB)
    assert segmenter.predict([[20, 30]], [True])[20, 30]

    with pytest.raises(ValueError, match="these features came without"):
        segmenter.set_features(net.features(RGB))


def test_maps_of_an_image_end_with_the_inner_ones() -> None:
    plain = maps_of_a_rectangle((40, 56))
    constant = torch.arange(5.0)[:, None, None].expand(5, 10, 14)
    plain.features.inner[4] = constant
    maps = ImageMaps(plain.features, None, plain.labels, plain.tree_maps._tree, (4,))

    read = maps.look(Look.around((0, 0, 40, 56), 8)).image_maps

    assert len(read) == num_image_channels([3], [5])
    torch.testing.assert_close(read[-5:].mean(dim=(1, 2)), torch.arange(5.0))
