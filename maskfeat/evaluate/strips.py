"""A strip of images: what the features give for one held-out image."""

from __future__ import annotations

from maskfeat.arrays import RgbImage
from maskfeat.batch import HeldOutImage
from maskfeat.evaluate.clicking import pick_target, run_session
from maskfeat.evaluate.clicks_with_radius import ClicksWithRadius
from maskfeat.evaluate.drawing import (
    ColorProjection,
    draw_borders,
    draw_clicks,
    feature_colors,
    label_colors,
    overlay_mask,
    strip,
)
from maskfeat.features.reading import FeatureModel, Features
from maskfeat.interactive.segmenter import InteractiveSegmenter
from maskfeat.segment.partition import partition


def draw_strip(
    encoder: FeatureModel,
    image: HeldOutImage,
    features: Features,
    projection: ColorProjection,
    num_segments: int,
    num_clicks: int,
) -> RgbImage:
    """One strip: image, features as colors, partition, object after clicks.

    Args:
        encoder: Gives the features the clicks are answered with.
        image: H x W pixels, with its true masks.
        features: Of this image.
        projection: Colors of the features.
        num_segments: Segments of the partition.
        num_clicks: Clicks of the simulated user, on the mask `pick_target` chooses; without any
            such mask the last image is the image.

    Returns:
        RGB, uint8, shape (H, 4 * W + gaps, 3).
    """
    labels = partition(features, num_segments)
    clicked = image.image
    target = pick_target(image)
    if target is not None:
        segmenter = ClicksWithRadius(InteractiveSegmenter(encoder))
        mask, clicks_yx, signs = run_session(segmenter, target, num_clicks)[-1]
        clicked = draw_clicks(overlay_mask(image.image, mask), clicks_yx, signs)
    segments = draw_borders(label_colors(labels), labels)
    return strip([image.image, feature_colors(features, projection), segments, clicked])
