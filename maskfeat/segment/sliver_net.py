"""The network that says which pixels a mark near the outline means."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from maskfeat.segment.monotone import arrays_of, rounded

FloatArray = npt.NDArray[np.float32]

CLIP = 4.0  # inputs, in standard deviations from their mean
SLIVER_MEASURES = (
    "log reach",
    "distance to the mark",
    "depth under the outline",
    "distance by reach",
    "depth by reach",
    "color: like the mark's side",
    "features: like the mark's side",
    "color of the mark: like its side",
    "features of the mark: like its side",
    "color distance to the mark",
    "feature distance to the mark",
    "distance to other marks of the other kind",
    "distance to other marks of its kind",
    "the mark is on the object",
)


@dataclass(frozen=True)
class SliverNet:
    """A small network with two hidden layers of tanh: is a pixel part of what a mark means?

    Attributes:
        mean: Of each of `SLIVER_MEASURES` where it was fitted, float32, shape (F,).
        spread: Standard deviation of each, float32, shape (F,).
        weights: Of the three layers, float32, shapes (D, F), (D, D), (1, D).
        biases: Of the three layers, float32, shapes (D,), (D,), (1,).
        origin: Where it was fitted, one sentence.
    """

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
            "measures": list(SLIVER_MEASURES),
            "mean": rounded(self.mean),
            "spread": rounded(self.spread),
            "weights": [rounded(weight) for weight in self.weights],
            "biases": [rounded(bias) for bias in self.biases],
            "origin": self.origin,
        }

    @classmethod
    def of_json(cls, content: dict[str, Any]) -> SliverNet:
        """The network that `as_json` described.

        Raises:
            ValueError: If it was fitted to other measures than this version has.
        """
        if content["measures"] != list(SLIVER_MEASURES):
            raise ValueError("it judges by other measures than this version has; refit it")
        return cls(*arrays_of(content), content["origin"])
