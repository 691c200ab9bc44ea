"""The color of pixels as their features: what a network is compared with, and "lab" means."""

from __future__ import annotations

from collections.abc import Sequence

from scipy import ndimage
from skimage.color import rgb2lab

from maskfeat.arguments import ImageLike, checked_count, checked_number, rgb_of
from maskfeat.features.reading import Features

# Squared distances of Lab / 100 become probabilities by this factor: it minimizes
# `mask_consistency_loss` on the train split of BSDS500 (200 images, 512 points each, half of them
# near borders of masks; the loss there is 0.896).
LAB_SCALE = 12.4


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
        """Features of one image.

        Args:
            rgb: uint8, shape (H, W, 3); or a PIL image, or the path of an image.

        Returns:
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
