"""Small networks that run in numpy: an MLP on named, standardized inputs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
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
    """An MLP with tanh in its hidden layers and one logit.

    Attributes:
        inputs: Names of the F inputs, in order.
        mean: Mean of each input where the network was fitted, float32 or float64, shape (F,). The
            network computes in this dtype.
        std: Standard deviation of each input, shape (F,).
        weights: Of each layer, as `torch.nn.Linear` has them: (D, F), (D, D), ..., (1, D).
        biases: Of each layer, (D,), (D,), ..., (1,).
        origin: What it was fitted on, one sentence.
    """

    inputs: tuple[str, ...]
    mean: Array
    std: Array
    weights: tuple[Array, ...]
    biases: tuple[Array, ...]
    origin: str = ""

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
        tensors = {"mean": self.mean, "std": self.std}
        for number, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            tensors |= {f"{number}.weight": weight, f"{number}.bias": bias}
        arrays = {name: np.ascontiguousarray(array) for name, array in tensors.items()}
        described = json.dumps({"inputs": self.inputs, "origin": self.origin})
        with whole_file(path) as file:
            file.write(with_checksum(serialize, arrays, {"network": described}))

    @classmethod
    def load(cls, path: str | Path, inputs: Sequence[str]) -> Mlp:
        """Read what `save` wrote.

        Args:
            path: The file.
            inputs: What this version has; the network reads all of them, or the first.

        Raises:
            ValueError: If it is no such file, or was fitted to other inputs.
        """
        try:
            with safe_open(path, framework="np") as file:
                tensors = {name: file.get_tensor(name) for name in file.keys()}
                metadata = file.metadata() or {}
            check_tensors(path, metadata)
            content = json.loads(metadata["network"])
            known = tuple(content["inputs"])
            if known != tuple(inputs)[: len(known)]:
                raise ValueError("it was fitted to other features than this version has; refit it")
            layers = range(sum(name.endswith(".weight") for name in tensors))
            return cls(
                known,
                tensors["mean"],
                tensors["std"],
                tuple(tensors[f"{number}.weight"] for number in layers),
                tuple(tensors[f"{number}.bias"] for number in layers),
                content["origin"],
            )
        except (SafetensorError, KeyError, ValueError) as error:
            raise ValueError(f"'{path}' cannot be used: {error}") from error
