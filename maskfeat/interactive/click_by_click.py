"""Clicks and scribbles made one after another, each on the mask shown before it, and undo."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import numpy.typing as npt

from maskfeat.arguments import is_whole, shown
from maskfeat.arrays import BoolArray
from maskfeat.interactive.image import ImageState
from maskfeat.interactive.prompt_checks import checked_box, checked_mask, prompts_of
from maskfeat.interactive.prompts import Box, Prompt, click_radius_of, pixels_of
from maskfeat.interactive.update import enforce_hard_constraints
from maskfeat.segment.hierarchy import Hierarchy
from maskfeat.segment.superpixels import RegionGraph

# `ClickByClick.mask_of`.
MaskOf = Callable[..., BoolArray]


class ClickByClick(ABC):
    """The part of `InteractiveSegmenter` that holds the image and the prompts made on it.

    It adds one prompt, or takes it back; how a mask is made is up to `mask_of`.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._state: ImageState | None = None
        self._size = 0, 0
        self._history = PromptHistory(self.mask_of)

    @abstractmethod
    def mask_of(
        self,
        prompts: Sequence[Prompt],
        box: Box | None = None,
        mask: BoolArray | None = None,
        keep_all: bool = False,
        within: BoolArray | None = None,
    ) -> BoolArray:
        """As `InteractiveSegmenter.predict`, for arguments that are checked each by itself.

        Raises:
            ValueError: If the prompts contradict one another, or there is no object.
        """

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
            return self._history.add(prompts[0])

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
            shown = self.mask_of((), box) if mask is None else checked_mask(mask, size).copy()
            self._history.begin(shown, box)
            return shown.copy()

    def undo(self) -> BoolArray | None:
        """Remove the last click or scribble.

        Returns:
            The mask of the rest, or what `start` began with; None if none of the rest is on the
            object.

        Raises:
            ValueError: If there is none.
        """
        with self._lock:
            return self._history.undo()

    def reset(self) -> None:
        """Remove all clicks, scribbles, and what `start` began with; the image stays."""
        with self._lock:
            self._history.begin()

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


class PromptHistory:
    """Gives each new prompt its click radius on the mask shown last, and keeps it.

    A prompt that the shown mask satisfies changes nothing. A background prompt only removes: the
    object does not grow beyond the shown mask until the next prompt on the object.

    Args:
        mask_of: Gives the mask of some prompts, see `ClickByClick.mask_of`.
    """

    def __init__(self, mask_of: MaskOf) -> None:
        self._mask_of = mask_of
        self.begin()

    def begin(self, start: BoolArray | None = None, box: Box | None = None) -> None:
        """Forget all prompts.

        Args:
            start: A mask that the next prompts correct, (H, W).
            box: Holds the object of the next prompts.
        """
        self._start = None if start is None else (start, 0)
        self._cut: MaskOf = self._mask_of if box is None else partial(self._mask_of, box=box)
        self._prompts: list[Prompt] = []
        self._shown = start

    def add(self, prompt: Prompt) -> BoolArray:
        """The mask with one more prompt, which is kept unless this raises."""
        shown = self._shown
        prompts = [*self._prompts, _made_on(shown, prompt)]
        mask = _mask_of(self._cut, prompts, shown, self._start)
        self._prompts, self._shown = prompts, mask
        return mask.copy()

    def undo(self) -> BoolArray | None:
        """Remove the last prompt.

        Returns:
            The mask of the rest; None if none of them is on the object, and there was no mask to
            correct.

        Raises:
            ValueError: If there is no prompt.
        """
        if not self._prompts:
            raise ValueError("there is no click to take back")
        prompts = self._prompts[:-1]
        shown = shown_mask(self._cut, prompts, self._start)
        self._prompts, self._shown = prompts, shown
        return None if shown is None else shown.copy()


def shown_mask(
    mask_of: MaskOf, prompts: Sequence[Prompt], chosen: tuple[BoolArray, int] | None = None
) -> BoolArray | None:
    """The mask that was shown after some prompts.

    Args:
        mask_of: See `PromptHistory`.
        prompts: As they were made, one after another, each with its click radius.
        chosen: A mask to correct, bool, shape (H, W), and the number of the first prompts that it
            was chosen for: 0 for one to begin with, more for a candidate. The others correct it;
            those of click radius inf, made before it could be shown, are measured on what it has
            become by then.

    Returns:
        bool, shape (H, W); None if nothing is chosen and no prompt is on the object.
    """
    prompts = list(prompts)
    if chosen is None and not any(prompt.is_object for prompt in prompts):
        return None
    start, known = (None, 0) if chosen is None else chosen
    # The masks before the last prompt that could add to the object do not matter.
    first, least = len(prompts), 1 if chosen is None else known
    is_unknown = chosen is not None and any(np.isinf(one.click_radius) for one in prompts[known:])
    while first > least and (is_unknown or prompts[first - 1].cannot_grow_object):
        first -= 1
    mask = start if first == known else None
    for count in range(max(first, known + 1), len(prompts) + 1):
        last = prompts[count - 1]
        if is_unknown and mask is not None and np.isinf(last.click_radius):
            prompts[count - 1] = _made_on(mask, last)
        mask = _mask_of(mask_of, prompts[:count], mask, chosen)
    return mask


def _made_on(shown: BoolArray | None, prompt: Prompt) -> Prompt:
    """A prompt with the click radius that it has on the mask shown when it was made."""
    if shown is None:
        return prompt
    radius = click_radius_of(shown, prompt.pixels_yx, prompt.is_object)
    return replace(prompt, click_radius=radius)


def _mask_of(
    mask_of: MaskOf,
    prompts: Sequence[Prompt],
    shown: BoolArray | None,
    chosen: tuple[BoolArray, int] | None = None,
) -> BoolArray:
    """The mask of some prompts, the last of them made on the shown mask."""
    if prompts[-1].click_radius == 0 and shown is not None:
        return shown
    within = None
    if prompts[-1].cannot_grow_object and shown is not None:
        within = shown.copy()
        # On the page, a segment taken whole can cover an earlier object prompt.
        for prompt in prompts:
            within[tuple(prompt.pixels_yx.T)] |= prompt.is_object
    if chosen is None:
        return mask_of(prompts, within=within)
    start, known = chosen
    # The chosen mask satisfies the prompts that it was chosen for.
    corrections = [replace(one, click_radius=0.0) for one in prompts[:known]] + [*prompts[known:]]
    mask = mask_of(corrections, mask=start, keep_all=True, within=within)
    pixels = pixels_of(prompts, True), pixels_of(prompts, False)
    return enforce_hard_constraints(mask, *pixels, keep_all=not known)
