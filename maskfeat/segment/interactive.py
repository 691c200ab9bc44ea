"""One image, many clicks."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt

from maskfeat.features.reading import Features, FloatArray
from maskfeat.segment.atoms import AtomGraph, atoms, split_atoms
from maskfeat.segment.graphcut import AtomCutter

BoolArray = npt.NDArray[np.bool_]
IntArray = npt.NDArray[np.int64]


class FeatureModel(Protocol):
    """Anything that turns a photograph into features."""

    def features(self, rgb: npt.NDArray[np.uint8]) -> Features:
        """Features of one image, uint8, shape (H, W, 3)."""
        ...


class InteractiveSegmenter:
    """Marks an object by clicks on it and beside it.

    The mask is a function of the image and the set of clicks: their order cannot matter, and every
    click is obeyed. The object consists of the 4-connected parts that hold positive clicks.

        segmenter = InteractiveSegmenter(model)
        segmenter.set_image(rgb)
        mask = segmenter.predict([[120, 200], [30, 40]], [True, False])

    Args:
        model: Gives the features of an image, e.g. a `FeaturePyramid`; None if only
            `set_features` is used.
        per_megapixel: Atoms for a million pixels, see `atoms`.
        smoothness: How much a short and well-placed outline is worth, see `AtomCutter`.
    """

    def __init__(
        self,
        model: FeatureModel | None = None,
        *,
        per_megapixel: int = 26_000,
        smoothness: float = 30.0,
    ) -> None:
        self.model = model
        self.per_megapixel = per_megapixel
        self.smoothness = smoothness
        self._features: Features | None = None
        self._distances: tuple[FloatArray, FloatArray] | None = None
        # The atoms as they are, and the last graph in which some of them were split.
        self._whole: AtomCutter | None = None
        self._split: tuple[tuple[int, ...], AtomCutter] | None = None

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
        self.set_features(self.model.features(rgb))

    def set_features(self, features: Features) -> None:
        """Take the features of the image that the next clicks are for."""
        distances = features.neighbor_distances()
        graph = atoms(features, self.per_megapixel, distances)
        self._whole = AtomCutter(graph, smoothness=self.smoothness)
        self._features, self._distances, self._split = features, distances, None

    def predict(self, clicks_yx: npt.ArrayLike, is_positive: npt.ArrayLike) -> BoolArray:
        """The mask for all clicks so far.

        Args:
            clicks_yx: Clicked pixels (row, column), integers, shape (N, 2), inside the image.
            is_positive: True for a click on the object, bool, shape (N,), at least one True.

        Returns:
            The object, bool, shape (H, W).

        Raises:
            ValueError: If no image is set, a shape or type is wrong, a click lies outside the
                image, no click is positive, or a pixel is clicked both ways. Nothing changes.
        """
        if self._whole is None:
            raise ValueError("no image is set; call set_image or set_features before predict")
        height, width = self._whole.graph.labels.shape
        clicks, positive = _checked_clicks(clicks_yx, is_positive, height, width)
        labels = self._whole.graph.labels[clicks[:, 0], clicks[:, 1]]
        torn = np.intersect1d(labels[positive], labels[~positive])
        cutter = self._cutter_with_split(torn) if torn.size else self._whole
        clicked = cutter.graph.labels[clicks[:, 0], clicks[:, 1]]
        mask: BoolArray = cutter.cut(clicked[positive], clicked[~positive])[cutter.graph.labels]
        return mask

    @property
    def graph(self) -> AtomGraph:
        """The atoms of the image.

        Raises:
            ValueError: If no image is set.
        """
        if self._whole is None:
            raise ValueError("no image is set; call set_image or set_features first")
        return self._whole.graph

    def _cutter_with_split(self, torn: npt.NDArray[np.integer]) -> AtomCutter:
        """The graph in which the atoms that hold opposite clicks are pixels."""
        assert self._whole is not None
        assert self._features is not None
        key = tuple(int(atom) for atom in torn)
        if self._split is None or self._split[0] != key:
            graph = split_atoms(self._whole.graph, self._features, torn, self._distances)
            self._split = key, AtomCutter(graph, smoothness=self.smoothness)
        return self._split[1]


def _checked_clicks(
    clicks_yx: npt.ArrayLike, is_positive: npt.ArrayLike, height: int, width: int
) -> tuple[IntArray, BoolArray]:
    clicks, positive = np.asarray(clicks_yx), np.asarray(is_positive)
    if clicks.ndim != 2 or clicks.shape[1] != 2 or positive.shape != clicks.shape[:1]:
        raise ValueError(
            "clicks_yx must have shape (N, 2) and is_positive (N,), "
            f"got {clicks.shape} and {positive.shape}"
        )
    if not np.issubdtype(clicks.dtype, np.integer) or positive.dtype != np.bool_:
        raise ValueError(
            "clicks_yx must be integers (whole pixels) and is_positive bool, "
            f"got {clicks.dtype} and {positive.dtype}; round the clicks"
        )
    outside = ((clicks < 0) | (clicks >= (height, width))).any(axis=1)
    if outside.any():
        raise ValueError(
            f"clicks must lie inside the image of {height} x {width} pixels (height x width), "
            f"got (row, column) = {tuple(clicks[outside][0].tolist())}"
        )
    if not positive.any():
        raise ValueError("at least one click must be positive, got none; click the object first")
    pixels = clicks[:, 0].astype(np.int64) * width + clicks[:, 1]
    both = np.intersect1d(pixels[positive], pixels[~positive])
    if both.size:
        raise ValueError(
            f"the pixel (row, column) = {divmod(int(both[0]), width)} is clicked as object and as "
            "background; take one of the two clicks back"
        )
    return clicks.astype(np.int64), positive
