"""Superpixels by tiles are those of the whole image."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from maskfeat.evaluate.metrics import NestedOverlap
from maskfeat.features.color import LabEncoder
from maskfeat.features.reading import Features
from maskfeat.features.weights import load
from maskfeat.segment import tiles as tiles_module
from maskfeat.segment.hierarchy import hierarchy
from maskfeat.segment.superpixels import superpixels
from maskfeat.segment.tiles import superpixels_by_tiles


@pytest.fixture
def rgb(monkeypatch: pytest.MonkeyPatch, repository) -> np.ndarray:
    """A drawn scene that has several blocks of small tiles, none of them at a multiple."""
    from maskfeat.data.heldout import ShardImages

    monkeypatch.setattr("maskfeat.segment.superpixels.TILE_PX", 47)
    image = ShardImages(str(repository / "data_shards/val-*.tar"), 1)[0].image
    assert min(image.shape[:2]) > 4 * 47
    return image[:, :-3]


def with_boundaries(features: Features, rgb: np.ndarray) -> Features:
    """Boundary logits that depend on a pixel alone."""
    import torch

    logits = torch.from_numpy(rgb[..., :2].astype(np.float32) / 64 - 2).permute(2, 0, 1)
    return Features(features.pyramid, features.strides, features.size, 2.0, logits)


def test_features_that_depend_on_near_pixels_give_the_very_graph(rgb: np.ndarray) -> None:
    seen = []

    def encode(part: np.ndarray) -> Features:
        seen.append(part.shape)
        return with_boundaries(LabEncoder().features(part), part)

    whole = superpixels(encode(rgb))
    tiled = superpixels_by_tiles(rgb, encode, margin_px=8)
    assert len(seen) > 5
    assert max(height * width for height, width, _ in seen[1:]) < rgb.size / 6
    for field in dataclasses.fields(whole):
        a, b = (getattr(graph, field.name) for graph in (whole, tiled))
        if np.asarray(a).dtype.kind == "f":  # sums come in another order
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
        else:
            np.testing.assert_array_equal(a, b)


def test_features_of_a_network_give_nearly_the_same_segments(
    rgb: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("maskfeat.segment.superpixels.TILE_PX", 150)
    large = rgb.repeat(2, axis=0).repeat(2, axis=1)
    encode, parts = load().features, []

    def encode_part(part: np.ndarray) -> Features:
        parts.append(part.shape[0] * part.shape[1])
        return encode(part)

    trees = [
        hierarchy(graph)
        for graph in (superpixels(encode(large)), superpixels_by_tiles(large, encode_part))
    ]
    assert len(parts) == 4
    assert max(parts) < large.shape[0] * large.shape[1]
    coverings = [  # each segment of one tree is a node of the other, too, or nearly
        NestedOverlap(other.tree, other.superpixel_labels, one.cut(granularity=g)).best_covering()
        for one, other in (trees, trees[::-1])
        for g in (0.25, 0.4, 0.6)
    ]
    assert np.mean(coverings) > 0.95, coverings


def test_there_is_a_most_of_superpixels(rgb: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiles_module, "MOST_SUPERPIXELS", 500)
    graph = superpixels_by_tiles(rgb, LabEncoder().features)
    assert graph.num_superpixels == 500
    assert len(np.unique(graph.labels)) == 500
