"""One image, many clicks."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from maskfeat.features.reading import Features
from maskfeat.segment.atoms import AtomGraph
from maskfeat.segment.feature_cache import FeatureCache
from maskfeat.segment.graphcut import SMOOTHNESS
from maskfeat.segment.hierarchy import Hierarchy
from maskfeat.segment.marks import (
    Marks,
    checked_box,
    checked_mask,
    clicks_and_scribbles,
    labeled_marks,
)
from maskfeat.segment.networks import ClickNetworks, default_networks
from maskfeat.segment.resizing import enlarged_labels, reduced, resized, scaled, scaled_box
from maskfeat.segment.scene import Scene

BoolArray = npt.NDArray[np.bool_]
IntArray = npt.NDArray[np.int64]


class FeatureModel(Protocol):
    """Anything that turns a photograph into features."""

    def features(self, rgb: npt.NDArray[np.uint8]) -> Features:
        """Features of one image, uint8, shape (H, W, 3)."""
        ...


class InteractiveSegmenter:
    """Marks objects by clicks, scribbles, a box, or a mask to start from.

    The mask is a function of the image and the set of marks: their order cannot matter, and every
    click is obeyed. The object consists of the 4-connected parts that hold marks of it.

        segmenter = InteractiveSegmenter(model)
        segmenter.set_image(rgb)
        mask = segmenter.predict([[120, 200], [30, 40]], [True, False])

    or click by click, with what was clicked kept here:

        mask = segmenter.click(120, 200)
        mask = segmenter.click(30, 40, is_positive=False)
        mask = segmenter.undo()

    An instance may be used by many threads; each call is done before the next begins.

    Args:
        model: Gives the features of an image, e.g. a `FeaturePyramid`; None if only
            `set_features` is used.
        method: "cut" takes two labels by a graph cut of atoms, refined in pixels; "pixelcut" by a
            cut of all pixels, which takes up to a second and needs the extra "graphcut";
            "coloring" gives each region the label of the mark that reaches it by the smallest
            largest step.
        per_megapixel: Atoms for a million pixels, see `atoms`.
        smoothness: How much a short and well-placed outline is worth, see `AtomCutter`.
        max_megapixels: A larger image, millions of pixels, is worked on reduced to this size, and
            the mask is enlarged again.
        cache_dir: Folder in which features are kept, so that an image is encoded once; for a
            model that is an nn.Module.
        networks: Judge atoms and pixels; None takes those that come with the package.
    """

    def __init__(
        self,
        model: FeatureModel | None = None,
        *,
        method: Literal["cut", "pixelcut", "coloring"] = "cut",
        per_megapixel: int = 26_000,
        smoothness: float = SMOOTHNESS,
        max_megapixels: float = 1.0,
        cache_dir: str | Path | None = None,
        networks: ClickNetworks | None = None,
    ) -> None:
        if method not in ("cut", "pixelcut", "coloring"):
            raise ValueError(f"method must be cut, pixelcut or coloring, got {method!r}")
        if not max_megapixels > 0:
            raise ValueError(f"max_megapixels must be above 0, got {max_megapixels}")
        self.model = model
        self.method = method
        self.per_megapixel = per_megapixel
        self.smoothness = smoothness
        self.max_megapixels = max_megapixels
        self.networks = networks or default_networks()
        self._cache = None if cache_dir is None else FeatureCache(cache_dir, model)
        self._lock = threading.RLock()
        self._scene: Scene | None = None
        self._size = (0, 0)
        self._history: list[tuple[list[tuple[int, int]], bool]] = []

    def set_image(self, rgb: npt.NDArray[np.uint8]) -> None:
        """Take the image that the next clicks are for.

        Args:
            rgb: uint8, shape (H, W, 3).

        Raises:
            ValueError: If there is no model, or the model refuses the image. The image that was
                set before stays.
        """
        if self.model is None:
            raise ValueError("set_image needs a model; give one, or call set_features")
        with self._lock:
            small = reduced(rgb, self.max_megapixels)
            read = self.model.features if self._cache is None else self._cache.features
            self._take(self._scene_of(read(small), small), (rgb.shape[0], rgb.shape[1]))

    def set_features(self, features: Features, rgb: npt.NDArray[np.uint8] | None = None) -> None:
        """Take the features of the image that the next clicks are for.

        Args:
            features: Of the image, at its full size. Their `scale` should be right: how far a
                click reaches is judged in units of it.
            rgb: The image, uint8, shape (H, W, 3), whose color helps to place outlines.

        Raises:
            ValueError: If the features are not finite, or rgb has another size. The image that was
                set before stays.
        """
        with self._lock:
            self._take(self._scene_of(features, rgb), features.size)

    def predict(
        self,
        clicks_yx: npt.ArrayLike,
        is_positive: npt.ArrayLike,
        *,
        scribbles: Sequence[tuple[npt.ArrayLike, bool]] = (),
        box_yxyx: npt.ArrayLike | None = None,
        mask: npt.ArrayLike | None = None,
        keep_all: bool = False,
    ) -> BoolArray:
        """The mask for all marks so far.

        Args:
            clicks_yx: Clicked pixels (row, column), integers, shape (N, 2), inside the image.
            is_positive: True for a click on the object, bool, shape (N,).
            scribbles: Pixels of strokes, each like clicks_yx, with True for the object; all
                of them are obeyed.
            box_yxyx: A box that holds all of the object: top, left, bottom, right, the last two
                exclusive.
            mask: What the object was before, or may be, bool, shape (H, W): a hint, not an order.
            keep_all: Keep parts that hold no mark, too.

        Returns:
            The object, bool, shape (H, W).

        Raises:
            ValueError: If no image is set, a shape or type is wrong, a mark lies outside the image,
                a pixel is marked both ways, a positive mark lies outside the box, or nothing says
                where the object is: no positive mark, no box and no mask. Nothing changes.
        """
        with self._lock:
            scene, size = self._ready()
            marks = clicks_and_scribbles(clicks_yx, is_positive, scribbles, size)
            box = None if box_yxyx is None else checked_box(box_yxyx, size)
            prior = None if mask is None else checked_mask(mask, size)
            _check_place(marks, box, prior)
            inside, outside = (scaled(marks.of(n), size, scene.features.size) for n in (1, 0))
            if self.method == "coloring" and box is None and prior is None:
                found = _two_colors(scene, inside, outside)
            else:
                small = None if prior is None else resized(prior, scene.features.size)
                small_box = scaled_box(box, size, scene.features.size)
                on_pixels = self.method == "pixelcut"
                found = scene.object_mask(inside, outside, small_box, small, on_pixels)
            return _obeying(resized(found, size), marks, keep_all)

    def predict_labels(
        self,
        clicks_yx: npt.ArrayLike,
        labels: npt.ArrayLike,
        *,
        scribbles: Sequence[tuple[npt.ArrayLike, int]] = (),
    ) -> IntArray:
        """A label for every pixel, from marks with labels: graph coloring, in one pass.

        Args:
            clicks_yx: Clicked pixels (row, column), integers, shape (N, 2), inside the image.
            labels: Label of each click, integers, not negative, shape (N,).
            scribbles: Pixels of strokes, each like clicks_yx, with their label.

        Returns:
            int64, shape (H, W): each pixel has the label of a mark, and each mark keeps its own.

        Raises:
            ValueError: If no image is set, a shape or type is wrong, a mark lies outside the image,
                a pixel has two labels, or there is no mark. Nothing changes.
        """
        with self._lock:
            scene, size = self._ready()
            marks = labeled_marks(clicks_yx, labels, scribbles, size)
            if not marks.labels.size:
                raise ValueError("at least one mark is needed, got none; click something first")
            places = scaled(marks.pixels_yx, size, scene.features.size)
            colored = scene.color(places, marks.labels)
            enlarged = enlarged_labels(colored, size)
            enlarged[tuple(marks.pixels_yx.T)] = marks.labels
            return enlarged

    def click(self, row: int, column: int, is_positive: bool = True) -> BoolArray:
        """Add a click to those that are kept, and give the mask for all of them.

        Raises:
            ValueError: As `predict` does; the click is not kept then.
        """
        return self.scribble([(row, column)], is_positive)

    def scribble(self, points_yx: Sequence[tuple[int, int]], is_positive: bool = True) -> BoolArray:
        """Add a stroke to what is kept, pixel by pixel, and give the mask for all of it.

        Raises:
            ValueError: As `predict` does; the stroke is not kept then.
        """
        with self._lock:
            history = [*self._history, (list(points_yx), is_positive)]
            mask = self.predict((), (), scribbles=history)
            self._history = history
            return mask

    def undo(self) -> BoolArray | None:
        """Take the last click or stroke back.

        Returns:
            The mask for the rest; None if none of the rest is on the object.

        Raises:
            ValueError: If there is nothing to take back.
        """
        with self._lock:
            if not self._history:
                raise ValueError("there is no click to take back")
            self._history = self._history[:-1]
            if not any(is_positive for _, is_positive in self._history):
                return None
            return self.predict((), (), scribbles=self._history)

    def reset(self) -> None:
        """Forget all clicks and strokes; the image stays."""
        with self._lock:
            self._history = []

    @property
    def scene(self) -> Scene:
        """What is prepared for the image.

        Raises:
            ValueError: If no image is set.
        """
        return self._ready()[0]

    @property
    def graph(self) -> AtomGraph:
        """The atoms of the image, at the size that is worked on.

        Raises:
            ValueError: If no image is set.
        """
        return self.scene.graph

    @property
    def hierarchy(self) -> Hierarchy:
        """All nested partitions of the image, at the size that is worked on.

        Raises:
            ValueError: If no image is set.
        """
        return self.scene.hierarchy

    def _ready(self) -> tuple[Scene, tuple[int, int]]:
        if self._scene is None:
            raise ValueError("no image is set; call set_image or set_features first")
        return self._scene, self._size

    def _scene_of(self, features: Features, rgb: npt.NDArray[np.uint8] | None) -> Scene:
        return Scene(features, rgb, self.networks, self.per_megapixel, self.smoothness)

    def _take(self, scene: Scene, size: tuple[int, int]) -> None:
        self._scene, self._size, self._history = scene, size, []


def _check_place(
    marks: Marks, box: tuple[int, int, int, int] | None, prior: BoolArray | None
) -> None:
    """Is it said where the object is, and without contradiction?"""
    inside = marks.of(1)
    if not len(inside) and box is None and (prior is None or not prior.any()):
        raise ValueError(
            "at least one click must be positive, got none; click the object first, or give a box "
            "or a mask that is not empty"
        )
    if box is None:
        return
    beyond = ((inside < box[:2]) | (inside >= box[2:])).any(axis=1)
    if beyond.any():
        raise ValueError(
            f"the positive click (row, column) = {tuple(inside[beyond][0].tolist())} lies outside "
            f"the box {box}; enlarge the box, or take the click back"
        )


def _two_colors(scene: Scene, inside: IntArray, outside: IntArray) -> BoolArray:
    """Coloring with two labels; without background the salient nodes are the object."""
    if not len(outside):
        return scene.salient_mask(inside)
    signs = np.repeat([1, 0], [len(inside), len(outside)])
    mask: BoolArray = scene.color(np.concatenate([inside, outside]), signs) == 1
    return mask


def _obeying(mask: BoolArray, marks: Marks, keep_all: bool) -> BoolArray:
    """The mask with every mark obeyed, reduced to the parts that are marked."""
    inside = marks.of(1)
    mask[tuple(marks.of(0).T)] = False
    mask[tuple(inside.T)] = True
    if keep_all or not len(inside):
        return mask
    rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    window = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    parts, count = ndimage.label(mask[window])
    is_kept = np.zeros(count + 1, bool)
    is_kept[parts[tuple((inside - (rows[0], columns[0])).T)]] = True
    mask[window] = is_kept[parts]
    return mask
