"""The feature pyramid: a timm backbone, a light stem, a top-down decoder, tanh at the end.

Level l has stride 2^l and c0 * 4^l channels, so every level holds the same number of values and
in the squared distance, summed over levels, an octave coarser can weigh four times as much.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maskfeat.batch import normalize_images
from maskfeat.features.backbone import build_backbone
from maskfeat.features.decoder import DecoderStep, Stem, width_at

FloatArray = npt.NDArray[np.float32]


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

    Args:
        d2: Squared feature distances, any shape.
        scale: Positive factor, learned with the features.

    Returns:
        p = 2 / (1 + exp(scale * d2)), in (0, 1], shape of `d2`.
    """
    return 2 * torch.sigmoid(-scale * d2)


class Features:
    """The features of one image: one vector per pixel, held as a pyramid.

    Args:
        pyramid: Maps of shape (C_l, h_l, w_l), float32, finest first. A map may reach beyond the
            image on the right and below (padding); what lies there is never read but for
            blending at the border.
        strides: Input pixels per map pixel, one per level.
        size: Height and width of the image, pixels.
        scale: Turns squared distances into probabilities, see `same_mask_probability`.
    """

    def __init__(
        self,
        pyramid: Sequence[Tensor],
        strides: Sequence[int],
        size: tuple[int, int],
        scale: float = 1.0,
    ) -> None:
        self.pyramid = tuple(level.float() for level in pyramid)
        self.strides = tuple(strides)
        self.size = size
        self.scale = float(scale)

    @classmethod
    def from_dense(cls, features: npt.ArrayLike, scale: float = 1.0) -> Features:
        """Wrap any per-pixel features, e.g. a color space, as a pyramid of one level.

        Args:
            features: Finite numbers, shape (H, W, C).
            scale: Turns squared distances into probabilities.

        Raises:
            ValueError: If the array is not three-dimensional, is empty or is not finite.
        """
        array = np.asarray(features, dtype=np.float32)
        if array.ndim != 3 or array.size == 0:
            raise ValueError(
                f"features must have shape (H, W, C) and hold values, got {array.shape}"
            )
        if not np.isfinite(array).all():
            raise ValueError("features must be finite, got NaN or infinity; check what made them")
        level = torch.from_numpy(np.ascontiguousarray(array.transpose(2, 0, 1)))
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
        points = np.asarray(points_yx)
        if points.ndim != 2 or points.shape[1] != 2:
            raise ValueError(f"points_yx must have shape (N, 2), got {points.shape}")
        limit = np.array(self.size) - 1
        if ((points < 0) | (points > limit)).any():
            raise ValueError(
                f"points must lie inside the image of {self.size} pixels (height, width)"
            )
        dtype = torch.int64 if np.issubdtype(points.dtype, np.integer) else torch.float32
        device = self.pyramid[0].device
        grid = torch.as_tensor(points, dtype=dtype, device=device).unsqueeze(0)
        levels = [level.unsqueeze(0) for level in self.pyramid]
        return _to_numpy(sample_pyramid(levels, self.strides, grid)[0])

    def dense(self) -> FloatArray:
        """Features of all pixels, float32, shape (H, W, C): C * 4 bytes per pixel of memory."""
        height, width = self.size
        stack = np.empty((height, width, self.num_channels), np.float32)
        start = 0
        for index, level in enumerate(self.pyramid):
            stop = start + level.shape[0]
            stack[..., start:stop] = _to_numpy(self._dense_level(index).permute(1, 2, 0))
            start = stop
        return stack

    def distance(self, points_yx: npt.ArrayLike, others_yx: npt.ArrayLike) -> FloatArray:
        """Squared feature distances of every point to every other one.

        Args:
            points_yx: Shape (N, 2), inside the image.
            others_yx: Shape (K, 2), inside the image.

        Returns:
            d2, float32, shape (N, K).
        """
        left, right = torch.from_numpy(self.at(points_yx)), torch.from_numpy(self.at(others_yx))
        exact = "donot_use_mm_for_euclid_dist"  # no cancellation between near vectors
        return _to_numpy(torch.cdist(left, right, compute_mode=exact).square())

    def probability(self, points_yx: npt.ArrayLike, others_yx: npt.ArrayLike) -> FloatArray:
        """Calibrated probability of "same mask" for every pair of points, float32, (N, K)."""
        d2 = torch.from_numpy(self.distance(points_yx, others_yx))
        return _to_numpy(same_mask_probability(d2, self.scale))

    def neighbor_distances(self) -> tuple[FloatArray, FloatArray]:
        """Squared distances between adjacent pixels, without a dense stack of all levels.

        Returns:
            To the right neighbor, float32, shape (H, W - 1), and to the one below, (H - 1, W).
        """
        height, width = self.size
        device = self.pyramid[0].device
        right = torch.zeros((height, width - 1), device=device)
        below = torch.zeros((height - 1, width), device=device)
        for index in range(len(self.pyramid)):
            level = self._dense_level(index)
            right += (level[:, :, 1:] - level[:, :, :-1]).square_().sum(dim=0)
            below += (level[:, 1:] - level[:, :-1]).square_().sum(dim=0)
        return _to_numpy(right), _to_numpy(below)

    def _dense_level(self, index: int) -> Tensor:
        """One level at the size of the image, shape (C_l, H, W)."""
        height, width = self.size
        level, stride = self.pyramid[index], self.strides[index]
        if stride > 1:
            # A map of h cells covers h * stride pixels, some of them beyond the image.
            size = (level.shape[-2] * stride, level.shape[-1] * stride)
            level = F.interpolate(level.unsqueeze(0), size, mode="bilinear", align_corners=False)[0]
        return level[:, :height, :width]


