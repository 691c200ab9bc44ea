"""Images that an annotation tool sends with all their prompts, again and again."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from maskfeat.arrays import BoolArray, IntArray
from maskfeat.features.reading import FeatureModel
from maskfeat.interactive.segmenter import InteractiveSegmenter
from maskfeat.recent import Recent
from maskfeat.segment.inputs import enlarged_labels

_KEPT_IMAGES = 4  # of 60 to 250 MB each
# What reading a request raises that is of another form than the tool's.
BAD_REQUEST = (ValueError, TypeError, LookupError, AttributeError, ArithmeticError)


class Click(NamedTuple):
    """A click of a tool.

    Attributes:
        x: From the left, pixels, may have a fraction.
        y: From the top.
        is_positive: Whether it is on the object.
    """

    x: float
    y: float
    is_positive: bool


class PromptedImage:
    """Gives the mask of all prompts on one image; clicks that are known cost nothing.

    A tool sends all prompts each time, and not always in the order in which they were made. So
    the clicks of the last call that are still there come first, in their former order; each click
    then corrects the mask of those before it, as on the page of `maskfeat annotate`.

    Args:
        model: Gives features.
        rgb: uint8, shape (H, W, 3).
        max_megapixels: See `InteractiveSegmenter`.
    """

    _box: tuple[int, int, int, int] | None
    _clicks: list[Click]
    _mask: BoolArray | None

    def __init__(
        self, model: FeatureModel | str, rgb: npt.NDArray[np.uint8], max_megapixels: float = 1.0
    ) -> None:
        self.size: tuple[int, int] = (rgb.shape[0], rgb.shape[1])
        self._segmenter = InteractiveSegmenter(model, max_megapixels=max_megapixels)
        self._segmenter.set_image(rgb)
        self._lock = threading.Lock()
        self._begin(None)

    def mask(
        self,
        clicks: Sequence[Click],
        box_xyxy: tuple[float, float, float, float] | None = None,
    ) -> BoolArray | None:
        """The mask of some prompts.

        Args:
            clicks: The clicks, in the order in which they were made as far as the tool knows it.
            box_xyxy: Left, top, right and bottom of a box that holds the whole object, pixels.

        Returns:
            bool, shape (H, W); None if there is no click on the object and no box.

        Raises:
            ValueError: If a pixel is clicked as both, a click on the object is outside the box, or
                a number is not finite.
        """
        numbers = [*(box_xyxy or ()), *(one for click in clicks for one in click[:2])]
        if not all(math.isfinite(number) for number in numbers):
            raise ValueError(f"clicks and boxes must be finite numbers, got {numbers}")
        height, width = self.size
        box = None
        if box_xyxy is not None:  # the pixels that it touches
            left, top, right, bottom = box_xyxy
            box = (
                max(math.floor(min(top, bottom)), 0),
                max(math.floor(min(left, right)), 0),
                min(math.ceil(max(top, bottom)), height),
                min(math.ceil(max(left, right)), width),
            )
        with self._lock:
            ordered = [click for click in self._clicks if click in clicks]
            ordered += [click for click in dict.fromkeys(clicks) if click not in self._clicks]
            if box is None:  # there is no mask to correct before the first click on the object
                first = next((click for click in ordered if click.is_positive), None)
                if first is None:
                    return None
                ordered.remove(first)
                ordered.insert(0, first)
            if box != self._box or ordered[: len(self._clicks)] != self._clicks:
                self._begin(box)
            for click in ordered[len(self._clicks) :]:
                # Tools click on the very edge of the image, too.
                row, column = min(max(click.y, 0), height - 1), min(max(click.x, 0), width - 1)
                self._mask = self._segmenter.click(int(row), int(column), click.is_positive)
                self._clicks.append(click)
            return None if self._mask is None else self._mask.copy()

    def segments(self, granularity: float) -> IntArray:
        """The segments of the image at a granularity, int64, shape (H, W).

        Raises:
            ValueError: If it does not lie in 0 to 1.
        """
        labels = self._segmenter.hierarchy.cut(granularity=granularity)
        return labels if labels.shape == self.size else enlarged_labels(labels, self.size)

    def _begin(self, box: tuple[int, int, int, int] | None) -> None:
        """Forget all clicks; the first one corrects the mask of the box, if there is one."""
        self._segmenter.reset()
        self._box, self._clicks, self._mask = None, [], None  # also if the box is refused
        if box is not None:
            self._mask = self._segmenter.start(box_yxyx=box)
            self._box = box


class PromptedImages:
    """The images that were used last, by key.

    Args:
        model: Gives features.
        max_megapixels: See `InteractiveSegmenter`.
    """

    def __init__(self, model: FeatureModel | str, max_megapixels: float = 1.0) -> None:
        self._model, self._max_megapixels = model, max_megapixels
        self._images: Recent[PromptedImage] = Recent(_KEPT_IMAGES)
        self._lock = threading.Lock()

    def get(self, key: str, read: Callable[[], npt.NDArray[np.uint8]]) -> PromptedImage:
        """An image, read and prepared (about a second for 640 x 480) if its key is not known.

        Raises:
            ValueError: As `read`, or if the model refuses the image.
        """
        with self._lock:
            return self._images.get(
                key, lambda: PromptedImage(self._model, read(), self._max_megapixels)
            )
