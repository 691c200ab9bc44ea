"""What a user would take instead: classic distances from clicks to a mask.

Each has the two methods of `maskfeat.interactive.segmenter.InteractiveSegmenter` that a session
needs: set_image(rgb), uint8 (H, W, 3), and predict(clicks_yx, is_positive), (N, 2) and (N,), which
gives a mask, bool (H, W). All answer from the image and the set of clicks alone, none from its last
mask.

A method that needs background and has none yet (the first click is on the object) takes the frame
for it, the outermost pixels of the image: see `with_frame`. Trees take the salient node, as our
own cut does.
"""

from __future__ import annotations

import warnings

import cv2
import numpy as np
from salient import salient_path
from scipy import ndimage
from scipy.spatial import KDTree
from skimage import segmentation
from skimage.color import rgb2lab
from skimage.graph import MCP_Geometric
from skimage.transform import resize

from maskfeat.features.reading import FeatureModel
from maskfeat.interactive.prompts import Prompt
from maskfeat.interactive.segmenter import InteractiveSegmenter
from maskfeat.interactive.update import enforce_hard_constraints
from maskfeat.segment.hierarchy import Linkage, superpixel_tree
from maskfeat.segment.superpixels import RegionGraph, superpixels
from maskfeat.segment.tree import PartitionTree

# The long side that images are reduced to for the random walker, pixels.
_WALKER_SIDE = 256
# Radius of what one click says to GrabCut, pixels, and its iterations.
_DISC_RADIUS = 3
_ITERATIONS = 5


class Coloring:
    """Our seeded watershed on the hierarchy, of the two labels object and background.

    With clicks on the object alone, the segments at granularity 0.5 that hold them.
    """

    def __init__(self, model: FeatureModel) -> None:
        self._segmenter = InteractiveSegmenter(model)

    def set_image(self, rgb: np.ndarray) -> None:
        """Take an image."""
        self._segmenter.set_image(rgb)

    def predict(self, clicks_yx: np.ndarray, is_positive: np.ndarray) -> np.ndarray:
        """The mask for all clicks."""
        if is_positive.all():
            labels, tree = self._segmenter.graph.labels, self._segmenter.hierarchy.tree
            clicked = np.unique(labels[tuple(clicks_yx.T)]).tolist()
            regions = [tree.region_around(superpixel, granularity=0.5) for superpixel in clicked]
            mask = np.logical_or.reduce(regions)[labels]
        else:
            mask = self._segmenter.predict_labels(clicks_yx, is_positive.astype(np.int64)) == 1
        sides = (clicks_yx[is_positive], True), (clicks_yx[~is_positive], False)
        return enforce_hard_constraints(mask, [Prompt(pixels, side) for pixels, side in sides])


