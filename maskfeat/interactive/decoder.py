"""The click decoder: a small U-Net, maps of an image and of prompts -> logits of "object".

`decoder_unary` makes the maps and reads the logits. The image half is computed once for each window
of an image, the prompt half for each set of prompts, which meet the encoded image late, as in
SimpleClick (arXiv:2210.11006) and Segment Anything (arXiv:2304.02643).
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Sequence
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval


class ClickDecoder(nn.Module):
    """A small U-Net over the cells of a look.

    Args:
        image_channels: Channels of the maps of the image (features, color).
        prompt_channels: Channels of the maps of the prompts.
        width: Channels that the image half gives.
        stages: Channels at each resolution, finest first; each is half as fine as the one before.
        blocks: Residual blocks at each resolution, on the way down; one on the way up.
        inner_strides: Strides of the maps inside the feature network that are among those of the
            image; they carry more of what a thing is than the features do.
    """

    def __init__(
        self,
        image_channels: int,
        prompt_channels: int,
        width: int = 48,
        stages: Sequence[int] = (32, 48, 64, 96),
        blocks: Sequence[int] = (1, 1, 2, 3),
        inner_strides: Sequence[int] = (),
    ) -> None:
        super().__init__()
        self.config: dict[str, Any] = {
            "image_channels": image_channels,
            "prompt_channels": prompt_channels,
            "width": width,
            "stages": tuple(stages),
            "blocks": tuple(blocks),
            "inner_strides": tuple(inner_strides),
        }
        self.inner_strides = tuple(inner_strides)
        self.image_half = nn.Sequential(
            nn.Conv2d(image_channels, width, 1),
            nn.ReLU(),
            ResidualBlock(width),
        )
        self.stem = nn.Conv2d(width + prompt_channels, stages[0], 1)
        pairs = list(itertools.pairwise(stages))
        self.down = nn.ModuleList(nn.Conv2d(fine, coarse, 1) for fine, coarse in pairs)
        self.up = nn.ModuleList(nn.Conv2d(coarse, fine, 1) for fine, coarse in pairs)
        self.inward = nn.ModuleList(
            nn.Sequential(*(ResidualBlock(channels) for _ in range(number)))
            for channels, number in zip(stages, blocks, strict=True)
        )
        self.outward = nn.ModuleList(ResidualBlock(channels) for channels in stages[:-1])
        self.whole = nn.Linear(stages[-1], stages[-1])
        self.head = nn.Conv2d(stages[0], 1, 1)
        nn.init.zeros_(self.whole.weight)
        nn.init.zeros_(self.whole.bias)

    @property
    def multiple(self) -> int:
        """Rows and columns of a look must be multiples of it."""
        return int(2 ** len(self.down))

    def fused(self) -> ClickDecoder:
        """A copy for inference: norms folded into convolutions, memory laid out for one core."""
        decoder = copy.deepcopy(self).eval().requires_grad_(False)
        for block in decoder.modules():
            if isinstance(block, ResidualBlock) and isinstance(block.norm, nn.BatchNorm2d):
                block.conv = fuse_conv_bn_eval(block.conv, block.norm)
                block.norm = nn.Identity()
        return decoder.to(memory_format=torch.channels_last)

    def encode(self, image_maps: Tensor) -> Tensor:
        """The image half: maps (B, image_channels, h, w) -> encoded (B, stages[0], h, w).

        The part of the stem that reads the image is in it, as it depends on no prompt.
        """
        weight = self.stem.weight[:, : self.config["width"]]
        return F.conv2d(self.image_half(image_maps), weight, self.stem.bias)

    def forward(self, encoded: Tensor, prompt_maps: Tensor) -> Tensor:
        """Logits of "object".

        Args:
            encoded: What `encode` gave, (B, stages[0], h, w); h and w are multiples of `multiple`.
            prompt_maps: Of the prompts, (B, prompt_channels, h, w).

        Returns:
            Shape (B, h, w).
        """
        x = encoded + F.conv2d(prompt_maps, self.stem.weight[:, self.config["width"] :])
        skips = []
        for inward, down in zip(self.inward[:-1], self.down, strict=True):
            x = inward(x)
            skips.append(x)
            x = down(F.avg_pool2d(x, 2))
        x = self.inward[-1](x)
        x = x + self.whole(x.mean(dim=(2, 3)))[:, :, None, None]
        for outward, up in zip(reversed(self.outward), reversed(self.up), strict=True):
            skip = skips.pop()
            x = F.interpolate(up(x), size=skip.shape[2:], mode="bilinear", align_corners=False)
            x = outward(x + skip)
        logits: Tensor = self.head(x)[:, 0]
        return logits


class PromptDecoder(Protocol):
    """What clicking needs of a click decoder: a `ClickDecoder`, or one of another runtime.

    Attributes:
        config: The arguments of the `ClickDecoder`.
        inner_strides: See there.
    """

    config: dict[str, Any]
    inner_strides: tuple[int, ...]

    @property
    def multiple(self) -> int:
        """See `ClickDecoder.multiple`."""
        ...

    def encode(self, image_maps: Tensor) -> Tensor:
        """The image half, see `ClickDecoder.encode`."""
        ...

    def __call__(self, encoded: Tensor, prompt_maps: Tensor) -> Tensor:
        """Logits of "object", see `ClickDecoder.forward`."""
        ...

    def fused(self) -> PromptDecoder:
        """One for inference."""
        ...


class ResidualBlock(nn.Module):
    """A 3 x 3 convolution, normed and rectified, added to its input.

    On one core this takes less time than depthwise blocks of the same quality: fewer operations.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm: nn.Module = nn.BatchNorm2d(channels)
        nn.init.constant_(self.norm.weight, 0.2)  # a block begins close to the identity

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) -> the same shape."""
        mixed: Tensor = x + F.relu(self.norm(self.conv(x)))
        return mixed
