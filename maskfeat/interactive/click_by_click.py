"""Clicks and scribbles made one after another: a part of `InteractiveSegmenter`."""

from __future__ import annotations

from contextlib import AbstractContextManager

import numpy.typing as npt

from maskfeat.arguments import is_whole, shown
from maskfeat.arrays import BoolArray
from maskfeat.deprecation import warn_renamed
from maskfeat.interactive.history import PromptHistory
from maskfeat.interactive.image import ImageState
from maskfeat.interactive.prompt_checks import clicks_and_scribbles
from maskfeat.segment.hierarchy import Hierarchy
from maskfeat.segment.superpixels import RegionGraph


class ClickByClick:
    """The part of `InteractiveSegmenter` that adds one prompt, or takes it back."""

    _lock: AbstractContextManager[object]
    _history: PromptHistory
    _state: ImageState | None = None
    _size: tuple[int, int] = (0, 0)

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
            _, size = self._ready()
            points = clicks_and_scribbles((), (), [(points_yx, is_positive)], size).pixels_yx
            if not len(points):
                raise ValueError("a scribble must have at least one pixel, got none")
            return self._history.add(points, bool(is_positive))

    def undo(self) -> BoolArray | None:
        """Remove the last click or scribble.

        Returns:
            The mask of the rest; None if none of the rest is on the object.

        Raises:
            ValueError: If there is none.
        """
        with self._lock:
            return self._history.undo()

    def reset(self) -> None:
        """Remove all clicks and scribbles; the image stays."""
        with self._lock:
            self._history.clear()

    @property
    def image_state(self) -> ImageState:
        """What was computed for the image, at the size that cuts work on.

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
        """The superpixels of the image, see `image_state`."""
        return self.image_state.graph

    @property
    def hierarchy(self) -> Hierarchy:
        """All nested partitions of the image, see `image_state`."""
        return self.image_state.hierarchy

    def _ready(self) -> tuple[ImageState, tuple[int, int]]:
        if self._state is None:
            raise ValueError("no image is set; call set_image or set_features first")
        return self._state, self._size
