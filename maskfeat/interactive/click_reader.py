"""Clicks on one image become log odds of its superpixels, without doing work twice."""

from __future__ import annotations

from collections import OrderedDict

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from maskfeat.interactive.click_net import ClickNet
from maskfeat.interactive.evidence import ClickEvidence
from maskfeat.interactive.prompts import some_of

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]

# Effects of clicks that are kept: some 100 MB for 8,000 superpixels.
_KEPT_EFFECTS = 512
# Of so many superpixels of one kind of click each is read; of more, as a scribble prompts, so many.
MOST_READ = 128


class ClickReader:
    """Reads sets of clicks on one image by a `ClickNet`.

    What a click says is kept for as long as its context stays.

    Args:
        evidence: Measures the superpixels of the image.
        net: Reads the measures.
    """

    def __init__(self, evidence: ClickEvidence, net: ClickNet) -> None:
        self.evidence = evidence
        self.net = net
        self._effects: OrderedDict[tuple[int, int, bytes], Tensor] = OrderedDict()

    @torch.inference_mode()
    def odds(self, object_superpixels: IntArray, background_superpixels: IntArray) -> FloatArray:
        """Log odds of "object", float32, shape (K,): bit for bit a function of the two sets.

        Args:
            object_superpixels: Superpixels clicked as object, each once, rising, (N,).
            background_superpixels: Superpixels clicked as background, likewise, (M,).
        """
        clicked = some_of(background_superpixels, MOST_READ), some_of(object_superpixels, MOST_READ)
        measures = torch.from_numpy(self.evidence.measures(clicked[1], clicked[0]))
        largest = [self._largest(kind, clicked[kind], clicked[1 - kind]) for kind in (0, 1)]
        odds: FloatArray = self.net.odds(largest, measures).numpy()
        return odds

    @torch.inference_mode()
    def odds_at(
        self, superpixels: IntArray, object_superpixels: IntArray, background_superpixels: IntArray
    ) -> tuple[FloatArray, FloatArray]:
        """As `odds`, but for a rounding, for some superpixels alone.

        Nothing is kept; worth it for a small part of the superpixels.

        Args:
            superpixels: Which, (A,).
            object_superpixels: See `odds`.
            background_superpixels: See `odds`.

        Returns:
            Log odds, float32, shape (A,), and `evidence.SUPERPIXEL_MEASURES`, float32, shape (F,
            A).
        """
        clicked = some_of(background_superpixels, MOST_READ), some_of(object_superpixels, MOST_READ)
        ways = [self.evidence.ways_at(clicks, superpixels) for clicks in clicked]
        measures = self.evidence.measures_at(superpixels, clicked[1], clicked[0], ways[1], ways[0])
        contexts = [self.evidence.contexts(clicked[kind], clicked[1 - kind]) for kind in (0, 1)]
        odds: FloatArray = self.net(
            [torch.from_numpy(of_kind) for of_kind in ways],
            [torch.from_numpy(of_kind) for of_kind in contexts],
            torch.from_numpy(measures),
        ).numpy()
        return odds, measures

    def _largest(self, kind: int, clicked: IntArray, others: IntArray) -> Tensor:
        """The largest effects over the clicks of one kind, (E, K)."""
        num_superpixels = self.evidence.graph.num_superpixels
        if not clicked.size:
            return self.net.without_clicks(kind, num_superpixels)
        contexts = torch.from_numpy(self.evidence.contexts(clicked, others))
        largest = torch.full((len(self.net.no_click[kind]), num_superpixels), -np.inf)
        for superpixel, context in zip(clicked, self.net.rounded(contexts), strict=True):
            torch.maximum(largest, self._effect(kind, int(superpixel), context[None]), out=largest)
        return largest

    def _effect(self, kind: int, superpixel: int, rounded: Tensor) -> Tensor:
        """What one click says of all superpixels, (E, K)."""
        key = kind, superpixel, rounded.numpy().tobytes()
        if key in self._effects:
            self._effects.move_to_end(key)
            return self._effects[key]
        ways = torch.from_numpy(self.evidence.ways(superpixel))
        effect = self.net.effect(kind, ways[:, None], rounded)[:, 0]
        self._effects[key] = effect
        if len(self._effects) > _KEPT_EFFECTS:
            self._effects.popitem(last=False)
        return effect
