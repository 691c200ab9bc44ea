"""A ranking loss over triplets of points: a baseline, and beside mask consistency a help to it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from maskfeat.features.losses import (
    Loss,
    mask_consistency_loss,
    pair_distances,
    pair_similarity,
)


def ranking_loss(
    features: Tensor, membership: Tensor, margin: float = 1.0, num_draws: int = 32
) -> Loss:
    """Points that share more masks with an anchor are nearer to it, by a margin.

    For the anchor p and two points q and r of one image, q the more similar one by the Jaccard
    similarity s of their mask sets (`pair_similarity`), s(p, q) > s(p, r),

        cost = max(0, margin + d2(p, q) - d2(p, r)),

    averaged over the triplets of an image, then over images. That is the triplet loss of Schroff,
    Kalenichenko, Philbin, "FaceNet" (arXiv:1503.03832), Eq. 2 and 3; unlike the paper, "same" and
    "different" are graded, and triplets are drawn at random and not mined. Left out are triplets
    whose similarities are equal, that hold a point twice, or a pair held by no mask. An image
    without triplets adds zero.

    Args:
        features: Features at P points, float, shape (B, P, C).
        membership: Which masks hold which points, bool, shape (B, M, P).
        margin: By how much the squared distances are to differ, positive.
        num_draws: Triplets drawn per anchor, from torch's global random numbers.

    Returns:
        The loss, and as part "violated" the share of the triplets whose cost is above zero.

    Raises:
        ValueError: If batch sizes or point counts differ.
    """
    if features.shape[0] != membership.shape[0] or features.shape[1] != membership.shape[2]:
        raise ValueError(
            "features (B, P, C) and membership (B, M, P) must have the same batch size and "
            f"number of points, got {tuple(features.shape)} and {tuple(membership.shape)}"
        )
    batch, num_points = features.shape[:2]
    shape = (batch, num_points, num_draws)
    one, two = (torch.randint(num_points, shape, device=features.device) for _ in range(2))
    anchor = torch.arange(num_points, device=features.device).view(1, -1, 1)
    similar, union = pair_similarity(membership)
    distances = pair_distances(features)

    def drawn(values: Tensor) -> tuple[Tensor, Tensor]:
        return values.gather(2, one), values.gather(2, two)

    (s_one, s_two), (d_one, d_two), (u_one, u_two) = map(drawn, (similar, distances, union))
    counted = (one != anchor) & (two != anchor) & (u_one > 0) & (u_two > 0) & (s_one != s_two)
    order = (s_one - s_two).sign()  # 1 where the first is to be the nearer one
    costs = (margin + order * (d_one - d_two)).clamp(min=0) * counted
    numbers = counted.sum(dim=(1, 2)).clamp(min=1)
    total = (costs.sum(dim=(1, 2)) / numbers).mean()
    violated = ((costs > 0).sum(dim=(1, 2)) / numbers).mean()
    return Loss(total, {"violated": violated.detach()})


class RankingLoss(nn.Module):
    """`ranking_loss` with its settings, a baseline of experiments.

    It does not learn how distances become probabilities: set `learn_scale: false` on the net.

    Args:
        margin: By how much the squared distances of a triplet are to differ.
        num_draws: Triplets drawn per point.
    """

    def __init__(self, margin: float = 1.0, num_draws: int = 32) -> None:
        super().__init__()
        if margin <= 0 or num_draws < 1:
            raise ValueError(
                f"margin must be positive and num_draws at least 1, got {margin} and {num_draws}"
            )
        self.margin = margin
        self.num_draws = num_draws

    def forward(
        self, features: Tensor, membership: Tensor, scale: Tensor, points_yx: Tensor
    ) -> Loss:
        """See `ranking_loss`; `scale` and `points_yx` are not used."""
        return ranking_loss(features, membership, self.margin, self.num_draws)


class RankedConsistencyLoss(nn.Module):
    """`mask_consistency_loss` plus a share of `ranking_loss`.

    Mask consistency fixes what a distance means, the ranking which of two is the larger one. Both
    count in the same unit: the ranking's margin is one of scale * d2, and does not move the scale.

    Args:
        weight: Of the ranking; mask consistency counts as 1.
        margin: See `ranking_loss`, in units of scale * d2.
        num_draws: Triplets drawn per point.
    """

    def __init__(self, weight: float = 0.5, margin: float = 1.0, num_draws: int = 32) -> None:
        super().__init__()
        if weight <= 0:
            raise ValueError(
                f"weight must be positive, got {weight}; else take MaskConsistencyLoss"
            )
        self.weight = weight
        self.ranking = RankingLoss(margin, num_draws)

    def forward(
        self, features: Tensor, membership: Tensor, scale: Tensor, points_yx: Tensor
    ) -> Loss:
        """See `mask_consistency_loss` and `ranking_loss`; `points_yx` are not used."""
        consistency = mask_consistency_loss(features, membership, scale)
        calibrated = features.float() * scale.detach().sqrt()
        ranking = self.ranking(calibrated, membership, scale, points_yx)
        parts = {
            **consistency.parts,
            **ranking.parts,
            "consistency": consistency.total.detach(),
            "ranking": ranking.total.detach(),
        }
        return Loss(consistency.total + self.weight * ranking.total, parts)
