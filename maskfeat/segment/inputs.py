"""What users may pass where features, or a number of segments, are wanted."""

from __future__ import annotations

from numbers import Integral

import numpy as np
import numpy.typing as npt
from skimage.color import rgb2lab

from maskfeat.features.reading import Features

# Squared distances of Lab / 100 become probabilities by this factor: it minimizes
# `mask_consistency_loss` on the train split of BSDS500 (200 images, 512 points each, half of them
# near borders of masks; the loss there is 0.896).
LAB_SCALE = 12.4


def features_of(
    source: Features | npt.NDArray[np.floating] | npt.NDArray[np.uint8],
) -> Features:
    """`Features` as they are, any per-pixel numbers, or the Lab color of an image.

    Args:
        source: `Features`; floats of shape (H, W, C); or RGB, uint8, shape (H, W, 3).

    Raises:
        ValueError: If the array has another shape or type, or is not finite.
    """
    if isinstance(source, Features):
        return source
    values = np.asarray(source)
    if values.ndim != 3 or values.size == 0:
        raise ValueError(
            "features must be a Features, floats of shape (H, W, C) or a uint8 RGB image of shape "
            f"(H, W, 3), got {values.dtype} {values.shape}"
        )
    if values.dtype == np.uint8:
        if values.shape[2] != 3:
            raise ValueError(f"a uint8 image must have shape (H, W, 3), got {values.shape}")
        return Features.from_dense(rgb2lab(values) / 100, scale=LAB_SCALE)
    if not np.issubdtype(values.dtype, np.floating):
        raise ValueError(
            f"features must be float, or uint8 for an RGB image, got {values.dtype}; cast them"
        )
    return Features.from_dense(values)


def is_whole(value: object) -> bool:
    """Whether it is an integer, of Python or numpy; True and False are none."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def check_num_segments(num_segments: object) -> None:
    """Refuse what is no whole number of at least 1."""
    if not (is_whole(num_segments) and num_segments >= 1):  # type: ignore[operator]
        raise ValueError(f"num_segments must be a whole number of at least 1, got {num_segments}")
