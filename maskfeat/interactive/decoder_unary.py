"""The unary term by the click decoder: maps of image, tree and prompts, read in two looks.

A look is a window of the image on a grid of square cells, at most 64 along its longer side
(`features.look`). Every map of prompts is a maximum over the prompts of one label, so maps and
logits are a function of the *set* of prompts. Taken from the field: clicks as distance maps beside
the image (Xu et al., Deep interactive object selection, CVPR 2016, arXiv:1603.04042); disks and a
coarser mask as inputs (RITM, arXiv:2102.06583); a coarse look and a focus crop (FocalClick,
arXiv:2204.02574). New are distances in feature space and in the tree.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import cached_property
from typing import NamedTuple

import higra as hg
import numpy as np
import torch
from torch import Tensor

from maskfeat.arrays import BoolArray, FloatArray, Int32Array, IntArray
from maskfeat.features.look import Look, MapReader, coarse_at, mask_on
from maskfeat.features.reading import Features
from maskfeat.interactive.decoder import PromptDecoder
from maskfeat.interactive.prompts import Prompt, PromptSet, Window, distances_in_radii
from maskfeat.recent import Recent
from maskfeat.segment.tree import PartitionTree

CELLS = 64  # of the longer side of a look
_MARGIN = 0.2  # of the sides of the window around the object, on each side
_LEAST_PX = 48.0  # sides of that window
_KEPT_LOOKS = 16  # encoded windows, 800 kB each
_KEPT_READS = 48  # what was read for sets of prompts, 200 kB each
# Chosen on 107 corrections of 9 objects of train splits (experiments/interactive).
_NEAR_LOGIT, _CHANGED_RADII = 2.0, 2.5
COLOR_SCALE = 30.0  # of squared distances of L*a*b* / 100
_NEARNESS_MAPS = 4  # by distance in the image; one more by each level, and by color
_LEAST_RADIUS_CELLS = 0.7
_MOST_PIXELS = 256  # of all prompts on the object, and of all on the background


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
        self._kept: Recent[tuple[LookMaps, Tensor]] = Recent(_KEPT_LOOKS)
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
        self, encoded: tuple[LookMaps, Tensor], given: PromptSet, previous: Tensor | None = None
    ) -> Tensor:
        """Logits on the grid of a look, (h, w)."""
        maps, of_image = encoded
        logits: Tensor = self._decoder(of_image, maps_of(given, maps, previous).unsqueeze(0))
        return logits[0]

    def _encoded(self, look: Look) -> tuple[LookMaps, Tensor]:
        """The maps of a look, and what the decoder's image half made of them."""
        return self._kept.get(look, lambda: self._encode(look))

    def _encode(self, look: Look) -> tuple[LookMaps, Tensor]:
        maps = self._maps.look(look)
        return maps, self._decoder.encode(maps.image_maps.unsqueeze(0))


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


def look_at(window: Window) -> Look:
    """The look at the window of a correction; cells of one pixel lie on the pixels."""
    rows, columns = window
    height, width = (side.stop - side.start for side in window)
    box = rows.start, columns.start, rows.stop + height % 2, columns.stop + width % 2
    return Look.around(box, CELLS)


def maps_of(given: PromptSet, look: LookMaps, previous: Tensor | None = None) -> Tensor:
    """All that a user gave, as maps on the grid of a look, see `LookMaps.prompt_maps`."""
    start = None if given.mask is None else mask_on(look.look, given.mask)
    return look.prompt_maps(given.prompts, given.box, start, previous)


def num_image_channels(channels: Sequence[int], inner_channels: Sequence[int] = ()) -> int:
    """Channels of `LookMaps.image_maps`, for levels and inner maps of these channels."""
    return sum(channels) + 4 + sum(inner_channels)


def num_prompt_channels(num_levels: int) -> int:
    """Channels of `LookMaps.prompt_maps`, for features of `num_levels` levels."""
    return 2 * (_NEARNESS_MAPS + num_levels + 1) + TreeMaps.CHANNELS + 5


class PromptPixels(NamedTuple):
    """The pixels of all prompts of one label.

    Attributes:
        places_yx: float32, (N, 2).
        radii: Their click radii, pixels; 0 where they are not known; float32, (N,).
        features: Features of all levels, and color, at them, (N, sum of C_l).
    """

    places_yx: Tensor
    radii: Tensor
    features: Tensor


