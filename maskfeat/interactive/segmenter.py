"""One image, many clicks."""

from __future__ import annotations

import os
import threading
from collections.abc import Hashable, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from maskfeat.arguments import (
    ImageLike,
    checked_flag,
    checked_number,
    is_whole,
    rgb_of,
    shown,
)
from maskfeat.deprecation import renamed_argument, warn_renamed
from maskfeat.features.cache import FeatureCache
from maskfeat.features.reading import FeatureModel, Features
from maskfeat.interactive.box_and_mask import filled
from maskfeat.interactive.click_radius import ANYWHERE, Prompt, scaled_prompt
from maskfeat.interactive.cut import PAIRWISE_WEIGHT
from maskfeat.interactive.history import PromptHistory
from maskfeat.interactive.image import ImageState
from maskfeat.interactive.networks import ClickNetworks, default_networks
from maskfeat.interactive.prompt_cutter import PromptCutter
from maskfeat.interactive.prompts import (
    check_place,
    checked_bound,
    checked_box,
    checked_mask,
    clicks_and_scribbles,
    labeled_pixels,
    prompts_with_radius,
)
from maskfeat.interactive.update import ProgressiveMerge, enforce_hard_constraints
from maskfeat.segment.hierarchy import Hierarchy
from maskfeat.segment.inputs import checked_features, checked_per_megapixel, model_of
from maskfeat.segment.resizing import (
    enlarged_labels,
    reduced,
    resized,
    scaled,
    scaled_box,
)
from maskfeat.segment.superpixels import RegionGraph

BoolArray = npt.NDArray[np.bool_]
IntArray = npt.NDArray[np.int64]


