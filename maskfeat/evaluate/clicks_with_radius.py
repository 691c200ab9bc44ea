"""A segmenter in sessions of clicks that carry their click radius, as those of the page do."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from maskfeat.arrays import BoolArray, IntArray
from maskfeat.interactive.prompts import click_radius_of
from maskfeat.interactive.segmenter import InteractiveSegmenter

Click = tuple[int, int, bool]


class ClicksWithRadius:
    """Gives each click the click radius it has on the mask that was shown last, and keeps it.

    A click that was seen before has the click radius it had then, wherever it stands among the
    others, and after a click on the background nothing grows beyond the mask that this was made on.
    So what is remembered belongs to the set of clicks, and shuffled clicks give the same mask.

    Args:
        segmenter: Makes the masks.
    """

    def __init__(self, segmenter: InteractiveSegmenter) -> None:
        self._segmenter = segmenter
        self._image: npt.NDArray[np.uint8] | None = None
        self.reset()

    def set_image(self, rgb: npt.NDArray[np.uint8]) -> None:
        """Take an image, uint8, shape (H, W, 3), and forget all clicks; the same again is free."""
        if self._image is None or not np.array_equal(self._image, rgb):
            self._image = None
            self._segmenter.set_image(rgb)
            self._image = rgb.copy()
        self.reset()

    def reset(self) -> None:
        """Forget all clicks; the image stays."""
        self._shown: BoolArray | None = None
        self._within: BoolArray | None = None
        self._clicks: frozenset[Click] = frozenset()
        self._radii: dict[Click, float] = {}

    def predict(self, clicks_yx: IntArray, is_positive: BoolArray) -> BoolArray:
        """The mask, bool (H, W), for all clicks so far, (N, 2) and (N,)."""
        if len(clicks_yx) == 1:
            self.reset()  # a new session
        clicks: list[Click] = [
            (row, column, sign)
            for (row, column), sign in zip(clicks_yx.tolist(), is_positive.tolist(), strict=True)
        ]
        for row, column, sign in set(clicks) - self._radii.keys():
            shown = self._shown
            click_radius = (
                float(np.inf) if shown is None else click_radius_of(shown, [row, column], sign)
            )
            self._radii[row, column, sign] = click_radius
        new = frozenset(clicks) - self._clicks
        if new or self._clicks - frozenset(clicks):
            only_added = self._clicks <= frozenset(clicks)
            adds = any(click[2] and self._radii[click] > 0 for click in new)
            self._within = self._shown if only_added and not adds else None
            self._clicks = frozenset(clicks)
        self._shown = self._segmenter.predict(
            clicks_yx,
            is_positive,
            click_radius_px=[self._radii[click] for click in clicks],
            within=self._within,
        )
        return self._shown