class ImageMaps:
    """The maps of one image, computed once.

    Args:
        features: Of the image.
        colors: L*a*b* / 100, float32, shape (H, W, 3), or None: then zeros.
        labels: Superpixel of each pixel, shape (H, W).
        tree: Merges of the superpixels.
        inner_strides: Strides of the inner maps that the decoder reads.

    Raises:
        ValueError: If the features came without these maps.
    """

    def __init__(
        self,
        features: Features,
        colors: FloatArray | None,
        labels: Int32Array | IntArray,
        tree: PartitionTree,
        inner_strides: Sequence[int] = (),
    ) -> None:
        self.features = features
        self.labels = labels
        self.tree_maps = TreeMaps(tree)
        if colors is None:
            colors = np.zeros((*features.size, 3), np.float32)
        self.colors = torch.from_numpy(np.ascontiguousarray(colors.transpose(2, 0, 1)))
        pairs = [*zip(features.pyramid, features.strides, strict=True), (self.colors, 1)]
        self._readers = [MapReader(level.cpu(), stride) for level, stride in pairs]
        missing = set(inner_strides) - set(features.inner)
        if missing:
            raise ValueError(
                f"the click decoder reads maps inside the network at strides {sorted(missing)}, "
                "which these features came without; make them by "
                f"model.features(rgb, inner_strides={tuple(inner_strides)})"
            )
        self._inner = [MapReader(features.inner[s].cpu(), s) for s in inner_strides]
        self._read: Recent[tuple[PromptPixels, PromptPixels, FloatArray]] = Recent(_KEPT_READS)

    def look(self, look: Look) -> LookMaps:
        """The maps on the grid of a look."""
        levels, inner = (
            [reader.read(look) for reader in readers] for readers in (self._readers, self._inner)
        )
        return LookMaps(self, look, levels, inner)

    def read(self, prompts: Sequence[Prompt]) -> tuple[PromptPixels, PromptPixels, FloatArray]:
        """Object and background prompts and `TreeMaps.maps`; of sets read lately kept."""
        key = tuple((prompt.key, prompt.click_radius) for prompt in prompts)
        return self._read.get(key, lambda: self._read_anew(prompts))

    def _read_anew(
        self, prompts: Sequence[Prompt]
    ) -> tuple[PromptPixels, PromptPixels, FloatArray]:
        own = [
            _pixels_of([prompt for prompt in prompts if prompt.is_object == is_object])
            for is_object in (True, False)
        ]
        superpixels = [np.unique(self.labels[tuple(pixels.T)]) for pixels, _ in own]
        of_tree = self.tree_maps.maps(*(numbers.astype(np.int64) for numbers in superpixels))
        pixels = np.concatenate([pixels for pixels, _ in own])
        colors = self.colors[:, pixels[:, 0], pixels[:, 1]].T
        at = torch.cat([torch.from_numpy(self.features.at(pixels)), colors], dim=1)
        counts = [len(pixels) for pixels, _ in own]
        inside, outside = (
            PromptPixels(torch.from_numpy(places).float(), torch.from_numpy(radii), features)
            for (places, radii), features in zip(own, torch.split(at, counts), strict=True)
        )
        return inside, outside, of_tree


