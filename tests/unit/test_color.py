"""Distances of color, and superpixels that follow them."""

import numpy as np
import pytest
import torch
from scipy import ndimage
from skimage.color import rgb2lab

import maskfeat
from maskfeat.features.cache import FeatureCache
from maskfeat.features.color import LAB_SCALE, color_distances
from maskfeat.features.pyramid import FeaturePyramid
from maskfeat.features.reading import Features
from maskfeat.features.weights import save
from maskfeat.segment.superpixels import superpixels


def smooth_image(seed: int = 0) -> np.ndarray:
    """Soft blobs of color, uint8 (40, 50, 3)."""
    noise = np.random.default_rng(seed).random((40, 50, 3))
    soft = ndimage.gaussian_filter(noise, (3, 3, 0))
    return np.rint(255 * (soft - soft.min()) / np.ptp(soft)).astype(np.uint8)


def test_distances_are_about_those_of_lab() -> None:
    rgb = smooth_image()
    lab = ndimage.gaussian_filter(rgb2lab(rgb) / 100, (1, 1, 0)) * np.sqrt(LAB_SCALE)
    found = color_distances(torch.from_numpy(rgb).permute(2, 0, 1)).numpy()
    right, below = (np.square(np.diff(lab, axis=axis)).sum(axis=2) for axis in (1, 0))
    for ours, theirs in ((found[0, :, :-1], right), (found[1, :-1], below)):
        assert np.corrcoef(ours.ravel(), theirs.ravel())[0, 1] > 0.9
        assert ours.mean() == pytest.approx(theirs.mean(), rel=0.5)
    assert not found[0, :, -1].any()
    assert not found[1, -1].any()


def test_superpixels_follow_color_where_features_are_flat() -> None:
    rgb = torch.zeros(3, 40, 40, dtype=torch.uint8)
    rgb[:, :, 18:] = 200
    features = Features(
        [torch.zeros(1, 40, 40)], [1], (40, 40), color_distances=color_distances(rgb)
    )
    graph = superpixels(features)
    assert not set(graph.labels[:, :18].ravel()) & set(graph.labels[:, 18:].ravel())
    assert not graph.boundary_strengths.any()  # these are of the features
    given = superpixels(features, neighbor_distances=features.neighbor_distances())
    plain = superpixels(Features([torch.zeros(1, 40, 40)], [1], (40, 40)))
    assert np.array_equal(given.labels, plain.labels)


def test_a_network_with_color_keeps_it_on_disk_and_its_features(tmp_path) -> None:
    torch.manual_seed(0)
    save(FeaturePyramid(width=8, color=True), tmp_path / "net.safetensors")
    net = maskfeat.load(tmp_path / "net.safetensors")
    found = net.features(smooth_image())
    assert found.color_distances.shape == (2, 40, 50)
    cache = FeatureCache(tmp_path / "cache", net)
    for _ in range(2):
        kept = cache.features(smooth_image()).color_distances
        torch.testing.assert_close(kept, found.color_distances, atol=1e-6, rtol=1e-3)
