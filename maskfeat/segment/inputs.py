"""What users may pass where features, or a number of segments, are wanted."""

from __future__ import annotations

import os
from typing import Protocol

import numpy as np
import numpy.typing as npt
from PIL import Image
from torch import Tensor

from maskfeat.arguments import ImageLike, array_of, checked_count, checked_number, rgb_of
from maskfeat.features.lab import LAB_SCALE, LabEncoder
from maskfeat.features.reading import Features

__all__ = [
    "LAB_SCALE",
    "FeatureModel",
    "FeatureSource",
    "checked_features",
    "checked_granularity",
    "checked_num_segments",
    "checked_per_megapixel",
    "features_of",
    "model_of",
]

FeatureSource = Features | Tensor | npt.NDArray[np.floating] | ImageLike


class FeatureModel(Protocol):
    """Anything that turns an image into features."""

    def features(self, rgb: npt.NDArray[np.uint8], /) -> Features:
        """Features of one image, uint8, shape (H, W, 3)."""
        ...


def model_of(model: FeatureModel | str | os.PathLike[str]) -> FeatureModel:
    """What gives features; a name or a path is loaded, see `maskfeat.load`.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it gives no features.
    """
    if isinstance(model, str | os.PathLike):
        from maskfeat.features.weights import load  # timm takes seconds to import

        return load(model)
    if isinstance(model, type) or not callable(getattr(model, "features", None)):
        raise ValueError(
            "model must have a method features(rgb), as those of maskfeat.load have, or be the "
            f"name or path of one, got {type(model).__name__}"
        )
    return model


def checked_features(features: object) -> Features:
    """`Features` as they are.

    Raises:
        ValueError: If it is something else.
    """
    if not isinstance(features, Features):
        raise ValueError(
            f"features must be a Features, got {type(features).__name__}; Features.from_dense "
            "makes one of an array of shape (H, W, C)"
        )
    return features


def features_of(source: FeatureSource) -> Features:
    """`Features` as they are, any per-pixel numbers, or the Lab color of an image.

    Args:
        source: `Features`; floats of shape (H, W, C); or RGB, uint8, shape (H, W, 3), a PIL image
            or the path of an image.

    Raises:
        ValueError: If the array has another shape or type, or is not finite.
    """
    if isinstance(source, Features):
        return source
    if isinstance(source, Image.Image | str | os.PathLike):
        return LabEncoder().features(rgb_of(source))
    values = array_of("features", source)
    if values.ndim != 3 or values.size == 0:
        raise ValueError(
            "features must be a Features, floats of shape (H, W, C) or a uint8 RGB image of shape "
            f"(H, W, 3), got {values.dtype} {values.shape}"
        )
    if values.dtype == np.uint8:
        if values.shape[2] != 3:
            raise ValueError(f"a uint8 image must have shape (H, W, 3), got {values.shape}")
        return LabEncoder().features(values)
    if not np.issubdtype(values.dtype, np.floating):
        raise ValueError(
            f"features must be float, or uint8 for an RGB image, got {values.dtype}; cast them"
        )
    return Features.from_dense(values)


def checked_granularity(granularity: object) -> float:
    """A number in (0, 1)."""
    return checked_number("granularity", granularity, above=0, below=1)


def checked_num_segments(num_segments: object) -> int:
    """A whole number of at least 1."""
    return checked_count("num_segments", num_segments)


def checked_per_megapixel(per_megapixel: object) -> float:
    """How many superpixels a million pixels have, above 0."""
    return checked_number("per_megapixel", per_megapixel, above=0, most=1e6)