class LookMaps:
    """One look at one image, made by `ImageMaps.look`.

    Args:
        image: The maps of the image.
        look: The window and its grid.
        levels: The levels of the features, then color, on the grid, each (C_l, h, w).
        inner: Maps inside the network, likewise.
    """

    def __init__(
        self, image: ImageMaps, look: Look, levels: Sequence[Tensor], inner: Sequence[Tensor]
    ) -> None:
        self.look = look
        self._image = image
        # 1 for cells in the image, 0 beyond it, (h, w).
        self.inside = look.filled((0, 0, *image.features.size))
        # Features, color, `inside` and inner maps, (num_image_channels, h, w).
        self.image_maps = torch.cat([*levels, self.inside[None], *inner])
        self._superpixels = image.labels[look.nearest(image.features.size)]
        # Channels of each level, and a factor, so that exp(-d2) is near 0 for what differs.
        ends = np.cumsum([len(level) for level in levels]).tolist()
        self._channels = [slice(first, last) for first, last in itertools.pairwise([0, *ends])]
        self._scales = [image.features.scale] * (len(levels) - 1) + [COLOR_SCALE]

    def prompt_maps(
        self,
        prompts: Sequence[Prompt],
        box_yxyx: Sequence[float] | None = None,
        mask: Tensor | None = None,
        previous: Tensor | None = None,
    ) -> Tensor:
        """Maps of a set of prompts.

        Args:
            prompts: Clicks and scribbles, in any order.
            box_yxyx: Holds the whole object, pixels, or None.
            mask: A mask to start from, 1 object and -1 background, on the grid, (h, w), or None.
            previous: Logits of a coarser look at the same prompts, on the grid, (h, w), or None.

        Returns:
            float32, shape (num_prompt_channels, h, w): nearness to object prompts, to background
            prompts, six maps of the tree, box, whether there is a box, mask, previous, cell size.
            Nearness is exp(-r^2 / 8), exp(-r / 8) and exp(-r / 32) of the distance r in cells to
            the nearest prompt; the largest exp(-r^2 / 2 w^2) of all prompts, w being the click
            radius in cells, at least 0.7, which it is where no radius is known; and exp(-scale
            d^2), d being the distance to the nearest pixel of a prompt in the features of each
            level, then in color.
        """
        *pixels, of_tree = self._image.read(prompts)
        maps = [self._nearness(one) for one in pixels]
        maps.append(torch.from_numpy(of_tree[:, self._superpixels]))
        others = torch.zeros(5, self.look.rows, self.look.columns)
        if box_yxyx is not None:
            others[0] = self.look.filled(box_yxyx)
            others[1] = 1
        if mask is not None:
            others[2] = mask
        if previous is not None:
            others[3] = torch.tanh(previous / 4)
        others[4] = float(np.log2(self.look.cell_px)) / 4
        return torch.cat([*maps, others])

    def _nearness(self, pixels: PromptPixels) -> Tensor:
        """Nearness of each cell to the nearest of some pixels, in (0, 1]; 0 without any."""
        shape = (_NEARNESS_MAPS + len(self._scales), self.look.rows, self.look.columns)
        if not len(pixels.places_yx):
            return torch.zeros(shape)
        (rows, columns), cell = self.look.centers, self.look.cell_px
        squared = (
            (rows - pixels.places_yx[:, 0, None]).square()[:, :, None]
            + (columns - pixels.places_yx[:, 1, None]).square()[:, None, :]
        ) / cell**2  # (N, h, w), cells
        widths = (pixels.radii / cell).clamp(min=_LEAST_RADIUS_CELLS)
        in_radii = (squared / (2 * widths.square())[:, None, None]).amin(dim=0)
        squared = squared.amin(dim=0)
        distance = squared.sqrt()
        d2 = [squared / 8, distance / 8, distance / 32, in_radii, *self._feature_d2(pixels)]
        return torch.stack(d2).neg_().exp_()

    def _feature_d2(self, pixels: PromptPixels) -> list[Tensor]:
        """Scaled squared distance of each cell to the nearest pixel, by level, each (h, w)."""
        found, vectors = [], self.image_maps.flatten(1)
        shape = self.look.rows, self.look.columns
        for channels, norms, scale in zip(self._channels, self._norms, self._scales, strict=True):
            at = pixels.features[:, channels]
            own = at.square().sum(dim=1, keepdim=True)
            d2 = torch.addmm(own, at, vectors[channels], alpha=-2).amin(dim=0)
            found.append(d2.add_(norms).clamp_(min=0).mul_(scale).reshape(shape))
        return found

    @cached_property
    def _norms(self) -> list[Tensor]:
        """Squared length of the vector of each cell, by level, each (h * w,)."""
        squares = self.image_maps.flatten(1).square()
        return [squares[channels].sum(dim=0) for channels in self._channels]


def _pixels_of(prompts: Sequence[Prompt]) -> tuple[IntArray, FloatArray]:
    """Pixels of prompts (N, 2) and their click radii (N,), in reading order, each pixel once.

    An infinite radius is one that is not known; it becomes 0, the smallest disk.
    """
    pixels = np.concatenate([np.empty((0, 2), np.int64), *(p.pixels_yx for p in prompts)])
    radii = np.repeat([p.click_radius for p in prompts], [len(p.pixels_yx) for p in prompts])
    radii = np.where(np.isfinite(radii), radii, 0).astype(np.float32)
    order = np.lexsort((-radii, pixels[:, 1], pixels[:, 0]))
    pixels, radii = pixels[order], radii[order]
    is_first = np.ones(len(pixels), bool)
    is_first[1:] = (pixels[1:] != pixels[:-1]).any(axis=1)
    pixels, radii = pixels[is_first], radii[is_first]
    kept = some_of(np.arange(len(pixels)), _MOST_PIXELS)
    return pixels[kept], radii[kept]


