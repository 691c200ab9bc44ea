"""InteractiveSegmenter: clicks, scribbles, a box or a mask give the mask of an object."""

from __future__ import annotations

import logging
import math
import os
import threading
from collections.abc import Sequence
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from maskfeat.arguments import ImageLike, checked_flag, checked_number, is_whole, rgb_of, shown
from maskfeat.arrays import BoolArray, IntArray
from maskfeat.features.cache import FeatureCache
from maskfeat.features.reading import FeatureModel, Features, features_of
from maskfeat.interactive.candidates import Candidate, candidates
from maskfeat.interactive.cut import PAIRWISE_WEIGHT
from maskfeat.interactive.decoder import PromptDecoder
from maskfeat.interactive.decoder_file import decoder_for
from maskfeat.interactive.decoder_unary import DecodedImage
from maskfeat.interactive.image import ImageState, reads
from maskfeat.interactive.prompt_checks import (
    check_former,
    checked_box,
    checked_mask,
    labeled_pixels,
    prompts_of,
)
from maskfeat.interactive.prompts import Box, Prompt, PromptSet, check_together, filled
from maskfeat.interactive.update import (
    MaskOf,
    ProgressiveMerge,
    PromptedMasks,
    StartMask,
    enforce_hard_constraints,
    made_on,
    next_mask,
    shown_mask,
)
from maskfeat.segment.hierarchy import Hierarchy
from maskfeat.segment.inputs import (
    checked_features,
    checked_per_megapixel,
    enlarged_labels,
    model_of,
    reduced,
    resized,
    scaled,
    scaled_box,
)
from maskfeat.segment.superpixels import RegionGraph


