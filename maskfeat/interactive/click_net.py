"""The network that reads clicks: what one says depends on the others around it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from maskfeat.interactive.evidence import CONTEXT_MEASURES, SUPERPIXEL_MEASURES, WAYS

# Where an input is clipped, in standard deviations from its mean.
_CLIP = 4.0
# Contexts are rounded to this share of a standard deviation: most clicks far from a new one keep
# theirs then, and what was computed for them.
_CONTEXT_STEP = 0.25
# Pairs of click and superpixel that are read at once: what is computed of them stays in the cache.
_AT_ONCE = 8192
_LARGEST_GAIN = 2.0  # of the logarithm by which a context stretches what a click says
_INPUTS = {"ways": WAYS, "contexts": CONTEXT_MEASURES, "measures": SUPERPIXEL_MEASURES}


class ClickNet(nn.Module):
    """Log odds of "object" of every superpixel, from clicks on the object and on the background.

    A click says something of a superpixel by how near it is to it in many ways (`evidence.WAYS`),
    and what it says depends on its context: how near the nearest other clicks of its own kind and
    of the other are (`evidence.CONTEXT_MEASURES`). One amid clicks of the other kind corrects a
    sliver, one far from all of them claims a region. With x the ways from click j to superpixel i,
    z the context of j, and y the measures of i by itself (`evidence.SUPERPIXEL_MEASURES`),

        effect_j(i) = A relu(exp(g(z)) * (B x + b) + s(z)) + a,
        odds(i)     = f(max_j of background clicks, max_j of object clicks, y(i)),

    with A, a, B, b, g and s of each kind of click; g, s and f are small networks. The maximum makes
    it a function of the two sets (Zaheer et al., Deep Sets, NeurIPS 2017; Qi et al., PointNet,
    CVPR 2017).

    Args:
        hidden: Units that read one click at one superpixel.
        effects: Values that are left of them, of which the largest over the clicks counts.
        width: Units of each hidden layer of f, g and s.
        origin: Where it was fitted, one sentence.
    """

    def __init__(
        self, hidden: int = 16, effects: int = 6, width: int = 32, origin: str = ""
    ) -> None:
        super().__init__()
        self.settings = {"hidden": hidden, "effects": effects, "width": width}
        self.origin = origin
        for name, inputs in _INPUTS.items():
            self.register_buffer(f"{name}_mean", torch.zeros(len(inputs)))
            self.register_buffer(f"{name}_spread", torch.ones(len(inputs)))
        self.ways = nn.ModuleList(nn.Linear(len(WAYS), hidden) for _ in range(2))
        self.contexts = nn.ModuleList(
            nn.Sequential(
                nn.Linear(len(CONTEXT_MEASURES), width), nn.Tanh(), nn.Linear(width, 2 * hidden)
            )
            for _ in range(2)
        )
        self.effects = nn.ModuleList(nn.Linear(hidden, effects) for _ in range(2))
        self.no_click = nn.Parameter(torch.full((2, effects), -1.0))
        self.superpixels = nn.Sequential(
            nn.Linear(2 * effects + len(SUPERPIXEL_MEASURES), width),
            nn.ReLU(),
            nn.Linear(width, width),
            nn.ReLU(),
            nn.Linear(width, 1),
        )

    def forward(
        self, ways: Sequence[Tensor], contexts: Sequence[Tensor], measures: Tensor
    ) -> Tensor:
        """Log odds of superpixels, shape (K,).

        Args:
            ways: From the clicks on the background and from those on the object to each superpixel,
                (W, N, K) and (W, M, K).
            contexts: Of the same clicks, (N, C) and (M, C).
            measures: Of each superpixel, (F, K).
        """
        largest = [self.without_clicks(kind, measures.shape[1]) for kind in (0, 1)]
        for kind in (0, 1):
            if len(contexts[kind]):
                largest[kind] = self._largest(kind, ways[kind], self.rounded(contexts[kind]))
        return self.odds(largest, measures)

    def without_clicks(self, kind: int, num_superpixels: int) -> Tensor:
        """What stands for the largest effects where nothing is clicked in one way, (E, K)."""
        of_all: Tensor = self.no_click[kind][:, None].expand(-1, num_superpixels)
        return of_all

    def _largest(self, kind: int, ways: Tensor, rounded: Tensor) -> Tensor:
        """The largest effects over clicks of one kind, see `effect`, (E, K)."""
        step = max(1, _AT_ONCE // ways.shape[2])
        parts = [
            self.effect(kind, ways[:, first : first + step], rounded[first : first + step])
            for first in range(0, len(rounded), step)
        ]
        return reduce(torch.maximum, [effects.amax(dim=1) for effects in parts])

    def rounded(self, contexts: Tensor) -> Tensor:
        """Contexts (N, C) in standard deviations, in steps."""
        steps = self._standardized("contexts", contexts.T).T / _CONTEXT_STEP
        return torch.round(steps) * _CONTEXT_STEP

    def effect(self, kind: int, ways: Tensor, rounded: Tensor) -> Tensor:
        """What clicks say of superpixels.

        Args:
            kind: 0 for clicks on the background, 1 for those on the object.
            ways: From each click to each superpixel, (W, N, K).
            rounded: Context of each click, see `rounded`, (N, C).

        Returns:
            Shape (E, N, K).
        """
        gains, shifts = self.contexts[kind](rounded).T.contiguous().chunk(2)
        gains = torch.exp(gains.clamp(-_LARGEST_GAIN, _LARGEST_GAIN))
        read = _applied(self.ways[kind], self._standardized("ways", ways))
        shaped = torch.relu(torch.addcmul(shifts[:, :, None], read, gains[:, :, None]))
        return _applied(self.effects[kind], shaped)

    def odds(self, largest: Sequence[Tensor], measures: Tensor) -> Tensor:
        """Log odds, shape (K,).

        Args:
            largest: Largest effects of the clicks on the background and of those on the object,
                (E, K) each.
            measures: Of each superpixel, (F, K).
        """
        values = torch.cat([*largest, self._standardized("measures", measures)])
        for layer in self.superpixels:
            values = _applied(layer, values) if isinstance(layer, nn.Linear) else layer(values)
        return values[0]

    def standardize(self, name: str, values: Tensor) -> None:
        """Take mean and spread of "ways", "contexts" or "measures" from examples, (N, values)."""
        getattr(self, f"{name}_mean").copy_(values.mean(dim=0))
        getattr(self, f"{name}_spread").copy_(values.std(dim=0) + 1e-3)

    def _standardized(self, name: str, values: Tensor) -> Tensor:
        """Values in standard deviations from their mean, the different ones first, (F, ...)."""
        shape = (-1, *[1] * (values.dim() - 1))
        mean, spread = (getattr(self, f"{name}_{of}").view(shape) for of in ("mean", "spread"))
        standardized: Tensor = (values - mean) / spread
        return standardized.clamp(-_CLIP, _CLIP)

    def as_json(self) -> dict[str, Any]:
        """What `of_json` reads."""
        weights = {
            name: np.round(values.double().numpy(), 5).tolist()
            for name, values in self.state_dict().items()
        }
        return {**self.settings, "origin": self.origin, "inputs": _inputs(), "weights": weights}

    @classmethod
    def of_json(cls, content: dict[str, Any]) -> ClickNet:
        """The network that `as_json` described.

        Raises:
            ValueError: If it was fitted to other inputs than this version has.
        """
        if content["inputs"] != _inputs():
            raise ValueError("it judges by other measures than this version has; refit it")
        net = cls(content["hidden"], content["effects"], content["width"], content["origin"])
        net.load_state_dict(
            {name: torch.tensor(values) for name, values in content["weights"].items()}
        )
        return net.requires_grad_(False).eval()


def _applied(layer: nn.Module, values: Tensor) -> Tensor:
    """A linear layer on values that come first, (F, ...): much faster than last, being few."""
    assert isinstance(layer, nn.Linear)
    flat = torch.addmm(layer.bias[:, None], layer.weight, values.flatten(1))
    return flat.view(-1, *values.shape[1:])


def _inputs() -> dict[str, list[str]]:
    return {name: list(inputs) for name, inputs in _INPUTS.items()}
