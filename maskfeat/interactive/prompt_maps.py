"""Prompts as maps on the grid of a look: what the click decoder reads beside the image.

Every map is a maximum over the prompts of one sign, so that it is a function of the set of prompts
and a further prompt costs one comparison. Distances are those of cells, of features and of the tree.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from maskfeat.features.reading import Features
from maskfeat.interactive.look import Look
from maskfeat.segment.tree import PartitionTree

BoolArray = npt.NDArray[np.bool_]
FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]

# Nearness in cells: exp(-d^2 / 8), exp(-d / 8), exp(-d / 32), and a disk of the click radius.
_NUM_NEAR = 4
_DEFAULT_RADIUS_PX = 64.0
_LEAST_RADIUS_CELLS = 0.7


@dataclass(frozen=True)
class PromptPoint:
    """A pixel of a prompt.

    Attributes:
        row: Of the image that is worked on.
        column: Likewise.
        is_positive: On the object.
        radius_px: Click radius, pixels, or None where it is not known.
    """

    row: int
    column: int
    is_positive: bool
    radius_px: float | None = None


class TreeReach:
    """What the tree says of prompts, per superpixel; a function of the sets of superpixels.

    Args:
        tree: Merges of the superpixels; altitudes are 1 - p ("one segment").
    """

    CHANNELS = 6

    def __init__(self, tree: PartitionTree) -> None:
        self.tree = tree
        self._log_sizes = np.log2(tree.sizes / tree.sizes[-1]).astype(np.float32) / 8 + 1
        self._probabilities = (1 - tree.altitudes).astype(np.float32)

    def maps(self, inside: Sequence[int], outside: Sequence[int]) -> FloatArray:
        """Six values for each superpixel.

        Args:
            inside: Superpixels of positive prompts.
            outside: Superpixels of negative prompts.

        Returns:
            float32, shape (6, K): for the smallest node that holds the superpixel and a positive
            prompt: probability that it is one segment, its size (log2 of the share of the image,
            over 8, plus 1), and the probability of its part with the prompt; the first two for
            negative prompts; and whether the superpixel lies in the largest node around a positive
            prompt that holds no negative one. Of several prompts the most probable node counts.
        """
        found = np.zeros((self.CHANNELS, self.tree.num_leaves), np.float32)
        for superpixels, start in ((inside, 0), (outside, 3)):
            for superpixel in sorted(set(superpixels)):
                of_one = self._of_one(superpixel)[: 3 if start == 0 else 2]
                closer = of_one[0] > found[start]
                target = found[start : start + len(of_one)]
                target[:, closer] = of_one[:, closer]
        if inside:
            found[5] = self._apart(sorted(set(inside)), sorted(set(outside)))
        return found

    def _of_one(self, superpixel: int) -> FloatArray:
        """The first three values for one prompt, (3, K)."""
        nodes = self.tree.meeting_nodes(superpixel)
        path = self.tree.ancestors(superpixel)
        below = np.zeros(len(self.tree.parents), np.int64)
        below[path[1:]] = path[:-1]
        below[path[0]] = path[0]
        return np.stack(
            [
                self._probabilities[nodes],
                self._log_sizes[nodes],
                self._probabilities[below[nodes]],
            ]
        )

    def _apart(self, inside: Sequence[int], outside: Sequence[int]) -> BoolArray:
        is_excluded = np.zeros(len(self.tree.parents), bool)
        for superpixel in outside:
            is_excluded[self.tree.ancestors(superpixel)] = True
        nodes = []
        for superpixel in inside:
            path = self.tree.ancestors(superpixel)
            free = path[~is_excluded[path]]
            nodes.append(int(free[-1]) if len(free) else superpixel)
        return self.tree.leaves_under(np.array(nodes, np.int64))


class LookMaps:
    """One look at one image: the maps of the image half, and maps of any set of prompts.

    Args:
        look: The window and its grid.
        features: Of the image.
        lab: L*a*b* / 100 of the image, float32, shape (3, H, W), or None: then zeros.
        labels: Superpixel of each pixel, shape (H, W).
        tree: See `TreeReach`.
    """

    def __init__(
        self,
        look: Look,
        features: Features,
        lab: Tensor | None,
        labels: npt.NDArray[np.integer],
        tree: TreeReach,
    ) -> None:
        self.look = look
        self.features = features
        self.tree = tree
        self.superpixels = labels[look.nearest(features.size)].astype(np.int64)
        self.labels = labels
        self.levels = [
            look.sample(level, stride)
            for level, stride in zip(features.pyramid, features.strides, strict=True)
        ]
        color = torch.zeros(3, look.rows, look.columns) if lab is None else look.sample(lab, 1)
        self.levels.append(color)
        self._scales = [features.scale] * len(features.pyramid) + [30.0]
        self._last: dict[bool, tuple[tuple[PromptPoint, ...], Tensor]] = {}
        self._inside = self._is_inside()

    @property
    def image_maps(self) -> Tensor:
        """Features, color and whether a cell lies inside the image, (C + 4, h, w)."""
        return torch.cat([*self.levels, self._inside])

    def prompt_maps(
        self,
        points: Sequence[PromptPoint],
        box_yxyx: Sequence[float] | None = None,
        mask: Tensor | None = None,
        previous: Tensor | None = None,
    ) -> Tensor:
        """Maps of a set of prompts, (num_prompt_channels, h, w).

        Args:
            points: Clicked pixels and those of scribbles.
            box_yxyx: What holds the object, pixels, or None.
            mask: What the object may be, on the grid, in (-1, 1), shape (h, w), or None.
            previous: Logits of a coarser look, on the grid, shape (h, w), or None.
        """
        shape = self.look.rows, self.look.columns
        signs = [tuple(p for p in points if p.is_positive is sign) for sign in (True, False)]
        maps = [self._nearness(sign, own) for sign, own in zip((True, False), signs, strict=True)]
        inside, outside = (
            [int(self.labels[point.row, point.column]) for point in own] for own in signs
        )
        maps.append(torch.from_numpy(self.tree.maps(inside, outside)[:, self.superpixels]))
        others = torch.zeros(5, *shape)
        if box_yxyx is not None:
            others[0] = self._box(box_yxyx)
            others[1] = 1
        if mask is not None:
            others[2] = mask
        if previous is not None:
            others[3] = torch.tanh(previous / 4)
        others[4] = float(np.log2(self.look.cell_px)) / 4
        return torch.cat([*maps, others])

    def _nearness(self, sign: bool, points: tuple[PromptPoint, ...]) -> Tensor:
        """Nearness to the points of one sign, each in (0, 1], 0 without any, (4 + S + 1, h, w)."""
        known, found = self._last.get(sign, ((), None))
        num_known = len(known) if known == points[: len(known)] else 0
        if found is None or num_known == 0:
            num_known = 0
            found = torch.zeros(_NUM_NEAR + len(self.levels), self.look.rows, self.look.columns)
        if points[num_known:]:
            found = found.clone()
        for point in points[num_known:]:
            torch.maximum(found, self._of_one(point), out=found)
        self._last[sign] = points, found
        return found

    def _of_one(self, point: PromptPoint) -> Tensor:
        (y, x), *_ = self.look.cells_of([(point.row, point.column)])
        rows = torch.arange(self.look.rows) - float(y)
        columns = torch.arange(self.look.columns) - float(x)
        squared = rows[:, None].square() + columns[None, :].square()
        distance = squared.sqrt()
        radius = (point.radius_px or _DEFAULT_RADIUS_PX) / self.look.cell_px
        radius = max(radius, _LEAST_RADIUS_CELLS)
        maps = [
            torch.exp(-squared / 8),
            torch.exp(-distance / 8),
            torch.exp(-distance / 32),
            torch.exp(-squared / (2 * radius**2)),
        ]
        place = np.array([[point.row, point.column]])
        own = torch.from_numpy(self.features.at(place)[0])
        start = 0
        for level, scale in zip(self.levels[:-1], self._scales[:-1], strict=True):
            at = own[start : start + level.shape[0]]
            start += level.shape[0]
            maps.append(torch.exp(-scale * (level - at[:, None, None]).square().sum(dim=0)))
        color = self._color_at(point)
        maps.append(
            torch.exp(-self._scales[-1] * (self.levels[-1] - color[:, None, None]).square().sum(0))
        )
        return torch.stack(maps)

    def _color_at(self, point: PromptPoint) -> Tensor:
        """Color in the cell that holds the point, or the nearest one of the grid, (3,)."""
        (y, x), *_ = self.look.cells_of([(point.row, point.column)])
        row = int(np.clip(round(float(y)), 0, self.look.rows - 1))
        column = int(np.clip(round(float(x)), 0, self.look.columns - 1))
        return self.levels[-1][:, row, column]

    def _box(self, box_yxyx: Sequence[float]) -> Tensor:
        rows, columns = self.look.centers()
        top, left, bottom, right = box_yxyx
        in_rows = (rows >= top - 0.5) & (rows < bottom - 0.5)
        in_columns = (columns >= left - 0.5) & (columns < right - 0.5)
        return (in_rows[:, None] & in_columns[None, :]).float()

    def _is_inside(self) -> Tensor:
        height, width = self.features.size
        return self._box((0, 0, height, width)).unsqueeze(0)


def num_prompt_channels(num_levels: int) -> int:
    """Channels of `LookMaps.prompt_maps`, for features of so many levels."""
    return 2 * (_NUM_NEAR + num_levels + 1) + TreeReach.CHANNELS + 5
