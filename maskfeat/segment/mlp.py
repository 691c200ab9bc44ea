"""Small networks that run in numpy: an MLP on named, standardized inputs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as serialize

from maskfeat.files import whole_file
from maskfeat.tensor_file import check_tensors, with_checksum

Array = npt.NDArray[Any]

CLIP = 4.0  # standardized inputs are clipped here, in standard deviations


@dataclass(frozen=True)
class Mlp:
    """An MLP with tanh in its hidden layers and one logit, optionally monotone in its inputs.

    It is monotone if the weights of the first layer have the signs of their inputs and no later
    weight is negative (Sill, Monotonic networks, NIPS 1997).

    Attributes:
        inputs: Names of the F inputs, in order.
        mean: Mean of each input where the network was fitted, float32 or float64, shape (F,). The
            network computes in this dtype.
        std: Standard deviation of each input, shape (F,).
        weights: Of each layer, as `torch.nn.Linear` has them: (D, F), (D, D), ..., (1, D).
        biases: Of each layer, (D,), (D,), ..., (1,).
        origin: What it was fitted on, one sentence.
        signs: For each input 1 if the logit must not fall as the input rises, -1 if it must not
            rise, 0 if both are allowed; None for a network that is not monotone.

    Raises:
        ValueError: If a weight contradicts the signs.
    """

    inputs: tuple[str, ...]
    mean: Array
    std: Array
    weights: tuple[Array, ...]
    biases: tuple[Array, ...]
    origin: str = ""
    signs: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        if self.signs is None:
            return
        contradicts = (self.weights[0] * np.array(self.signs) < 0).any()
        if contradicts or any((weight < 0).any() for weight in self.weights[1:]):
            raise ValueError("the weights of a monotone network must have the signs of its inputs")

    def __call__(self, values: npt.NDArray[np.floating]) -> Array:
        """Logits, shape (N,), of inputs (F, N)."""
        hidden = (values.astype(self.mean.dtype) - self.mean[:, None]) / self.std[:, None]
        np.clip(hidden, -CLIP, CLIP, out=hidden)
        for weight, bias in zip(self.weights[:-1], self.biases[:-1], strict=True):
            hidden = weight @ hidden
            hidden += bias[:, None]
            np.tanh(hidden, out=hidden)
        logits: Array = (self.weights[-1] @ hidden)[0] + self.biases[-1]
        return logits

    def save(self, path: str | Path) -> None:
        """Write it as .safetensors, whole or not at all."""
        tensors, described = self.packed()
        with whole_file(path) as file:
            file.write(with_checksum(serialize, tensors, {"network": described}))

    @classmethod
    def load(cls, path: str | Path, inputs: Sequence[str]) -> Mlp:
        """Read what `save` wrote.

        Raises:
            ValueError: If it is no such file, or was fitted to other inputs than these.
        """
        try:
            with safe_open(path, framework="np") as file:
                tensors = {name: file.get_tensor(name) for name in file.keys()}
                metadata = file.metadata() or {}
            check_tensors(path, metadata)
            return cls.unpacked(tensors, metadata["network"], inputs)
        except (SafetensorError, KeyError, ValueError) as error:
            raise ValueError(f"'{path}' cannot be used: {error}") from error

    def packed(self, prefix: str = "") -> tuple[dict[str, Array], str]:
        """Its tensors by name, and what else belongs to it as JSON; a file may hold several."""
        tensors = {"mean": self.mean, "std": self.std}
        for number, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            tensors |= {f"{number}.weight": weight, f"{number}.bias": bias}
        described = {"inputs": self.inputs, "signs": self.signs, "origin": self.origin}
        arrays = {prefix + name: np.ascontiguousarray(array) for name, array in tensors.items()}
        return arrays, json.dumps(described)

    @classmethod
    def unpacked(
        cls, tensors: Mapping[str, Array], described: str, inputs: Sequence[str], prefix: str = ""
    ) -> Mlp:
        """The network that `packed` described.

        Raises:
            ValueError: If it was fitted to other inputs than these, or than the first of these.
        """
        content = json.loads(described)
        known = tuple(content["inputs"])
        if known != tuple(inputs)[: len(known)]:
            raise ValueError("it was fitted to other features than this version has; refit it")
        weights, biases = [], []
        for number in count():
            if f"{prefix}{number}.weight" not in tensors:
                break
            weights.append(tensors[f"{prefix}{number}.weight"])
            biases.append(tensors[f"{prefix}{number}.bias"])
        return cls(
            known,
            tensors[f"{prefix}mean"],
            tensors[f"{prefix}std"],
            tuple(weights),
            tuple(biases),
            content["origin"],
            None if content["signs"] is None else tuple(content["signs"]),
        )
