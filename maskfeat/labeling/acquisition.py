"""Which image a labeler should be shown next."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from maskfeat.labeling.learner import Learner

Acquisition = Literal["uncertain", "energy", "given"]
# Images of high entropy whose cuts are computed to compare energies.
_SHORT_LIST = 6


def from_there_on(num: int, after: int | None) -> list[int]:
    """The numbers of all images, beginning behind the image at hand, which comes last."""
    start = 0 if after is None else after + 1
    return [number % num for number in range(start, start + num)]


def most_wanted(ready: Sequence[int], acquisition: Acquisition, learner: Learner) -> int:
    """The image that the acquisition function ranks first.

    Args:
        ready: Numbers of prepared images, at least one; the first wins a tie.
        acquisition: "given" takes the first; "uncertain" that of highest mean entropy; "energy"
            the highest energy of the cut among the six of highest entropy.
        learner: What is learned; before anything is, the first is taken.
    """
    if acquisition == "given" or not learner.knows_classes:
        return ready[0]
    entropies = learner.entropies(ready)
    most = [ready[int(i)] for i in np.argsort(-entropies, kind="stable")[:_SHORT_LIST]]
    if acquisition == "uncertain":
        return most[0]
    return max(most, key=lambda image: learner.labels(image).energy)
