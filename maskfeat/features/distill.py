"""Distillation: a small network predicts what a large one says of pairs of pixels.

Hinton, Vinyals, Dean, "Distilling the knowledge in a neural network" (arXiv:1503.02531), with pairs
of pixels for classes. Features of the two need not have the same channels, and images no masks.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maskfeat.features import weights
from maskfeat.features.losses import Loss, MaskConsistencyLoss, pair_distances
from maskfeat.features.objective import Outputs
from maskfeat.features.pyramid import FeaturePyramid
from maskfeat.features.reading import sample_pyramid

# Keeps logarithms finite where features coincide, as in `mask_consistency_loss`.
_SOFTNESS = 1e-4


def pair_probabilities(features: Tensor, scale: Tensor | float) -> Tensor:
    """Probability of "same mask" for all pairs of points, (B, P, C) -> float32 (B, P, P)."""
    return 2 * torch.sigmoid(-(scale * pair_distances(features) + _SOFTNESS))


def pair_distillation_loss(features: Tensor, scale: Tensor | float, target: Tensor) -> Tensor:
    """Mean Kullback-Leibler divergence of predicted from given pair probabilities.

    Args:
        features: Of the student at P points, float, shape (B, P, C).
        scale: Turns its squared distances into probabilities, see `same_mask_probability`.
        target: Probabilities of the teacher, float in (0, 1), shape (B, P, P).

    Returns:
        The mean over all pairs of different points, a scalar of at least 0; 0 where both agree.
    """
    x = scale * pair_distances(features) + _SOFTNESS
    t = torch.tanh(x / 2)  # 1 - p
    target = target.float().clamp(1e-7, 1 - 1e-6)
    cost = target * (x - torch.log1p(t)) - (1 - target) * t.clamp(min=1e-7).log()
    off_diagonal = 1 - torch.eye(target.shape[1], device=target.device)
    num_pairs = len(target) * off_diagonal.sum()
    return ((cost - _entropy(target)) * off_diagonal).sum() / num_pairs


def boundary_distillation_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Mean Kullback-Leibler divergence of predicted from given probabilities of boundaries.

    Logits of the student and probabilities of the teacher in [0, 1], -1 where they are not counted,
    float, shape (B, 2, H, W). A scalar of at least 0; 0 where both agree.
    """
    is_counted = (target >= 0).float()
    target = target.float().clamp(1e-6, 1 - 1e-6)
    cost = F.binary_cross_entropy_with_logits(logits.float(), target, reduction="none")
    return ((cost - _entropy(target)) * is_counted).sum() / is_counted.sum().clamp(min=1)


def _entropy(probabilities: Tensor) -> Tensor:
    """Of each probability in (0, 1), nats: what a cross-entropy exceeds the divergence by."""
    return -(
        probabilities * probabilities.log() + (1 - probabilities) * torch.log1p(-probabilities)
    )