class InteractiveSegmenter:
    """Prompts objects by clicks, scribbles, a box, or a mask to start from.

    The mask is a function of the image and the set of prompts: their order cannot matter, and every
    click is satisfied. The object consists of the 4-connected parts that hold prompts of it.

        segmenter = InteractiveSegmenter(model)
        segmenter.set_image(rgb)
        mask = segmenter.predict([[120, 200], [30, 40]], [True, False])

    or click by click, with what was clicked kept here:

        mask = segmenter.click(120, 200)
        mask = segmenter.click(30, 40, is_positive=False)
        mask = segmenter.undo()

    These clicks carry their click radius, how far from the outline of the mask of that moment they
    were made (`click_radius`): a click near the outline changes little. A click on the background
    takes away from that mask, and nothing grows for it. `predict` can be told both, too.

    An instance may be used by many threads; each call is done before the next begins.

    Args:
        model: Gives the features of an image, e.g. a `FeaturePyramid`; or what `maskfeat.load`
            takes, a name or a path; None if only `set_features` is used.
        method: "cut", the only one: a graph cut of superpixels, refined in pixels.
        per_megapixel: Superpixels for a million pixels, see `superpixels`.
        pairwise_weight: How much a short and well-placed outline is worth, see `SuperpixelCutter`.
        max_megapixels: A larger image, millions of pixels, is worked on reduced to this size, and
            the mask is enlarged again.
        cache_dir: Folder in which features are kept, so that an image is encoded once; for a
            model that is an nn.Module.
        networks: Judge superpixels and pixels; None takes those that come with the package.
    """

    @renamed_argument("smoothness", "pairwise_weight")
    def __init__(
        self,
        model: FeatureModel | str | os.PathLike[str] | None = None,
        *,
        method: Literal["cut"] = "cut",
        per_megapixel: float = 26_000,
        pairwise_weight: float = PAIRWISE_WEIGHT,
        max_megapixels: float = 1.0,
        cache_dir: str | Path | None = None,
        networks: ClickNetworks | None = None,
    ) -> None:
        if not isinstance(method, str) or method != "cut":
            raise ValueError(
                f"method must be 'cut', got {shown(method)}; 'pixelcut' and 'coloring' are gone, "
                "and predict_labels gives a seeded watershed of any number of labels"
            )
        self.model = None if model is None else model_of(model)
        self.per_megapixel = checked_per_megapixel(per_megapixel)
        self.pairwise_weight = checked_number("pairwise_weight", pairwise_weight, least=0)
        self.max_megapixels = checked_number("max_megapixels", max_megapixels, above=0)
        if not (networks is None or isinstance(networks, ClickNetworks)):
            raise ValueError(f"networks must be ClickNetworks or None, got {shown(networks)}")
        self.networks = default_networks() if networks is None else networks
        self._cache = None if cache_dir is None else FeatureCache(cache_dir, self.model)
        self._lock = threading.RLock()
        self._state: ImageState | None = None
        self._size = (0, 0)
        self._merge = ProgressiveMerge()
        self._history = PromptHistory(self.predict)

    def set_image(self, rgb: ImageLike) -> None:
        """Take the image that the next clicks are for.

        Args:
            rgb: uint8, shape (H, W, 3); or a PIL image, or the path of an image.

        Raises:
            ValueError: If there is no model, or the model refuses the image. The image that was
                set before stays.
        """
        if self.model is None:
            raise ValueError("set_image needs a model; give one, or call set_features")
        rgb = rgb_of(rgb)
        with self._lock:
            small = reduced(rgb, self.max_megapixels)
            read = self.model.features if self._cache is None else self._cache.features
            self._take(self._state_of(read(small), small), (rgb.shape[0], rgb.shape[1]))

    def set_features(self, features: Features, rgb: ImageLike | None = None) -> None:
        """Take the features of the image that the next clicks are for.

        Args:
            features: Of the image, at its full size. Their `scale` should be right: how far a
                click reaches is judged in units of it.
            rgb: The image, as in `set_image`, whose color helps to place outlines.

        Raises:
            ValueError: If the features are not finite, or rgb has another size. The image that was
                set before stays.
        """
        image = None if rgb is None else rgb_of(rgb)
        with self._lock:
            self._take(self._state_of(checked_features(features), image), features.size)

    @renamed_argument("reach_px", "click_radius_px")
    def predict(
        self,
        clicks_yx: npt.ArrayLike,
        is_positive: npt.ArrayLike,
        *,
        scribbles: Sequence[tuple[npt.ArrayLike, bool]] | None = (),
        box_yxyx: npt.ArrayLike | None = None,
        mask: npt.ArrayLike | None = None,
        keep_all: bool = False,
        click_radius_px: npt.ArrayLike | None = None,
        within: npt.ArrayLike | None = None,
    ) -> BoolArray:
        """The mask for all prompts so far.

        Args:
            clicks_yx: Clicked pixels (row, column), integers, shape (N, 2), inside the image.
            is_positive: True or 1 for a click on the object, else False or 0, shape (N,).
            scribbles: Pixels of prompts, each like clicks_yx, with True for the object; all
                of them are satisfied.
            box_yxyx: A box that holds all of the object: top, left, bottom, right, the last two
                exclusive.
            mask: What the object was before, or may be, bool, shape (H, W): a hint, not an order.
            keep_all: Keep parts that hold no prompt, too.
            click_radius_px: Of each click, then of each scribble, see
                `maskfeat.interactive.click_radius`, pixels, shape (N + number of scribbles,).
                Prompts that reach less change less, 0 is one that says what the mask said, see
                `maskfeat.interactive.update.ProgressiveMerge`. None: each
                    may
                change everything.
            within: Beyond this nothing is object, bool, shape (H, W), e.g. the mask that was shown
                before a click on the background, for which nothing is to grow.

        Returns:
            The object, bool, shape (H, W).

        Raises:
            ValueError: If no image is set, a shape or type is wrong, a prompt lies outside the
                image, a pixel is labeled both distances, a positive prompt lies outside the box or
                `within`, or nothing says where the object is: no positive prompt, no box and no
                mask. Nothing changes.
        """
        with self._lock:
            image_state, size = self._ready()
            keep_all = checked_flag("keep_all", keep_all)
            pixels = clicks_and_scribbles(clicks_yx, is_positive, scribbles, size)
            box = None if box_yxyx is None else checked_box(box_yxyx, size)
            prior = None if mask is None else checked_mask(mask, size)
            check_place(pixels, box, prior)
            bound = None if within is None else checked_bound(within, pixels, size)
            prompts = prompts_with_radius(clicks_yx, scribbles, is_positive, click_radius_px, size)
            small = [scaled_prompt(prompt, size, image_state.features.size) for prompt in prompts]
            small_box = scaled_box(box, size, image_state.features.size)
            found = self._mask_of(small, small_box, prior, keep_all)
            if found.shape == size and bound is None:
                return found.copy()
            enlarged = found.copy() if found.shape == size else resized(found, size)
            if box is not None:  # its sides lie inside pixels of the reduced image
                enlarged &= filled(box, size)
            if bound is not None:
                enlarged &= bound
            return enforce_hard_constraints(enlarged, pixels.of(1), pixels.of(0), keep_all)

    def predict_labels(
        self,
        clicks_yx: npt.ArrayLike,
        labels: npt.ArrayLike,
        *,
        scribbles: Sequence[tuple[npt.ArrayLike, int]] | None = (),
    ) -> IntArray:
        """A label for every pixel, from prompts with labels: graph coloring, in one pass.

        Args:
            clicks_yx: Clicked pixels (row, column), integers, shape (N, 2), inside the image.
            labels: Label of each click, integers, not negative, shape (N,).
            scribbles: Pixels of prompts, each like clicks_yx, with their label.

        Returns:
            int64, shape (H, W): each pixel has the label of a prompt, and each prompt keeps its
                own.

        Raises:
            ValueError: If no image is set, a shape or type is wrong, a prompt lies outside the
                image, a pixel has two labels, or there is no prompt. Nothing changes.
        """
        with self._lock:
            image_state, size = self._ready()
            pixels = labeled_pixels(clicks_yx, labels, scribbles, size)
            if not pixels.labels.size:
                raise ValueError("at least one prompt is needed, got none; click something first")
            places = scaled(pixels.pixels_yx, size, image_state.features.size)
            colored = image_state.color(places, pixels.labels)
            enlarged = enlarged_labels(colored, size)
            enlarged[tuple(pixels.pixels_yx.T)] = pixels.labels
            return enlarged

    def click(self, row: int, column: int, is_positive: bool = True) -> BoolArray:
        """Add a click to those that are kept, and give the mask for all of them.

        Raises:
            ValueError: As `predict` does; the click is not kept then.
        """
        if not (is_whole(row) and is_whole(column)):  # numpy makes True a 1
            raise ValueError(
                "row and column of a click must be whole numbers, "
                f"got {shown(row)} and {shown(column)}"
            )
        return self.scribble([(row, column)], is_positive)

    def scribble(self, points_yx: npt.ArrayLike, is_positive: bool = True) -> BoolArray:
        """Add a prompt to what is kept, pixel by pixel, and give the mask for all of it.

        Args:
            points_yx: Pixels (row, column), integers, shape (N, 2), at least one.
            is_positive: True for a prompt on the object.

        Raises:
            ValueError: As `predict` does; the prompt is not kept then.
        """
        with self._lock:
            _, size = self._ready()
            points = clicks_and_scribbles((), (), [(points_yx, is_positive)], size).pixels_yx
            if not len(points):
                raise ValueError("a prompt must have at least one pixel, got none")
            return self._history.add(points, bool(is_positive))

    def undo(self) -> BoolArray | None:
        """Take the last click or prompt back.

        Returns:
            The mask for the rest; None if none of the rest is on the object.

        Raises:
            ValueError: If there is nothing to take back.
        """
        with self._lock:
            return self._history.undo()

    def reset(self) -> None:
        """Forget all clicks and prompts; the image stays."""
        with self._lock:
            self._history = PromptHistory(self.predict)

    def _mask_of(
        self,
        prompts: Sequence[Prompt],
        box: tuple[int, int, int, int] | None,
        prior: BoolArray | None,
        keep_all: bool,
    ) -> BoolArray:
        """The mask in pixels of the scene, not to be changed."""
        image_state = self.image_state
        prior = None if prior is None else resized(prior, image_state.features.size)
        cutter = PromptCutter(image_state, box, prior)
        start = np.zeros(image_state.features.size, bool)
        has_hint = prior.any() if prior is not None else box is not None
        # Prompts that may change everything ask for no mask to start from.
        if has_hint and all(prompt.octave < ANYWHERE for prompt in prompts):
            start = cutter.whole(*np.empty((2, 0, 2), np.int64))
        hint = None if prior is None else sha256(prior.tobytes()).digest()
        context: Hashable = (box, hint, keep_all)
        return self._merge.mask(prompts, cutter, start, keep_all, context)

    @property
    def image_state(self) -> ImageState:
        """What is prepared for the image.

        Raises:
            ValueError: If no image is set.
        """
        return self._ready()[0]

    @property
    def scene(self) -> ImageState:
        """The former name of `image_state`."""
        warn_renamed("InteractiveSegmenter.scene", "image_state")
        return self.image_state

    @property
    def graph(self) -> RegionGraph:
        """The superpixels of the image, at the size that is worked on; see `image_state`."""
        return self.image_state.graph

    @property
    def hierarchy(self) -> Hierarchy:
        """All nested partitions of the image, at the size that is worked on; see `image_state`."""
        return self.image_state.hierarchy

    def _ready(self) -> tuple[ImageState, tuple[int, int]]:
        if self._state is None:
            raise ValueError("no image is set; call set_image or set_features first")
        return self._state, self._size

    def _state_of(self, features: Features, rgb: npt.NDArray[np.uint8] | None) -> ImageState:
        return ImageState(features, rgb, self.networks, self.per_megapixel, self.pairwise_weight)

    def _take(self, image_state: ImageState, size: tuple[int, int]) -> None:
        self._state, self._size = image_state, size
        self._merge = ProgressiveMerge()
        self._history = PromptHistory(self.predict)
