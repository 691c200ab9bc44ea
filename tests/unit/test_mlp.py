"""Small networks against torch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from maskfeat.segment.merge_classifier import Mlp

INPUTS = ("area", "distance", "strength")


def network(dtype: type) -> Mlp:
    rng = np.random.default_rng(0)
    weights = [rng.normal(size=shape).astype(dtype) for shape in ((5, 3), (5, 5), (1, 5))]
    biases = [rng.normal(size=len(weight)).astype(dtype) for weight in weights]
    mean, std = rng.normal(size=3).astype(dtype), (0.1 + rng.random(3)).astype(dtype)
    return Mlp(INPUTS, mean, std, tuple(weights), tuple(biases), "a test")


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_logits_are_those_of_torch(dtype) -> None:
    mlp, layers = network(dtype), []
    for weight, bias in zip(mlp.weights, mlp.biases, strict=True):
        layer = nn.Linear(*weight.shape[::-1])
        layer.weight.data, layer.bias.data = torch.from_numpy(weight), torch.from_numpy(bias)
        layers += [layer, nn.Tanh()]
    values = np.random.default_rng(1).normal(size=(3, 40)) * 3
    standardized = ((values.T - mlp.mean) / mlp.std).clip(-4, 4).astype(dtype)
    with torch.no_grad():
        expected = nn.Sequential(*layers[:-1])(torch.from_numpy(standardized))[:, 0].numpy()
    found = mlp(values)
    assert found.dtype == dtype
    np.testing.assert_allclose(found, expected, rtol=1e-4 if dtype == np.float32 else 1e-12)


def test_a_network_comes_back_from_its_file_as_it_was(tmp_path) -> None:
    mlp = network(np.float32)
    mlp.save(tmp_path / "net.safetensors")
    again = Mlp.load(tmp_path / "net.safetensors", INPUTS)
    assert (again.inputs, again.origin) == (INPUTS, "a test")
    values = np.random.default_rng(1).normal(size=(3, 40))
    np.testing.assert_array_equal(again(values), mlp(values))
    with pytest.raises(
        ValueError, match=r"net.safetensors' cannot be used: it was fitted to other"
    ):
        Mlp.load(tmp_path / "net.safetensors", INPUTS[::-1])