class DistillationLoss(nn.Module):
    """Distillation from a trained network, beside a loss of masks.

    The teacher is frozen and in evaluation mode. It is no part of the student's checkpoints.

    Args:
        teacher: Weights of the teacher: a checkpoint, a .safetensors file, or a name that comes
            with the package; or the network.
        loss: The loss of masks, null is `MaskConsistencyLoss()`. Images without masks add nothing
            to it, see `unmarked: everything` of data.train.
        mask_weight: Weight of this loss; 0 leaves it out.
        weight: Weight of distilled pairs.
        boundary_weight: Weight of distilled boundaries; needs heads for boundaries in both
            networks.
        flip: Whether to average the teacher's probabilities over the image and its mirror image.
        scales: And over the image enlarged by each of these factors.
    """

    def __init__(
        self,
        teacher: str | nn.Module = "maskfeat-b0",
        loss: nn.Module | None = None,
        mask_weight: float = 1.0,
        weight: float = 1.0,
        boundary_weight: float = 0.0,
        flip: bool = False,
        scales: Sequence[float] = (1.0,),
    ) -> None:
        super().__init__()
        if min(mask_weight, weight, boundary_weight) < 0:
            raise ValueError(
                "mask_weight, weight and boundary_weight must not be negative, got "
                f"{mask_weight}, {weight} and {boundary_weight}"
            )
        if not scales or min(scales) <= 0:
            raise ValueError(f"scales must be positive factors, at least one, got {list(scales)}")
        net = weights.load(teacher) if isinstance(teacher, str) else teacher
        if not isinstance(net, FeaturePyramid):
            raise ValueError(f"teacher must be a FeaturePyramid, got {type(net).__name__}")
        if boundary_weight and not net.boundary_heads:
            raise ValueError("boundary_weight needs a teacher with a head for boundaries")
        self._teacher = (net.eval().requires_grad_(False),)  # a tuple: no submodule, not saved
        self.loss = loss if loss is not None else MaskConsistencyLoss()
        self.mask_weight = mask_weight
        self.weight = weight
        self.boundary_weight = boundary_weight
        self.views = list(itertools.product([False, True] if flip else [False], scales))

    @property
    def needs_boundaries(self) -> bool:
        """Whether boundaries are distilled."""
        return self.boundary_weight > 0

    def of_outputs(self, outputs: Outputs) -> Loss:
        """The weighted sum of all terms of a student, and its parts.

        Of "pairs", "boundaries" and "masks" those that count are parts.

        Raises:
            ValueError: If boundaries count, and the student has no head for them.
        """
        batch = outputs.batch
        points, features = batch["points_yx"], outputs.features_at(batch["points_yx"])
        pairs, boundaries = self.teach(batch["images"], points)
        distilled = pair_distillation_loss(features, outputs.scale, pairs)
        total, parts = self.weight * distilled, {"pairs": distilled.detach()}
        if self.needs_boundaries and boundaries is not None:
            found = boundary_distillation_loss(outputs.required_boundary_logits(), boundaries)
            total, parts["boundaries"] = total + self.boundary_weight * found, found.detach()
        if self.mask_weight:
            masks = self.loss(features, batch["membership"], outputs.scale, points)
            total, parts["masks"] = total + self.mask_weight * masks.total, masks.total.detach()
        return Loss(total, parts)

    @torch.no_grad()
    def teach(self, images: Tensor, points_yx: Tensor) -> tuple[Tensor, Tensor | None]:
        """What the teacher says of an image, averaged over the views.

        Args:
            images: Normalized, float, shape (B, 3, H, W).
            points_yx: Pixels, shape (B, P, 2).

        Returns:
            Probabilities of "same mask", float32, shape (B, P, P); and of boundaries, where it has
            a head for them, (B, 2, H, W), -1 where no view knows (the last column).
        """
        net = self._teacher[0].to(images.device)
        pairs, boundaries = [], []
        for is_flipped, factor in self.views:
            view, points = _seen(images.float(), points_yx, is_flipped, factor)
            pyramid, logits = net.maps(view)
            pairs.append(
                pair_probabilities(sample_pyramid(pyramid, net.strides, points), net.scale)
            )
            if logits is not None:
                boundaries.append(_turned_back(logits.sigmoid(), is_flipped, images.shape[-2:]))
        mean = torch.stack(pairs).mean(dim=0)
        if not boundaries:
            return mean, None
        is_known = torch.stack([one >= 0 for one in boundaries]).all(dim=0)
        return mean, torch.where(is_known, torch.stack(boundaries).mean(dim=0), -1)


def _seen(
    images: Tensor, points_yx: Tensor, is_flipped: bool, factor: float
) -> tuple[Tensor, Tensor]:
    """Images enlarged and mirrored, and where in them the points lie, float."""
    points = points_yx.float()
    if factor != 1:
        size = [max(1, round(side * factor)) for side in images.shape[-2:]]
        ratio = torch.tensor(size, device=images.device) / torch.tensor(
            images.shape[-2:], device=images.device
        )
        images = F.interpolate(images, size, mode="bilinear", align_corners=False, antialias=True)
        points = (points + 0.5) * ratio - 0.5
    if is_flipped:
        images = images.flip(-1)
        points = torch.stack([points[..., 0], images.shape[-1] - 1 - points[..., 1]], dim=-1)
    return images, points


def _turned_back(boundary: Tensor, is_flipped: bool, size: Sequence[int]) -> Tensor:
    """The map of boundaries of a view, for the image: right of a pixel is left in the mirror."""
    if boundary.shape[-2:] != tuple(size):
        boundary = F.interpolate(boundary, list(size), mode="bilinear", align_corners=False)
    if not is_flipped:
        return boundary
    right, below = boundary.flip(-1).unbind(dim=1)
    return torch.stack([F.pad(right[..., 1:], (0, 1), value=-1), below], dim=1)
