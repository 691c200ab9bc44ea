"""Small networks that can only go one way: what speaks for the object never speaks against it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from maskfeat.interactive.small_net import CLIP, arrays_of, content_of

FloatArray = npt.NDArray[np.float32]


@dataclass(frozen=True)
class MonotoneNet:
    """Two hidden layers with tanh whose output rises or falls with each measure, by its signs.

    With weights of the right sign in the first layer, weights that are not negative after it, and a
    rising activation, the output is monotone for any input (Sill, Monotonic networks, NIPS 1997).

    Attributes:
        measures: Names of the measures, F of them, in order.
        signs: 1 if the output must not fall as the measure rises, -1 if it must not rise, 0 if
            either may be, one for each measure.
        mean: Of each measure where the network was fitted, float32, shape (F,).
        spread: Standard deviation of each measure, float32, shape (F,).
        weights: Of the three layers, float32, shapes (D, F), (D, D), (1, D).
        biases: Of the three layers, float32, shapes (D, 1), (D, 1), (1, 1).
        origin: Where it was fitted, one sentence.
    """

    measures: tuple[str, ...]
    signs: tuple[int, ...]
    mean: FloatArray
    spread: FloatArray
    weights: tuple[FloatArray, ...]
    biases: tuple[FloatArray, ...]
    origin: str = ""

    def __post_init__(self) -> None:
        signs = np.array(self.signs)
        wrong_way = (self.weights[0] * signs < 0).any()
        if wrong_way or any((weight < 0).any() for weight in self.weights[1:]):
            raise ValueError("the weights of a monotone network must go the way of its signs")

    def __call__(self, measures: npt.NDArray[np.floating]) -> FloatArray:
        """Log odds of "object", float32, shape (N,), of measures (F, N)."""
        values = (measures.astype(np.float32) - self.mean[:, None]) / self.spread[:, None]
        np.clip(values, -CLIP, CLIP, out=values)
        for weight, bias in zip(self.weights[:-1], self.biases[:-1], strict=True):
            values = weight @ values
            values += bias
            np.tanh(values, out=values)
        odds: FloatArray = (self.weights[-1] @ values + self.biases[-1])[0]
        return odds

    def as_json(self) -> dict[str, Any]:
        """What `of_json` reads."""
        return {"signs": list(self.signs), **content_of(self)}

    @classmethod
    def of_json(cls, content: dict[str, Any], wanted: Sequence[str]) -> MonotoneNet:
        """The network that `as_json` described.

        Raises:
            ValueError: If it was fitted to other measures than those wanted.
        """
        arrays = arrays_of(content, wanted)
        return cls(tuple(wanted), tuple(content["signs"]), *arrays, content["origin"])
