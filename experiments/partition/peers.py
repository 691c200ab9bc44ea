"""What a user would take instead: classic partitions and trees, with their usual settings.

Each partition function takes RGB, uint8 (H, W, 3), and the number of segments to ask for, and
gives a label map. Each tree function takes RGB and gives (leaf of each pixel, PartitionTree).
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import higra as hg
import numpy as np
from scipy import ndimage
from skimage import segmentation
from skimage.color import rgb2gray, rgb2lab
from skimage.filters import sobel
from skimage.util import img_as_float
from sklearn.cluster import KMeans

from maskfeat.features.reading import Features
from maskfeat.segment.hierarchy import superpixel_tree
from maskfeat.segment.partition import EVEN_POWER
from maskfeat.segment.superpixels import RegionGraph, graph_of_labels, superpixels
from maskfeat.segment.tree import PartitionTree, ward_tree

Partition = Callable[[np.ndarray, int], np.ndarray]
Tree = Callable[[np.ndarray], tuple[np.ndarray, PartitionTree]]

# Leaves that the watershed hierarchies are cut to: as many as our own superpixels.
_LEAVES_PER_PIXEL = 0.026


def slic(rgb: np.ndarray, k: int) -> np.ndarray:
    """scikit-image's SLIC with its defaults."""
    return segmentation.slic(rgb, n_segments=k, start_label=0)


def slic_zero(rgb: np.ndarray, k: int) -> np.ndarray:
    """SLIC that chooses compactness by itself."""
    return segmentation.slic(rgb, n_segments=k, start_label=0, slic_zero=True)


def felzenszwalb(rgb: np.ndarray, scale: float, min_size: int = 100) -> np.ndarray:
    """Felzenszwalb and Huttenlocher's graph segmentation at one scale (not a number)."""
    return segmentation.felzenszwalb(rgb, scale=scale, sigma=0.8, min_size=min_size)


def felzenszwalb_of(rgb: np.ndarray, k: int) -> np.ndarray:
    """Felzenszwalb's segmentation with about k segments, the scale found by bisection.

    Segments of less than a seventh of the mean are merged: with scikit-image's usual 20 pixels
    one region would hold nearly all of the image, and 25 segments would have an accuracy of 0.3.
    """
    min_size = max(20, round(rgb.shape[0] * rgb.shape[1] / k / 7))
    low, high = 10.0, 10_000.0
    best = felzenszwalb(rgb, np.sqrt(low * high), min_size)
    for _ in range(7):
        middle = np.sqrt(low * high)
        labels = felzenszwalb(rgb, middle, min_size)
        found = labels.max() + 1
        if abs(found - k) < abs(best.max() + 1 - k):
            best = labels
        low, high = (middle, high) if found > k else (low, middle)
    return best


def compact_watershed(rgb: np.ndarray, k: int) -> np.ndarray:
    """scikit-image's compact watershed of the gradient from a grid of markers."""
    gradient = sobel(rgb2gray(img_as_float(rgb)))
    return segmentation.watershed(gradient, markers=k, compactness=0.001) - 1


def kmeans_lab_xy(rgb: np.ndarray, k: int) -> np.ndarray:
    """k-means on Lab and position, fitted to 16,000 pixels; its clusters fall into pieces."""
    height, width = rgb.shape[:2]
    y, x = np.mgrid[:height, :width]
    place = np.stack([y, x], axis=2) * (20 / np.sqrt(height * width / k))
    points = np.concatenate([rgb2lab(rgb), place], axis=2).reshape(-1, 5)
    chosen = np.random.default_rng(0).choice(len(points), min(16_000, len(points)), replace=False)
    kmeans = KMeans(k, n_init=1, max_iter=20, random_state=0).fit(points[chosen])
    return kmeans.predict(points).reshape(height, width)


def cv_slic(rgb: np.ndarray, k: int) -> np.ndarray:
    """OpenCV's SLIC."""
    return _cv_superpixels(rgb, k, cv2.ximgproc.SLIC)


def cv_slico(rgb: np.ndarray, k: int) -> np.ndarray:
    """OpenCV's SLICO."""
    return _cv_superpixels(rgb, k, cv2.ximgproc.SLICO)


def cv_lsc(rgb: np.ndarray, k: int) -> np.ndarray:
    """OpenCV's linear spectral clustering."""
    height, width = rgb.shape[:2]
    lsc = cv2.ximgproc.createSuperpixelLSC(_cv_lab(rgb), round(np.sqrt(height * width / k)), 0.075)
    lsc.iterate(10)
    lsc.enforceLabelConnectivity(20)
    return lsc.getLabels()


