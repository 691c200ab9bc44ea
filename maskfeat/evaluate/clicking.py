"""Games of clicks: a robot user clicks until the mask is right, and what that says."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from maskfeat.batch import ClickTarget, HeldOutImage
from maskfeat.evaluate.metrics import iou, noc
from maskfeat.evaluate.simulated_users import DeepestRobot, Robot

NOC_THRESHOLDS = (0.80, 0.85, 0.90, 0.95)
IOU_CLICKS = (1, 3, 5, 10, 20, 50, 100)
# Shares of the image between which a true mask is a fair object to click.
OBJECT_SHARES = (0.005, 0.6)


class ClickSegmenter(Protocol):
    """What obeys clicks, see `maskfeat.interactive.segmenter.InteractiveSegmenter`."""

    def set_image(self, rgb: npt.NDArray[np.uint8]) -> object:
        """Take the image that the next clicks are for, uint8, shape (H, W, 3)."""
        ...

    def predict(
        self, clicks_yx: npt.NDArray[np.int64], is_positive: npt.NDArray[np.bool_]
    ) -> npt.NDArray[np.bool_]:
        """The mask, bool (H, W), for all clicks so far, (N, 2) and (N,)."""
        ...


class Round(NamedTuple):
    """A game after one click: the mask, bool (H, W), and all clicks so far, (N, 2) and (N,)."""

    mask: npt.NDArray[np.bool_]
    clicks_yx: npt.NDArray[np.int64]
    is_positive: npt.NDArray[np.bool_]


def play_clicks(
    segmenter: ClickSegmenter,
    target: ClickTarget,
    max_clicks: int = 20,
    robot: Robot | None = None,
    seed: int = 0,
) -> list[float]:
    """Let a robot user click until the mask is right or clicks run out.

    Args:
        segmenter: Gives a mask for the clicks so far; its image is set here.
        target: The object to be segmented.
        max_clicks: Clicks to play, at least 1.
        robot: The user; None is the standard one, `robots.DeepestRobot`.
        seed: Of the user's chance, together with the key of the target: the clicks on a target
            do not depend on which targets come before it.

    Returns:
        IoU after each click, length `max_clicks`. When no wrong pixel is left to click, the
        robot stops and the last IoU is repeated.

    Raises:
        ValueError: If there is no object to click, or max_clicks is not positive.
    """
    rounds = click_rounds(segmenter, target, max_clicks, robot, seed)
    return [iou(mask, target.target) for mask, _, _ in rounds]


def click_rounds(
    segmenter: ClickSegmenter,
    target: ClickTarget,
    max_clicks: int,
    robot: Robot | None = None,
    seed: int = 0,
) -> list[Round]:
    """The game of `play_clicks`, round by round.

    Returns:
        The rounds, length `max_clicks`; the last one is repeated after an early stop.

    Raises:
        ValueError: If there is no object to click, or max_clicks is not positive.
    """
    rounds = played_rounds(segmenter, target, max_clicks, robot, seed)
    return rounds + rounds[-1:] * (max_clicks - len(rounds))


def played_rounds(
    segmenter: ClickSegmenter,
    target: ClickTarget,
    max_clicks: int,
    robot: Robot | None = None,
    seed: int = 0,
) -> list[Round]:
    """The game of `play_clicks` as far as it was played: from 1 to `max_clicks` rounds.

    Raises:
        ValueError: If there is no object to click, or max_clicks is not positive.
    """
    if max_clicks < 1:
        raise ValueError(f"max_clicks must be at least 1, got {max_clicks}")
    is_object = target.target == 1
    if not is_object.any():
        raise ValueError(f"target {target.key!r} has no object pixel (1) to click")
    robot = DeepestRobot() if robot is None else robot
    rng = np.random.default_rng([seed, zlib.crc32(target.key.encode())])
    segmenter.set_image(target.image)
    mask = np.zeros(target.target.shape, dtype=bool)
    not_clicked = np.ones_like(mask)
    clicks: list[tuple[int, int]] = []
    signs: list[bool] = []
    rounds: list[Round] = []
    while len(rounds) < max_clicks:
        is_wrong = (mask != is_object) & (target.target >= 0)
        if not (is_wrong & not_clicked).any():
            break
        click, is_positive = robot(mask, target.target, not_clicked, rng)
        not_clicked[click] = False
        clicks.append(click)
        signs.append(is_positive)
        clicks_yx, is_positives = np.array(clicks, dtype=np.int64), np.array(signs, dtype=bool)
        mask = segmenter.predict(clicks_yx, is_positives)
        rounds.append(Round(mask, clicks_yx, is_positives))
    return rounds


def order_iou(segmenter: ClickSegmenter, last: Round, rng: np.random.Generator) -> float:
    """How alike the mask is when the same clicks come in another order.

    Args:
        segmenter: That gave `last`, its image still set.
        last: A round of a game.
        rng: Shuffles the clicks.

    Returns:
        IoU of the two masks over all pixels; 1 for a method that does not care for order.
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
        IoU after n clicks, for n of 1, 3, 5, 10, 20, 50, 100 as far as clicks were played;
        `iou_mean`, the mean of the IoU over all clicks.
    """
    scores = {
        f"noc_{round(100 * threshold)}": float(noc(ious, threshold, len(ious)))
        for threshold in NOC_THRESHOLDS
    }
    scores |= {f"iou_{n}": float(ious[n - 1]) for n in IOU_CLICKS if n <= len(ious)}
    return scores | {"iou_mean": sum(ious) / len(ious)}


def click_score_names(max_clicks: int) -> list[str]:
    """The names `summarize_clicks` gives its figures after so many clicks."""
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
        shares: How much of the image the object covers, at least and at most; between 0.5 and
            60 % unless told otherwise.

    Returns:
        A mask of such a size; None if there are not so many.
    """
    covered = image.masks.mean(axis=(1, 2))
    fair = np.flatnonzero((covered >= shares[0]) & (covered <= shares[1]))
    if turn >= fair.size:
        return None
    rng = np.random.default_rng([seed, zlib.crc32(image.key.encode())])
    mask = int(rng.permutation(fair)[turn])
    return ClickTarget(f"{image.key}/{mask}", image.image, image.masks[mask].astype(np.int8))
