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


def boundary_loss(logits: Tensor, boundary: Tensor, consensus: float = 0.0) -> Tensor:
    """Class-balanced cross-entropy of a map of boundaries.

    Eq. 2 of Xie, Tu, "Holistically-nested edge detection" (arXiv:1504.06375). Unlike there
    boundary and rest weigh equally in each image, and pixels may be unknown.

    Args:
        logits: Of "a boundary runs right of (channel 0), below (channel 1) this pixel", float,
            shape (B, 2, H, W).
        boundary: 1 minus the Jaccard similarity of the mask sets of the two pixels, in [0, 1],
            float, shape (B, 2, H, W); -1 marks what is unknown and not counted.
        consensus: 0 takes `boundary` as a graded target. Above, every boundary is a target of 1,
            weighted by its `agreement`, and left out where this is smaller than `consensus`.

    Returns:
        The mean over images, a scalar; an image without boundaries adds zero for that half.
    """
    if consensus:
        agreed = agreement(boundary)
        is_found = (boundary > 0) & (agreed >= consensus)
        weights = is_found * agreed, (boundary == 0).float()
    else:
        target = boundary.clamp(min=0)
        weights = target, (boundary >= 0).float() - target
    found, rest = (one.flatten(1) for one in weights)
    logits = logits.float().flatten(1)
    return (_mean(F.softplus(-logits), found) + _mean(F.softplus(logits), rest)) / 2


def agreement(boundary: Tensor) -> Tensor:
    """The share of annotators who draw a boundary within two pixels, in [0, 1], (B, 1, H, W).

    Annotators draw one boundary a pixel or two apart, so few of them agree at any pixel. Contour
    networks leave out what few have drawn (Liu et al., "Richer convolutional features for edge
    detection", arXiv:1612.02103, section 3.2, there by the drawings of one pixel).

    A boundary, as for `boundary_loss`, that K of N partitions draw is 2 K / (N + K). The share is
    the sum of K / N over 5 x 5 pixels, over the length of a straight boundary there.
    """
    known = boundary.clamp(min=0)
    share = (known / (2 - known)).amax(dim=1, keepdim=True)
    # `avg_pool2d` divides by 25 pixels; a straight boundary has 5 of them.
    return (F.avg_pool2d(share, 5, stride=1, padding=2) * 5).clamp(max=1)


def _mean(costs: Tensor, weights: Tensor) -> Tensor:
    """Weighted mean of each image, then the mean over images, (B, N) -> scalar."""
    return ((costs * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1e-6)).mean()