def cv_seeds(rgb: np.ndarray, k: int) -> np.ndarray:
    """OpenCV's SEEDS."""
    height, width = rgb.shape[:2]
    seeds = cv2.ximgproc.createSuperpixelSEEDS(width, height, 3, k, 4, 2, 5, False)
    seeds.iterate(_cv_lab(rgb), 10)
    return seeds.getLabels()


def watershed_by_area(rgb: np.ndarray) -> tuple[np.ndarray, PartitionTree]:
    """Higra's watershed hierarchy by area on smoothed Lab."""
    return _watershed_tree(rgb, hg.watershed_hierarchy_by_area)


def watershed_by_volume(rgb: np.ndarray) -> tuple[np.ndarray, PartitionTree]:
    """Higra's watershed hierarchy by volume on smoothed Lab."""
    return _watershed_tree(rgb, hg.watershed_hierarchy_by_volume)


def ward_on_lab(rgb: np.ndarray) -> tuple[np.ndarray, PartitionTree]:
    """Ward's tree of Lab colors over superpixels of Lab."""
    graph = _lab_superpixels(rgb)
    return graph.labels, ward_tree(graph.features, graph.sizes, graph.edges)


def partition_on_lab(rgb: np.ndarray) -> tuple[np.ndarray, PartitionTree]:
    """The tree of `maskfeat.partition`, of Lab colors over superpixels of Lab."""
    graph = _lab_superpixels(rgb)
    return graph.labels, superpixel_tree(graph, size_power=EVEN_POWER)


def _lab_superpixels(rgb: np.ndarray) -> RegionGraph:
    return superpixels(Features.from_dense(ndimage.gaussian_filter(rgb2lab(rgb) / 100, (1, 1, 0))))


PARTITIONS: dict[str, Partition] = {
    "SLIC": slic,
    "SLIC-zero": slic_zero,
    "compact watershed": compact_watershed,
    "OpenCV SLIC": cv_slic,
    "OpenCV SLICO": cv_slico,
    "OpenCV LSC": cv_lsc,
    "OpenCV SEEDS": cv_seeds,
    "k-means Lab+xy": kmeans_lab_xy,
    "Felzenszwalb": felzenszwalb_of,
}
TREES: dict[str, Tree] = {
    "watershed by area": watershed_by_area,
    "watershed by volume": watershed_by_volume,
    "Ward on Lab": ward_on_lab,
    "our partition on Lab": partition_on_lab,
}


def _cv_lab(rgb: np.ndarray) -> np.ndarray:
    return cv2.cvtColor(cv2.GaussianBlur(rgb, (3, 3), 0), cv2.COLOR_RGB2LAB)


def _cv_superpixels(rgb: np.ndarray, k: int, algorithm: int) -> np.ndarray:
    height, width = rgb.shape[:2]
    size = round(np.sqrt(height * width / k))
    slic = cv2.ximgproc.createSuperpixelSLIC(_cv_lab(rgb), algorithm, size, 20.0)
    slic.iterate(10)
    slic.enforceLabelConnectivity(20)
    return slic.getLabels()


def _watershed_tree(
    rgb: np.ndarray, watershed: Callable[..., tuple[hg.Tree, np.ndarray]]
) -> tuple[np.ndarray, PartitionTree]:
    height, width = rgb.shape[:2]
    lab = ndimage.gaussian_filter(rgb2lab(rgb) / 100, (1, 1, 0)).reshape(height * width, 3)
    graph = hg.get_4_adjacency_graph((height, width))
    tree, altitudes = watershed(graph, hg.weight_graph(graph, lab, hg.WeightFunction.L2))
    # Its own cut into about as many leaves as our superpixels; what lies below is not asked for.
    explorer = hg.HorizontalCutExplorer(tree, altitudes)
    cut = explorer.horizontal_cut_from_num_regions(round(_LEAVES_PER_PIXEL * height * width))
    _, leaves = np.unique(cut.labelisation_leaves(tree), return_inverse=True)
    leaves = leaves.reshape(height, width)
    return leaves, _tree_above(tree, altitudes, leaves)


def _tree_above(tree: hg.Tree, altitudes: np.ndarray, leaves: np.ndarray) -> PartitionTree:
    """The part of a hierarchy of pixels above a cut, as a binary tree."""
    region = graph_of_labels(Features.from_dense(np.zeros((*leaves.shape, 1))), leaves)
    _, pixel = np.unique(leaves, return_index=True)
    ends = region.edges.astype(np.int64)
    met = tree.lowest_common_ancestor(pixel[ends[:, 0]], pixel[ends[:, 1]])
    graph = hg.UndirectedGraph(region.num_superpixels)
    graph.add_edges(ends[:, 0], ends[:, 1])
    merged, altitudes = hg.bpt_canonical(graph, altitudes[met])
    parents = np.asarray(merged.parents(), np.int64)
    return PartitionTree.of_merges(parents, np.asarray(altitudes, np.float64), region.sizes)