class GrabCut:
    """OpenCV's GrabCut (Rother et al., SIGGRAPH 2004), five iterations from the clicks alone.

    A click trimap a disc of radius 3 as sure object or sure background; where discs meet, the
    background's lies on top, and the clicked pixels on top of all discs. The rest is probable
    background, but for discs of a quarter of the image's short side around the clicks on the
    object, which are probable object.
    """

    def set_image(self, rgb: np.ndarray) -> None:
        """Take an image."""
        self._bgr = cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR)

    def predict(self, clicks_yx: np.ndarray, is_positive: np.ndarray) -> np.ndarray:
        """The mask for all clicks."""
        height, width = self._bgr.shape[:2]
        trimap = np.full((height, width), cv2.GC_PR_BGD, np.uint8)
        positive, negative = clicks_yx[is_positive], clicks_yx[~is_positive]
        _draw_discs(trimap, positive, max(1, min(height, width) // 4), cv2.GC_PR_FGD)
        _draw_discs(trimap, positive, _DISC_RADIUS, cv2.GC_FGD)
        _draw_discs(trimap, negative, _DISC_RADIUS, cv2.GC_BGD)
        trimap[tuple(clicks_yx.T)] = np.where(is_positive, cv2.GC_FGD, cv2.GC_BGD)
        if np.isin(trimap, (cv2.GC_FGD, cv2.GC_PR_FGD)).all():
            # It must see some background to know its colors.
            frame = frame_of(height, width)
            trimap[frame & (trimap == cv2.GC_PR_FGD)] = cv2.GC_PR_BGD
        if np.isin(trimap, (cv2.GC_FGD, cv2.GC_PR_FGD)).all():
            return np.ones((height, width), bool)
        cv2.setRNGSeed(0)  # of the k-means that starts its mixtures
        models = np.zeros((1, 65)), np.zeros((1, 65))
        cv2.grabCut(self._bgr, trimap, None, *models, _ITERATIONS, cv2.GC_INIT_WITH_MASK)
        return np.isin(trimap, (cv2.GC_FGD, cv2.GC_PR_FGD))


class RandomWalker:
    """scikit-image's random walker (Grady, PAMI 2006), its defaults but for the solver.

    Run on the image reduced to a long side of 256 pixels, where clicks on one pixel are background
    if one of them is; probabilities are enlarged, and clicked pixels are as clicked. Without
    background clicks the frame is background.
    """

    def set_image(self, rgb: np.ndarray) -> None:
        """Take an image."""
        self._size = rgb.shape[:2]
        shrink = min(1.0, _WALKER_SIDE / max(self._size))
        self._small_size = tuple(max(2, round(side * shrink)) for side in self._size)
        self._small = resize(rgb, self._small_size, anti_aliasing=shrink < 1)

    def predict(self, clicks_yx: np.ndarray, is_positive: np.ndarray) -> np.ndarray:
        """The mask for all clicks."""
        places, signs = with_frame(clicks_yx, is_positive, *self._size)
        small_yx = (places + 0.5) * np.array(self._small_size) / np.array(self._size)
        small_yx = small_yx.astype(np.int64)
        prompts = np.zeros(self._small_size, np.int64)
        for sign, prompt in ((True, 1), (False, 2)):
            prompts[tuple(small_yx[signs == sign].T)] = prompt
        if not (prompts == 1).any():  # a reduced pixel of the object is clicked as background, too
            mask = np.zeros(self._size, bool)
        else:
            with warnings.catch_warnings():
                # Probabilities of -0.001, as the solver's tolerance has it, do no harm here.
                warnings.filterwarnings("ignore", "The probability range is outside")
                probability = segmentation.random_walker(
                    self._small, prompts, mode="cg_j", return_full_prob=True, channel_axis=-1
                )[0]
            mask = resize(probability, self._size, order=1) > 0.5
        mask[tuple(clicks_yx.T)] = is_positive
        return mask


class Geodesic:
    """Which sign's clicks are nearer by paths that avoid borders (Bai and Sapiro, ICCV 2007).

    Unlike there, the cost of a step is the slope of Lab (divided by 100, smoothed by a Gaussian of
    one pixel), not that of a likelihood, and 0.01 more, which tells distances within flat regions.
    Without background clicks the frame is background. A pixel equally far from both is background.
    """

    def set_image(self, rgb: np.ndarray) -> None:
        """Take an image."""
        self._costs = 0.01 + lab_slope(rgb)

    def predict(self, clicks_yx: np.ndarray, is_positive: np.ndarray) -> np.ndarray:
        """The mask for all clicks."""
        places, signs = with_frame(clicks_yx, is_positive, *self._costs.shape)
        near, far = (
            MCP_Geometric(self._costs).find_costs(places[signs == sign].tolist())[0]
            for sign in (True, False)
        )
        return near < far


class SeededWatershed:
    """scikit-image's watershed of the slope of Lab, flooded from the clicks.

    Without background clicks it is flooded from the frame, too.
    """

    def set_image(self, rgb: np.ndarray) -> None:
        """Take an image."""
        self._slope = lab_slope(rgb)

    def predict(self, clicks_yx: np.ndarray, is_positive: np.ndarray) -> np.ndarray:
        """The mask for all clicks."""
        places, signs = with_frame(clicks_yx, is_positive, *self._slope.shape)
        markers = np.zeros(self._slope.shape, np.int32)
        markers[tuple(places.T)] = np.where(signs, 1, 2)
        return segmentation.watershed(self._slope, markers) == 1


class NearestClick:
    """Each pixel takes the sign of the click nearest in color and place.

    The space is Lab / 100 beside (row, column) / long side. Without background clicks the frame is
    background.
    """

    def set_image(self, rgb: np.ndarray) -> None:
        """Take an image."""
        height, width = rgb.shape[:2]
        places = np.stack(np.mgrid[:height, :width], axis=2) / max(height, width)
        self._points = np.concatenate([rgb2lab(rgb) / 100, places], axis=2)

    def predict(self, clicks_yx: np.ndarray, is_positive: np.ndarray) -> np.ndarray:
        """The mask for all clicks."""
        height, width = self._points.shape[:2]
        places, signs = with_frame(clicks_yx, is_positive, height, width)
        # The background first: of two clicks equally near, the first is taken.
        order = np.argsort(signs, kind="stable")
        clicks = KDTree(self._points[tuple(places[order].T)])
        nearest = clicks.query(self._points.reshape(-1, 5))[1]
        mask = signs[order][nearest].reshape(height, width)
        mask[tuple(clicks_yx.T)] = is_positive  # two clicks of one color may be one point
        return mask


class TreeSegmenter:
    """Each superpixel takes the sign of the click that it meets lowest in a tree of merges.

    That is the nearest click by the ultrametric distance of the tree. A superpixel that meets
    clicks of both signs at once is background, so that the object consists of the largest nodes
    with clicks on the object alone; without background clicks it consists of the nodes that stand
    out most above these clicks (`salient.salient_path`). A superpixel with
    clicks of both signs is shared out pixel by pixel to the nearest of its clicks.

    Args:
        encoder: Gives the features that superpixels and tree are made of.
        linkage: See `maskfeat.segment.hierarchy.superpixel_tree`.
    """

    def __init__(self, encoder: FeatureModel, linkage: Linkage = "ward") -> None:
        self.encoder = encoder
        self.linkage: Linkage = linkage

    def set_image(self, rgb: np.ndarray) -> None:
        """Take an image."""
        self._graph: RegionGraph = superpixels(self.encoder.features(rgb))
        self._tree: PartitionTree = superpixel_tree(self._graph, self.linkage)

    def predict(self, clicks_yx: np.ndarray, is_positive: np.ndarray) -> np.ndarray:
        """The mask for all clicks."""
        labels = self._graph.labels
        clicked = labels[tuple(clicks_yx.T)]
        inside, outside = np.unique(clicked[is_positive]), np.unique(clicked[~is_positive])
        is_excluded = np.zeros(len(self._tree.parents), bool)
        for superpixel in outside:
            is_excluded[self._tree.ancestors(int(superpixel))] = True
        nodes = [
            self._largest_free(int(superpixel), is_excluded)
            if outside.size
            else salient_path(self._tree, int(superpixel)).best(is_excluded)
            for superpixel in inside
        ]
        mask = self._tree.leaves_under(np.array(nodes))[labels]
        for superpixel in np.intersect1d(inside, outside):
            pixels, here = np.argwhere(labels == superpixel), clicked == superpixel
            nearest = KDTree(clicks_yx[here]).query(pixels)[1]
            mask[tuple(pixels.T)] = is_positive[here][nearest]
        return mask

    def _largest_free(self, superpixel: int, is_excluded: np.ndarray) -> int:
        """The highest ancestor of a superpixel that holds no click on the background."""
        path = self._tree.ancestors(superpixel)
        free = path[~is_excluded[path]]
        return int(free[-1]) if free.size else superpixel


def with_frame(
    clicks_yx: np.ndarray, is_positive: np.ndarray, height: int, width: int
) -> tuple[np.ndarray, np.ndarray]:
    """Clicks and signs; where none is on the background, with those frame pixels not clicked."""
    if not is_positive.all():
        return clicks_yx, is_positive
    frame = frame_of(height, width)
    frame[tuple(clicks_yx.T)] = False
    places = np.concatenate([clicks_yx, np.argwhere(frame)])
    return places, np.arange(len(places)) < len(clicks_yx)


def frame_of(height: int, width: int) -> np.ndarray:
    """The outermost pixels of an image, bool (H, W)."""
    frame = np.ones((height, width), bool)
    frame[1:-1, 1:-1] = False
    return frame


def lab_slope(rgb: np.ndarray) -> np.ndarray:
    """How fast Lab / 100 changes per pixel, smoothed by a Gaussian of one pixel, (H, W)."""
    lab = rgb2lab(rgb) / 100
    slopes = [ndimage.gaussian_gradient_magnitude(lab[..., c], sigma=1) for c in range(3)]
    return np.linalg.norm(slopes, axis=0)


def _draw_discs(trimap: np.ndarray, centers_yx: np.ndarray, radius: int, value: int) -> None:
    for row, column in centers_yx.tolist():
        cv2.circle(trimap, (column, row), radius, value, thickness=-1)
