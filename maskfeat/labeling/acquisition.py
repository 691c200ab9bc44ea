"""Which image a labeler should be shown next."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from maskfeat.labeling.learner import Learner

Order = Literal["uncertain", "energy", "given"]
# Of so many images the least sure of, one is chosen by its energy: each takes a cut.
_SHORT_LIST = 6


def from_there_on(num: int, after: int | None) -> list[int]:
    """The numbers of all images, those behind one at hand first, itself last."""
    start = 0 if after is None else after + 1
    return [number % num for number in range(start, start + num)]


def most_wanted(ready: Sequence[int], order: Order, learner: Learner) -> int:
    """The image of some that teaches most.

    Args:
        ready: Numbers of prepared images, at least one; the first counts among equals.
        order: "given" takes the first; "uncertain" the one the classifier is least sure of;
            "energy" that of the least sure ones whose cut has the highest energy.
        learner: What is known. While it knows nothing the first is taken.
    """
    if order == "given" or not learner.knows_classes:
        return ready[0]
    doubts = learner.doubts(ready)
    most = [ready[int(i)] for i in np.argsort(-doubts, kind="stable")[:_SHORT_LIST]]
    if order == "uncertain":
        return most[0]
    return max(most, key=lambda image: learner.labels(image).energy)