def some_of(numbers: IntArray, most: int) -> IntArray:
    """A subset of at most `most` numbers, rising; a function of the set of numbers.

    They are below 2^32, each once, rising, (N,). One number more replaces one at most.
    """
    if len(numbers) <= most:
        return numbers
    # Knuth's multiplicative hash gives an order that is as good as random.
    order = np.argsort(numbers.astype(np.uint64) * np.uint64(2_654_435_761) % np.uint64(2**32))
    return np.sort(numbers[order[:most]])


class TreeMaps:
    """Maps of clicks over the superpixels of an image, read off the binary partition tree.

    For a superpixel and a set of clicks, the *meeting node* is the smallest node of the tree that
    holds the superpixel and a click. As altitudes, 1 - p, rise toward the root, it is also the most
    probable one. One pass over the tree finds it for all superpixels.
    """

    CHANNELS = 6

    def __init__(self, tree: PartitionTree) -> None:
        self._tree = tree
        self._probabilities = (1 - tree.altitudes).astype(np.float32)
        # Between about -0.5 (one superpixel) and 1 (the image).
        self._log_sizes = (np.log2(tree.sizes / tree.sizes[-1]) / 8 + 1).astype(np.float32)

    def maps(self, inside: IntArray, outside: IntArray) -> FloatArray:
        """Six values for each superpixel; a function of the two sets.

        Args:
            inside: Superpixels of object clicks, int64, (N,).
            outside: Superpixels of background clicks, (M,).

        Returns:
            float32, shape (6, K); 0 where there is no such click:
            0, 1: probability and log size of the meeting node with the object clicks;
            2: probability of that child of it that holds the click;
            3, 4: as 0 and 1, for the background clicks;
            5: 1 in the largest nodes around object clicks that hold no background click.
        """
        found = np.zeros((self.CHANNELS, self._tree.num_leaves), np.float32)
        with_inside, with_outside = self._holding(inside), self._holding(outside)
        if len(inside):
            nodes = self._first_ancestor(with_inside)
            found[0] = self._probabilities[nodes]
            found[1] = self._log_sizes[nodes]
            found[2] = self._probabilities[self._clicked_child(nodes, with_inside)]
            found[5] = self._tree.leaves_under(np.flatnonzero(with_inside & ~with_outside))
            found[5, inside] = 1
        if len(outside):
            nodes = self._first_ancestor(with_outside)
            found[3] = self._probabilities[nodes]
            found[4] = self._log_sizes[nodes]
        return found

    def _holding(self, superpixels: Iterable[int]) -> BoolArray:
        """Whether each node holds one of some superpixels, (2 K - 1,)."""
        holds = np.zeros(len(self._tree.parents), bool)
        for superpixel in set(superpixels):
            holds[self._tree.ancestors(superpixel)] = True
        return holds

    def _first_ancestor(self, has_click: BoolArray) -> IntArray:
        """The smallest node with a click above each leaf, (K,); the root must have one."""
        numbers = np.arange(len(has_click), dtype=np.float64)
        inherits = ~has_click
        inherits[-1] = False
        found = hg.propagate_sequential(self._tree.higra_tree, numbers, inherits)
        first: IntArray = found[: self._tree.num_leaves].astype(np.int64)
        return first

    def _clicked_child(self, nodes: IntArray, has_click: BoolArray) -> IntArray:
        """The child with a click of each node, the likelier of two; a leaf is its own child."""
        num_leaves = self._tree.num_leaves
        is_merge = nodes >= num_leaves
        pairs = self._tree.children[np.where(is_merge, nodes - num_leaves, 0)]
        likeliness = np.where(has_click[pairs], self._probabilities[pairs], -1.0)
        chosen = pairs[np.arange(len(pairs)), likeliness.argmax(axis=1)]
        return np.where(is_merge, chosen, nodes)
