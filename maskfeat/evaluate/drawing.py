"""Arrays become images: RGB, uint8, shape (H, W, 3), or gray, uint8, shape (H, W)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from maskfeat.arrays import BoolArray, FloatArray, RgbImage
from maskfeat.features.reading import Features
from maskfeat.segment.inputs import nearest_cells
from maskfeat.segment.superpixels import border_pixels

GREEN = (40, 200, 60)
RED = (235, 50, 40)
DARK = (20, 20, 20)


class ColorProjection:
    """A map from feature vectors to RGB: three principal components, fitted once and then kept.

    Fitted anew for each image, colors would turn from image to image. The largest weight of each
    component is positive. Values between the 1st and 99th percentile of the pixels it was fitted
    on fill the range 0 to 255. Features of one channel become gray instead, by `value_range`. The
    third color of two channels is constant, 128.

    Args:
        value_range: For one channel: the values that become black and white, (-1, 1) after
            tanh, (0, 1) after sigmoid.
        pixels_per_image: Pixels of each image to fit on.
        seed: Of the choice of these pixels.

    Attributes:
        num_channels: Channels of the features it was fitted on; None before that.

    Raises:
        ValueError: If value_range is empty.
    """

    def __init__(
        self,
        value_range: tuple[float, float] = (-1.0, 1.0),
        pixels_per_image: int = 4096,
        seed: int = 0,
    ) -> None:
        if value_range[0] >= value_range[1]:
            raise ValueError(f"value_range must be (low, high) with low < high, got {value_range}")
        self.value_range = value_range
        self.pixels_per_image = pixels_per_image
        self.seed = seed
        self.num_channels: int | None = None

    @property
    def is_fitted(self) -> bool:
        """Whether it has been fitted; then it never changes by itself."""
        return self.num_channels is not None

    def fit(self, samples: Sequence[Features]) -> None:
        """Fit the projection, replacing an earlier one.

        Args:
            samples: Features of the images to fit on, all with the same number of channels C.

        Raises:
            ValueError: If there is no sample, or they differ in channels.
        """
        channels = {features.num_channels for features in samples}
        if len(channels) != 1:
            raise ValueError(
                "samples must hold features of one number of channels, "
                f"got {len(samples)} of {sorted(channels)} channels"
            )
        self.num_channels = channels.pop()
        if self.num_channels == 1:
            self._mean, self._directions = np.zeros(1), np.ones((3, 1))
            self._low, self._high = (np.full(3, float(value)) for value in self.value_range)
            return
        rng = np.random.default_rng(self.seed)
        places = [(f, rng.integers(0, f.size, (self.pixels_per_image, 2))) for f in samples]
        pixels = np.concatenate([f.at(points) for f, points in places]).astype(np.float64)
        self._mean = pixels.mean(axis=0)
        centered = pixels - self._mean
        # As sklearn's PCA(svd_solver="covariance_eigh") to 1e-15, which warns of constant features.
        _, vectors = np.linalg.eigh(centered.T @ centered)  # columns, smallest variance first
        found = vectors.T[::-1][:3]
        found = found * np.sign(found[np.arange(len(found)), np.abs(found).argmax(axis=1)])[:, None]
        self._directions = np.zeros((3, self.num_channels))
        self._directions[: len(found)] = found
        values = centered @ self._directions.T
        self._low, self._high = np.percentile(values, [1, 99], axis=0)

    def __call__(self, vectors: FloatArray) -> RgbImage:
        """Colors of feature vectors, (..., C) -> uint8 (..., 3).

        Raises:
            ValueError: If it was not fitted, or on another number of channels.
        """
        if vectors.shape[-1] != self.num_channels:
            raise ValueError(
                f"the projection was fitted on {self.num_channels} channels, "
                f"got {vectors.shape[-1]}; fit a new one with fit(samples)"
            )
        values = (vectors - self._mean) @ self._directions.T
        width = self._high - self._low
        is_flat = width <= 1e-9
        shares = np.where(is_flat, 0.5, (values - self._low) / np.where(is_flat, 1, width))
        return (shares.clip(0, 1) * 255).round().astype(np.uint8)


def feature_colors(features: Features, projection: ColorProjection) -> RgbImage:
    """Features as colors, RGB, uint8 (H, W, 3); grey for features of one channel.

    Keep one projection for images that are to be compared. One that was not fitted yet is fitted on
    these features.

    Raises:
        ValueError: If the features have another number of channels than the projection.
    """
    if not projection.is_fitted:
        projection.fit([features])
    return projection(features.dense())


def label_colors(labels: npt.NDArray[np.integer[Any]]) -> RgbImage:
    """One color per segment number, the same in every image, RGB, uint8, (..., 3).

    Hues of successive numbers lie a golden section of the circle apart, and brightness has three
    steps in turn, so near numbers look different. Negative numbers are black.
    """
    numbers = np.asarray(labels)
    hue = (numbers * 0.6180339887498949) % 1
    value = 1 - 0.18 * (numbers % 3)
    # HSV to RGB in closed form, saturation 0.6.
    phase = (np.array([5, 3, 1]) + hue[..., None] * 6) % 6
    ramp = np.minimum(phase, 4 - phase).clip(0, 1)
    rgb = value[..., None] * (1 - 0.6 * ramp)
    rgb[numbers < 0] = 0
    return (rgb * 255).round().astype(np.uint8)


def draw_borders(
    image: RgbImage,
    labels: npt.NDArray[np.integer[Any]],
    color: tuple[int, int, int] = (255, 255, 255),
) -> RgbImage:
    """Draw the borders of segments (H, W), one pixel thick, on a copy of RGB, uint8 (H, W, 3).

    Thinner than `skimage.segmentation.mark_boundaries`, which draws both sides and takes five times
    as long.
    """
    drawn = image.copy()
    drawn[border_pixels(np.asarray(labels, dtype=np.int64))] = color
    return drawn


def overlay_labels(
    image: RgbImage,
    labels: npt.NDArray[np.integer[Any]],
    color: tuple[int, int, int] = (255, 255, 255),
    alpha: float = 0.4,
) -> RgbImage:
    """Tint segments by the colors of their numbers and draw their borders, on a copy.

    The same colors as by `skimage.color.label2rgb`, in a twentieth of its time and without its
    float64 copy of the image.

    Args:
        image: RGB, uint8, shape (H, W, 3).
        labels: Segment numbers from 0, shape (h, w): of the image, or of a smaller one made
            from it, whose pixels are then enlarged, borders too.
        color: RGB of the borders, 0 to 255.
        alpha: Weight of the tint, 0 (none) to 1 (hides the image).
    """
    height, width = image.shape[:2]
    rows, columns = nearest_cells(labels.shape[0], height), nearest_cells(labels.shape[1], width)
    tints = label_colors(np.arange(int(labels.max()) + 1))
    drawn = np.empty_like(image)
    for top in range(0, height, 256):  # by strips: a large image in floats takes gigabytes
        strip_rows = slice(top, top + 256)
        first, last = rows[strip_rows][[0, -1]]
        part = labels[first : last + 2].astype(np.int64)  # a border depends on the row below
        places = np.ix_(rows[strip_rows] - first, columns)
        mixed = (1 - alpha) * image[strip_rows].astype(np.float32) + alpha * tints[part[places]]
        mixed[border_pixels(part)[places]] = color
        drawn[strip_rows] = mixed.round()
    return drawn


def contour_image(contour_map: FloatArray) -> npt.NDArray[np.uint8]:
    """Draw an ultrametric contour map, in [0, 1], (2 H + 1, 2 W + 1), see `Hierarchy.ucm`.

    Gray, uint8, shape (H, W): 255 times the largest value on the sides and corners of a pixel.
    """
    by_rows = np.maximum(np.maximum(contour_map[:-2:2], contour_map[1::2]), contour_map[2::2])
    largest = np.maximum(np.maximum(by_rows[:, :-2:2], by_rows[:, 1::2]), by_rows[:, 2::2])
    return (largest * 255).round().astype(np.uint8)


def overlay_mask(
    image: RgbImage,
    mask: BoolArray,
    color: tuple[int, int, int] = (255, 210, 0),
    alpha: float = 0.5,
) -> RgbImage:
    """Tint a mask (H, W) and draw its border, on a copy of RGB, uint8 (H, W, 3).

    Alpha is the weight of the tint, 0 (none) to 1 (hides the image).
    """
    tinted = image.astype(np.float64)
    tinted[mask] = (1 - alpha) * tinted[mask] + alpha * np.array(color)
    return draw_borders(tinted.round().astype(np.uint8), mask.astype(np.int64), color)


def draw_clicks(
    image: RgbImage,
    clicks_yx: npt.NDArray[np.integer[Any]],
    is_positive: BoolArray,
    radius: float | None = None,
) -> RgbImage:
    """Draw clicks as discs with a dark outline on a copy of RGB, uint8 (H, W, 3).

    Of places (row, column), integers (N, 2), and whether they are positive, bool (N,): green, else
    red. The radius is in pixels; None is a hundredth of the image's diagonal, at least 2.
    """
    if radius is None:
        radius = max(2.0, float(np.hypot(*image.shape[:2])) / 100)
    canvas = Image.fromarray(image)
    pencil = ImageDraw.Draw(canvas)
    for (y, x), positive in zip(clicks_yx, is_positive, strict=True):
        box = (x - radius, y - radius, x + radius, y + radius)
        outline = max(1, round(radius / 3))
        pencil.ellipse(box, fill=GREEN if positive else RED, outline=DARK, width=outline)
    return np.array(canvas)


def strip(images: Sequence[RgbImage], gap: int = 4) -> RgbImage:
    """Put RGB images of one height, uint8 (H, W_i, 3), side by side, a gap of white between them.

    Returns:
        RGB, uint8, shape (H, sum of W_i and gaps, 3).

    Raises:
        ValueError: If there is no image, or heights differ.
    """
    heights = {image.shape[0] for image in images}
    if len(heights) != 1:
        raise ValueError(f"images must have one height, got heights {sorted(heights)}")
    white = np.full((heights.pop(), gap, 3), 255, np.uint8)
    parts = [part for image in images for part in (white, image)]
    return np.concatenate(parts[1:], axis=1)
