"""Masks as runs of pixels: out of label maps, onto coarser grids, and back to COCO counts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from maskfeat.arrays import BoolArray, Int32Array, IntArray
from maskfeat.data.annotations.rle import Runs, write_all_counts

# Starts, stops and annotation of runs, as `maskfeat.data.annotations.rle.parse_counts` gives
# them.
RawRuns = tuple[IntArray, IntArray, Int32Array]


def label_runs(labels: npt.NDArray[np.integer], values: npt.NDArray[np.integer]) -> RawRuns:
    """Read a label map as runs, one annotation for each of some labels.

    Args:
        labels: Any integers, shape (H, W).
        values: The labels wanted, ascending, each once, shape (N,); others are left out.

    Returns:
        Starts and stops of runs of equal labels as flat column-major indices, half open, int64;
        and which of `values` each has, int32; sorted by (value, start).
    """
    flat = labels.T.ravel()
    starts = np.append(0, np.flatnonzero(flat[1:] != flat[:-1]) + 1)
    stops = np.append(starts[1:], flat.size)
    found = flat[starts]
    owner = np.minimum(np.searchsorted(values, found), max(len(values) - 1, 0))
    is_wanted = values[owner] == found if len(values) else np.zeros(len(found), bool)
    order = np.flatnonzero(is_wanted)
    order = order[np.argsort(owner[order], kind="stable")]
    return starts[order].astype(np.int64), stops[order].astype(np.int64), owner[order].astype("i4")


def join_labels(
    maps: Sequence[npt.NDArray[np.integer]], is_zero_void: bool = False
) -> tuple[RawRuns, list[npt.NDArray[np.integer]]]:
    """Read label maps of one image as runs, an annotation for each label of each map.

    Args:
        maps: Any integers, shape (H, W) each.
        is_zero_void: Whether 0 is no label.

    Returns:
        Their runs, map after map, sorted by (annotation, start); and the labels of each map.
    """
    runs, values = list[RawRuns](), list[npt.NDArray[np.integer]]()
    for labels in maps:
        values.append(np.unique(labels[labels != 0] if is_zero_void else labels))
        starts, stops, owner = label_runs(labels, values[-1])
        runs.append((starts, stops, owner + np.int32(sum(map(len, values[:-1])))))
    starts, stops, owner = (np.concatenate(parts) for parts in zip(*runs, strict=True))
    return (starts, stops, owner), values


def mask_runs(mask: BoolArray) -> tuple[IntArray, IntArray]:
    """Starts and stops of the runs of one mask, bool, (H, W), as flat column-major indices."""
    starts, stops, _ = label_runs(mask.astype(np.int8), np.array([1]))
    return starts, stops


def join_runs(masks: list[tuple[IntArray, IntArray]]) -> RawRuns:
    """The runs of many masks as one; annotation n is the n-th of them."""
    nothing = np.zeros(0, np.int64)
    owner = np.repeat(np.arange(len(masks), dtype=np.int32), [len(starts) for starts, _ in masks])
    starts = np.concatenate([nothing, *(starts for starts, _ in masks)])
    stops = np.concatenate([nothing, *(stops for _, stops in masks)])
    return starts, stops, owner


def encode_runs(runs: Runs) -> list[str]:
    """Write masks, one at least, as compressed COCO counts, as pycocotools writes them."""
    owner, num_pixels = runs.mask_of_run, runs.size[0] * runs.size[1]
    # A run at the foot of one column can go on at the head of the next.
    is_joint = (runs.starts[1:] == runs.stops[:-1]) & (owner[1:] == owner[:-1])
    starts, owner = runs.starts[np.append(True, ~is_joint)], owner[np.append(True, ~is_joint)]
    stops = runs.stops[np.append(~is_joint, True)]
    lengths = np.diff(np.stack([starts, stops], 1).ravel(), prepend=0)
    firsts, ends = (np.searchsorted(owner, np.arange(runs.num_masks) + n) for n in (0, 1))
    lengths[2 * firsts] = starts[firsts]  # from the first pixel, not from the mask before
    tails = num_pixels - stops[ends - 1]
    has_tail = tails > 0
    lengths = np.insert(lengths, 2 * ends[has_tail], tails[has_tail])
    counts = write_all_counts(lengths, 2 * (ends - firsts) + has_tail)
    return [text.decode("ascii") for text in counts]


def boxes_xywh(runs: Runs) -> IntArray:
    """Tight boxes [left, top, width, height] of the masks, pixels, int64, shape (M, 4)."""
    if runs.num_masks == 0:
        return np.zeros((0, 4), np.int64)
    height = runs.size[0]
    firsts = np.searchsorted(runs.mask_of_run, np.arange(runs.num_masks))
    column, top = np.divmod(runs.starts, height)
    bottom = runs.stops - column * height
    lefts, tops = (np.minimum.reduceat(values, firsts) for values in (column, top))
    rights, bottoms = (np.maximum.reduceat(values, firsts) for values in (column + 1, bottom))
    return np.stack([lefts, tops, rights - lefts, bottoms - tops], 1)


def middles_yx(runs: Runs) -> IntArray:
    """A pixel of each mask: the middle of its longest run, int64, shape (M, 2)."""
    lengths = runs.stops - runs.starts
    order = np.lexsort((-lengths, runs.mask_of_run))  # the first of the longest
    longest = order[np.searchsorted(runs.mask_of_run, np.arange(runs.num_masks))]
    column, row = np.divmod((runs.starts[longest] + runs.stops[longest] - 1) // 2, runs.size[0])
    return np.stack([row, column], 1)
