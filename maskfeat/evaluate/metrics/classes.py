"""Means over images that any number of processes agree on, as torchmetrics.

Every class holds sums and counts, added up over processes: float32, as some devices have no
float64. An image (or a target) counts once, whatever its size; a score that is NaN is not counted.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torchmetrics import Metric


def mean_of_counted(values: Sequence[float]) -> float:
    """Mean of the values that are not NaN; NaN if there is none."""
    counted = [value for value in values if not math.isnan(value)]
    return sum(counted) / len(counted) if counted else math.nan


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
