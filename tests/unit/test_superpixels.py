from __future__ import annotations

import io
import tarfile
from pathlib import Path

import higra as hg
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from skimage.color import rgb2lab
from skimage.measure import label

from maskfeat.features.reading import Features
from maskfeat.segment import superpixels as superpixels_module
from maskfeat.segment.superpixels import RegionGraph, graph_of_labels, superpixels

DATA = Path(__file__).parents[3] / "shared" / "data"


def noise(height: int, width: int, channels: int = 3, seed: int = 0) -> Features:
    values = np.random.default_rng(seed).normal(size=(height, width, channels))
    return Features.from_dense(values, scale=0.7)


def naive_graph(dense: np.ndarray, labels: np.ndarray) -> tuple[dict, dict]:
    """Sides and summed contrast of each pair of adjacent regions, by two loops over pixels."""
    lengths: dict[tuple[int, int], int] = {}
    sums: dict[tuple[int, int], float] = {}
    height, width = labels.shape
    for y in range(height):
        for x in range(width):
            for y2, x2 in ((y, x + 1), (y + 1, x)):
                if y2 < height and x2 < width and labels[y, x] != labels[y2, x2]:
                    pair = tuple(sorted((int(labels[y, x]), int(labels[y2, x2]))))
                    lengths[pair] = lengths.get(pair, 0) + 1
                    d2 = float(((dense[y, x] - dense[y2, x2]) ** 2).sum())
                    sums[pair] = sums.get(pair, 0.0) + d2
    return lengths, sums


def assert_graph_is_that_of_its_labels(graph: RegionGraph, features: Features) -> None:
    dense = features.dense()
    lengths, sums = naive_graph(dense, graph.labels)
    assert [tuple(edge) for edge in graph.edges.tolist()] == sorted(lengths)
    np.testing.assert_array_equal(graph.border_lengths, [lengths[k] for k in sorted(lengths)])
    expected = [sums[k] / lengths[k] for k in sorted(lengths)]
    np.testing.assert_allclose(graph.boundary_strengths, expected, rtol=1e-4)
    for superpixel in range(graph.num_superpixels):
        inside = graph.labels == superpixel
        assert graph.sizes[superpixel] == inside.sum()
        np.testing.assert_allclose(graph.features[superpixel], dense[inside].mean(0), atol=1e-5)
        np.testing.assert_allclose(
            graph.centroids_yx[superpixel], np.argwhere(inside).mean(0), rtol=1e-5
        )


def test_two_flat_halves_have_the_graph_worked_by_hand() -> None:
    values = np.zeros((4, 6, 1))
    values[:, 3:] = 2
    labels = (values[..., 0] > 1).astype(int)
    graph = graph_of_labels(Features.from_dense(values, scale=3.0), labels)
    assert graph.edges.tolist() == [[0, 1]]
    assert graph.border_lengths.tolist() == [4]
    assert graph.boundary_strengths.tolist() == [4]
    assert graph.sizes.tolist() == [12, 12]
    assert graph.centroids_yx.tolist() == [[1.5, 1], [1.5, 4]]
    assert graph.features.tolist() == [[0], [2]]
    assert graph.edge_distances().tolist() == [4]
    assert graph.scale == 3


def test_superpixels_never_cross_the_border_of_two_noisy_regions() -> None:
    rng = np.random.default_rng(0)
    truth = np.zeros((60, 80), int)
    truth[20:50, 30:] = 1
    values = truth[..., None] * 5 + rng.normal(scale=0.3, size=(60, 80, 2))
    graph = superpixels(Features.from_dense(values))
    shares = np.bincount(graph.labels.ravel(), truth.ravel()) / graph.sizes
    assert set(shares.tolist()) == {0.0, 1.0}


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 30), st.integers(1, 30), st.integers(0, 99), st.booleans())
def test_superpixels_are_connected_as_many_as_asked_and_numbered_without_gaps(
    height: int, width: int, seed: int, is_coarse: bool
) -> None:
    features = noise(height, width, 2, seed)
    if is_coarse:  # many equal distances
        features = Features.from_dense(np.round(features.dense() / 2))
    graph = superpixels(features)
    assert graph.num_superpixels == min(height * width, 400)
    assert np.unique(graph.labels).tolist() == list(range(graph.num_superpixels))
    assert label(graph.labels, background=-1, connectivity=1).max() == graph.num_superpixels


