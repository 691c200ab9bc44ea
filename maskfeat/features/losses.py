"""Mask consistency and its kin: functions, then the modules that hold their settings.

All take features read at sampled points and the masks' membership of these points, never a mask:
features float (B, P, C), membership bool (B, M, P), where an unused mask slot is all False.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx, once_differentiable


class Loss(NamedTuple):
    """A loss and what it is made of."""

    total: Tensor  # scalar, differentiable
    parts: dict[str, Tensor]  # scalars for the log, detached


def pair_similarity(membership: Tensor) -> tuple[Tensor, Tensor]:
    """Jaccard similarity of the mask sets of every two points, of membership bool (B, M, P).

    Returns:
        s = |masks that hold both| / |masks that hold at least one|, float32 in (0, 1), and the
        number of masks that hold at least one, float32, both of shape (B, P, P). Where no mask
        holds either, s is 0.
    """
    held = membership.float()
    inter = held.transpose(1, 2) @ held  # exact in float32: counts of masks
    counts = held.sum(dim=1)  # (B, P)
    union = counts.unsqueeze(1) + counts.unsqueeze(2) - inter
    return inter / union.clamp(min=1), union


def pair_distances(features: Tensor) -> Tensor:
    """Squared Euclidean distances of all pairs, float32 >= 0, (B, P, C) -> (B, P, P)."""
    features = features.float()
    # Centered first: |a|^2 + |b|^2 - 2ab cancels less, and distances do not change.
    features = features - features.mean(dim=1, keepdim=True).detach()
    norms = features.square().sum(dim=-1, keepdim=True)
    ones = torch.ones_like(norms)
    # The norms join the product as two more channels, which spares two passes over all pairs.
    left = torch.cat([-2 * features, norms, ones], dim=-1)
    right = torch.cat([features, ones, norms], dim=-1)
    return (left @ right.transpose(1, 2)).clamp(min=0)


def mask_consistency_loss(
    features: Tensor,
    membership: Tensor,
    scale: Tensor | float = 1.0,
    points_yx: Tensor | None = None,
    locality_px: float | None = None,
    graded: bool = True,
    softness: float = 1e-4,
    balance: float = 0.0,
    pull_far: bool = False,
) -> Loss:
    """Cross-entropy between "same mask" as features predict it and as masks have it.

    For the pair (p, q) of points of one image, with the squared feature distance d2,

        s = Jaccard similarity of the mask sets of p and q     (the soft target)
        P = 2 / (1 + exp(scale * d2 + softness))               (the prediction)
        loss = mean of -log P weighted by s, plus mean of -log(1 - P) weighted by 1 - s, halved,

    so similar and dissimilar pairs weigh equally in each image; the mean over images is
    returned. A pair held by no mask is left out, and so is a point with itself. An image without
    similar (dissimilar) pairs adds zero for that half. The method is this project's own.

    Args:
        features: Features at P points, float, shape (B, P, C).
        membership: Which masks hold which points, bool, shape (B, M, P).
        scale: Positive factor of the squared distance.
        points_yx: The points, pixels, shape (B, P, 2); needed with `locality_px` alone.
        locality_px: Count only pairs at most this far apart; None counts all.
        graded: False asks for more: s is 1 for points in exactly the same masks, else 0.
        softness: Positive. It bounds the cost, and its slope, of dissimilar points whose features
            coincide. Where features have few dimensions a larger one (0.3) lets components pass
            through one another on their way.
        balance: In [0, 1]. Components are the sets of points in exactly the same masks; a pair of
            points is weighed by the number of pairs between its two components to the power of
            -balance. 0 lets long borders count most, 1 all pairs of components alike.
        pull_far: Whether points in exactly the same masks count at any distance, so that the
            locality is one of all others. Else a large component may drift: be one thing at one
            of its borders and another at the next.

    Returns:
        The loss, and its two halves as parts "similar" and "dissimilar".

    Raises:
        ValueError: If batch sizes or point counts differ, or a locality comes without points.
    """
    _check_shapes(features, membership)
    similar, union = pair_similarity(membership)
    is_same = (similar == 1).float()
    if not graded:
        similar = is_same.clone()
    counted = (union > 0).float()
    counted.diagonal(dim1=1, dim2=2).zero_()
    if locality_px is not None:
        if points_yx is None:
            raise ValueError("locality_px needs points_yx, got None; pass the sampled points")
        is_near = (torch.cdist(points_yx.float(), points_yx.float()) <= locality_px).float()
        counted *= torch.maximum(is_near, is_same) if pull_far else is_near
    if balance:
        counted *= _pairs_between(is_same, counted).clamp(min=1) ** -balance
    similar *= counted
    dissimilar = counted.sub_(similar)
    scale = torch.as_tensor(scale, dtype=torch.float32, device=features.device)
    total, attract, repel = _PairCosts.apply(features.float(), scale, similar, dissimilar, softness)
    return Loss(total, {"similar": attract, "dissimilar": repel})


def _pairs_between(is_same: Tensor, counted: Tensor) -> Tensor:
    """How many counted pairs of points lie between the components of two points, (B, P, P)."""
    # A component is named by its first point; points in no mask are components of their own.
    eye = torch.eye(is_same.shape[1], device=is_same.device)
    first = torch.maximum(is_same, eye).argmax(dim=2, keepdim=True)  # of equal ones the first
    holds = torch.zeros_like(is_same).scatter_(2, first, 1.0)  # (B, P, P), point in component
    between = holds.transpose(1, 2) @ counted @ holds
    return holds @ between @ holds.transpose(1, 2)


class _PairCosts(torch.autograd.Function):
    """Mean cost of pairs, of all, of the similar and of the dissimilar ones.

    With x = scale * d2 + softness and t = tanh(x / 2), P = 1 - t, hence

        -log P       = x - log(1 + t),   its slope in x is (1 + t) / 2,
        -log(1 - P)  = -log t,           its slope in x is (t - 1 / t) / 2.

    Slopes are worked out beside the costs, from the same t, and summed to the gradient of the
    features at once: autograd's own way, which keeps and passes over a dozen (B, P, P) arrays,
    takes three times as long (experiments/step_speed).
    """

    @staticmethod
    def forward(
        ctx: FunctionCtx,
        features: Tensor,
        scale: Tensor,
        similar: Tensor,
        dissimilar: Tensor,
        softness: float,
    ) -> tuple[Tensor, Tensor, Tensor]:
        distances = pair_distances(features)
        x = (distances * scale).add_(softness)
        t = torch.tanh(x / 2)
        shares = []  # of each pair in the mean over images, (B, 1, 1)
        for weights in (similar, dissimilar):
            sums = weights.sum(dim=(1, 2), keepdim=True)
            shares.append(1 / (len(features) * sums.clamp(min=1e-6)))
        above = 1 + t
        costs = x.sub_(above.log()).mul_(similar)
        attract = (costs.sum(dim=(1, 2), keepdim=True) * shares[0]).sum()
        costs = torch.log(t, out=x).mul_(dissimilar)
        repel = -(costs.sum(dim=(1, 2), keepdim=True) * shares[1]).sum()

        # The total is half the sum of both, and a slope has a half of its own.
        slopes = above.mul_(similar).mul_(shares[0] / 4)
        slopes += t.sub_(t.reciprocal()).mul_(dissimilar).mul_(shares[1] / 4)
        # d2 of p and q moves f_p by 2 (f_p - f_q); as (p, q) and (q, p) both count, by twice that.
        pulled = slopes.sum(dim=2, keepdim=True) * features - slopes @ features
        ctx.save_for_backward(pulled * (4 * scale), slopes.mul_(distances).sum())
        ctx.mark_non_differentiable(attract, repel)
        return (attract + repel) / 2, attract, repel

    @staticmethod
    @once_differentiable
    def backward(
        ctx: FunctionCtx, total: Tensor, *unused: Tensor
    ) -> tuple[Tensor, Tensor, None, None, None]:
        features, scale = ctx.saved_tensors  # type: ignore[attr-defined]
        return total * features, total * scale, None, None, None


def discriminative_loss(
    features: Tensor,
    membership: Tensor,
    pull_margin: float = 0.5,
    push_margin: float = 1.5,
    regularization: float = 0.001,
) -> Loss:
    """Pull points to the mean of their mask, push the means of masks apart.

    Eq. 1 to 4 of De Brabandere, Neven, Van Gool, "Semantic instance segmentation with a
    discriminative loss function" (arXiv:1708.02551). Unlike the paper's instances, masks here
    may overlap: means are pushed apart only where two masks share no sampled point, as a part
    cannot be far from the object that holds it. Masks with fewer than two points are left out.

    Args:
        features: Features at P points, float, shape (B, P, C).
        membership: Which masks hold which points, bool, shape (B, M, P).
        pull_margin: Distance to the mean up to which nothing pulls (delta_v).
        push_margin: Half the distance of two means from which on nothing pushes (delta_d).
        regularization: Weight of the mean norm of the means (gamma).

    Returns:
        The loss, and "pull", "push" and "norm" as parts.

    Raises:
        ValueError: If batch sizes or point counts differ.
    """
    _check_shapes(features, membership)
    features, held = features.float(), membership.float()
    sizes = held.sum(dim=2)  # (B, M), points
    used = (sizes >= 2).float()
    means = held @ features / sizes.clamp(min=1).unsqueeze(2)  # (B, M, C)
    num_used = used.sum(dim=1).clamp(min=1)  # (B,)

    to_mean = _distances(means, features)  # (B, M, P)
    over = (to_mean - pull_margin).clamp(min=0).square() * held
    pull = (over.sum(dim=2) / sizes.clamp(min=1) * used).sum(dim=1) / num_used

    disjoint = (held @ held.transpose(1, 2) == 0).float() * used.unsqueeze(1) * used.unsqueeze(2)
    near = (2 * push_margin - _distances(means, means)).clamp(min=0).square() * disjoint
    push = near.sum(dim=(1, 2)) / disjoint.sum(dim=(1, 2)).clamp(min=1)

    norm = (means.square().sum(dim=2).clamp(min=1e-12).sqrt() * used).sum(dim=1) / num_used
    total = (pull + push + regularization * norm).mean()
    parts = {"pull": pull, "push": push, "norm": norm}
    return Loss(total, {name: value.mean().detach() for name, value in parts.items()})


class MaskConsistencyLoss(nn.Module):
    """`mask_consistency_loss` with its settings.

    Args:
        locality_px: Count only pairs of points at most this many pixels apart, in the crop;
            null counts all pairs.
        graded: True takes the Jaccard similarity of the points' mask sets as the target, so
            subparts of a part are partly alike; false separates all components.
        softness: Positive; bounds the cost of dissimilar points whose features coincide.
        balance: In [0, 1]; 0 weighs all pairs of points alike, 1 all pairs of components.
        pull_far: Count points in exactly the same masks at any distance, whatever the locality.
    """

    def __init__(
        self,
        locality_px: float | None = None,
        graded: bool = True,
        softness: float = 1e-4,
        balance: float = 0.0,
        pull_far: bool = False,
    ) -> None:
        super().__init__()
        if locality_px is not None and locality_px <= 0:
            raise ValueError(f"locality_px must be positive or null, got {locality_px}")
        if not softness > 0:
            raise ValueError(f"softness must be positive, got {softness}")
        if not 0 <= balance <= 1:
            raise ValueError(f"balance must lie in [0, 1], got {balance}")
        self.locality_px = locality_px
        self.graded = graded
        self.softness = softness
        self.balance = balance
        self.pull_far = pull_far

    def forward(
        self, features: Tensor, membership: Tensor, scale: Tensor, points_yx: Tensor
    ) -> Loss:
        """See `mask_consistency_loss`."""
        return mask_consistency_loss(
            features,
            membership,
            scale,
            points_yx,
            self.locality_px,
            self.graded,
            self.softness,
            self.balance,
            self.pull_far,
        )


class DiscriminativeLoss(nn.Module):
    """`discriminative_loss` with its settings, the baseline of experiments.

    It does not learn how distances become probabilities: set `learn_scale: false` on the net.

    Args:
        pull_margin: Distance to the mean of the mask up to which nothing pulls.
        push_margin: Half the distance of two means from which on nothing pushes.
        regularization: Weight of the mean norm of the means.
    """

    def __init__(
        self, pull_margin: float = 0.5, push_margin: float = 1.5, regularization: float = 0.001
    ) -> None:
        super().__init__()
        self.pull_margin = pull_margin
        self.push_margin = push_margin
        self.regularization = regularization

    def forward(
        self, features: Tensor, membership: Tensor, scale: Tensor, points_yx: Tensor
    ) -> Loss:
        """See `discriminative_loss`; `scale` and `points_yx` are not used."""
        return discriminative_loss(
            features, membership, self.pull_margin, self.push_margin, self.regularization
        )


def _distances(left: Tensor, right: Tensor) -> Tensor:
    """Euclidean distances with a gradient at zero, (B, N, C) and (B, K, C) -> (B, N, K)."""
    squares = left.square().sum(-1).unsqueeze(2) + right.square().sum(-1).unsqueeze(1)
    return (squares - 2 * left @ right.transpose(1, 2)).clamp(min=1e-8).sqrt()


def _check_shapes(features: Tensor, membership: Tensor) -> None:
    if features.shape[0] != membership.shape[0] or features.shape[1] != membership.shape[2]:
        raise ValueError(
            "features (B, P, C) and membership (B, M, P) must have the same batch size and "
            f"number of points, got {tuple(features.shape)} and {tuple(membership.shape)}"
        )
