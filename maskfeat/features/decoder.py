"""What lies around the backbone: the stem before it, the steps of the top-down path after it."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn


class Stem(nn.Module):
    """Maps at strides 1 and 2, where backbones have none.

    Args:
        strides: Which of 1 and 2.
        width: See `width_at`.
    """

    def __init__(self, strides: Sequence[int], width: int) -> None:
        super().__init__()
        self.channels = {stride: width_at(stride, width) for stride in strides}
        blocks, channels, reached = {}, 3, 1
        for stride in sorted(strides):
            blocks[str(stride)] = conv_norm_act(
                channels, self.channels[stride], step=stride // reached
            )
            channels, reached = self.channels[stride], stride
        self.blocks = nn.ModuleDict(blocks)

    def forward(self, images: Tensor) -> dict[int, Tensor]:
        """Maps by stride, (B, C, H / stride, W / stride), of images (B, 3, H, W)."""
        maps = {}
        for stride, block in self.blocks.items():
            images = maps[int(stride)] = block(images)
        return maps


class DecoderStep(nn.Module):
    """One step of the top-down path: project the skip, add what comes from above, mix.

    Args:
        skip_channels: Of the map at this stride.
        above_channels: Of the step before, which is coarser; 0 for the first.
        channels: Of the result.
    """

    def __init__(self, skip_channels: int, above_channels: int, channels: int) -> None:
        super().__init__()
        self.skip = nn.Conv2d(skip_channels, channels, kernel_size=1)
        # Projected before it is enlarged: a 1x1 convolution costs a quarter of it there.
        self.above = (
            nn.Conv2d(above_channels, channels, kernel_size=1, bias=False)
            if above_channels
            else None
        )
        self.mix = conv_norm_act(channels, channels)

    def forward(self, skip: Tensor, above: Tensor | None) -> Tensor:
        """The refined map, (B, channels, h, w), of `skip` (B, skip_channels, h, w)."""
        mixed: Tensor = self.skip(skip)
        if self.above is not None and above is not None:
            mixed = mixed + F.interpolate(
                self.above(above), size=skip.shape[-2:], mode="bilinear", align_corners=False
            )
        refined: Tensor = self.mix(mixed)
        return refined


def conv_norm_act(channels_in: int, channels_out: int, step: int = 1) -> nn.Sequential:
    """A 3x3 convolution of stride `step`, batch norm and hard swish."""
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_out, 3, stride=step, padding=1, bias=False),
        nn.BatchNorm2d(channels_out),
        nn.Hardswish(inplace=True),
    )


def width_at(stride: int, width: int) -> int:
    """Channels at a stride: `width` at 4 and coarser, 3/8 of it at 2, 1/8 at 1, at least 8."""
    shares = {1: 1, 2: 3}  # eighths
    return max(8, width * shares.get(stride, 8) // 8)
