"""A small network that judges by named measures; kept in numpy, written as json."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

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
        return content_of(self)

    @classmethod
    def of_json(cls, content: dict[str, Any], wanted: Sequence[str]) -> SmallNet:
        """The network that `as_json` described.

        Raises:
            ValueError: If it was fitted to other measures than those wanted.
        """
        return cls(tuple(wanted), *arrays_of(content, wanted), content["origin"])


class _Layered(Protocol):
    """What all small networks have."""

    @property
    def measures(self) -> tuple[str, ...]: ...
    @property
    def mean(self) -> FloatArray: ...
    @property
    def spread(self) -> FloatArray: ...
    @property
    def weights(self) -> tuple[FloatArray, ...]: ...
    @property
    def biases(self) -> tuple[FloatArray, ...]: ...
    @property
    def origin(self) -> str: ...


def content_of(network: _Layered) -> dict[str, Any]:
    """What json holds of a network: its measures, arrays and origin."""
    return {
        "measures": list(network.measures),
        "mean": _rounded(network.mean),
        "spread": _rounded(network.spread),
        "weights": [_rounded(weight) for weight in network.weights],
        "biases": [_rounded(bias) for bias in network.biases],
        "origin": network.origin,
    }


def arrays_of(
    content: dict[str, Any], wanted: Sequence[str]
) -> tuple[FloatArray, FloatArray, tuple[FloatArray, ...], tuple[FloatArray, ...]]:
    """Mean, spread, weights and biases of a network, as json has them, float32.

    Raises:
        ValueError: If it was fitted to other measures than those wanted.
    """
    if tuple(content["measures"]) != tuple(wanted):
        raise ValueError("it judges by other measures than this version has; refit it")
    mean, spread = (np.array(content[name], np.float32) for name in ("mean", "spread"))
    weights, biases = (
        tuple(np.array(values, np.float32) for values in content[name])
        for name in ("weights", "biases")
    )
    return mean, spread, weights, biases


def _rounded(values: FloatArray) -> list[Any]:
    """Values of an array as json has them, with five digits."""
    digits: list[Any] = np.round(values.astype(np.float64), 5).tolist()
    return digits
