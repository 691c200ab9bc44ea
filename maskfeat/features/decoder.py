"""What lies around the backbone: stem, steps of the top-down path, heads for boundaries."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Mapping, Sequence

import torch
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


class BoundarySum(nn.ModuleDict):
    """A 1x1 convolution of each of the decoder's maps of strides up to 4; their sum.

    Args:
        channels: Of the decoder's maps by stride.
    """

    def __init__(self, channels: Mapping[int, int]) -> None:
        super().__init__({str(s): nn.Conv2d(c, 2, 1) for s, c in channels.items() if s <= 4})

    def forward(
        self, decoded: Mapping[int, Tensor], tapped: Mapping[int, Tensor], size: Sequence[int]
    ) -> Tensor:
        """Logits, see `BoundaryDecoder.forward`."""
        maps = [_enlarged(head(decoded[int(name)]), size) for name, head in self.items()]
        return functools.reduce(torch.add, maps)


class BoundaryDecoder(nn.Module):
    """A small top-down path of its own, so that what lies far around decides which edges count.

    Side outputs of a network at all strides are what contour networks fuse (Xie, Tu, "Holistically-
    nested edge detection", arXiv:1504.06375; Liu et al., "Richer convolutional features for edge
    detection", arXiv:1612.02103). Here each stride adds the decoder's map and the backbone's to
    what comes from above before a 3x3 convolution, as in the decoder of the features, and only
    the finest gives logits: sides enlarged to the image would cost more than the path. The last
    stride is 2. It takes the decoder's map of stride 1 and gives logits for each pixel all the
    same: the 2 x 2 pixels of a place are channels there (Shi et al., "Real-time single image and
    video super-resolution ...", arXiv:1609.05158), as convolutions at stride 1 would cost most.

    Args:
        decoder_channels: Of the decoder's maps by stride.
        backbone_channels: Of the backbone's maps by stride; of other strides than those of the
            decoder none is read.
        width: Channels at strides of 4 and coarser; half of it at stride 2.
    """

    def __init__(
        self,
        decoder_channels: Mapping[int, int],
        backbone_channels: Mapping[int, int],
        width: int,
    ) -> None:
        super().__init__()
        self.strides = sorted((s for s in decoder_channels if s > 1), reverse=True)
        widths = {s: width if s >= 4 else width // 2 for s in self.strides}
        self.skips = nn.ModuleDict(
            {str(s): nn.Conv2d(decoder_channels[s], widths[s], 1) for s in self.strides}
        )
        # The backbone's maps have channels of all sizes: some end in no norm.
        self.taps = nn.ModuleDict(
            {
                str(s): nn.Sequential(
                    nn.BatchNorm2d(backbone_channels[s]),
                    nn.Conv2d(backbone_channels[s], widths[s], 1, bias=False),
                )
                for s in self.strides
                if s in backbone_channels
            }
        )
        self.above = nn.ModuleDict(
            {
                str(fine): nn.Conv2d(widths[coarse], widths[fine], 1, bias=False)
                for coarse, fine in itertools.pairwise(self.strides)
            }
        )
        self.mix = nn.ModuleDict(
            {str(s): conv_norm_act(widths[s], widths[s]) for s in self.strides}
        )
        finest = self.strides[-1]
        self.shuffle = finest if 1 in decoder_channels else 1  # pixels of a side that are channels
        self.finest_skip = (
            nn.Conv2d(decoder_channels[1] * self.shuffle**2, widths[finest], 1, bias=False)
            if 1 in decoder_channels
            else None
        )
        self.head = nn.Conv2d(widths[finest], 2 * self.shuffle**2, 1)

    def forward(
        self, decoded: Mapping[int, Tensor], tapped: Mapping[int, Tensor], size: Sequence[int]
    ) -> Tensor:
        """Logits of "a boundary runs right of (channel 0), below (channel 1) this pixel".

        Args:
            decoded: Maps of the decoder of the features by stride, (B, C, h, w).
            tapped: Maps of the backbone, likewise.
            size: Height and width of the padded images, pixels.

        Returns:
            Shape (B, 2, H, W).
        """
        above: Tensor | None = None
        for stride in self.strides:
            name = str(stride)
            mixed = self.skips[name](decoded[stride])
            if name in self.taps:
                mixed = mixed + self.taps[name](tapped[stride])
            if self.finest_skip is not None and stride == self.strides[-1]:
                mixed = mixed + self.finest_skip(F.pixel_unshuffle(decoded[1], self.shuffle))
            if above is not None:
                mixed = mixed + _enlarged(self.above[name](above), mixed.shape[-2:])
            above = self.mix[name](mixed)
        return _enlarged(F.pixel_shuffle(self.head(above), self.shuffle), size)


def _enlarged(maps: Tensor, size: Sequence[int]) -> Tensor:
    if tuple(maps.shape[-2:]) == tuple(size):
        return maps
    return F.interpolate(maps, list(size), mode="bilinear", align_corners=False)