class InteractiveSegmenter:
    """Segments an object by clicks, scribbles, a box, or a first mask.

        segmenter = InteractiveSegmenter(model)
        segmenter.set_image(rgb)
        mask = segmenter.predict([[120, 200], [30, 40]], [True, False])

    or click by click (also `scribble`, `reset`, `start`):

        mask = segmenter.click(120, 200)
        mask = segmenter.click(30, 40, is_positive=False)
        mask = segmenter.undo()

    How a mask is made:

    1. `set_image` computes features, superpixels with their region adjacency graph, and the
       hierarchy of segments, once for an image (`image.ImageState`).
    2. The click radius is the distance of a click from the outline of the mask shown when it was
       made, of a scribble the largest of its pixels: inf where no mask was shown, 0 where that
       mask satisfied the prompt. A prompt is broad if its radius is at least 0.2 sqrt(area of the
       mask that the broader prompts give) (`update.BROAD_SHARE`). In `predict` all are broad
       unless `click_radius_px` is given.
    3. Broad prompts are read together (`update.PromptedMasks.whole`):
       a. The unary term is a logit of "object" for each pixel, from a click decoder
          (`decoder_unary.DecodedImage`), or from the distances of features to the prompts and from
          the tree (`feature_unary.FeatureUnary`).
       b. An exact minimum cut labels the superpixels by their mean logits
          (`cut.SuperpixelCutter`); clicked ones are hard constraints. Without a prompt on the
          object, the superpixel of the highest logit is one.
       c. A second minimum cut labels the pixels near its outline (`cut.OutlineCutter`).
    4. The other prompts correct this mask, from the largest radius to the smallest
       (`update.ProgressiveMerge`): each cuts a window around it, and changes pixels to its own
       label only, in a part connected to it (`PromptedMasks.change`). Those of radius 0 are read
       only if the mask contradicts them by then.
    5. After step 3 and after each correction clicked pixels get their label, and only 4-connected
       parts that hold a prompt on the object are kept (`update.enforce_hard_constraints`).

    Every click is satisfied. The mask of `predict` is a function of the set of prompts with their
    radii, not of their order. `click` and `scribble` measure the radius of each prompt on the mask
    shown, and after a click on the background the object does not grow beyond that mask; so there
    the order of clicks matters.

    Threads can share an instance; calls run one after another.

    Args:
        model: Gives features, e.g. a `FeaturePyramid`; or a name or a path for `maskfeat.load`;
            None if only `set_features` is used.
        method: Only "cut".
        per_megapixel: Superpixels for a million pixels, above 0, at most 1e6.
        pairwise_weight: Cost of a pixel side of outline where the boundary strength is 0, not
            negative: the larger, the smoother the masks, see `SuperpixelCutter`.
        max_megapixels: Larger images, in millions of pixels, are reduced to this size, and their
            masks enlarged.
        cache_dir: Folder that keeps the features of images; for a model that is an nn.Module.
        networks: Only None: there are no networks of clicks any more.
        decoder: A click decoder, or the path of its file, see `decoder_file.load_decoder`. None
            takes that in the file of `model`, for features that it can read; False takes none.

    Raises:
        FileNotFoundError: If there is no such model or decoder.
        ValueError: If an argument is out of range, or a file holds no decoder.

    References:
        Boykov, Jolly: Interactive graph cuts, ICCV 2001. Sofiiuk et al.: RITM, ICIP 2022
        (arXiv:2102.06583). Chen et al.: FocalClick, CVPR 2022 (arXiv:2204.02574).
    """

    def __init__(
        self,
        model: FeatureModel | str | os.PathLike[str] | None = None,
        *,
        method: Literal["cut"] = "cut",
        per_megapixel: float = 26_000,
        pairwise_weight: float = PAIRWISE_WEIGHT,
        max_megapixels: float = 1.0,
        cache_dir: str | Path | None = None,
        networks: object = None,
        decoder: PromptDecoder | str | os.PathLike[str] | Literal[False] | None = None,
    ) -> None:
        check_former(method, networks)
        self.model = None if model is None else model_of(model)
        self.per_megapixel = checked_per_megapixel(per_megapixel)
        self.pairwise_weight = checked_number("pairwise_weight", pairwise_weight, least=0)
        self.max_megapixels = checked_number("max_megapixels", max_megapixels, above=0)
        trained = decoder_for(self.model, decoder)
        self.decoder = None if trained is None else trained.fused()
        self._is_decoder_given = decoder not in (None, False)
        self._inner_strides = () if self.decoder is None else self.decoder.inner_strides
        self._cache = None
        if cache_dir is not None:
            self._cache = FeatureCache(cache_dir, self.model, self._inner_strides)
        self._merge = ProgressiveMerge()
        self._lock = threading.RLock()
        self._state: ImageState | None = None
        self._size = 0, 0
        # What `click`, `scribble` and `start` build on, see `_begin`.
        self._start: StartMask | None
        self._cut: MaskOf
        self._made: list[Prompt]
        self._shown: BoolArray | None
        self._begin()

    def set_image(self, rgb: ImageLike) -> None:
        """Set the image of the next prompts.

        Args:
            rgb: uint8, shape (H, W, 3); or a PIL image, or the path of an image.

        Raises:
            ValueError: If there is no model, or the model refuses the image. The previous image
                stays then.
        """
        if self.model is None:
            raise ValueError("set_image needs a model; give one, or call set_features")
        rgb = rgb_of(rgb)
        with self._lock:
            small = reduced(rgb, self.max_megapixels)
            cache, inner = self._cache, self._inner_strides
            features = cache.features(small) if cache else features_of(self.model, small, inner)
            self._prepare(features, small, (rgb.shape[0], rgb.shape[1]))

    def set_features(self, features: Features, rgb: ImageLike | None = None) -> None:
        """Set the features of the image of the next prompts.

        Args:
            features: Of the image at its full size; distances are in units of their `scale`.
            rgb: The image, as in `set_image`; its color helps to place outlines.

        Raises:
            ValueError: If the features are not finite, or rgb has another size. The previous image
                stays then.
        """
        image = None if rgb is None else rgb_of(rgb)
        with self._lock:
            self._prepare(checked_features(features), image, features.size)

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
        """The mask of all prompts.

        Args:
            clicks_yx: Clicked pixels (row, column), integers, shape (N, 2), inside the image.
            is_positive: True or 1 for a click on the object, False or 0 for one on the background,
                shape (N,).
            scribbles: Pixels as in clicks_yx, each with True for the object. The mask satisfies
                every pixel.
            box_yxyx: A box that holds the whole object: top, left, bottom, right, the last two
                exclusive.
            mask: A mask prompt, bool, shape (H, W). If every prompt has a finite click radius,
                they correct it, and far from them it stays. Otherwise, or without prompts, the
                image is cut anew, and the mask is one input of the unary term.
            keep_all: Also keep 4-connected parts that hold no prompt on the object.
            click_radius_px: Click radius of each click, then of each scribble, pixels, shape (N +
                number of scribbles,), see `prompts.Prompt`. A prompt of small radius changes
                little; 0 says that the mask shown satisfied it already, so that it is read only if
                other prompts contradict it. None: every prompt can change the whole mask.
            within: Pixels that the object can cover, bool, shape (H, W), e.g. the mask shown
                before a click on the background; the mask is reduced to them after the cut.

        Returns:
            The object, bool, shape (H, W).

        Raises:
            ValueError: If no image is set, a shape or type is wrong, a prompt lies outside the
                image, a pixel is both object and background, an object prompt lies outside the box
                or `within`, or there is no object prompt, box or mask. Nothing changes then.
        """
        with self._lock:
            size = self._ready()[1]
            keep_all = checked_flag("keep_all", keep_all)
            prompts = prompts_of(clicks_yx, is_positive, scribbles, click_radius_px, size)
            box = None if box_yxyx is None else checked_box(box_yxyx, size)
            mask_prompt = None if mask is None else checked_mask(mask, size)
            allowed = None if within is None else checked_mask(within, size, "within")
            return self.mask_of(prompts, box, mask_prompt, keep_all, allowed)

    def mask_of(
        self,
        prompts: Sequence[Prompt],
        box: Box | None = None,
        mask: BoolArray | None = None,
        keep_all: bool = False,
        within: BoolArray | None = None,
    ) -> BoolArray:
        """As `predict`, for arguments that are checked each by itself."""
        with self._lock:
            state, size = self._ready()
            check_together(prompts, box, mask, within)
            to = state.features.size
            found = self._mask_at_feature_size(
                [prompt.scaled(size, to) for prompt in prompts],
                scaled_box(box, size, to),
                None if mask is None else resized(mask, to),
                keep_all,
            )
            cut = found.copy() if to == size else resized(found, size)
            if box is not None and to != size:  # pixels of the reduced image can cross its sides
                cut &= filled(box, size)
            if within is not None:
                cut &= within
            if to == size and within is None:
                return cut
            return enforce_hard_constraints(cut, prompts, keep_all)

    def predict_candidates(
        self,
        clicks_yx: npt.ArrayLike,
        is_positive: npt.ArrayLike,
        *,
        num_masks: int = 3,
        mask: npt.ArrayLike | None = None,
    ) -> list[Candidate]:
        """Several masks for clicks that may mean a whole, a part or a subpart.

        Args:
            clicks_yx: See `predict`; at least one on the object.
            is_positive: See `predict`.
            num_masks: At most this many; fewer where more would be much alike.
            mask: The mask that is shown for the clicks, if it is another than that of `predict`.

        Returns:
            Masks that satisfy every click, each with a predicted IoU, best first; one is that of
            `predict` or the one given, see `candidates`.

        Raises:
            ValueError: As `predict`, or num_masks is not at least 1.
        """
        with self._lock:
            state, size = self._ready()
            prompts = prompts_of(clicks_yx, is_positive, (), None, size)
            check_together(prompts, None, None, None)
            first = self.mask_of(prompts) if mask is None else checked_mask(mask, size).copy()
            logits = None
            if isinstance(state.unary, DecodedImage):
                small = [prompt.scaled(size, state.features.size) for prompt in prompts]
                logits = state.unary.whole(PromptSet(small))
            found = candidates(state.hierarchy, first, prompts, num_masks, logits)
            for one in found:
                enforce_hard_constraints(one.mask, prompts)
            return found

    def _mask_at_feature_size(
        self, prompts: Sequence[Prompt], box: Box | None, mask: BoolArray | None, keep_all: bool
    ) -> BoolArray:
        """The mask at the size of the features, not to be changed."""
        state = self.image_state
        masks = PromptedMasks(state, box, mask)
        start = np.zeros(state.features.size, bool)
        has_object = box is not None if mask is None else mask.any()
        # If every prompt has a click radius, the mask prompt, or the mask of the box, was shown
        # before the first of them, so they correct it. Else those without one begin a new mask.
        if has_object and all(math.isfinite(prompt.click_radius) for prompt in prompts):
            start = mask if prompts and mask is not None else masks.whole(())
        # What else the mask depends on: the key of masks that are kept for the next click.
        context = box, None if mask is None else sha256(mask.tobytes()).digest(), keep_all
        return self._merge.mask(prompts, masks, start, keep_all, context)

    def predict_labels(
        self,
        clicks_yx: npt.ArrayLike,
        labels: npt.ArrayLike,
        *,
        scribbles: Sequence[tuple[npt.ArrayLike, int]] | None = (),
    ) -> IntArray:
        """A label for every pixel, by a seeded watershed in one pass.

        Args:
            clicks_yx: Clicked pixels (row, column), integers, shape (N, 2), inside the image.
            labels: Label of each click, integers, not negative, shape (N,).
            scribbles: Pixels as in clicks_yx, each with a label.

        Returns:
            int64, shape (H, W): each pixel has the label of a prompt, each prompt its own.

        Raises:
            ValueError: If no image is set, a shape or type is wrong, a prompt lies outside the
                image, a pixel has two labels, or there is no prompt. Nothing changes then.
        """
        with self._lock:
            image_state, size = self._ready()
            pixels_yx, own = labeled_pixels(clicks_yx, labels, scribbles, size)
            if not own.size:
                raise ValueError("at least one prompt is needed, got none; click something first")
            small_yx = scaled(pixels_yx, size, image_state.features.size)
            enlarged = enlarged_labels(image_state.labels_by_watershed(small_yx, own), size)
            enlarged[tuple(pixels_yx.T)] = own
            return enlarged

    def click(self, row: int, column: int, is_positive: bool = True) -> BoolArray:
        """Add a click.

        Returns:
            The mask of all clicks and scribbles since `set_image` or `reset`.

        Raises:
            ValueError: As `predict`; the click is not added then.
        """
        if not (is_whole(row) and is_whole(column)):  # numpy makes True a 1
            raise ValueError(
                "row and column of a click must be whole numbers, "
                f"got {shown(row)} and {shown(column)}"
            )
        return self.scribble([(row, column)], is_positive)

    def scribble(self, points_yx: npt.ArrayLike, is_positive: bool = True) -> BoolArray:
        """Add a scribble.

        Args:
            points_yx: Its pixels (row, column), integers, shape (N, 2), at least one.
            is_positive: Whether it is on the object.

        Returns:
            As `click`.

        Raises:
            ValueError: As `predict`; the scribble is not added then.
        """
        with self._lock:
            prompts = prompts_of((), (), [(points_yx, is_positive)], None, self._ready()[1])
            if not prompts:
                raise ValueError("a scribble must have at least one pixel, got none")
            made = [*self._made, made_on(self._shown, prompts[0])]
            mask = next_mask(self._cut, made, self._shown, self._start)
            self._made, self._shown = made, mask
            return mask.copy()

    def start(
        self, mask: npt.ArrayLike | None = None, *, box_yxyx: npt.ArrayLike | None = None
    ) -> BoolArray:
        """Begin with a mask or a box; the clicks and scribbles that follow correct it.

        Args:
            mask: bool, shape (H, W), e.g. one made elsewhere; far from the clicks it stays.
            box_yxyx: Holds the whole object, see `predict`.

        Returns:
            The mask that is shown first, bool, shape (H, W): the one given, or that of the box.

        Raises:
            ValueError: If both are given or neither, or as `predict`. Nothing changes then.
        """
        if (mask is None) == (box_yxyx is None):
            raise ValueError("start with a mask or with a box, one of the two")
        with self._lock:
            size = self._ready()[1]
            box = None if box_yxyx is None else checked_box(box_yxyx, size)
            first = self.mask_of((), box) if mask is None else checked_mask(mask, size).copy()
            self._begin(first, box)
            return first.copy()

    def undo(self) -> BoolArray | None:
        """Remove the last click or scribble.

        Returns:
            The mask of the rest, or what `start` began with; None if none of the rest is on the
            object.

        Raises:
            ValueError: If there is none.
        """
        with self._lock:
            if not self._made:
                raise ValueError("there is no click to take back")
            mask = shown_mask(self._cut, self._made[:-1], self._start)
            self._made, self._shown = self._made[:-1], mask
            return None if mask is None else mask.copy()

    def reset(self) -> None:
        """Remove all clicks, scribbles, and what `start` began with; the image stays."""
        with self._lock:
            self._begin()

    def _begin(self, start: BoolArray | None = None, box: Box | None = None) -> None:
        """Forget all prompts; the next ones correct a mask (H, W), their object lies in a box."""
        self._start = None if start is None else StartMask(start)
        self._cut = self.mask_of if box is None else partial(self.mask_of, box=box)
        self._made = []
        self._shown = start

    @property
    def image_state(self) -> ImageState:
        """What was computed for the image, at the size that cuts work on.

        Raises:
            ValueError: If no image is set.
        """
        return self._ready()[0]

    @property
    def graph(self) -> RegionGraph:
        """The superpixels of the image, see `image_state`."""
        return self.image_state.graph

    @property
    def hierarchy(self) -> Hierarchy:
        """All nested partitions of the image; with color in it, see `ImageState.hierarchy`."""
        return self.image_state.hierarchy

    def _ready(self) -> tuple[ImageState, tuple[int, int]]:
        if self._state is None:
            raise ValueError("no image is set; call set_image or set_features first")
        return self._state, self._size

    def _prepare(
        self, features: Features, rgb: npt.NDArray[np.uint8] | None, size: tuple[int, int]
    ) -> None:
        # The model's own decoder may have been trained on other features than these.
        decoder = self.decoder
        if decoder is not None and not self._is_decoder_given and not reads(decoder, features):
            logging.getLogger("maskfeat").warning(
                "the click decoder of the model does not read features of %d channels; clicks are "
                "read by the distances of these features",
                features.num_channels,
            )
            decoder = None
        weights = self.per_megapixel, self.pairwise_weight
        self._state = ImageState(features, rgb, *weights, decoder)
        self._size = size
        self._merge = ProgressiveMerge()
        self._begin()