def test_the_graph_agrees_with_loops_over_pixels_for_a_pyramid() -> None:
    import torch

    generator = torch.Generator().manual_seed(0)
    levels = [torch.randn((4**n, 24 // 2**n, 32 // 2**n), generator=generator) for n in range(3)]
    features = Features(levels, [1, 2, 4], (22, 31))
    assert_graph_is_that_of_its_labels(superpixels(features), features)


def test_superpixels_are_the_cut_of_the_watershed_hierarchy_by_area_of_higra() -> None:
    features = noise(64, 96)
    graph = superpixels(features)
    right, below = (d.astype(np.float64) for d in features.neighbor_distances())
    grid = hg.get_4_adjacency_graph((64, 96))
    first, second = grid.edge_list()
    apart = np.array(
        [
            right[i // 96, i % 96] if j == i + 1 else below[i // 96, i % 96]
            for i, j in zip(first, second, strict=True)
        ]
    )
    # The slope at a pixel: the mean distance to four neighbors, of which the border has fewer.
    slopes = np.bincount(first, apart, 64 * 96) / 4 + np.bincount(second, apart, 64 * 96) / 4
    weights = (slopes[first] + slopes[second]) / 2 + 0.1 * apart
    tree, levels = hg.watershed_hierarchy_by_area(grid, weights)
    # Equal areas leave a choice of what to undo first, so compare at a level between areas:
    # the hierarchy's own cuts around our number of superpixels must enclose ours.
    finer, coarser = None, None
    for level in np.unique(levels)[::-1]:
        cut = hg.labelisation_horizontal_cut_from_threshold(tree, levels, level)
        if len(np.unique(cut)) <= graph.num_superpixels:
            coarser = cut
        else:
            finer = cut
            break
    assert coarser is not None
    assert finer is not None
    for small, large in ((graph.labels, coarser), (finer, graph.labels)):
        pairs = np.unique(np.stack([small.ravel(), large.ravel()]), axis=1)
        assert pairs.shape[1] == len(np.unique(small))  # each small one lies in one large one


def test_a_flat_image_falls_into_blocks_and_not_into_strips() -> None:
    graph = superpixels(Features.from_dense(np.zeros((64, 64, 1))), per_megapixel=1)
    assert graph.num_superpixels == 400
    heights = [np.ptp(np.nonzero(graph.labels == a)[0]) + 1 for a in range(400)]
    widths = [np.ptp(np.nonzero(graph.labels == a)[1]) + 1 for a in range(400)]
    assert max(heights + widths) <= 4
    assert graph.sizes.max() <= 16


def test_twice_the_same_features_give_the_same_superpixels() -> None:
    features = noise(40, 50)
    np.testing.assert_array_equal(superpixels(features).labels, superpixels(features).labels)


def test_bad_input_is_refused_in_one_sentence() -> None:
    features = noise(10, 10)
    with pytest.raises(
        ValueError,
        match="per_megapixel must be a finite number above 0 and at most",
    ):
        superpixels(features, 0)
    with pytest.raises(ValueError, match=r"shape \(10, 10\)"):
        graph_of_labels(features, np.zeros((10, 9), int))
    with pytest.raises(ValueError, match="gaps"):
        graph_of_labels(features, np.full((10, 10), 2))


@pytest.mark.real
def test_an_image_falls_into_four_thousand_superpixels_that_follow_its_colors() -> None:
    path = DATA / "bsds500" / "train-000000.tar"
    if not path.exists():
        pytest.skip(f"needs {path.name} of the shared data beside the repository")
    with tarfile.open(path) as tar:
        member = next(m for m in tar if m.name.endswith(".jpg"))
        image = Image.open(io.BytesIO(tar.extractfile(member).read()))  # type: ignore[union-attr]
    lab = rgb2lab(np.asarray(image.convert("RGB"))) / 100
    graph = superpixels(Features.from_dense(lab))
    assert graph.num_superpixels == round(26_000 * lab.shape[0] * lab.shape[1] / 1e6)
    assert label(graph.labels, background=-1, connectivity=1).max() == graph.num_superpixels
    within = ((lab - graph.features[graph.labels]) ** 2).sum()
    blocks = np.add.outer(np.arange(lab.shape[0]) // 6 * 1000, np.arange(lab.shape[1]) // 6)
    _, blocks = np.unique(blocks, return_inverse=True)
    squares = graph_of_labels(Features.from_dense(lab), blocks.reshape(lab.shape[:2]))
    assert within < 0.7 * ((lab - squares.features[squares.labels]) ** 2).sum()


def test_large_images_are_done_in_tiles_without_a_gap(monkeypatch) -> None:
    monkeypatch.setattr(superpixels_module, "TILE_PX", 17)
    values = np.random.default_rng(0).normal(size=(40, 61, 2))
    graph = superpixels(Features.from_dense(values), per_megapixel=200_000)
    assert graph.num_superpixels == round(0.2 * 40 * 61)
    assert np.unique(graph.labels).tolist() == list(range(graph.num_superpixels))
    assert label(graph.labels, background=-1, connectivity=1).max() == graph.num_superpixels
    whole = superpixels(Features.from_dense(values[:13, :15]), per_megapixel=200_000)
    assert whole.num_superpixels == 13 * 15  # a small image still falls into pixels
