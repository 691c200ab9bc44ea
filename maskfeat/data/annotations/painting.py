"""Masks as arrays, label maps as runs, both as COCO counts; and masks on a coarser grid."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from maskfeat.arrays import BoolArray, Int32Array, IntArray
from maskfeat.data.annotations.rle import Counts, Runs, parse_counts, write_all_counts, write_counts

# Starts, stops and annotation of runs, as `maskfeat.data.annotations.rle.parse_counts` gives
# them.
RawRuns = tuple[IntArray, IntArray, Int32Array]


def decode(runs: Runs) -> BoolArray:
    """Decode the masks (connected components), bool, shape (M, H, W)."""
    return paint(runs.starts, runs.stops, runs.mask_of_run, runs.num_masks, runs.size)


def decode_annotations(counts: Sequence[Counts], size: tuple[int, int]) -> BoolArray:
    """Decode N annotations as they are, not parted into components, bool, shape (N, H, W).

    Raises:
        ValueError: As `parse_counts`.
    """
    starts, stops, owner = parse_counts(counts, size)
    return paint(starts, stops, owner, len(counts), size)


def encode(mask: BoolArray) -> str:
    """Write a mask, bool, (H, W), not empty, as compressed COCO counts, as pycocotools writes them.

    Raises:
        ValueError: If `mask` has no two dimensions or no pixels.
    """
    if mask.ndim != 2 or mask.size == 0:
        raise ValueError(f"mask must have shape (H, W) and hold pixels, got {mask.shape}")
    flat = np.asarray(mask, bool).T.ravel()
    edges = np.flatnonzero(np.diff(flat, prepend=False))
    lengths = np.diff(edges, prepend=0, append=flat.size)
    return write_counts(lengths).decode("ascii")


def paint(
    starts: IntArray,
    stops: IntArray,
    owner: Int32Array,
    num: int,
    size: tuple[int, int],
) -> BoolArray:
    """Decode runs.

    Args:
        starts: First pixel of each run as flat column-major index, int64, shape (R,).
        stops: One beyond its last pixel.
        owner: The mask of each, 0..num-1, sorted by (owner, start).
        num: Number of masks N; those without runs are empty.
        size: Height and width, pixels.

    Returns:
        bool, shape (N, H, W).
    """
    height, width = size
    masks = np.zeros((num, height, width), bool)
    bounds = np.searchsorted(owner, np.arange(num + 1))
    for index in range(num):
        mine = slice(bounds[index], bounds[index + 1])
        ends = np.stack([starts[mine], stops[mine]], 1).ravel()
        lengths = np.diff(ends, prepend=0, append=height * width)
        flat = np.repeat(np.arange(len(lengths)) % 2 == 1, lengths)
        masks[index] = flat.reshape(width, height).T
    return masks


def reduced_size(size: tuple[int, int], short_side: int) -> tuple[int, int]:
    """Height and width of an image of `size` brought down to a short side; never enlarged."""
    scale = min(1.0, short_side / min(size))
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def reduce_runs(runs: Runs, size: tuple[int, int]) -> tuple[IntArray, IntArray, Int32Array]:
    """Bring masks to a coarser grid of `size`: a new pixel belongs to what holds its center.

    So masks that nest still nest, and masks that part the image still part it, which would not be
    so if each were smoothed by itself. No mask is decoded.

    Returns:
        The runs on the new grid, the third being the mask of `runs`. Masks may lose all their
        pixels, or fall apart.
    """
    old_height, old_width = runs.size
    height, width = size
    # Which old pixel of a line holds the center of each new one in its place.
    rows, columns = (
        ((np.arange(new) + 0.5) * (old / new)).astype(np.int64)
        for old, new in ((old_height, height), (old_width, width))
    )
    new_column = np.full(old_width, -1, np.int64)
    new_column[columns] = np.arange(width)
    target = new_column[runs.starts // old_height]
    kept = np.flatnonzero(target >= 0)
    base = runs.starts[kept] // old_height * old_height
    first = np.searchsorted(rows, runs.starts[kept] - base)
    last = np.searchsorted(rows, runs.stops[kept] - base)
    is_left = last > first
    shift = (target[kept] * height)[is_left]
    return first[is_left] + shift, last[is_left] + shift, runs.mask_of_run[kept][is_left]


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

    Returns:
        Their runs, map after map, sorted by (annotation, start); and the labels of each map, but
        for 0 if that is void.
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
