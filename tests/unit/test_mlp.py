"""Small networks against torch."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from maskfeat.segment.mlp import Mlp

INPUTS = ("area", "distance", "strength")


def network(dtype: type, seed: int = 0, signs: tuple[int, ...] | None = None) -> Mlp:
    rng = np.random.default_rng(seed)
    weights = [rng.normal(size=shape).astype(dtype) for shape in ((5, 3), (5, 5), (1, 5))]
    if signs is not None:
        rows = np.where(np.array(signs) == 0, weights[0], np.abs(weights[0]) * signs)
        weights = [rows.astype(dtype), *(np.abs(weight) for weight in weights[1:])]
    biases = [rng.normal(size=len(weight)).astype(dtype) for weight in weights]
    mean, std = rng.normal(size=3).astype(dtype), (0.1 + rng.random(3)).astype(dtype)
    return Mlp(INPUTS, mean, std, tuple(weights), tuple(biases), "a test", signs)


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


@pytest.mark.parametrize("signs", [None, (1, -1, 0)])
def test_a_network_comes_back_from_its_file_as_it_was(tmp_path, signs) -> None:
    mlp = network(np.float32, signs=signs)
    mlp.save(tmp_path / "net.safetensors")
    again = Mlp.load(tmp_path / "net.safetensors", INPUTS)
    assert (again.inputs, again.origin, again.signs) == (INPUTS, "a test", signs)
    values = np.random.default_rng(1).normal(size=(3, 40))
    np.testing.assert_array_equal(again(values), mlp(values))
    with pytest.raises(
        ValueError, match=r"net.safetensors' cannot be used: it was fitted to other"
    ):
        Mlp.load(tmp_path / "net.safetensors", INPUTS[::-1])


def test_several_networks_fit_into_one_set_of_tensors() -> None:
    one, two = network(np.float32, 0), network(np.float64, 1)
    (tensors, first), (more, second) = one.packed("one."), two.packed("two.")
    values = np.random.default_rng(1).normal(size=(3, 9))
    for mlp, described, prefix in ((one, first, "one."), (two, second, "two.")):
        found = Mlp.unpacked(tensors | more, described, INPUTS, prefix)
        np.testing.assert_array_equal(found(values), mlp(values))


def test_a_monotone_network_never_goes_against_its_signs() -> None:
    mlp = network(np.float64, signs=(1, -1, 0))
    values = np.random.default_rng(1).normal(size=(3, 200))
    for row, sign in ((0, 1), (1, -1)):
        moved = values.copy()
        moved[row] += np.random.default_rng(2).random(200)
        assert (sign * (mlp(moved) - mlp(values)) >= 0).all()
    with pytest.raises(ValueError, match="must have the signs of its inputs"):
        replace(mlp, signs=(-1, -1, 0))
    with pytest.raises(ValueError, match="must have the signs of its inputs"):
        replace(mlp, weights=(mlp.weights[0], -mlp.weights[1], mlp.weights[2]))