def _to_numpy(tensor: Tensor) -> FloatArray:
    array: FloatArray = tensor.detach().cpu().numpy()
    return array


class FeaturePyramid(nn.Module):
    """Image to feature pyramid.

    Args:
        backbone: Any timm model that supports `features_only` (efficientvit_b0 to b3, l1 to l3,
            mobilenetv4_*, convnext_*, resnet*, ...).
        pretrained: False trains from scratch; True takes timm's weights from the cache or the
            hub; a path takes a weights file in timm's format.
        levels: Octaves to give features at; level l has stride 2^l. Consecutive, finest first.
        c0: Channels of level 0; level l has c0 * 4^l, so each level holds c0 * H * W values.
        width: Channels of the decoder at stride 4 and coarser; three eighths of it at stride 2
            and an eighth at stride 1, where they would cost most.
        bound: What keeps features bounded: "tanh" (-1, 1), "sigmoid" (0, 1), or "none".
        scale: First value of the factor that turns squared distances into probabilities,
            p = 2 / (1 + exp(scale * d2)).
        learn_scale: Whether training may change it.
    """

    def __init__(
        self,
        backbone: str = "efficientvit_b0",
        pretrained: bool | str = False,
        levels: Sequence[int] = (0, 1, 2, 3),
        c0: float = 1.0,
        width: int = 64,
        bound: Literal["tanh", "sigmoid", "none"] = "tanh",
        scale: float = 1.0,
        learn_scale: bool = True,
    ) -> None:
        super().__init__()
        levels = tuple(levels)
        _check_settings(levels, c0, width, bound, scale)
        # All that is needed to build this net again, less the weights that then replace its own.
        self.config: dict[str, Any] = {
            "backbone": backbone,
            "levels": list(levels),
            "c0": c0,
            "width": width,
            "bound": bound,
            "scale": scale,
            "learn_scale": learn_scale,
        }
        self.strides = tuple(2**level for level in levels)
        self.bound = bound
        self.backbone, backbone_strides, backbone_channels = build_backbone(backbone, pretrained)
        self.max_stride = max(*backbone_strides, *self.strides)

        channels = dict(zip(backbone_strides, backbone_channels, strict=True))
        finest = min(self.strides)
        self.stem = Stem([s for s in (1, 2) if s >= finest and s not in channels], width)
        channels |= self.stem.channels
        path = sorted((s for s in channels if s >= finest), reverse=True)
        missing = sorted(set(self.strides) - set(path))
        if missing:
            raise ValueError(
                f"levels {list(levels)} need maps of stride {missing}, which backbone "
                f"{backbone!r} (strides {sorted(backbone_strides)}) and the stem (1, 2) do not give"
            )
        widths = [width_at(stride, width) for stride in path]
        self.path = tuple(path)  # strides from coarse to fine
        self.steps = nn.ModuleList(
            DecoderStep(channels[stride], above, here)
            for stride, above, here in zip(path, [0, *widths[:-1]], widths, strict=True)
        )
        width_of = dict(zip(path, widths, strict=True))
        self.heads = nn.ModuleList(
            nn.Conv2d(width_of[2**level], max(1, round(c0 * 4**level)), kernel_size=1)
            for level in levels
        )
        self.log_scale = nn.Parameter(torch.tensor(float(scale)).log(), requires_grad=learn_scale)

    @property
    def scale(self) -> Tensor:
        """The factor that turns squared distances into probabilities, a positive scalar."""
        return self.log_scale.exp()

    def forward(self, images: Tensor) -> list[Tensor]:
        """Compute the pyramid.

        Args:
            images: RGB as made by `normalize_images`, float, shape (B, 3, H, W), any size.

        Returns:
            Features per level, finest first, shape (B, C_l, h_l, w_l) with h_l * stride >= H:
            images are padded on the right and below to a multiple of the largest stride.
        """
        padded = _pad_to_multiple(images, self.max_stride)
        maps = {**self.stem(padded), **self._backbone_maps(padded)}
        found: dict[int, Tensor] = {}
        above: Tensor | None = None
        for stride, step in zip(self.path, self.steps, strict=True):
            above = found[stride] = step(maps[stride], above)
        outputs = (head(found[s]) for s, head in zip(self.strides, self.heads, strict=True))
        return [self._bounded(output) for output in outputs]

    @torch.inference_mode()
    def features(self, rgb: npt.NDArray[np.uint8]) -> Features:
        """Features of one image.

        Args:
            rgb: uint8, shape (H, W, 3), any size.

        Returns:
            The pyramid of the image, on the device of the net.

        Raises:
            ValueError: If `rgb` is no uint8 image of three channels.
        """
        if rgb.dtype != np.uint8 or rgb.ndim != 3 or rgb.shape[2] != 3 or rgb.size == 0:
            raise ValueError(
                f"rgb must be a uint8 array of shape (H, W, 3), got {rgb.dtype} {rgb.shape}"
            )
        pixels = torch.tensor(rgb).permute(2, 0, 1).unsqueeze(0)  # a copy: rgb may be read-only
        was_training = self.training
        self.eval()
        try:
            maps = self(normalize_images(pixels.to(self.log_scale.device)))
        finally:
            self.train(was_training)
        size = (rgb.shape[0], rgb.shape[1])
        return Features([level[0] for level in maps], self.strides, size, self.scale.item())

    def _backbone_maps(self, images: Tensor) -> dict[int, Tensor]:
        height = images.shape[-2]
        return {height // level.shape[-2]: level for level in self.backbone(images)}

    def _bounded(self, output: Tensor) -> Tensor:
        if self.bound == "tanh":
            return output.tanh()
        return output.sigmoid() if self.bound == "sigmoid" else output


def _pad_to_multiple(images: Tensor, multiple: int) -> Tensor:
    height, width = images.shape[-2:]
    down, right = -height % multiple, -width % multiple
    if not (down or right):
        return images
    return F.pad(images, (0, right, 0, down), mode="replicate")


def _check_settings(levels: Sequence[int], c0: float, width: int, bound: str, scale: float) -> None:
    if not levels or list(levels) != list(range(min(levels), max(levels) + 1)) or min(levels) < 0:
        raise ValueError(
            "levels must be consecutive octaves, finest first, e.g. [0, 1, 2, 3], "
            f"got {list(levels)}"
        )
    if c0 <= 0 or width < 8:
        raise ValueError(f"c0 must be positive and width at least 8, got c0 {c0}, width {width}")
    if bound not in ("tanh", "sigmoid", "none"):
        raise ValueError(f"bound must be 'tanh', 'sigmoid' or 'none', got {bound!r}")
    if scale <= 0:
        raise ValueError(f"scale must be positive, got {scale}")
