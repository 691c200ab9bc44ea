"""Clicks become a logit for every superpixel: the network, its reader, and the file of weights."""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Sequence
from functools import lru_cache, reduce
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as serialize
from torch import Tensor, nn

from maskfeat.arrays import FloatArray, IntArray
from maskfeat.files import whole_file
from maskfeat.interactive.evidence import (
    CLICK_DISTANCES,
    CONTEXT_FEATURES,
    SUPERPIXEL_FEATURES,
    ClickEvidence,
)
from maskfeat.interactive.mask_change import CHANGE_FEATURES
from maskfeat.interactive.narrow_band import NARROW_BAND_FEATURES
from maskfeat.interactive.prompts import some_of
from maskfeat.interactive.refine import PIXEL_FEATURES
from maskfeat.segment.mlp import CLIP, Mlp
from maskfeat.tensor_file import check_tensors, with_checksum

# Contexts are rounded to this share of a standard deviation. Most clicks far from a new one keep
# their context then, and the effects that were computed for them.
_CONTEXT_STEP = 0.25
# Pairs of click and superpixel that are computed at once, so that they stay in the CPU cache.
_AT_ONCE = 8192
_LARGEST_GAIN = 2.0  # of the logarithm by which a context scales the effect of a click
_INPUTS = {
    "distances": CLICK_DISTANCES,
    "contexts": CONTEXT_FEATURES,
    "superpixels": SUPERPIXEL_FEATURES,
}
_KEPT_EFFECTS = 512  # of clicks, about 100 MB for 8,000 superpixels
# At most this many clicked superpixels of one kind are read; a scribble can cover more.
MOST_READ = 128


