"""How well a model serves the images of one folder: its trees, and the clicks that it needs."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass

import numpy as np

from maskfeat.batch import HeldOutImage
from maskfeat.evaluate.clicking import (
    OBJECT_SHARES,
    ClicksWithRadius,
    pick_target,
    session_ious,
    summarize_clicks,
)
from maskfeat.evaluate.metrics import best_node_ious
from maskfeat.features.reading import FeatureModel
from maskfeat.interactive.segmenter import InteractiveSegmenter
from maskfeat.segment.hierarchy import hierarchy

# As `OBJECT_SHARES`, but what people annotate may be small.
_SHARES = (0.001, OBJECT_SHARES[1])


@dataclass(frozen=True)
class OwnScores:
    """Means over objects; the first over images.

    Attributes:
        best_node_iou: Mean IoU of the true masks with the best node of the tree for each.
        noc_85: Clicks to IoU 0.85, `max_clicks` where it is not reached.
        noc_90: Likewise, to 0.90.
        iou_1: IoU after the first click.
        iou_5: After the fifth.
        iou_mean: Mean over all clicks.
        num_objects: How many were clicked.
    """

    best_node_iou: float
    noc_85: float
    noc_90: float
    iou_1: float
    iou_5: float
    iou_mean: float
    num_objects: int

    def serves_better(self, other: OwnScores) -> bool:
        """Whether masks are better after clicks, and no more of these are needed."""
        return self.iou_mean > other.iou_mean and self.noc_85 <= other.noc_85


def check_clickable(images: Iterable[HeldOutImage]) -> None:
    """Refuse images without an object that `score_on` could click.

    Raises:
        ValueError: If no image has an object of 0.1 to 60 % of its pixels.
    """
    if all(pick_target(image, shares=_SHARES) is None for image in images):
        raise ValueError(
            "no held-out image has an object of 0.1 to 60 % of its pixels to click; "
            "hold out more, or others by another seed"
        )


def score_on(
    model: FeatureModel | str | os.PathLike[str],
    images: Sequence[HeldOutImage],
    num_objects: int = 20,
    max_clicks: int = 20,
    tracked: Callable[[Sequence[HeldOutImage]], Iterable[HeldOutImage]] = iter,
) -> OwnScores:
    """Let the standard simulated user click, with a click radius as on the page.

    Args:
        model: As `InteractiveSegmenter` takes it; the decoder in its file reads the clicks.
        images: With their true masks.
        num_objects: At most this many objects, rounded up to as many of each image.
        max_clicks: For each.
        tracked: Goes through the images, e.g. with a progress bar.

    Raises:
        ValueError: As `check_clickable`.
    """
    check_clickable(images)
    segmenter = InteractiveSegmenter(model)
    clicked, found, best = ClicksWithRadius(segmenter), [], []
    for image in tracked(images):
        for turn in range(math.ceil(num_objects / len(images))):
            target = pick_target(image, turn, shares=_SHARES)
            if target is not None:
                found.append(summarize_clicks(session_ious(clicked, target, max_clicks)))
        assert segmenter.model is not None
        tree = hierarchy(segmenter.model.features(image.image))
        best.append(best_node_ious(tree.tree, tree.superpixel_labels, image.masks).mean())
    names = [name for name in OwnScores.__dataclass_fields__ if name in found[0]]
    means = {name: float(np.mean([scores[name] for scores in found])) for name in names}
    return OwnScores(float(np.mean(best)), num_objects=len(found), **means)


def table(before: OwnScores, after: OwnScores) -> str:
    """Both as a table, Markdown."""
    titles = {
        "best_node_iou": "IoU of the best segment of the tree",
        "iou_1": "IoU after 1 click",
        "iou_5": "IoU after 5 clicks",
        "noc_85": "clicks to IoU 0.85",
        "noc_90": "clicks to IoU 0.90",
    }
    rows = [(title, asdict(before)[name], asdict(after)[name]) for name, title in titles.items()]
    lines = [f"| {title} | {old:.3f} | {new:.3f} |" for title, old, new in rows]
    return "\n".join(["| held-out images | before | after |", "|---|--:|--:|", *lines])
