"""A cut through a hierarchy becomes nested masks in the layout of SA-1B."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from typing import Any

import higra as hg
import numpy as np
import numpy.typing as npt
from scipy import ndimage

from maskfeat.arrays import Float64Array, IntArray
from maskfeat.data.annotations import rle
from maskfeat.data.annotations.painting import label_runs
from maskfeat.data.annotations.rle import write_counts
from maskfeat.formats.sa1b import annotation, depth_inside
from maskfeat.segment.hierarchy import Hierarchy
from maskfeat.segment.inputs import nearest_cells

LabelMap = npt.NDArray[np.integer[Any]]
_STRIP_PX = 512
_MOST_CELLS = 8_000_000  # of a label map in which depths are measured


@dataclass(frozen=True)
class _Region:
    """One mask.

    Attributes:
        area_px: Its pixels.
        box_yxyx: Top, left, bottom, right, pixels, the last two exclusive.
        point_yx: A pixel well inside.
        depth: How far from the mask's border it lies at least, in pixels of the hierarchy.
        ends: Where its runs begin and where they end, as flat column-major indices, sorted.
    """

    area_px: int
    box_yxyx: tuple[int, int, int, int]
    point_yx: tuple[int, int]
    depth: float
    ends: IntArray


def annotate_cut(
    hierarchy: Hierarchy, labels: LabelMap, size: tuple[int, int]
) -> list[dict[str, Any]]:
    """Describe the segments of a cut and the merges above it as annotations in SA-1B's layout.

    Args:
        hierarchy: Of an image or of a smaller one made from it, h x w pixels.
        labels: A cut of it, shape (h, w), see `Hierarchy.cut`.
        size: Height and width of the image, pixels, not below those of the hierarchy. Masks are
            enlarged to it as `nearest_cells` says.

    Returns:
        First the segments by rising number, then the merges from first to last, the root
        left out: K + K - 2 annotations for K > 1 segments. `predicted_iou` is the probability
        that the mask is one segment; `stability_score` is by how much that exceeds the
        probability of what it is merged into, the share of all granularities in (0, 1) at
        which `cut` has this mask as a segment. Boxes are tight, [left, top, width, height]. The
        point is the pixel furthest from the mask's border; of a merge, that of the deeper part.
        Where all masks together would have more runs than can be read back (`rle.MAX_RUNS`), the
        last merges are left out, with a warning in the log.
    """
    nodes = _nodes_of_segments(hierarchy, labels)
    is_above = np.zeros(len(hierarchy.parents), bool)
    parents = hierarchy.parents[nodes]
    while not is_above[parents].all():
        is_above[parents] = True
        parents = np.unique(hierarchy.parents[parents])
    merges = np.flatnonzero(is_above[:-1])  # without the root
    probabilities = hierarchy.probabilities
    outer = probabilities[hierarchy.parents]
    outer[-1] = 0  # the root is never merged
    found: list[dict[str, Any]] = []
    num_runs = 0
    regions = dict(zip(nodes.tolist(), _segment_regions(labels, size), strict=True))
    for node in [*nodes.tolist(), *merges.tolist()]:
        if node not in regions:  # a part is merged once: then it is needed no more
            first, second = hierarchy.tree.children[node - hierarchy.tree.num_leaves].tolist()
            regions[node] = _joined(regions.pop(first), regions.pop(second))
        region = regions[node]
        starts, stops = region.ends.reshape(-1, 2).T  # as they are read back, in columns
        num_runs += int(((stops - 1) // size[0] - starts // size[0] + 1).sum())
        if num_runs > rle.MAX_RUNS:
            num_all = len(nodes) + len(merges)
            logging.getLogger("maskfeat").warning(
                "the %d largest of %d masks are left out: with them the file would hold more runs "
                "than it may have to be read; a lower granularity gives fewer masks",
                *(num_all - len(found), num_all),
            )
            break
        ends = region.ends[region.ends < size[0] * size[1]]  # counts may not end with an empty run
        lengths = np.diff(ends, prepend=0, append=size[0] * size[1])
        found.append(
            annotation(
                number=len(found) + 1,
                counts=write_counts(lengths).decode("ascii"),
                size=size,
                area_px=region.area_px,
                box_yxyx=region.box_yxyx,
                point_yx=region.point_yx,
                predicted_iou=float(probabilities[node]),
                stability_score=float(np.clip(probabilities[node] - outer[node], 0, 1)),
            )
        )
    return found


def _nodes_of_segments(hierarchy: Hierarchy, labels: LabelMap) -> IntArray:
    """The node of each segment: the largest whose superpixels all lie in that segment, (K,)."""
    tree = hierarchy.tree
    segments = np.empty(tree.num_leaves)
    segments[hierarchy.superpixel_labels.ravel()] = labels.ravel()
    least = hg.accumulate_sequential(tree.higra_tree, segments, hg.Accumulators.min)
    is_inside = least == hg.accumulate_sequential(tree.higra_tree, segments, hg.Accumulators.max)
    is_top = is_inside & ~is_inside[tree.parents]
    is_top[-1] = is_inside[-1]
    nodes = np.flatnonzero(is_top)
    ordered: IntArray = nodes[np.argsort(least[nodes])]
    return ordered


def _segment_regions(labels: LabelMap, size: tuple[int, int]) -> list[_Region]:
    """The segments of a label map, (h, w), enlarged."""
    height, width = size
    rows, columns = nearest_cells(labels.shape[0], height), nearest_cells(labels.shape[1], width)
    num_segments = int(labels.max()) + 1
    areas = np.zeros(num_segments)
    heights, widths = np.bincount(rows), np.bincount(columns)  # of the cells
    for top in range(0, len(labels), _STRIP_PX):
        pixels = np.outer(heights[top : top + _STRIP_PX], widths)
        strip = labels[top : top + _STRIP_PX]
        areas += np.bincount(strip.ravel(), pixels.ravel(), num_segments)
    deepest, depth = _deepest(labels, num_segments)
    # One pass over the image for the runs of all segments.
    small = labels.astype(np.min_scalar_type(num_segments - 1)).T
    numbers = np.arange(num_segments)
    starts, stops, owner = label_runs(small[np.ix_(columns, rows)].T, numbers)
    parts = np.split(np.stack([starts, stops], axis=1), np.searchsorted(owner, numbers[1:]))
    regions = []
    for number, (down, right) in enumerate(ndimage.find_objects(labels.astype(np.int32) + 1)):
        top, bottom = np.searchsorted(rows, [down.start, down.stop]).tolist()
        left, end = np.searchsorted(columns, [right.start, right.stop]).tolist()
        y, x = divmod(int(deepest[number]), labels.shape[1])
        # The pixel in the middle of the cell.
        point = (
            int((y + 0.5) * (height / labels.shape[0])),
            int((x + 0.5) * (width / labels.shape[1])),
        )
        regions.append(
            _Region(
                area_px=int(areas[number]),
                box_yxyx=(top, left, bottom, end),
                point_yx=point,
                depth=float(depth[number]),
                ends=parts[number].ravel(),
            )
        )
    return regions


def _deepest(labels: LabelMap, num_segments: int) -> tuple[IntArray, Float64Array]:
    """The cell of each segment that lies furthest inside, flat (K,), and how far.

    Of a large map only every n-th row and column are looked at, and of what is too thin for these
    the last cell.
    """
    step = math.ceil(math.sqrt(labels.size / _MOST_CELLS))
    sampled = labels[::step, ::step]
    deepest, depth = np.zeros(num_segments, np.int64), np.zeros(num_segments)
    if step > 1:
        for row, line in enumerate(labels):
            deepest[line] = np.arange(row * labels.shape[1], (row + 1) * labels.shape[1])
    inside = depth_inside(sampled).ravel()
    order = np.argsort(inside)
    places = sampled.ravel()[order]
    y, x = np.divmod(order, sampled.shape[1])
    deepest[places] = y * step * labels.shape[1] + x * step  # the deepest comes last, and remains
    depth[places] = inside[order] * step
    return deepest, depth


def _joined(first: _Region, second: _Region) -> _Region:
    """The union of two regions that do not overlap."""
    ends = np.sort(np.concatenate([first.ends, second.ends]), kind="stable")
    # Where a run of one ends and a run of the other begins, the union goes on.
    is_double = ends[1:] == ends[:-1]
    is_kept = ~(np.append(is_double, False) | np.append(False, is_double))
    deeper = max(first, second, key=lambda region: region.depth)
    a, b = first.box_yxyx, second.box_yxyx
    box = (min(a[0], b[0]), min(a[1], b[1]), max(a[2], b[2]), max(a[3], b[3]))
    area_px = first.area_px + second.area_px
    return _Region(area_px, box, deeper.point_yx, deeper.depth, ends[is_kept])
