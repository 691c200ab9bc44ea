"""What a session of clicks was like: steps that lost, clicks obeyed, std over users."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from maskfeat.arrays import BoolArray


def dropped_share(ious: Sequence[float], by: float = 0.01) -> float:
    """Share of the steps from one click to the next that lost more than `by` of the IoU.

    Of the IoU after each click that was played; in [0, 1]; NaN for fewer than two clicks.
    """
    steps = np.diff(np.asarray(ious, np.float64))
    return float((steps < -by).mean()) if steps.size else math.nan


def clicks_obeyed(
    mask: BoolArray,
    clicks_yx: npt.NDArray[np.integer],
    is_positive: BoolArray,
) -> float:
    """Share of the clicks (N, 2) and their signs (N,) that a mask (H, W) satisfies.

    In [0, 1]; NaN without clicks.

    Raises:
        ValueError: If there are not as many signs as clicks.
    """
    if clicks_yx.shape != (len(is_positive), 2):
        raise ValueError(
            "clicks_yx must have shape (N, 2) and is_positive (N,), "
            f"got {clicks_yx.shape} and {is_positive.shape}"
        )
    if not len(is_positive):
        return math.nan
    return float((mask[clicks_yx[:, 0], clicks_yx[:, 1]] == is_positive).mean())


def is_reached(ious: Sequence[float], threshold: float, max_clicks: int = 20) -> bool:
    """Whether an IoU of at least `threshold` came with the first `max_clicks`; the mean is 1 - NoF.

    Unlike `noc` it tells a target that gets there with the last click from one that never does.
    RITM's code counts both as failures.
    """
    return any(value >= threshold for value in ious[:max_clicks])


def standard_error(values: Sequence[float]) -> float:
    """Of the mean of finite numbers, e.g. of clicks over targets.

    Sample standard deviation (n - 1) over the root of n; NaN for fewer than two.
    """
    if len(values) < 2:
        return math.nan
    return float(np.std(values, ddof=1) / math.sqrt(len(values)))


def std_over_seeds(values: Sequence[float]) -> float:
    """How much one target's score depends on where the user happened to click.

    Sample standard deviation (n - 1) over the seeds of the user: its square is unbiased however few
    they are. NaN for fewer than two.
    """
    return float(np.std(values, ddof=1)) if len(values) > 1 else math.nan
