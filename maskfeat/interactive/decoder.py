"""The click decoder: feature maps, the tree and all prompts of an image -> logits of "object".

A look is a window of the image on a grid of square cells, 64 along its longer side
(`prompt_maps.Look`). The image half is computed once for each look, the prompt half for each set of
prompts. Prompts are maps on the grid, each a maximum over the prompts of one label, so the answer
is a function of the set of prompts. Taken from the field: clicks as maps beside the image (Xu et
al., CVPR 2016, arXiv:1603.04042), disks and a coarser mask as inputs (RITM, arXiv:2102.06583), a
coarse look and a focus crop (FocalClick, arXiv:2204.02574), prompts that meet encoded image
features late (SimpleClick, arXiv:2210.11006; Segment Anything, arXiv:2304.02643).
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from maskfeat.arrays import FloatArray
from maskfeat.interactive.prompt_maps import ImageMaps, Look, LookMaps, MapReader, mask_on
from maskfeat.interactive.prompts import Prompt, PromptSet, Window, distances_in_radii
from maskfeat.recent import Recent

CELLS = 64  # of the longer side of a look
_MARGIN = 0.2  # of the sides of the window around the object, on each side
_LEAST_PX = 48.0  # sides of that window
_KEPT_LOOKS = 16  # encoded windows, 800 kB each
# Chosen on 107 corrections of 9 objects of train splits (experiments/interactive).
_NEAR_LOGIT, _CHANGED_RADII = 2.0, 2.5
Encoded = tuple[LookMaps, Tensor]  # maps on a grid, and what the image half made of them


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
    """What clicking needs of a click decoder: a `ClickDecoder`, or one of another runtime."""

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


class DecodedImage:
    """The unary term by a click decoder in evaluation mode: a logit of "object" for each pixel.

    All prompts are read in two looks, at the whole image first, then at a window around object and
    prompts; a prompt that corrects a mask in one look, at the window around it. What does not
    depend on prompts is computed once: the maps of the image, and the decoder's image half for each
    window that came up. The result is a function of the set of prompts alone.
    """

    def __init__(self, decoder: PromptDecoder, maps: ImageMaps) -> None:
        self._decoder = decoder
        self._maps = maps
        self._kept: Recent[Encoded] = Recent(_KEPT_LOOKS)
        whole_image = Look.around((0, 0, *maps.features.size), CELLS, decoder.multiple)
        with torch.inference_mode():
            self._first = self._encode(whole_image)

    @torch.inference_mode()
    def whole(self, given: PromptSet) -> FloatArray:
        """See `image.Unary`."""
        size, first = self._maps.features.size, self._first[0].look
        coarse = self._decoded(self._first, given)
        box = object_window(first, coarse, given, size)
        window = Look.around(box, CELLS, self._decoder.multiple)
        previous = coarse_at(first, coarse, window)
        fine = self._decoded(self._encoded(window), given, previous)
        beyond = first.at_pixels(coarse, size, torch.zeros(size))
        logits: FloatArray = window.at_pixels(fine, size, beyond).numpy()
        return logits

    @torch.inference_mode()
    def around(self, prompt: Prompt, given: PromptSet, window: Window) -> FloatArray:
        """See `image.Unary`; at full resolution for a window of up to 64 pixels.

        Added is a logit of the change by distance, so that changes stay near the prompt: 2 at the
        prompt, 0 at 2.5 click radii.
        """
        look, (rows, columns) = look_at(window), window
        logits = self._decoded(self._encoded(look), given)
        size = rows.stop - rows.start, columns.stop - columns.start
        own = replace(look, top=look.top - rows.start, left=look.left - columns.start)
        found: FloatArray = own.at_pixels(logits, size, torch.zeros(size)).numpy()
        radii = distances_in_radii(prompt.pixels_yx, prompt.click_radius, window)
        near = _NEAR_LOGIT * (1 - radii / _CHANGED_RADII)
        return found + (near if prompt.is_object else -near)

    def _decoded(
        self, encoded: Encoded, given: PromptSet, previous: Tensor | None = None
    ) -> Tensor:
        """Logits on the grid of a look, (h, w)."""
        maps, of_image = encoded
        logits: Tensor = self._decoder(of_image, maps_of(given, maps, previous).unsqueeze(0))
        return logits[0]

    def _encoded(self, look: Look) -> Encoded:
        return self._kept.get(look, lambda: self._encode(look))

    def _encode(self, look: Look) -> Encoded:
        maps = self._maps.look(look)
        return maps, self._decoder.encode(maps.image_maps.unsqueeze(0))


def maps_of(given: PromptSet, look: LookMaps, previous: Tensor | None = None) -> Tensor:
    """All that a user gave, as maps on the grid of a look, see `LookMaps.prompt_maps`."""
    start = None if given.mask is None else mask_on(look.look, given.mask)
    return look.prompt_maps(given.prompts, given.box, start, previous)


def look_at(window: Window) -> Look:
    """The look at the window of a correction; cells of one pixel lie on the pixels."""
    rows, columns = window
    height, width = (side.stop - side.start for side in window)
    box = rows.start, columns.start, rows.stop + height % 2, columns.stop + width % 2
    return Look.around(box, CELLS)


def object_window(
    whole: Look, coarse: Tensor, given: PromptSet, size: tuple[int, ...]
) -> tuple[float, float, float, float]:
    """The window of the second look: object, object prompts and box, with a margin.

    Args:
        whole: The first look.
        coarse: Logits on its grid, (h, w); the object is where they are above 0.
        given: All prompts.
        size: Height and width of the image, pixels.

    Returns:
        Top, left, bottom, right, pixels; may reach beyond the image.
    """
    pixels = [p.pixels_yx for p in given.prompts if p.is_object]
    boxes = [(*p.min(axis=0), *(p.max(axis=0) + 1)) for p in pixels]
    boxes += [] if given.box is None else [given.box]
    cells = np.argwhere(coarse.numpy() > 0)
    if len(cells):
        first, last = np.quantile(cells, [0.005, 0.995], axis=0)
        start = np.array([whole.top, whole.left])
        corners = np.array([first, last + 1]) * whole.cell_px + start
        boxes.append(tuple(corners.ravel()))
    if not boxes:
        return (0, 0, size[0], size[1])
    sides = np.array(boxes, float)
    low, high = sides[:, :2].min(axis=0), sides[:, 2:].max(axis=0)
    length = np.maximum(high - low, (high - low).max() / 2)
    length = np.maximum(length * (1 + 2 * _MARGIN), _LEAST_PX)
    # Rounded, so that the next click on the same object mostly has the same window.
    step = 2 ** np.round(np.log2(length.max() / 16))
    low, high = (
        np.round(side / step) * step
        for side in ((low + high - length) / 2, (low + high + length) / 2)
    )
    return (*low, *high)


def coarse_at(whole: Look, coarse: Tensor, window: Look) -> Tensor:
    """Values of one grid on the grid of another look, bilinearly, (h, w) -> (h', w')."""
    return MapReader(coarse.unsqueeze(0), whole.cell_px).read(
        Look(
            window.top - whole.top,
            window.left - whole.left,
            window.cell_px,
            window.rows,
            window.columns,
        )
    )[0]
