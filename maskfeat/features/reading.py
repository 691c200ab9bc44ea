"""Features of an image: one vector per pixel, held as a pyramid and read where it is wanted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from maskfeat.arguments import array_of, checked_number
from maskfeat.arrays import FloatArray
from maskfeat.features.rows import region_sums, row_blocks, steps_to_the_right, to_numpy

# Larger ones have squared distances, or sums of these, that single precision cannot hold.
MAX_FEATURE = 1e15

# How much of what superpixels follow comes from color, where it is known. Chosen on BSDS500 val,
# where 0.5 to 1 are level and this has the best mean IoU of nodes (experiments/hierarchy/NOTES.md).
COLOR_SHARE = 0.5


def sample_pyramid(pyramid: Sequence[Tensor], strides: Sequence[int], points_yx: Tensor) -> Tensor:
    """Read a feature pyramid at points, bilinearly, one gather per level.

    Args:
        pyramid: Maps of shape (B, C_l, h_l, w_l), finest first.
        strides: Input pixels per map pixel, one per level.
        points_yx: Where to read, in input pixels (integers are pixel centers), any real dtype,
            shape (B, P, 2). Beyond the border the border value holds.

    Returns:
        Features of all levels side by side, dtype of the maps, shape (B, P, sum of C_l).
    """
    columns = []
    for level, stride in zip(pyramid, strides, strict=True):
        height, width = level.shape[-2:]
        if stride == 1 and not points_yx.is_floating_point():  # whole pixels: no blending
            flat = points_yx[..., 0] * width + points_yx[..., 1]  # (B, P)
            index = flat.unsqueeze(1).expand(-1, level.shape[1], -1)
            columns.append(level.flatten(2).gather(2, index).transpose(1, 2))
            continue
        size = torch.tensor([width, height], device=level.device, dtype=torch.float32)
        grid = (points_yx.flip(-1).float() + 0.5) * (2 / stride) / size - 1  # (B, P, 2) as (x, y)
        sampled = F.grid_sample(
            level.float(), grid.unsqueeze(1), padding_mode="border", align_corners=False
        )  # (B, C_l, 1, P)
        columns.append(sampled.squeeze(2).transpose(1, 2).to(level.dtype))
    return torch.cat(columns, dim=-1)


def same_mask_probability(d2: Tensor, scale: Tensor | float) -> Tensor:
    """The share of masks holding either pixel that hold both, as the distance predicts it.

    p = 2 / (1 + exp(scale * d2)), in (0, 1], for squared feature distances d2 of any shape and a
    positive scale, which is learned with the features.
    """
    return 2 * torch.sigmoid(-scale * d2)


class FeatureModel(Protocol):
    """Anything that turns an image into features."""

    def features(self, rgb: npt.NDArray[np.uint8], /) -> Features:
        """Features of one image, uint8, shape (H, W, 3)."""
        ...


def features_of(
    model: FeatureModel, rgb: npt.NDArray[np.uint8], inner_strides: Sequence[int] = ()
) -> Features:
    """Features of an image, uint8 (H, W, 3), with maps inside the network where they are wanted.

    Raises:
        ValueError: If the model has no maps of such strides, see `FeaturePyramid.features`.
    """
    if not inner_strides:
        return model.features(rgb)
    missing = sorted(set(inner_strides) - set(getattr(model, "path", ())))
    if missing:
        raise ValueError(
            f"the click decoder reads maps inside the network at strides {missing}, which this "
            f"{type(model).__name__} does not have; give the model that it was trained on"
        )
    found: Features = model.features(rgb, inner_strides)  # type: ignore[call-arg]
    return found


class Features:
    """The features of one image: one vector per pixel, held as a pyramid.

    Args:
        pyramid: Maps of shape (C_l, h_l, w_l), float32, finest first. A map may reach beyond the
            image on the right and below (padding); what lies there is never read but for
            blending at the border.
        strides: Input pixels per map pixel, one per level.
        size: Height and width of the image, pixels.
        scale: Turns squared distances into probabilities, see `same_mask_probability`.
        boundary_logits: Of "a boundary runs right of (channel 0), below (channel 1) this pixel",
            where a network predicts them, float, shape (2, H, W). A merge classifier reads them.
        color_distances: Of adjacent pixels, see `maskfeat.features.color`, float, shape (2, H, W).
            Superpixels follow them, too; nothing else reads them.
        inner: Maps inside the network by stride, (C, h, w), float, where they were asked for. Only
            a click decoder reads them.

    Raises:
        ValueError: If features are not finite or above 1e15, or the scale is not positive.
    """

    def __init__(
        self,
        pyramid: Sequence[Tensor],
        strides: Sequence[int],
        size: tuple[int, int],
        scale: float = 1.0,
        boundary_logits: Tensor | None = None,
        color_distances: Tensor | None = None,
        inner: Mapping[int, Tensor] | None = None,
    ) -> None:
        self.inner = {stride: level.float() for stride, level in (inner or {}).items()}
        self.color_distances = None if color_distances is None else color_distances.float()
        self.boundary_logits = None if boundary_logits is None else boundary_logits.float()
        self.pyramid = tuple(level.float() for level in pyramid)
        self.strides = tuple(strides)
        self.size = size
        self.scale = checked_number("scale", scale, above=0)
        for level in (*self.pyramid, *([] if boundary_logits is None else [boundary_logits])):
            _check_range(*(float(limit) for limit in level.detach().aminmax()))

    @classmethod
    def from_dense(cls, features: npt.ArrayLike, scale: float = 1.0) -> Features:
        """Wrap any per-pixel features, e.g. a color space, as a pyramid of one level.

        Args:
            features: Finite numbers, shape (H, W, C).
            scale: Turns squared distances into probabilities.

        Raises:
            ValueError: If the array is not three-dimensional, is empty, or its numbers are not
                real, not finite or above 1e15.
        """
        array = array_of("features", features)
        if array.ndim != 3 or array.size == 0:
            raise ValueError(
                f"features must have shape (H, W, C) and hold values, got {array.shape}"
            )
        _check_range(float(array.min()), float(array.max()))  # before large ones become infinite
        level = torch.from_numpy(array.transpose(2, 0, 1).astype(np.float32, order="C"))
        return cls([level], [1], (array.shape[0], array.shape[1]), scale)

    @property
    def num_channels(self) -> int:
        """Length of the vector of one pixel."""
        return sum(level.shape[0] for level in self.pyramid)

    def at(self, points_yx: npt.ArrayLike) -> FloatArray:
        """Features at points.

        Args:
            points_yx: Pixels or places between them, shape (N, 2), inside the image.

        Returns:
            float32, shape (N, C).

        Raises:
            ValueError: If a point lies outside the image.
        """
        points = array_of("points_yx", points_yx)
        if points.ndim != 2 or points.shape[1] != 2:
            raise ValueError(f"points_yx must have shape (N, 2), got {points.shape}")
        limit = np.array(self.size) - 1
        if not ((points >= 0) & (points <= limit)).all():
            raise ValueError(
                f"points must lie inside the image of {self.size} pixels (height, width)"
            )
        dtype = torch.int64 if np.issubdtype(points.dtype, np.integer) else torch.float32
        device = self.pyramid[0].device
        grid = torch.as_tensor(points, dtype=dtype, device=device).unsqueeze(0)
        levels = [level.unsqueeze(0) for level in self.pyramid]
        return to_numpy(sample_pyramid(levels, self.strides, grid)[0])

    def dense(self, max_stride: int | None = None) -> FloatArray:
        """Features of all pixels, float32, shape (H, W, C): C * 4 bytes per pixel of memory.

        Args:
            max_stride: Leave out the levels of larger stride; None takes all.
        """
        if max_stride is not None:
            checked_number("max_stride", max_stride)
        height, width = self.size
        is_taken = [max_stride is None or stride <= max_stride for stride in self.strides]
        taken = [index for index, yes in enumerate(is_taken) if yes]
        num_channels = sum(self.pyramid[index].shape[0] for index in taken)
        stack = np.empty((height, width, num_channels), np.float32)
        start = 0
        for index in taken:
            stop = start + self.pyramid[index].shape[0]
            stack[..., start:stop] = to_numpy(self._dense_level(index).permute(1, 2, 0))
            start = stop
        return stack

    def distance(self, points_yx: npt.ArrayLike, others_yx: npt.ArrayLike) -> FloatArray:
        """Squared feature distances of every point to every other one.

        Args:
            points_yx: Pixels or places between them, shape (N, 2), inside the image.
            others_yx: Shape (K, 2), likewise.

        Returns:
            d2, float32, shape (N, K).

        Raises:
            ValueError: If a point lies outside the image.
        """
        left, right = torch.from_numpy(self.at(points_yx)), torch.from_numpy(self.at(others_yx))
        exact = "donot_use_mm_for_euclid_dist"  # no cancellation between near vectors
        return to_numpy(torch.cdist(left, right, compute_mode=exact).square())

    def probability(self, points_yx: npt.ArrayLike, others_yx: npt.ArrayLike) -> FloatArray:
        """Calibrated probability of "same mask" for every pair of points, float32, (N, K)."""
        d2 = torch.from_numpy(self.distance(points_yx, others_yx))
        return to_numpy(same_mask_probability(d2, self.scale))

    def neighbor_distances(self) -> tuple[FloatArray, FloatArray]:
        """Squared distances between adjacent pixels, exact, without a dense stack.

        Returns:
            To the right neighbor, float32, shape (H, W - 1), and to the one below, (H - 1, W).
        """
        height, width = self.size
        right = np.zeros((height, width - 1), np.float32)
        below = np.zeros((width, height - 1), np.float32)  # turned
        for level, stride in zip(self.pyramid, self.strides, strict=True):
            for total, turned in ((right, level), (below, level.transpose(1, 2))):
                for rows in row_blocks(turned, stride, *total.shape):
                    total[rows] += steps_to_the_right(turned, stride, rows, total.shape[1] + 1)
        return right, np.ascontiguousarray(below.T)

    def boundary_probabilities(self) -> tuple[FloatArray, FloatArray] | None:
        """Predicted probability of a boundary between adjacent pixels.

        Returns:
            To the right neighbor, float32, shape (H, W - 1), and to the one below, (H - 1, W); None
            if the network predicts no boundaries.
        """
        if self.boundary_logits is None:
            return None
        right, below = to_numpy(self.boundary_logits.sigmoid())
        return right[:, :-1], below[:-1]

    def followed_distances(
        self, distances: tuple[FloatArray, FloatArray], color_share: float = COLOR_SHARE
    ) -> tuple[FloatArray, FloatArray]:
        """What superpixels follow: features tell which edges matter, color where they run.

        Args:
            distances: Result of `neighbor_distances`.
            color_share: In [0, 1], how much color counts, where it is known.

        Returns:
            The distances mixed with those of color, same shapes.
        """
        if self.color_distances is None:
            return distances
        color = to_numpy(self.color_distances * (color_share / self.scale))
        right, below = ((1 - color_share) * values for values in distances)
        return right + color[0, :, :-1], below + color[1, :-1]

    def region_means(self, labels: npt.NDArray[np.integer], num_regions: int) -> FloatArray:
        """Mean feature of each region of a label map, without a dense stack.

        Args:
            labels: Region of each pixel, shape (H, W), in 0 to num_regions - 1.
            num_regions: K.

        Returns:
            float32, shape (K, C); zero for a region without pixels.

        Raises:
            ValueError: If the labels have another shape.
        """
        if labels.shape != self.size:
            raise ValueError(f"labels must have shape {self.size}, got {labels.shape}")
        width = self.size[1]
        sums = [np.zeros((num_regions, level.shape[0]), np.float32) for level in self.pyramid]
        for total, level, stride in zip(sums, self.pyramid, self.strides, strict=True):
            for rows in row_blocks(level, stride, *self.size):
                # Regions are mostly numbered in reading order: a block meets a short range.
                first, last = labels[rows].min(), labels[rows].max() + 1
                regions = (labels[rows] - first).astype(np.int32)
                total[first:last] += region_sums(level, stride, rows, regions, last - first, width)
        counts = np.bincount(labels.ravel(), minlength=num_regions).clip(min=1)
        means: FloatArray = np.concatenate(sums, axis=1)
        means /= counts[:, None]
        return means

    def _dense_level(self, index: int) -> Tensor:
        """One level at the size of the image, shape (C_l, H, W)."""
        height, width = self.size
        level, stride = self.pyramid[index], self.strides[index]
        if stride > 1:
            # A map of h cells covers h * stride pixels, some of them beyond the image.
            size = (level.shape[-2] * stride, level.shape[-1] * stride)
            level = F.interpolate(level.unsqueeze(0), size, mode="bilinear", align_corners=False)[0]
        return level[:, :height, :width]


def _check_range(smallest: float, largest: float) -> None:
    if not (smallest >= -MAX_FEATURE and largest <= MAX_FEATURE):
        raise ValueError(
            "features must be finite, no NaN or infinity, and at most 1e15 in size, got "
            f"{smallest:g} to {largest:g}; check what made them, or scale them down"
        )
