"""What training minimizes: a sum of losses; each takes from a batch what it needs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from maskfeat.batch import Batch
from maskfeat.features.local import boundary_loss, local_pairs_loss
from maskfeat.features.losses import Loss
from maskfeat.features.pyramid import FeaturePyramid
from maskfeat.features.reading import sample_pyramid


@dataclass(frozen=True)
class Outputs:
    """A batch, and what a network made of its images.

    Attributes:
        batch: The batch.
        pyramid: Maps of the network, finest first, shape (B, C_l, h_l, w_l).
        strides: Input pixels per map pixel, one per level.
        scale: Turns squared distances into probabilities, a positive scalar.
        boundary_logits: Of boundaries, shape (B, 2, H, W); None where no loss asked for them, or
            the network has no head for them.
    """

    batch: Batch
    pyramid: list[Tensor]
    strides: Sequence[int]
    scale: Tensor
    boundary_logits: Tensor | None

    def features_at(self, points_yx: Tensor) -> Tensor:
        """Features at pixels int64 (B, P, 2), float32 (B, P, C)."""
        return sample_pyramid(self.pyramid, self.strides, points_yx).float()

    def required_boundary_logits(self) -> Tensor:
        """The logits of boundaries.

        Raises:
            ValueError: If the network has no head for them.
        """
        if self.boundary_logits is None:
            raise ValueError("boundary_weight needs model.net.init_args.boundary: true")
        return self.boundary_logits


@runtime_checkable
class OutputsLoss(Protocol):
    """A loss that takes of the outputs what it needs; others get features at sampled points."""

    @property
    def needs_boundaries(self) -> bool:
        """Whether it asks for the logits of boundaries."""
        ...

    def of_outputs(self, outputs: Outputs) -> Loss:
        """The loss of one batch."""
        ...


@dataclass(frozen=True)
class SampledPoints:
    """A loss of the features at sampled points, as maskfeat.features.losses has them.

    Args:
        loss: Called as loss(features (B, P, C), membership (B, M, P), scale, points_yx (B, P, 2)).
    """

    loss: nn.Module
    needs_boundaries: bool = False

    def of_outputs(self, outputs: Outputs) -> Loss:
        """The loss at the points of the batch."""
        points, held = outputs.batch["points_yx"], outputs.batch["membership"]
        found: Loss = self.loss(outputs.features_at(points), held, outputs.scale, points)
        return found


@dataclass(frozen=True)
class LocalPairs:
    """`local_pairs_loss` with a weight."""

    weight: float
    needs_boundaries: bool = False

    def of_outputs(self, outputs: Outputs) -> Loss:
        """The loss at the pairs of the batch.

        Raises:
            ValueError: If it has none.
        """
        batch = outputs.batch
        pairs = _required(batch.get("pairs_yx"), "local_weight", "num_pairs above 0")
        first, second = (outputs.features_at(pairs[:, side]) for side in (0, 1))
        cost = local_pairs_loss(first, second, batch["pair_similarity"], outputs.scale)
        return Loss(self.weight * cost, {"local": cost.detach()})


@dataclass(frozen=True)
class Boundaries:
    """`boundary_loss` with a weight."""

    weight: float
    consensus: float = 0.0
    needs_boundaries: bool = True

    def of_outputs(self, outputs: Outputs) -> Loss:
        """The loss of the map of boundaries.

        Raises:
            ValueError: If the batch has no map of boundaries, or the network no head.
        """
        boundary = _required(outputs.batch.get("boundary"), "boundary_weight", "boundaries: true")
        cost = boundary_loss(outputs.required_boundary_logits(), boundary, self.consensus)
        return Loss(self.weight * cost, {"boundary": cost.detach()})


@dataclass(frozen=True)
class Objective:
    """The sum of losses.

    Attributes:
        losses: What is added up.
    """

    losses: Sequence[OutputsLoss]

    @classmethod
    def of(
        cls, loss: nn.Module, local_weight: float, boundary_weight: float, consensus: float = 0.0
    ) -> Objective:
        """A loss of the user, and the losses of borders that have weight."""
        own = loss if isinstance(loss, OutputsLoss) else SampledPoints(loss)
        local = [LocalPairs(local_weight)] if local_weight else []
        boundaries = [Boundaries(boundary_weight, consensus)] if boundary_weight else []
        return cls([own, *local, *boundaries])

    @property
    def needs_boundaries(self) -> bool:
        """Whether a loss asks for the logits of boundaries."""
        return any(loss.needs_boundaries for loss in self.losses)

    def __call__(self, net: FeaturePyramid, batch: Batch) -> Loss:
        """Run the network on a batch, and add up the losses in single precision."""
        images = batch["images"].contiguous(memory_format=torch.channels_last)
        pyramid, logits = net.maps(images) if self.needs_boundaries else (net(images), None)
        batch = {**batch, "images": images}
        outputs = Outputs(batch, pyramid, net.strides, net.scale, logits)
        with torch.autocast(images.device.type, enabled=False):
            found = [loss.of_outputs(outputs) for loss in self.losses]
        total = sum((loss.total for loss in found[1:]), start=found[0].total)
        return Loss(total, {name: part for loss in found for name, part in loss.parts.items()})


def _required(found: Tensor | None, weight: str, setting: str) -> Tensor:
    if found is None or not found.numel():
        raise ValueError(f"model.{weight} needs data.examples.{setting}")
    return found
