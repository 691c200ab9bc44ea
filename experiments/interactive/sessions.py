"""The users, and one method's sessions on one target."""

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
from maskfeat.evaluate.clicking import ClickSegmenter, ClicksWithRadius, order_iou, run_session
from maskfeat.evaluate.metrics import clicks_obeyed, dropped_share, iou
from maskfeat.evaluate.simulated_users import (
    SimulatedUser,
    border_click,
    largest_error_click,
    random_click,
    realistic_click,
)
from maskfeat.features.color import LabEncoder
from maskfeat.interactive.segmenter import InteractiveSegmenter

Row = dict[str, Any]

# Name to what makes the segmenter, given the name or path of the model.
METHODS: dict[str, Callable[[str], ClickSegmenter]] = {
    "radius": lambda model: ClicksWithRadius(InteractiveSegmenter(load(model))),
    "cut": lambda model: InteractiveSegmenter(load(model)),
    # Without the click decoder that the model's file may hold.
    "features": lambda model: ClicksWithRadius(InteractiveSegmenter(load(model), decoder=False)),
    "coloring": lambda model: peers.Coloring(load(model)),
    "tree": lambda model: peers.TreeSegmenter(load(model), "nearest"),
    "ward_tree": lambda model: peers.TreeSegmenter(load(model), "ward"),
    "lab_radius": lambda model: ClicksWithRadius(InteractiveSegmenter(lab())),
    "lab_cut": lambda model: InteractiveSegmenter(lab()),
    "lab_ward_tree": lambda model: peers.TreeSegmenter(lab(), "ward"),
    "grabcut": lambda model: peers.GrabCut(),
    "random_walker": lambda model: peers.RandomWalker(),
    "geodesic": lambda model: peers.Geodesic(),
    "watershed": lambda model: peers.SeededWatershed(),
    "nearest_click": lambda model: peers.NearestClick(),
}
# Beside the standard user of the main session.
USERS: dict[str, SimulatedUser] = {
    "random": random_click,
    "realistic": realistic_click,
    "border": border_click,
    "largest": largest_error_click,
}


@dataclass(frozen=True)
class Rules:
    """How sessions run.

    Attributes:
        clicks: Of the main session, by the standard user.
        users: Who clicks besides, see `USERS`.
        user_clicks: Clicks of their sessions.
        seeds: Sessions of each of them.
    """

    clicks: int = 20
    users: tuple[str, ...] = ("random", "realistic", "border")
    user_clicks: int = 5
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


def simulate(method: str, model: str, target: ClickTarget, num_clicks: int, rules: Rules) -> Row:
    """All sessions of one method on one target, on one thread.

    Args:
        method: One of `METHODS`.
        model: Name or path of our model.
        target: The object.
        num_clicks: Of the standard user; more than `rules.clicks` for a long session.
        rules: See there.

    Returns:
        `ious` after each click, of `num_clicks`; `num_played` before the mask was right;
        `obeyed`, `order_iou` and `dropped` of the first `rules.clicks` clicks; `click_s` for each
        of these and `set_image_s`, CPU seconds; `users`, the IoUs of each session of each user.
    """
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    segmenter = Timed(segmenter_of(method, model))
    steps = run_session(segmenter, target, num_clicks)
    seconds = list(segmenter.click_s)
    ious = [iou(step.mask, target.target) for step in steps]
    main = steps[: rules.clicks]
    rng = np.random.default_rng(0)
    return {
        "ious": _rounded(_padded(ious, num_clicks)),
        "num_played": len(steps),
        "obeyed": float(np.mean([clicks_obeyed(*step) for step in main])),
        "order_iou": order_iou(segmenter, main[-1], rng),
        "dropped": dropped_share(ious[: rules.clicks]),
        "click_s": _rounded(seconds[: rules.clicks]),
        "set_image_s": round(segmenter.set_image_s, 5),
        "users": {name: _seeded_sessions(segmenter, target, name, rules) for name in rules.users},
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


def _seeded_sessions(
    segmenter: ClickSegmenter, target: ClickTarget, user: str, rules: Rules
) -> list[list[float]]:
    sessions = []
    for seed in range(rules.seeds):
        steps = run_session(segmenter, target, rules.user_clicks, USERS[user], seed)
        ious = [iou(step.mask, target.target) for step in steps]
        sessions.append(_rounded(_padded(ious, rules.user_clicks)))
    return sessions


def _padded(values: list[float], length: int) -> list[float]:
    return values + values[-1:] * (length - len(values))


def _rounded(values: list[float]) -> list[float]:
    return [round(value, 5) for value in values]
