"""Sessions: a simulated user clicks until the mask is right, with a click radius; their scores."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from maskfeat.arrays import BoolArray, IntArray
from maskfeat.batch import ClickTarget, HeldOutImage
from maskfeat.evaluate.metrics import iou, noc
from maskfeat.evaluate.simulated_users import SimulatedUser, next_click
from maskfeat.interactive.prompts import click_radius_of
from maskfeat.interactive.segmenter import InteractiveSegmenter

NOC_THRESHOLDS = (0.80, 0.85, 0.90, 0.95)
IOU_CLICKS = (1, 3, 5, 10, 20, 50, 100)
# Shares of the image between which a true mask is a fair object to click.
OBJECT_SHARES = (0.005, 0.6)
Click = tuple[int, int, bool]


class ClickSegmenter(Protocol):
    """What obeys clicks, see `maskfeat.interactive.segmenter.InteractiveSegmenter`."""

    def set_image(self, rgb: npt.NDArray[np.uint8]) -> object:
        """Take the image that the next clicks are for, uint8, shape (H, W, 3)."""
        ...

    def predict(self, clicks_yx: IntArray, is_positive: BoolArray) -> BoolArray:
        """The mask, bool (H, W), for all clicks so far, (N, 2) and (N,)."""
        ...


class Step(NamedTuple):
    """A session after one click: the mask, bool (H, W), and all clicks so far, (N, 2) and (N,)."""

    mask: BoolArray
    clicks_yx: IntArray
    is_positive: BoolArray


def run_session(
    segmenter: ClickSegmenter,
    target: ClickTarget,
    max_clicks: int,
    user: SimulatedUser = next_click,
    seed: int = 0,
) -> list[Step]:
    """Let a simulated user click until the mask is right or clicks run out.

    Args:
        segmenter: Gives a mask for the clicks so far; its image is set here.
        target: The object to be segmented.
        max_clicks: At least 1.
        user: See `simulated_users`; `next_click` is the standard one.
        seed: Of what the user draws, together with the key of the target: the clicks on a target
            do not depend on the targets before it.

    Returns:
        A step for each click, 1 to `max_clicks`; fewer when no wrong pixel is left to click.

    Raises:
        ValueError: If there is no object to click, or max_clicks is not positive.
    """
    if max_clicks < 1:
        raise ValueError(f"max_clicks must be at least 1, got {max_clicks}")
    is_object = target.target == 1
    if not is_object.any():
        raise ValueError(f"target {target.key!r} has no object pixel (1) to click")
    rng = np.random.default_rng([seed, zlib.crc32(target.key.encode())])
    segmenter.set_image(target.image)
    mask = np.zeros(target.target.shape, dtype=bool)
    not_clicked = np.ones_like(mask)
    clicks: list[tuple[int, int]] = []
    signs: list[bool] = []
    steps: list[Step] = []
    while len(steps) < max_clicks:
        is_wrong = (mask != is_object) & (target.target >= 0)
        if not (is_wrong & not_clicked).any():
            break
        click, is_positive = user(mask, target.target, not_clicked, rng)
        not_clicked[click] = False
        clicks.append(click)
        signs.append(is_positive)
        clicks_yx, is_positives = np.array(clicks, dtype=np.int64), np.array(signs, dtype=bool)
        mask = segmenter.predict(clicks_yx, is_positives)
        steps.append(Step(mask, clicks_yx, is_positives))
    return steps


def session_ious(
    segmenter: ClickSegmenter,
    target: ClickTarget,
    max_clicks: int = 20,
    user: SimulatedUser = next_click,
    seed: int = 0,
) -> list[float]:
    """IoU after each click of `run_session`, length `max_clicks`: the last one is repeated."""
    steps = run_session(segmenter, target, max_clicks, user, seed)
    ious = [iou(step.mask, target.target) for step in steps]
    return ious + ious[-1:] * (max_clicks - len(ious))


def order_iou(segmenter: ClickSegmenter, last: Step, rng: np.random.Generator) -> float:
    """IoU of a mask with that of the same clicks in another order; 1 where it does not matter.

    The segmenter gave the last step, and its image is still set.
    """
    order = rng.permutation(len(last.clicks_yx))
    shuffled = segmenter.predict(last.clicks_yx[order], last.is_positive[order])
    return iou(shuffled, last.mask.astype(np.int8))


def summarize_clicks(ious: Sequence[float]) -> dict[str, float]:
    """The figures of one target.

    Args:
        ious: IoU after each click; its length is the largest number of clicks.

    Returns:
        `noc_80`, `noc_85`, `noc_90`, `noc_95`, clicks to reach that IoU (see `noc`); `iou_n`, the
        IoU after n clicks, for n of 1, 3, 5, 10, 20, 50, 100 as far as there were clicks;
        `iou_mean`, the mean of the IoU over all clicks.
    """
    scores = {
        f"noc_{round(100 * threshold)}": float(noc(ious, threshold, len(ious)))
        for threshold in NOC_THRESHOLDS
    }
    scores |= {f"iou_{n}": float(ious[n - 1]) for n in IOU_CLICKS if n <= len(ious)}
    return scores | {"iou_mean": sum(ious) / len(ious)}


def click_score_names(max_clicks: int) -> list[str]:
    """The names `summarize_clicks` gives its figures after `max_clicks` clicks."""
    return list(summarize_clicks([0.0] * max_clicks))


def pick_target(
    image: HeldOutImage,
    turn: int = 0,
    seed: int = 0,
    shares: tuple[float, float] = OBJECT_SHARES,
) -> ClickTarget | None:
    """Choose a true mask of an image as the object to click, always the same one.

    Args:
        image: With its true masks.
        turn: 0 for the first choice, 1 for another mask, and so on.
        seed: Of the order in which the masks are chosen, together with the key of the image.
        shares: How much of the image the object covers, at least and at most.

    Returns:
        A mask of such a size; None if there are not enough.
    """
    covered = image.masks.mean(axis=(1, 2))
    fair = np.flatnonzero((covered >= shares[0]) & (covered <= shares[1]))
    if turn >= fair.size:
        return None
    rng = np.random.default_rng([seed, zlib.crc32(image.key.encode())])
    mask = int(rng.permutation(fair)[turn])
    return ClickTarget(f"{image.key}/{mask}", image.image, image.masks[mask].astype(np.int8))


class ClicksWithRadius:
    """Gives each click the click radius it has on the mask that was shown last, and keeps it.

    A click that was seen before has the click radius it had then, wherever it stands among the
    others, and after a click on the background nothing grows beyond the mask that this was made on.
    So what is remembered belongs to the set of clicks, and shuffled clicks give the same mask.
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
