"""Feature spaces that learned nothing, to be beaten."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import ndimage
from skimage.color import rgb2lab

from maskfeat.features.reading import Features
from maskfeat.segment.inputs import LAB_SCALE


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
        if scale <= 0 or (sigma is not None and sigma <= 0):
            raise ValueError(f"scale and sigma must be positive, got {scale} and {sigma}")
        self.scale = scale
        self.sigma = sigma

    def features(self, rgb: npt.NDArray[np.uint8]) -> Features:
        """Features of one image.

        Args:
            rgb: uint8, shape (H, W, 3).

        Returns:
            One level of stride 1 with 3 channels: L in (0, 1), a and b in about (-1, 1).

        Raises:
            ValueError: If `rgb` is no uint8 image of three channels.
        """
        if rgb.dtype != np.uint8 or rgb.ndim != 3 or rgb.shape[2] != 3 or rgb.size == 0:
            raise ValueError(
                f"rgb must be a uint8 array of shape (H, W, 3), got {rgb.dtype} {rgb.shape}"
            )
        lab = rgb2lab(rgb) / 100
        if self.sigma is not None:
            lab = ndimage.gaussian_filter(lab, (self.sigma, self.sigma, 0))
        return Features.from_dense(lab, self.scale)
