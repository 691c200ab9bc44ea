"""The feature pyramid: a timm backbone, a light stem, a top-down decoder, tanh at the end.

Level l has stride 2^l and c0 * 4^l channels, so every level holds the same number of values and
in the squared distance, summed over levels, an octave coarser can weigh four times as much.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import Self

from maskfeat.arguments import ImageLike, checked_count, checked_number, rgb_of
from maskfeat.batch import normalize_images
from maskfeat.features.backbone import backbone_maps, build_backbone, size_multiple
from maskfeat.features.cache import model_digest
from maskfeat.features.color import color_distances
from maskfeat.features.decoder import BoundaryDecoder, BoundarySum, DecoderStep, Stem, width_at
from maskfeat.features.folding import fold_norms
from maskfeat.features.reading import Features


class FeaturePyramid(nn.Module):
    """Image to feature pyramid.

    Args:
        backbone: Any timm model that supports `features_only` and images of any size
            (efficientvit_b0 to b3, l1 to l3, mobilenetv4_*, convnext_*, resnet*, ...).
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
        boundary: Whether there is a head for boundaries, too: the probability that a boundary runs
            right of, or below, each pixel.
        boundary_width: Channels of the boundary head at strides of 4 and coarser; it is then
            a top-down path of its own, see `maskfeat.features.decoder.BoundaryDecoder`. Null is
            one 1x1 convolution of each of the decoder's maps of strides up to 4.
        finest_channels: Channels of the finest level; null takes c0 * 4^l as for the others.
        color: Whether superpixels follow the color of the image, too. It changes no weight.
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
        boundary: bool = False,
        finest_channels: int | None = None,
        color: bool = False,
        boundary_width: int | None = None,
    ) -> None:
        super().__init__()
        levels = tuple(levels)
        _check_settings(levels, c0, width, bound, scale, finest_channels, boundary_width)
        # All that is needed to build this net again, less the weights that then replace its own.
        config = {"backbone": backbone, "levels": list(levels), "c0": c0, "width": width}
        config |= {"bound": bound, "scale": scale, "learn_scale": learn_scale, "boundary": boundary}
        config |= {"finest_channels": finest_channels, "color": color}
        self.config: dict[str, Any] = {**config, "boundary_width": boundary_width}
        self.loaded_from: Path | None = None  # set by `maskfeat.load`
        self.unfused_digest: bytes | None = None  # set by `fuse`
        self._has_fixed_features = False
        self.bound, self.strides = bound, tuple(2**level for level in levels)
        widths, tapped = self._build_decoder(backbone, pretrained, width)
        num_channels = [max(1, round(c0 * 4**level)) for level in levels]
        num_channels[0] = finest_channels or num_channels[0]
        heads = zip(self.strides, num_channels, strict=True)
        self.heads = nn.ModuleList(nn.Conv2d(widths[s], num, kernel_size=1) for s, num in heads)
        self.log_scale = nn.Parameter(torch.tensor(float(scale)).log(), requires_grad=learn_scale)
        # Last, so that all other weights start as they do without it.
        self.boundary_heads = _boundary_heads(widths, tapped, boundary, boundary_width)

    def _build_decoder(
        self, backbone: str, pretrained: bool | str, width: int
    ) -> tuple[dict[int, int], dict[int, int]]:
        """Build backbone, stem and top-down path.

        Returns:
            Channels of the path's maps, and of the backbone's, by stride.

        Raises:
            ValueError: If levels are at strides that neither the backbone nor the stem has.
        """
        self.backbone, strides, num_channels = build_backbone(backbone, pretrained)
        self.backbone_strides = tuple(strides)
        tapped = dict(zip(strides, num_channels, strict=True))
        finest = min(self.strides)
        self.stem = Stem([s for s in (1, 2) if s >= finest and s not in tapped], width)
        channels = tapped | self.stem.channels
        self.path = tuple(sorted((s for s in channels if s >= finest), reverse=True))
        missing = sorted(set(self.strides) - set(self.path))
        if missing:
            raise ValueError(
                f"levels {self.config['levels']} need maps of stride {missing}, which backbone "
                f"{backbone!r} (strides {sorted(self.backbone_strides)}) and the stem (1, 2) do "
                "not give"
            )
        multiple = size_multiple(backbone, self.backbone, strides, num_channels)
        # Sides are padded to a multiple of it, so that every map lies at its stride.
        self.size_multiple = math.lcm(multiple, *self.path)
        widths = {stride: width_at(stride, width) for stride in self.path}
        self.steps = nn.ModuleList(
            DecoderStep(channels[stride], above, widths[stride])
            for stride, above in zip(self.path, [0, *widths.values()], strict=False)
        )
        return widths, tapped

    @property
    def scale(self) -> Tensor:
        """The factor that turns squared distances into probabilities, a positive scalar."""
        return self.log_scale.exp()

    def freeze_features(self) -> None:
        """Train the boundary head alone: features stay what they are, bit for bit."""
        self.requires_grad_(False)
        self.boundary_heads.requires_grad_(True)
        self._has_fixed_features = True
        self.train(self.training)

    def train(self, mode: bool = True) -> Self:
        """As torch's; the norms of fixed features keep their statistics."""
        super().train(mode)
        if self._has_fixed_features:
            for part in self.children():
                part.train(mode and part is self.boundary_heads)
        return self

    def forward(self, images: Tensor) -> list[Tensor]:
        """Compute the pyramid.

        Args:
            images: RGB as made by `normalize_images`, float, shape (B, 3, H, W), any size.

        Returns:
            Features per level, finest first, shape (B, C_l, h_l, w_l) with h_l * stride >= H:
            images are padded on the right and below to a multiple of `size_multiple`.
        """
        return self._maps(images)[0]

    def maps(self, images: Tensor) -> tuple[list[Tensor], Tensor | None]:
        """The pyramid of normalized images, as `forward` gives it, and the map of boundaries.

        The latter, where the network has the head, are logits of "a boundary runs right of (channel
        0), below (channel 1) this pixel", (B, 2, H, W).
        """
        return self._maps(images)

    def _maps(self, images: Tensor) -> tuple[list[Tensor], Tensor | None]:
        # Not `maps`, which sharding and compilation wrap, as they wrap `forward`.
        padded = _pad_to_multiple(images, self.size_multiple)
        return self._outputs(*self._inner_maps(padded), images.shape[-2:], padded.shape[-2:])

    def _inner_maps(self, padded: Tensor) -> tuple[dict[int, Tensor], dict[int, Tensor]]:
        """The decoder's maps, (B, width, h, w), and the backbone's, by stride."""
        # Of several maps of one stride, as a transformer gives them, the last knows most.
        # `dict`: torch 2.8 compiles no union with a zip.
        stem, found_maps = self.stem(padded), backbone_maps(self.backbone, padded)
        tapped = dict(zip(self.backbone_strides, found_maps, strict=True))
        maps = stem | tapped
        decoded: dict[int, Tensor] = {}
        above: Tensor | None = None
        for stride, step in zip(self.path, self.steps, strict=True):
            above = decoded[stride] = step(maps[stride], above)
        return decoded, tapped

    def _outputs(
        self,
        decoded: dict[int, Tensor],
        tapped: dict[int, Tensor],
        size: Sequence[int],
        padded: Sequence[int],
    ) -> tuple[list[Tensor], Tensor | None]:
        """What the heads read off the inner maps of images of these sizes."""
        outputs = (head(decoded[s]) for s, head in zip(self.strides, self.heads, strict=True))
        pyramid = [self._bounded(output) for output in outputs]
        if not self.boundary_heads:
            return pyramid, None
        height, width = size
        return pyramid, self.boundary_heads(decoded, tapped, padded)[..., :height, :width]

    def fused(self) -> Self:
        """A copy for inference alone, see `fuse`; it does not follow what this network learns."""
        return copy.deepcopy(self).fuse()

    def fuse(self) -> Self:
        """Fold batch norms into convolutions, for inference alone.

        On a CPU the network then takes about a fifth less time. Its features are the same but for
        rounding, so what was kept of this network serves the fused one. It cannot be saved.
        """
        digest = model_digest(self)
        self.eval().requires_grad_(False)
        side = 2 * self.size_multiple
        noise = torch.Generator().manual_seed(0)
        images = torch.randn(1, 3, side, side, generator=noise).to(self.log_scale)

        def outputs() -> list[Tensor]:
            pyramid, boundary = self._maps(images)
            return pyramid if boundary is None else [*pyramid, boundary]

        fold_norms(self, outputs)
        self.unfused_digest = digest
        return self

    @torch.inference_mode()
    def features(self, rgb: ImageLike, inner_strides: Sequence[int] = ()) -> Features:
        """Features of one image.

        Args:
            rgb: uint8, shape (H, W, 3), any size; or a PIL image, or the path of an image.
            inner_strides: Strides of the decoder's maps that are to come along, for a click decoder
                that reads them; `path` has those there are.

        Returns:
            The pyramid of the image, float32, on the device of the net.

        Raises:
            ValueError: If `rgb` is something else, the features are not finite, or the net was
                cast to half precision, and its statistics are beyond that.
        """
        return self._features([rgb_of(rgb)], inner_strides)[0]

    @torch.inference_mode()
    def features_batch(
        self, images: Sequence[ImageLike], inner_strides: Sequence[int] = (), batch_size: int = 8
    ) -> list[Features]:
        """Features of several images, in order; those of one size go through the network together.

        Each equals that of `features` but for rounding. A GPU gains by it; a CPU hardly does. The
        `Features` of one batch share memory.

        Args:
            images: Each as for `features`; sizes may differ.
            inner_strides: As for `features`.
            batch_size: Most images at once.

        Raises:
            ValueError: As `features`, or if `batch_size` is below 1.
        """
        checked_count("batch_size", batch_size)
        rgbs = [rgb_of(image) for image in images]
        of_size: dict[tuple[int, ...], list[int]] = {}
        for number, rgb in enumerate(rgbs):
            of_size.setdefault(rgb.shape, []).append(number)
        found: dict[int, Features] = {}
        for numbers in of_size.values():
            for start in range(0, len(numbers), batch_size):
                some = numbers[start : start + batch_size]
                batch = self._features([rgbs[number] for number in some], inner_strides)
                found.update(zip(some, batch, strict=True))
        return [found[number] for number in range(len(rgbs))]

    def _features(
        self, rgbs: Sequence[npt.NDArray[np.uint8]], inner_strides: Sequence[int]
    ) -> list[Features]:
        """Features of images of one size, uint8, shape (H, W, 3)."""
        self._check_statistics()
        copy = torch.from_numpy(np.stack(rgbs))  # they may be read-only, or views turned round
        pixels = copy.permute(0, 3, 1, 2)
        was_training = self.training
        if any(part.training for part in self.modules()):  # to set them all takes milliseconds
            self.eval()
        try:
            images = normalize_images(pixels.to(self.log_scale.device))
            images = images.to(self.log_scale.dtype)  # `half()` and its kin change it
            inner: dict[int, Tensor] = {}
            if inner_strides:
                padded = _pad_to_multiple(images, self.size_multiple)
                found = self._inner_maps(padded)
                inner = {stride: found[0][stride] for stride in inner_strides}
                maps, boundary = self._outputs(*found, images.shape[-2:], padded.shape[-2:])
            else:
                maps, boundary = self.maps(images) if self.boundary_heads else (self(images), None)
        finally:
            if was_training:
                self.train()
        scale, has_color = self.scale.item(), self.config["color"]
        return [
            Features(
                [level[number] for level in maps],
                self.strides,
                (pixels.shape[2], pixels.shape[3]),
                scale,
                None if boundary is None else boundary[number],
                color_distances(pixels[number]) if has_color else None,
                {stride: level[number] for stride, level in inner.items()},
            )
            for number in range(len(pixels))
        ]

    def _check_statistics(self) -> None:
        """Refuse variances that `half()` made infinite: their channels would be 0 in silence."""
        if self.log_scale.dtype != torch.float16:
            return
        for name, values in self.named_buffers():
            if not values.isfinite().all():
                raise ValueError(
                    f"the net cannot be used in float16, in which its '{name}' is too large; "
                    "load it again, and cast it to bfloat16 if it is to be small"
                )

    def _bounded(self, output: Tensor) -> Tensor:
        if self.bound == "tanh":
            return output.tanh()
        return output.sigmoid() if self.bound == "sigmoid" else output


