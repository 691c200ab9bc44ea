"""Who plays, and one method's games on one target."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any

import cv2
import numpy as np
import peers
import torch

import maskfeat
from maskfeat.batch import ClickTarget
from maskfeat.evaluate.baselines import LabEncoder
from maskfeat.evaluate.clicking import ClickSegmenter, order_iou, played_rounds
from maskfeat.evaluate.metrics import clicks_obeyed, dropped_share, iou
from maskfeat.evaluate.reaching import ReachingClicks
from maskfeat.evaluate.simulated_users import (
    BorderRobot,
    LargestRobot,
    RandomRobot,
    RealisticRobot,
    Robot,
)
from maskfeat.interactive.segmenter import InteractiveSegmenter

Row = dict[str, Any]

# Name to what makes the segmenter, given the name or path of the model.
METHODS: dict[str, Callable[[str], ClickSegmenter]] = {
    "reach": lambda model: ReachingClicks(InteractiveSegmenter(load(model))),
    "cut": lambda model: InteractiveSegmenter(load(model)),
    "coloring": lambda model: peers.Coloring(load(model)),
    "tree": lambda model: peers.TreeSegmenter(load(model), "nearest"),
    "ward_tree": lambda model: peers.TreeSegmenter(load(model), "ward"),
    "lab_reach": lambda model: ReachingClicks(InteractiveSegmenter(lab())),
    "lab_cut": lambda model: InteractiveSegmenter(lab()),
    "lab_ward_tree": lambda model: peers.TreeSegmenter(lab(), "ward"),
    "grabcut": lambda model: peers.GrabCut(),
    "random_walker": lambda model: peers.RandomWalker(),
    "geodesic": lambda model: peers.Geodesic(),
    "watershed": lambda model: peers.SeededWatershed(),
    "nearest_click": lambda model: peers.NearestClick(),
}
# Beside the standard user of the main game.
ROBOTS: dict[str, Robot] = {
    "random": RandomRobot(),
    "realistic": RealisticRobot(),
    "border": BorderRobot(),
    "largest": LargestRobot(),
}


@dataclass(frozen=True)
class Rules:
    """How the games are played.

    Attributes:
        clicks: Of the main game, by the standard user.
        robots: Who plays besides, see `ROBOTS`.
        robot_clicks: Clicks of their games.
        seeds: Games of each of them.
    """

    clicks: int = 20
    robots: tuple[str, ...] = ("random", "realistic", "border")
    robot_clicks: int = 5
    seeds: int = 3


@lru_cache(maxsize=1)
def load(model: str) -> maskfeat.FeaturePyramid:
    """Our network, once per process."""
    return maskfeat.load(model)


def lab() -> LabEncoder:
    """Lab color, smoothed by one pixel.

    On 50 targets of BSDS500 train NoC@90 is 11.5 so, and 12.3 unsmoothed, by the cut; 12.2 and
    13.2 by the Ward tree.
    """
    return LabEncoder(sigma=1.0)


@cache
def segmenter_of(method: str, model: str) -> ClickSegmenter:
    """A method, once per process."""
    return METHODS[method](model)


def play(method: str, model: str, target: ClickTarget, num_clicks: int, rules: Rules) -> Row:
    """All games of one method on one target, on one thread.

    Args:
        method: One of `METHODS`.
        model: Name or path of our model.
        target: The object.
        num_clicks: Of the standard user; more than `rules.clicks` for a long game.
        rules: See there.

    Returns:
        `ious` after each click, of `num_clicks`; `num_played` before the mask was right;
        `obeyed`, `order_iou` and `dropped` of the first `rules.clicks` clicks; `click_s` for each
        of these and `set_image_s`, CPU seconds; `robots`, the IoUs of each game of each robot.
    """
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    segmenter = Timed(segmenter_of(method, model))
    rounds = played_rounds(segmenter, target, num_clicks)
    seconds = list(segmenter.click_s)
    ious = [iou(step.mask, target.target) for step in rounds]
    main = rounds[: rules.clicks]
    rng = np.random.default_rng(0)
    return {
        "ious": _rounded(_padded(ious, num_clicks)),
        "num_played": len(rounds),
        "obeyed": float(np.mean([clicks_obeyed(*step) for step in main])),
        "order_iou": order_iou(segmenter, main[-1], rng),
        "dropped": dropped_share(ious[: rules.clicks]),
        "click_s": _rounded(seconds[: rules.clicks]),
        "set_image_s": round(segmenter.set_image_s, 5),
        "robots": {name: _seeded_games(segmenter, target, name, rules) for name in rules.robots},
    }


class Timed:
    """A segmenter with a clock; the image that is set already is not set again.

    Attributes:
        set_image_s: CPU seconds of the last image.
        click_s: CPU seconds of each answer.
    """

    def __init__(self, segmenter: ClickSegmenter) -> None:
        self._segmenter = segmenter
        self._image: np.ndarray | None = None
        self.set_image_s = 0.0
        self.click_s: list[float] = []

    def set_image(self, rgb: np.ndarray) -> None:
        """Take an image."""
        if rgb is self._image:
            return
        started = time.process_time()
        self._segmenter.set_image(rgb)
        self.set_image_s = time.process_time() - started
        self._image = rgb

    def predict(self, clicks_yx: np.ndarray, is_positive: np.ndarray) -> np.ndarray:
        """The mask for all clicks."""
        started = time.process_time()
        mask = self._segmenter.predict(clicks_yx, is_positive)
        self.click_s.append(time.process_time() - started)
        return mask


def _seeded_games(
    segmenter: ClickSegmenter, target: ClickTarget, robot: str, rules: Rules
) -> list[list[float]]:
    games = []
    for seed in range(rules.seeds):
        rounds = played_rounds(segmenter, target, rules.robot_clicks, ROBOTS[robot], seed)
        ious = [iou(step.mask, target.target) for step in rounds]
        games.append(_rounded(_padded(ious, rules.robot_clicks)))
    return games


def _padded(values: list[float], length: int) -> list[float]:
    return values + values[-1:] * (length - len(values))


def _rounded(values: list[float]) -> list[float]:
    return [round(value, 5) for value in values]
