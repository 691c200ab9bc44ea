"""The maps of one drawn image that tests of the click decoder read."""

from __future__ import annotations

import numpy as np

from maskfeat.features.reading import Features
from maskfeat.interactive.decoder_unary import ImageMaps
from maskfeat.segment.hierarchy import hierarchy


def maps_of_a_rectangle(size: tuple[int, int]) -> ImageMaps:
    """Of noise in which rows 10 to 29, columns 12 to 39 stand out."""
    rng = np.random.default_rng(0)
    colors = rng.normal(size=(*size, 3)).astype(np.float32) * 0.05
    colors[10:30, 12:40] += 0.5
    features = Features.from_dense(colors, scale=4.0)
    found = hierarchy(features)
    return ImageMaps(features, colors, found.superpixel_labels, found.tree)