class ClickNet(nn.Module):
    """Logit of "object" of every superpixel, from clicks on the object and on the background.

    A click has an effect on a superpixel by the distances between them (`CLICK_DISTANCES`). The
    effect depends on the context of the click, which is its distance to the nearest other clicks
    of its own and of the other kind (`CONTEXT_FEATURES`): a click amid clicks of the other kind
    corrects a detail, one far from all others claims a region. With x the distances from click j
    to superpixel i, z the context of j, and y the features of i (`SUPERPIXEL_FEATURES`),

        effect_j(i) = A relu(exp(g(z)) * (B x + b) + s(z)) + a,
        logit(i)    = f(max_j of background clicks, max_j of object clicks, y(i)),

    with A, a, B, b, g and s for each kind of click; g, s and f are small networks. The maximum
    makes the logit a function of the two sets of clicks (Zaheer et al., Deep Sets, NeurIPS 2017; Qi
    et al., PointNet, CVPR 2017).

    Args:
        hidden: Units of relu in an effect.
        effects: Values of an effect.
        width: Units of each hidden layer of f, g and s.
        origin: What it was fitted on, one sentence.
    """

    def __init__(
        self, hidden: int = 16, effects: int = 6, width: int = 32, origin: str = ""
    ) -> None:
        super().__init__()
        self.settings = {"hidden": hidden, "effects": effects, "width": width}
        self.origin = origin
        for name, inputs in _INPUTS.items():
            self.register_buffer(f"{name}_mean", torch.zeros(len(inputs)))
            self.register_buffer(f"{name}_std", torch.ones(len(inputs)))
        self.distances = nn.ModuleList(nn.Linear(len(CLICK_DISTANCES), hidden) for _ in range(2))
        self.contexts = nn.ModuleList(
            nn.Sequential(
                nn.Linear(len(CONTEXT_FEATURES), width), nn.Tanh(), nn.Linear(width, 2 * hidden)
            )
            for _ in range(2)
        )
        self.effects = nn.ModuleList(nn.Linear(hidden, effects) for _ in range(2))
        self.no_click = nn.Parameter(torch.full((2, effects), -1.0))
        self.superpixels = nn.Sequential(
            nn.Linear(2 * effects + len(SUPERPIXEL_FEATURES), width),
            nn.ReLU(),
            nn.Linear(width, width),
            nn.ReLU(),
            nn.Linear(width, 1),
        )

    def forward(
        self, distances: Sequence[Tensor], contexts: Sequence[Tensor], features: Tensor
    ) -> Tensor:
        """Logits of superpixels, shape (K,).

        Args:
            distances: From the clicks on the background and from those on the object to each
                superpixel, (W, N, K) and (W, M, K).
            contexts: Of the same clicks, (N, C) and (M, C).
            features: Of each superpixel, (F, K).
        """
        largest = [self.without_clicks(kind, features.shape[1]) for kind in (0, 1)]
        step = max(1, _AT_ONCE // features.shape[1])
        for kind in (0, 1):
            if len(contexts[kind]):
                rounded = self.rounded(contexts[kind])
                parts = [
                    self.effect(kind, distances[kind][:, i : i + step], rounded[i : i + step])
                    for i in range(0, len(rounded), step)
                ]
                largest[kind] = reduce(torch.maximum, [part.amax(dim=1) for part in parts])
        return self.logits(largest, features)

    def without_clicks(self, kind: int, num_superpixels: int) -> Tensor:
        """The largest effects where there is no click of a kind, (E, K)."""
        of_all: Tensor = self.no_click[kind][:, None].expand(-1, num_superpixels)
        return of_all

    def rounded(self, contexts: Tensor) -> Tensor:
        """Contexts (N, C) in standard deviations, rounded."""
        steps = self._standardized("contexts", contexts.T).T / _CONTEXT_STEP
        return torch.round(steps) * _CONTEXT_STEP

    def effect(self, kind: int, distances: Tensor, rounded: Tensor) -> Tensor:
        """Effects of clicks on superpixels.

        Args:
            kind: 0 for clicks on the background, 1 for those on the object.
            distances: From each click to each superpixel, (W, N, K).
            rounded: Context of each click, see `rounded`, (N, C).

        Returns:
            Shape (E, N, K).
        """
        gains, shifts = self.contexts[kind](rounded).T.contiguous().chunk(2)
        gains = torch.exp(gains.clamp(-_LARGEST_GAIN, _LARGEST_GAIN))
        read = _applied(self.distances[kind], self._standardized("distances", distances))
        shaped = torch.relu(torch.addcmul(shifts[:, :, None], read, gains[:, :, None]))
        return _applied(self.effects[kind], shaped)

    def logits(self, largest: Sequence[Tensor], features: Tensor) -> Tensor:
        """Logits, shape (K,).

        Args:
            largest: Largest effects of the clicks on the background and of those on the object,
                (E, K) each.
            features: Of each superpixel, (F, K).
        """
        values = torch.cat([*largest, self._standardized("superpixels", features)])
        for module in self.superpixels:
            values = _applied(module, values) if isinstance(module, nn.Linear) else module(values)
        return values[0]

    def standardize(self, name: str, values: Tensor) -> None:
        """Set mean and std of "distances", "contexts" or "superpixels" by examples, (N, values)."""
        getattr(self, f"{name}_mean").copy_(values.mean(dim=0))
        getattr(self, f"{name}_std").copy_(values.std(dim=0) + 1e-3)

    def _standardized(self, name: str, values: Tensor) -> Tensor:
        """Values in standard deviations from their mean, (F, ...)."""
        shape = (-1, *[1] * (values.dim() - 1))
        mean, std = (getattr(self, f"{name}_{of}").view(shape) for of in ("mean", "std"))
        standardized: Tensor = (values - mean) / std
        return standardized.clamp(-CLIP, CLIP)


class ClickReader:
    """Computes the logits of a `ClickNet` on one image and keeps the effects of each click.

    Args:
        evidence: Gives the inputs of the network.
        net: The network.
    """

    def __init__(self, evidence: ClickEvidence, net: ClickNet) -> None:
        self.evidence = evidence
        self.net = net
        self._effects: OrderedDict[tuple[int, int, bytes], Tensor] = OrderedDict()

    @torch.inference_mode()
    def logits(self, object_superpixels: IntArray, background_superpixels: IntArray) -> FloatArray:
        """Logits of "object", float32, shape (K,): bit for bit a function of the two sets.

        Args:
            object_superpixels: Superpixels clicked as object, each once, rising, (N,).
            background_superpixels: Superpixels clicked as background, likewise, (M,).
        """
        clicked = some_of(background_superpixels, MOST_READ), some_of(object_superpixels, MOST_READ)
        features = torch.from_numpy(self.evidence.click_features(clicked[1], clicked[0]))
        largest = [self._largest(kind, clicked[kind], clicked[1 - kind]) for kind in (0, 1)]
        logits: FloatArray = self.net.logits(largest, features).numpy()
        return logits

    @torch.inference_mode()
    def logits_at(
        self, superpixels: IntArray, object_superpixels: IntArray, background_superpixels: IntArray
    ) -> tuple[FloatArray, FloatArray]:
        """As `logits` up to rounding, for some superpixels; nothing is kept.

        Args:
            superpixels: Which, (A,).
            object_superpixels: See `logits`.
            background_superpixels: See `logits`.

        Returns:
            Logits, float32, (A,), and `evidence.SUPERPIXEL_FEATURES`, float32, (F, A).
        """
        clicked = some_of(background_superpixels, MOST_READ), some_of(object_superpixels, MOST_READ)
        distances = [self.evidence.distances_at(clicks, superpixels) for clicks in clicked]
        features = self.evidence.click_features_at(
            superpixels, clicked[1], clicked[0], distances[1], distances[0]
        )
        contexts = [self.evidence.contexts(clicked[kind], clicked[1 - kind]) for kind in (0, 1)]
        logits: FloatArray = self.net(
            [torch.from_numpy(of_kind) for of_kind in distances],
            [torch.from_numpy(of_kind) for of_kind in contexts],
            torch.from_numpy(features),
        ).numpy()
        return logits, features

    def _largest(self, kind: int, clicked: IntArray, others: IntArray) -> Tensor:
        """The largest effects over the clicks of one kind, (E, K)."""
        num_superpixels = self.evidence.graph.num_superpixels
        if not clicked.size:
            return self.net.without_clicks(kind, num_superpixels)
        contexts = self.net.rounded(torch.from_numpy(self.evidence.contexts(clicked, others)))
        largest = torch.full((len(self.net.no_click[kind]), num_superpixels), -np.inf)
        for superpixel, context in zip(clicked.tolist(), contexts, strict=True):
            key = kind, superpixel, context.numpy().tobytes()
            if key not in self._effects:
                distances = torch.from_numpy(self.evidence.distances(superpixel))
                effect = self.net.effect(kind, distances[:, None], context[None])
                self._effects[key] = effect[:, 0]
                if len(self._effects) > _KEPT_EFFECTS:
                    self._effects.popitem(last=False)
            self._effects.move_to_end(key)
            torch.maximum(largest, self._effects[key], out=largest)
        return largest


class ClickNetworks(NamedTuple):
    """The networks of clicks.

    Attributes:
        superpixels: Logit of "object" of a superpixel.
        pixels: Logit of "object" of a pixel, see `refine.PIXEL_FEATURES`.
        narrow_band: Logit of "changes its label" of a pixel near a click near the outline, see
            `narrow_band.NARROW_BAND_FEATURES`.
        mask_change: Logit of "changes its label" of a superpixel, see
            `mask_change.CHANGE_FEATURES`.
    """

    superpixels: ClickNet
    pixels: Mlp
    narrow_band: Mlp
    mask_change: Mlp


_MLP_INPUTS = {
    "pixels": PIXEL_FEATURES,
    "narrow_band": NARROW_BAND_FEATURES,
    "mask_change": CHANGE_FEATURES,
}


@lru_cache(maxsize=1)
def default_networks() -> ClickNetworks:
    """The networks of the package, fitted by the scripts of experiments/interactive."""
    return load_networks(Path(__file__).with_name("clicks.safetensors"))


def load_networks(path: str | Path) -> ClickNetworks:
    """Read what `save_networks` wrote.

    Raises:
        ValueError: If it is no such file, lacks a network, or one was fitted to other inputs.
    """
    try:
        with safe_open(path, framework="np") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}
            described = file.metadata() or {}
        check_tensors(path, described)
        missing = [name for name in ClickNetworks._fields if name not in described]
        if missing:
            raise ValueError(f"it has no networks of {missing}; refit them")
        content = json.loads(described["superpixels"])
        if content["inputs"] != _inputs():
            raise ValueError("it was fitted to other features than this version has; refit it")
        net = ClickNet(**content["settings"], origin=content["origin"])
        prefix = "superpixels."
        net.load_state_dict(
            {
                name.removeprefix(prefix): torch.from_numpy(values)
                for name, values in tensors.items()
                if name.startswith(prefix)
            }
        )
        mlps = {
            name: Mlp.unpacked(tensors, described[name], inputs, f"{name}.")
            for name, inputs in _MLP_INPUTS.items()
        }
    except (SafetensorError, KeyError, ValueError) as error:
        raise ValueError(f"'{path}' cannot be used: {error}") from error
    return ClickNetworks(net.requires_grad_(False).eval(), **mlps)


def save_networks(path: str | Path, networks: ClickNetworks) -> None:
    """Write them as one .safetensors file, whole or not at all."""
    net = networks.superpixels
    tensors: dict[str, npt.NDArray[Any]] = {
        f"superpixels.{name}": values.numpy() for name, values in net.state_dict().items()
    }
    content = {"settings": net.settings, "inputs": _inputs(), "origin": net.origin}
    described = {"superpixels": json.dumps(content)}
    for name in _MLP_INPUTS:
        arrays, described[name] = getattr(networks, name).packed(f"{name}.")
        tensors |= arrays
    with whole_file(path) as file:
        file.write(with_checksum(serialize, tensors, described))


def _applied(linear: nn.Module, values: Tensor) -> Tensor:
    """A linear layer on the first axis, (F, ...); faster than on the last, as F is small."""
    assert isinstance(linear, nn.Linear)
    flat = torch.addmm(linear.bias[:, None], linear.weight, values.flatten(1))
    return flat.view(-1, *values.shape[1:])


def _inputs() -> dict[str, list[str]]:
    return {name: list(inputs) for name, inputs in _INPUTS.items()}
