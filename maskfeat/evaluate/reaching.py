"""A segmenter in games of clicks that carry their reach, as those of the page do."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from maskfeat.segment.interactive import InteractiveSegmenter
from maskfeat.segment.reach import reach_of


class ReachingClicks:
    """Gives each click the reach it has on the mask that was shown last, and keeps it.

    A click that was seen before has the reach it had then, wherever it stands among the others.
    So what is remembered belongs to the single click, and shuffled clicks give the same mask.

    Args:
        segmenter: Makes the masks.
    """

    def __init__(self, segmenter: InteractiveSegmenter) -> None:
        self._segmenter = segmenter
        self._image: npt.NDArray[np.uint8] | None = None
        self._shown: npt.NDArray[np.bool_] | None = None
        self._reaches: dict[tuple[int, int, bool], float] = {}

    def set_image(self, rgb: npt.NDArray[np.uint8]) -> None:
        """Take an image, uint8, shape (H, W, 3), and forget all clicks; the same again is free."""
        if self._image is None or not np.array_equal(self._image, rgb):
            self._image = None
            self._segmenter.set_image(rgb)
            self._image = rgb.copy()
        self.reset()

    def reset(self) -> None:
        """Forget all clicks; the image stays."""
        self._shown, self._reaches = None, {}

    def predict(
        self, clicks_yx: npt.NDArray[np.int64], is_positive: npt.NDArray[np.bool_]
    ) -> npt.NDArray[np.bool_]:
        """The mask, bool (H, W), for all clicks so far, (N, 2) and (N,)."""
        if len(clicks_yx) == 1:
            self.reset()  # a new game
        reaches = []
        for (row, column), sign in zip(clicks_yx.tolist(), is_positive.tolist(), strict=True):
            click = row, column, sign
            if click not in self._reaches:
                shown = self._shown
                self._reaches[click] = (
                    float(np.inf) if shown is None else reach_of(shown, [row, column])
                )
            reaches.append(self._reaches[click])
        self._shown = self._segmenter.predict(clicks_yx, is_positive, reach_px=reaches)
        return self._shown
