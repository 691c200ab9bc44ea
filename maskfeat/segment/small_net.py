"""A small network that judges by named measures; kept in numpy, written as json."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from maskfeat.segment.monotone import arrays_of, rounded

FloatArray = npt.NDArray[np.float32]

CLIP = 4.0  # inputs, in standard deviations from their mean


@dataclass(frozen=True)
class SmallNet:
    """Two hidden layers of tanh, and log odds.

    Attributes:
        measures: Names of the inputs, F of them, in order.
        mean: Of each input where it was fitted, float32, shape (F,).
        spread: Standard deviation of each, float32, shape (F,).
        weights: Of the three layers, float32, shapes (D, F), (D, D), (1, D).
        biases: Of the three layers, float32, shapes (D,), (D,), (1,).
        origin: Where it was fitted, one sentence.
    """

    measures: tuple[str, ...]
    mean: FloatArray
    spread: FloatArray
    weights: tuple[FloatArray, ...]
    biases: tuple[FloatArray, ...]
    origin: str = ""

    def __call__(self, measures: FloatArray) -> FloatArray:
        """Log odds, float32, shape (N,), of measures (F, N)."""
        values = (measures - self.mean[:, None]) / self.spread[:, None]
        np.clip(values, -CLIP, CLIP, out=values)
        for weight, bias in zip(self.weights[:-1], self.biases[:-1], strict=True):
            values = np.tanh(weight @ values + bias[:, None])
        odds: FloatArray = (self.weights[-1] @ values)[0] + self.biases[-1]
        return odds

    def as_json(self) -> dict[str, Any]:
        """What `of_json` reads."""
        return {
            "measures": list(self.measures),
            "mean": rounded(self.mean),
            "spread": rounded(self.spread),
            "weights": [rounded(weight) for weight in self.weights],
            "biases": [rounded(bias) for bias in self.biases],
            "origin": self.origin,
        }

    @classmethod
    def of_json(cls, content: dict[str, Any], wanted: Sequence[str]) -> SmallNet:
        """The network that `as_json` described.

        Raises:
            ValueError: If it was fitted to other measures than those wanted.
        """
        if tuple(content["measures"]) != tuple(wanted):
            raise ValueError("it judges by other measures than this version has; refit it")
        return cls(tuple(wanted), *arrays_of(content), content["origin"])
