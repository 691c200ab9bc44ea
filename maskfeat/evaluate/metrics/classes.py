"""The metrics as torchmetrics: means over images that any number of processes agree on.

Every class holds a sum and a count, both added up over processes. An image (or a target) counts
once, whatever its size. Scores that do not exist (NaN) are not counted.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torchmetrics import Metric

from maskfeat.evaluate.metrics.boundaries import boundary_f, boundary_precision, boundary_recall
from maskfeat.evaluate.metrics.nested import average_recall, nestedness
from maskfeat.evaluate.metrics.overlap import LabelMap
from maskfeat.evaluate.metrics.pairs import pair_auc
from maskfeat.evaluate.metrics.regions import (
    achievable_segmentation_accuracy,
    compactness,
    covering,
    explained_variation,
    noc,
    probabilistic_rand_index,
    undersegmentation_error,
    variation_of_information,
)
from maskfeat.features.reading import Features


def mean_of_counted(values: Sequence[float]) -> float:
    """Mean of the values that are not NaN; NaN if there is none."""
    counted = [value for value in values if not math.isnan(value)]
    return sum(counted) / len(counted) if counted else math.nan


class MeanOverImages(Metric):
    """Mean of one number per image.

    `update` takes the number; subclasses take what it is computed from.
    """

    is_differentiable = False
    higher_is_better: bool | None = None
    full_state_update = False
    total: Tensor
    count: Tensor

    def __init__(self) -> None:
        super().__init__()
        # float32: some devices have no float64, and sums of some thousand numbers do not need it.
        self.add_state("total", torch.tensor(0.0), dist_reduce_fx="sum")
        self.add_state("count", torch.tensor(0.0), dist_reduce_fx="sum")

    def update(self, value: float) -> None:
        """Count one image, unless its value is NaN."""
        if not math.isnan(value):
            self.total += value
            self.count += 1

    def compute(self) -> Tensor:
        """The mean, float32 scalar; NaN if no image was counted on any process."""
        return self.total / self.count


class MeanScores(Metric):
    """Means of several named numbers per image, in one state.

    Args:
        names: All names that `update` may give; the same on all processes.
    """

    is_differentiable = False
    higher_is_better = None
    full_state_update = False
    totals: Tensor
    counts: Tensor

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__()
        self.names = tuple(names)
        for state in ("totals", "counts"):
            self.add_state(state, torch.zeros(len(self.names)), dist_reduce_fx="sum")

    def update(self, scores: Mapping[str, float]) -> None:
        """Count the scores of one image; a name may be missing and a score NaN.

        Raises:
            ValueError: If a name was not announced.
        """
        unknown = set(scores) - set(self.names)
        if unknown:
            raise ValueError(f"scores must be named {list(self.names)}, got also {sorted(unknown)}")
        for index, name in enumerate(self.names):
            value = scores.get(name, math.nan)
            if not math.isnan(value):
                self.totals[index] += value
                self.counts[index] += 1

    def compute(self) -> dict[str, Tensor]:
        """Name to mean, float32 scalars; names that were counted nowhere are left out."""
        means = self.totals / self.counts
        return {n: means[i] for i, n in enumerate(self.names) if bool(self.counts[i] > 0)}


class MeanOverAnnotators(MeanOverImages):
    """Mean over images of the mean over annotators of one number.

    Subclasses say in `_score` which number, of a partition and one annotator's label map.
    """

    def update(self, labels: LabelMap, targets: Sequence[LabelMap]) -> None:  # type: ignore[override]
        """Count one image: its partition (H, W) and the label map (H, W) of each annotator."""
        super().update(mean_of_counted([self._score(labels, target) for target in targets]))

    @abstractmethod
    def _score(self, labels: LabelMap, target: LabelMap) -> float: ...


class AchievableSegmentationAccuracy(MeanOverAnnotators):
    """See `achievable_segmentation_accuracy`; per image the mean over annotators."""

    higher_is_better = True
    _score = staticmethod(achievable_segmentation_accuracy)


class Covering(MeanOverAnnotators):
    """See `covering`; per image the mean over annotators."""

    higher_is_better = True
    _score = staticmethod(covering)


class UndersegmentationError(MeanOverAnnotators):
    """See `undersegmentation_error`; per image the mean over annotators."""

    higher_is_better = False
    _score = staticmethod(undersegmentation_error)


class ProbabilisticRandIndex(MeanOverAnnotators):
    """See `probabilistic_rand_index`; per image the mean over annotators."""

    higher_is_better = True
    _score = staticmethod(probabilistic_rand_index)


class VariationOfInformation(MeanOverAnnotators):
    """See `variation_of_information`; per image the mean over annotators."""

    higher_is_better = False
    _score = staticmethod(variation_of_information)


class BoundaryRecall(MeanOverAnnotators):
    """See `boundary_recall`; per image the mean over annotators.

    Args:
        tolerance: Largest distance of a match, in image diagonals.
    """

    higher_is_better = True

    def __init__(self, tolerance: float = 0.0075) -> None:
        super().__init__()
        self.tolerance = tolerance

    def _score(self, labels: LabelMap, target: LabelMap) -> float:
        return boundary_recall(labels, target, self.tolerance)


class BoundaryPrecision(BoundaryRecall):
    """See `boundary_precision`; per image the mean over annotators.

    Args:
        tolerance: Largest distance of a match, in image diagonals.
    """

    def _score(self, labels: LabelMap, target: LabelMap) -> float:
        return boundary_precision(labels, target, self.tolerance)


class BoundaryF(BoundaryRecall):
    """See `boundary_f`; per image the mean over annotators.

    Args:
        tolerance: Largest distance of a match, in image diagonals.
        match: Whether a border pixel answers for at most one of the other side, or for all nearby.
    """

    def __init__(
        self, tolerance: float = 0.0075, match: Literal["nearby", "one to one"] = "one to one"
    ) -> None:
        super().__init__(tolerance)
        self.match = match

    def _score(self, labels: LabelMap, target: LabelMap) -> float:
        return boundary_f(labels, target, self.tolerance, self.match)


class Compactness(MeanOverImages):
    """See `compactness`."""

    higher_is_better = True

    def update(self, labels: LabelMap) -> None:  # type: ignore[override]
        """Count one image: its partition (H, W)."""
        super().update(compactness(labels))


class ExplainedVariation(MeanOverImages):
    """See `explained_variation`."""

    higher_is_better = True

    def update(self, labels: LabelMap, image: npt.NDArray[np.generic]) -> None:  # type: ignore[override]
        """Count one image: its partition (H, W) and its colors (H, W, C)."""
        super().update(explained_variation(labels, image))


class AverageRecall(MeanOverImages):
    """See `average_recall`; unlike COCO's, a mean over images, not over all true segments.

    Args:
        max_segments: How many segments of each image's pool count.
    """

    higher_is_better = True

    def __init__(self, max_segments: int) -> None:
        super().__init__()
        self.max_segments = max_segments

    def update(self, iou: npt.NDArray[np.floating]) -> None:  # type: ignore[override]
        """Count one image: IoU of its segments, best first, and true segments, shape (S, G)."""
        super().update(average_recall(iou, self.max_segments))


class Nestedness(MeanOverImages):
    """See `nestedness`."""

    higher_is_better = True

    def update(self, partitions: Sequence[LabelMap]) -> None:  # type: ignore[override]
        """Count one image: its partitions, shape (H, W) each, from fine to coarse."""
        super().update(nestedness(partitions))


class PairAuc(MeanOverImages):
    """See `pair_auc`.

    Args:
        num_pairs: Pairs per image.
        radius: Largest distance within a pair, pixels.
    """

    higher_is_better = True

    def __init__(self, num_pairs: int = 20_000, radius: float = 32) -> None:
        super().__init__()
        self.num_pairs = num_pairs
        self.radius = radius

    def update(  # type: ignore[override]
        self, features: Features, masks: npt.NDArray[np.bool_], rng: np.random.Generator
    ) -> None:
        """Count one image: its features, its masks (M, H, W), and the source of the pairs."""
        super().update(pair_auc(features, masks, self.num_pairs, self.radius, rng=rng))


class NumberOfClicks(MeanOverImages):
    """See `noc`; the mean over targets.

    Args:
        threshold: The IoU to reach.
        max_clicks: What a target that never gets there counts.
    """

    higher_is_better = False

    def __init__(self, threshold: float, max_clicks: int = 20) -> None:
        super().__init__()
        self.threshold = threshold
        self.max_clicks = max_clicks

    def update(self, ious: Sequence[float]) -> None:  # type: ignore[override]
        """Count one target: its IoU after each click."""
        super().update(noc(ious, self.threshold, self.max_clicks))


class OverScales(Metric):
    """One score at each of several granularities: the best common one, and the best per image.

    ODS ("optimal dataset scale") is the best mean over images at one granularity for all, OIS
    ("optimal image scale") the mean over images of each one's best (Arbelaez et al., TPAMI 2011).

    Args:
        num_scales: How many granularities.
        higher_is_better: Whether a larger score is better; false for variation of information.
    """

    is_differentiable = False
    full_state_update = False
    totals: Tensor
    best: Tensor
    count: Tensor

    def __init__(self, num_scales: int, higher_is_better: bool = True) -> None:
        super().__init__()
        self.sign = 1.0 if higher_is_better else -1.0
        self.add_state("totals", torch.zeros(num_scales), dist_reduce_fx="sum")
        self.add_state("best", torch.tensor(0.0), dist_reduce_fx="sum")
        self.add_state("count", torch.tensor(0.0), dist_reduce_fx="sum")

    def update(self, scores: Sequence[float]) -> None:
        """Count one image, unless a score is NaN: its score at each granularity.

        Raises:
            ValueError: If there are not as many as announced.
        """
        values = torch.as_tensor(scores, dtype=torch.float32, device=self.totals.device)
        if values.shape != self.totals.shape:
            raise ValueError(
                f"scores must be {len(self.totals)} numbers, got shape {tuple(values.shape)}"
            )
        if bool(values.isnan().any()):
            return
        self.totals += values
        self.best += (values * self.sign).max() * self.sign
        self.count += 1

    def compute(self) -> dict[str, Tensor]:
        """`ods`, `ois`, float32 scalars, and `scale`, the number of the best common one."""
        means = self.totals / self.count
        scale = (means * self.sign).argmax()
        return {"ods": means[scale], "ois": self.best / self.count, "scale": scale}
