"""Dense supervision of borders: pairs of nearby pixels, and a map of boundaries.

Of pairs of sampled points, few face each other across a border.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def local_pairs_loss(
    first: Tensor,
    second: Tensor,
    similarity: Tensor,
    scale: Tensor | float,
    softness: float = 1e-4,
) -> Tensor:
    """Cross-entropy of "same mask" for given pairs of nearby pixels.

    Prediction, target and balance are those of `mask_consistency_loss`, for these pairs alone.
    Affinities of nearby pixels: Wolf et al., "The mutex watershed" (arXiv:1904.12654).

    Args:
        first: Features of one pixel of each pair, float, shape (B, N, C).
        second: Features of the other.
        similarity: Jaccard similarity of their mask sets in [0, 1], float, shape (B, N); -1 marks
            pairs that are not counted.
        scale: Positive factor of the squared distance.
        softness: Positive; bounds the cost of dissimilar pixels whose features coincide.

    Returns:
        The mean over images, a scalar; an image without similar (dissimilar) pairs adds zero for
        that half.
    """
    x = scale * (first.float() - second.float()).square().sum(dim=-1) + softness
    t = torch.tanh(x / 2)  # 1 - P
    is_counted = (similarity >= 0).float()
    similar = similarity.clamp(min=0)
    attract = _mean(x - torch.log1p(t), similar)
    repel = _mean(-torch.log(t), is_counted - similar)
    return (attract + repel) / 2


def boundary_loss(logits: Tensor, boundary: Tensor) -> Tensor:
    """Class-balanced cross-entropy of a map of boundaries.

    Eq. 2 of Xie, Tu, "Holistically-nested edge detection" (arXiv:1504.06375). Unlike there the
    target is graded, boundary and rest weigh equally in each image, and pixels may be unknown.

    Args:
        logits: Of "a boundary runs right of (channel 0), below (channel 1) this pixel", float,
            shape (B, 2, H, W).
        boundary: 1 minus the Jaccard similarity of the mask sets of the two pixels, in [0, 1],
            float, shape (B, 2, H, W); -1 marks what is unknown and not counted.

    Returns:
        The mean over images, a scalar; an image without boundaries adds zero for that half.
    """
    logits, boundary = logits.float().flatten(1), boundary.flatten(1)
    is_counted = (boundary >= 0).float()
    target = boundary.clamp(min=0)
    found = _mean(F.softplus(-logits), target)
    rest = _mean(F.softplus(logits), is_counted - target)
    return (found + rest) / 2


def _mean(costs: Tensor, weights: Tensor) -> Tensor:
    """Weighted mean of each image, then the mean over images, (B, N) -> scalar."""
    return ((costs * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1e-6)).mean()
