"""The color of pixels: as their features ("lab"), and how much that of neighbors differs."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from scipy import ndimage
from skimage.color import rgb2lab
from torch import Tensor

from maskfeat.arguments import ImageLike, checked_count, checked_number, rgb_of
from maskfeat.features.reading import Features

# Differences of RGB in (0, 1) to differences of Lab / 100: least squares on 40 images of the train
# split of BSDS500. Distances correlate by 0.995 with those of Lab, whose cube roots take 40 ms.
_LAB_OF_RGB = ((0.305, 0.678, 0.024), (0.979, -1.350, 0.364), (0.429, 0.800, -1.263))
_BINOMIAL = (1 / 16, 4 / 16, 6 / 16, 4 / 16, 1 / 16)  # standard deviation 1
# Squared distances of Lab / 100 become probabilities by this factor: it minimizes
# `mask_consistency_loss` on the train split of BSDS500 (200 images, 512 points each, half of them
# near borders of masks; the loss there is 0.896).
LAB_SCALE = 12.4


def color_distances(rgb: Tensor) -> Tensor:
    """Squared distances of the color of adjacent pixels, smoothed, about those of Lab.

    Of an image in 0..255, any dtype, (3, H, W). float32, (2, H, W): to the right neighbor (channel
    0) and to the one below (1); zero in the last column and row. In the unit of scale * d2, see
    `same_mask_probability`.
    """
    matrix = torch.tensor(_LAB_OF_RGB, device=rgb.device) * (LAB_SCALE**0.5 / 255)
    lab = torch.einsum("lc,chw->lhw", matrix, rgb.float()).unsqueeze(1)
    kernel = torch.tensor(_BINOMIAL, device=rgb.device)
    for shape, padding in (((1, 1, 1, 5), (2, 2, 0, 0)), ((1, 1, 5, 1), (0, 0, 2, 2))):
        lab = F.conv2d(F.pad(lab, padding, mode="replicate"), kernel.view(shape))
    lab = lab.squeeze(1)
    right = lab.diff(dim=2).square().sum(dim=0)
    below = lab.diff(dim=1).square().sum(dim=0)
    return torch.stack([F.pad(right, (0, 1)), F.pad(below, (0, 0, 0, 1))])


class LabEncoder:
    """The color of a pixel as its feature: CIE Lab (D65) divided by 100.

    Args:
        scale: Turns squared distances into probabilities, p = 2 / (1 + exp(scale * d2)). The
            default is fitted to the train split of BSDS500, see `LAB_SCALE`.
        sigma: Smooth Lab before use, with a Gaussian of this standard deviation, pixels; None
            leaves it as it is.

    Raises:
        ValueError: If scale or sigma is not positive.
    """

    def __init__(self, scale: float = LAB_SCALE, sigma: float | None = None) -> None:
        self.scale = checked_number("scale", scale, above=0)
        self.sigma = None if sigma is None else checked_number("sigma", sigma, above=0)

    def features(self, rgb: ImageLike) -> Features:
        """Features of one image, as `rgb_of` takes it.

        One level of stride 1 with 3 channels: L in (0, 1), a and b in about (-1, 1).

        Raises:
            ValueError: If `rgb` is something else.
        """
        lab = rgb2lab(rgb_of(rgb)) / 100
        if self.sigma is not None:
            lab = ndimage.gaussian_filter(lab, (self.sigma, self.sigma, 0))
        return Features.from_dense(lab, self.scale)

    def features_batch(self, images: Sequence[ImageLike], batch_size: int = 8) -> list[Features]:
        """Features of several images, in turn whatever the `batch_size`; see `features`."""
        checked_count("batch_size", batch_size)
        return [self.features(image) for image in images]