def _pad_to_multiple(images: Tensor, multiple: int) -> Tensor:
    height, width = images.shape[-2:]
    down, right = -height % multiple, -width % multiple
    # Sizes that torch.export leaves open are always padded, if only by nothing.
    if isinstance(down, int) and isinstance(right, int) and not (down or right):
        return images
    return F.pad(images, (0, right, 0, down), mode="replicate")


def _boundary_heads(
    widths: dict[int, int], tapped: dict[int, int], boundary: bool, boundary_width: int | None
) -> nn.Module:
    """The head for boundaries; an empty module, which is false, for none."""
    if not boundary:
        return nn.ModuleDict()
    if boundary_width is None:
        return BoundarySum(widths)
    return BoundaryDecoder(widths, tapped, boundary_width)


def _check_settings(
    levels: Sequence[int],
    c0: float,
    width: int,
    bound: str,
    scale: float,
    finest_channels: int | None,
    boundary_width: int | None,
) -> None:
    if not levels or list(levels) != list(range(min(levels), max(levels) + 1)) or min(levels) < 0:
        raise ValueError(
            "levels must be consecutive octaves, finest first, e.g. [0, 1, 2, 3], "
            f"got {list(levels)}"
        )
    checked_number("c0", c0, above=0)
    checked_count("width", width, least=8)
    if bound not in ("tanh", "sigmoid", "none"):
        raise ValueError(f"bound must be 'tanh', 'sigmoid' or 'none', got {bound!r}")
    checked_number("scale", scale, above=0)
    if finest_channels is not None:
        checked_count("finest_channels", finest_channels, least=1)
    if boundary_width is not None:
        checked_count("boundary_width", boundary_width, least=8)
