"""Which decoder a segmenter reads clicks with."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

import maskfeat
from maskfeat.features import weights
from maskfeat.features.pyramid import FeaturePyramid
from maskfeat.features.reading import Features
from maskfeat.interactive.decoder import ClickDecoder
from maskfeat.interactive.decoder_file import save_with_decoder
from maskfeat.interactive.decoder_unary import DecodedImage, num_image_channels, num_prompt_channels
from maskfeat.interactive.feature_unary import FeatureUnary
from maskfeat.interactive.segmenter import InteractiveSegmenter

RGB = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The same features, alone and with a decoder."""
    folder = tmp_path_factory.mktemp("models")
    torch.manual_seed(0)
    net = FeaturePyramid("test_convnext", levels=[0, 1], width=8).eval()
    weights.save(net, folder / "alone.safetensors")
    channels = num_image_channels([1, 4]), num_prompt_channels(2)
    decoder = ClickDecoder(*channels, width=8, stages=(8, 8), blocks=(1, 1))
    save_with_decoder(folder / "alone.safetensors", decoder, folder / "both.safetensors")
    return folder / "alone.safetensors", folder / "both.safetensors"


def unary_of(segmenter: InteractiveSegmenter) -> type:
    segmenter.set_image(RGB)
    return type(segmenter.image_state.unary)


def test_the_decoder_in_the_file_of_the_model_is_read(files: tuple[Path, Path]) -> None:
    alone, both = files
    assert unary_of(InteractiveSegmenter(both)) is DecodedImage
    assert unary_of(InteractiveSegmenter(maskfeat.load(both))) is DecodedImage
    assert unary_of(InteractiveSegmenter(both, decoder=False)) is FeatureUnary
    assert unary_of(InteractiveSegmenter(alone)) is FeatureUnary
    assert unary_of(InteractiveSegmenter(alone, decoder=both)) is DecodedImage
    with pytest.raises(ValueError, match=r"alone\.safetensors' holds features without a click"):
        InteractiveSegmenter(alone, decoder=alone)


def test_features_that_the_decoder_cannot_read_are_cut_without_it(
    files: tuple[Path, Path], caplog: pytest.LogCaptureFixture
) -> None:
    color = Features.from_dense(RGB / 255.0)
    own = InteractiveSegmenter(files[1])
    own.set_image(RGB)
    assert not caplog.messages
    own.set_features(color)
    assert isinstance(own.image_state.unary, FeatureUnary)
    (message,) = caplog.messages
    assert "does not read features of 3 channels" in message
    asked = InteractiveSegmenter(files[1], decoder=files[1])
    with pytest.raises(ValueError, match="decoder reads 9 maps, got features of 3 channels"):
        asked.set_features(color)


def test_networks_of_clicks_are_refused() -> None:
    with pytest.raises(ValueError, match=r"networks must be None, got .*give a click decoder"):
        InteractiveSegmenter(networks="clicks.safetensors")


@pytest.fixture
def decoded(files: tuple[Path, Path]) -> InteractiveSegmenter:
    """A segmenter with a decoder, and an image."""
    segmenter = InteractiveSegmenter(files[1])
    segmenter.set_image(RGB)
    return segmenter


def test_a_mask_to_start_from_may_be_mirrored_or_read_only(decoded: InteractiveSegmenter) -> None:
    mask = np.zeros(RGB.shape[:2], bool)
    mask[10:30, 20:40] = True
    clicks = [[20, 30], [25, 45]], [True, True]
    expected = decoded.predict(*clicks, mask=mask, click_radius_px=[np.inf, 6.0])
    for same in (mask[::-1].copy()[::-1], mask[:, ::-1].copy()[:, ::-1], np.asfortranarray(mask)):
        same.flags.writeable = False
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            decoded.set_image(RGB)  # nothing is kept
            found = decoded.predict(*clicks, mask=same, click_radius_px=[np.inf, 6.0])
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("seed", range(4))
def test_what_was_predicted_before_changes_no_mask(
    decoded: InteractiveSegmenter, files: tuple[Path, Path], seed: int
) -> None:
    rng = np.random.default_rng(seed)
    clicks = np.stack([rng.integers(0, 48, 4), rng.integers(0, 64, 4)], 1)
    signs = [True, True, False, True]
    for radius in (5.2, 6.6):  # rounded both are the same
        radii = [np.inf, np.inf, radius, radius]
        fresh = InteractiveSegmenter(files[1])
        fresh.set_image(RGB)
        for shuffled in (range(4), rng.permutation(4)):
            order = list(shuffled)
            found = decoded.predict(
                clicks[order], [signs[i] for i in order], click_radius_px=[radii[i] for i in order]
            )
            expected = fresh.predict(clicks, signs, click_radius_px=radii)
            np.testing.assert_array_equal(found, expected)
