"""COCO run-length masks, read as runs: parts, membership of points, borders; no mask is decoded.

A mask of H x W pixels is written column by column: pixel (y, x) has the flat index y + x * H. Its
counts are the lengths of alternating runs of background and mask, background first. The compressed
form (COCO API, `maskApi.c`, https://github.com/cocodataset/cocoapi) writes each length from the
fourth on as the difference to the length two before, in groups of five bits, lowest first, one
printable character each (48 + five bits + 32 if more follow), the highest bit being the sign.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from maskfeat.arrays import BoolArray, Int32Array, IntArray
from maskfeat.data.annotations.limits import MAX_PIXELS, Limits

Counts = str | bytes | Sequence[int]

MAX_RUNS = Limits.runs  # what is read back by default
_TOO_MANY = "masks must have at most {} runs in all (limits.runs), got more"
_MAX_CHARS = 7  # of one number: 35 bits with sign, more than any pixel index needs


@dataclass(frozen=True, eq=False)
class Runs:
    """All masks of one image as runs of pixels; each connected component is a mask.

    Attributes:
        size: Height and width of the image, pixels.
        starts: First pixel of each run as flat column-major index y + x * H, int64, shape (R,),
            sorted by (mask, start). No run leaves its column.
        stops: One beyond the last pixel of each run, int64, shape (R,).
        mask_of_run: The mask of each run, 0..num_masks-1, int32, shape (R,).
        num_masks: Number of masks M.
        areas: Pixels of each mask, int64, shape (M,).
        annotation: Which annotation each mask is a component of, int32, shape (M,), ascending.
    """

    size: tuple[int, int]
    starts: IntArray
    stops: IntArray
    mask_of_run: Int32Array
    num_masks: int
    areas: IntArray
    annotation: Int32Array


def runs_from_counts(
    counts: Sequence[Counts],
    size: tuple[int, int],
    min_area_px: int = 2,
    max_runs: int = Limits.runs,
) -> Runs:
    """Read the counts of all annotations of an image and part them into connected components.

    Pixels are connected through their four sides, as in `skimage.measure.label(connectivity=1)`.
    Components are numbered by annotation, then by their first pixel in column-major order; there
    may be none. For arguments and errors see `parse_counts` and `part_runs`.
    """
    starts, stops, owner = parse_counts(counts, size, max_runs)
    return part_runs(starts, stops, owner, size, min_area_px, max_runs)


def parse_counts(
    counts: Sequence[Counts], size: tuple[int, int], max_runs: int = Limits.runs
) -> tuple[IntArray, IntArray, Int32Array]:
    """Read the counts of many masks at once.

    Args:
        counts: COCO counts of each of N annotations, compressed (str or bytes) or as a list.
        size: Height and width of the image, pixels.
        max_runs: Most runs of all masks together; the runs of background are bounded likewise.

    Returns:
        Starts and stops of the runs of mask pixels as flat column-major indices, half open,
        int64, and the annotation 0..N-1 of each run, int32; sorted by (annotation, start). Runs
        are not empty, do not touch each other, and may go on from one column to the next.

    Raises:
        ValueError: If a character is foreign, a number incomplete or too long, a length
            negative, if the lengths of a mask do not sum to H * W, or for too many runs.
    """
    height, width = size
    if height < 1 or width < 1 or height * width > MAX_PIXELS:
        raise ValueError(
            f"size must be a height and a width above 0 with at most {MAX_PIXELS} pixels "
            f"in all, got {height} x {width}"
        )
    most = 2 * (max_runs + len(counts))  # mask and background take turns
    if sum(len(one) for one in counts if isinstance(one, list)) > most:
        raise ValueError(_TOO_MANY.format(max_runs))
    texts = [_as_bytes(c, i) for i, c in enumerate(counts)]
    numbers, num_counts = _read_numbers(texts, max_runs, most)
    owner = np.repeat(np.arange(len(counts), dtype=np.int32), num_counts)
    rank = _ranges(np.zeros(len(counts), np.int64), num_counts)
    lengths = _undo_differences(numbers, rank)
    is_wrong = (lengths < 0) | (lengths > height * width)
    if is_wrong.any():
        first = int(np.argmax(is_wrong))
        raise ValueError(
            f"each count must lie in 0..{height * width} (pixels of {height} x {width}), "
            f"got {lengths[first]} in annotation {owner[first]}"
        )
    totals = np.bincount(owner, weights=lengths, minlength=len(counts)).astype(np.int64)
    if (totals != height * width).any():
        first = int(np.argmax(totals != height * width))
        raise ValueError(
            f"counts must sum to {height * width} (pixels of {height} x {width}), "
            f"got {totals[first]} in annotation {first}"
        )
    # Every mask before this one sums to H * W, so one running sum serves them all.
    stops = np.cumsum(lengths) - owner.astype(np.int64) * (height * width)
    is_run = (rank % 2 == 1) & (lengths > 0)
    starts, stops, owner = (stops - lengths)[is_run], stops[is_run], owner[is_run]
    # Two runs with an empty one between them are one.
    is_joint = (starts[1:] == stops[:-1]) & (owner[1:] == owner[:-1])
    is_first, is_last = np.append(True, ~is_joint), np.append(~is_joint, True)
    if len(starts) == 0:
        return starts, stops, owner
    return starts[is_first], stops[is_last], owner[is_first]


def part_runs(
    starts: IntArray,
    stops: IntArray,
    owner: Int32Array,
    size: tuple[int, int],
    min_area_px: int = 2,
    max_runs: int = Limits.runs,
) -> Runs:
    """Part runs of pixels into connected components, as `runs_from_counts` does.

    Args:
        starts: First pixel of each run as flat column-major index, int64, shape (R,).
        stops: One beyond its last pixel; a run may go on from one column to the next.
        owner: The annotation of each run, int32, shape (R,). Sorted by (owner, start); runs of
            one owner do not overlap.
        size: Height and width of the image, pixels.
        min_area_px: Components of fewer pixels are left out.
        max_runs: Most runs of all masks, counted within columns. An image of SA-1B has about
            20,000. A mask of the whole image is a few characters in the file and one run for each
            column here, so a small file could fill memory.

    Returns:
        The components as runs, numbered by annotation, then by first pixel; there may be none.

    Raises:
        ValueError: If the masks have more runs than that.
    """
    num_runs = int(((stops - 1) // size[0] - starts // size[0] + 1).sum())
    if num_runs > max_runs:
        raise ValueError(
            f"masks must have at most {max_runs} runs in columns (limits.runs), got {num_runs}"
        )
    height, first, last = size[0], starts // size[0], (stops - 1) // size[0]
    columns = _ranges(first, last + 1)  # each run becomes one for each of its columns
    source = np.repeat(np.arange(len(starts)), last - first + 1)
    starts = np.maximum(starts[source], columns * height)
    stops = np.minimum(stops[source], (columns + 1) * height)
    owner = owner[source]
    label, num = _components(starts, stops, owner, size)
    areas = np.bincount(label, weights=stops - starts, minlength=num).astype(np.int64)
    annotation = np.zeros(num, np.int32)
    annotation[label] = owner
    is_kept = areas >= min_area_px
    order = np.argsort(label, kind="stable")
    order = order[is_kept[label[order]]]
    new_number = np.cumsum(is_kept, dtype=np.int32) - 1
    return Runs(
        size=(size[0], size[1]),
        starts=starts[order],
        stops=stops[order],
        mask_of_run=new_number[label[order]].astype(np.int32),
        num_masks=int(is_kept.sum()),
        areas=areas[is_kept],
        annotation=annotation[is_kept],
    )


def membership(runs: Runs, points_yx: npt.NDArray[np.integer]) -> BoolArray:
    """Tell which masks hold which points, by binary search, without decoding a mask.

    Args:
        runs: The M masks.
        points_yx: Pixels, any integer dtype, shape (P, 2), inside the image.

    Returns:
        bool, shape (M, P).

    Raises:
        ValueError: If `points_yx` has another shape or a point lies outside the image.
    """
    points = np.asarray(points_yx)
    if points.ndim != 2 or points.shape[1] != 2 or points.dtype.kind not in "iu":
        raise ValueError(
            f"points_yx must be integers of shape (P, 2), got {points.dtype} {points.shape}"
        )
    if ((points < 0) | (points >= np.array(runs.size))).any():
        raise ValueError(f"points_yx must lie inside the image of size {runs.size} (height, width)")
    flat = points[:, 0].astype(np.int64) + points[:, 1].astype(np.int64) * runs.size[0]
    order = np.argsort(flat)
    flat = flat[order]
    # Points are few and runs are many: look up the runs among the sorted points.
    first, last = np.searchsorted(flat, runs.starts), np.searchsorted(flat, runs.stops)
    hits = np.flatnonzero(last > first)
    found = _ranges(first[hits], last[hits])
    result = np.zeros((runs.num_masks, len(points)), bool)
    result[np.repeat(runs.mask_of_run[hits], (last - first)[hits]), order[found]] = True
    return result


def sample_border_points(
    runs: Runs,
    num: int,
    rng: np.random.Generator,
    box_yxyx: tuple[int, int, int, int] | None = None,
) -> IntArray:
    """Draw pixels that lie at a mask border, on either side of it.

    A border lies between two pixels that share a side, one in a mask and one outside; the edge of
    the image is not a border. All pixels at borders are equally likely; each is drawn once.

    Args:
        runs: The masks.
        num: How many pixels to draw.
        rng: Source of randomness.
        box_yxyx: Top, left, bottom, right (the last two exclusive) to draw from; None for the
            whole image. The box is cut to the image.

    Returns:
        Pixels (row, column), int64, shape (n, 2), in random order; n is `num`, or the number of
        border pixels in the box where that is smaller, down to 0.
    """
    height, width = runs.size
    top, left, bottom, right = box_yxyx or (0, 0, height, width)
    top, left, bottom, right = max(top, 0), max(left, 0), min(bottom, height), min(right, width)
    if top >= bottom or left >= right:
        return np.zeros((0, 2), np.int64)
    # A pixel can lie at several borders: a map counts it once.
    box = _border_map(runs).reshape(width, height)[left:right, top:bottom]
    pixels = np.flatnonzero(box)
    chosen = rng.choice(pixels, min(num, len(pixels)), replace=False)
    x, y = np.divmod(chosen, bottom - top)
    return np.stack([y + top, x + left], axis=1).astype(np.int64)


def write_counts(lengths: IntArray) -> bytes:
    """Write run lengths as compressed COCO counts, as pycocotools writes them.

    They are pixels of background, mask, background, ..., int64, shape (n,); none give no text.
    """
    return write_all_counts(lengths, np.array([len(lengths)]))[0]


def write_all_counts(lengths: IntArray, num_counts: IntArray) -> list[bytes]:
    """Write the run lengths of N masks, one after the other, as compressed COCO counts.

    Mask i has `num_counts[i]` of the lengths; for these see `write_counts`.
    """
    rank = _ranges(np.zeros(len(num_counts), np.int64), num_counts)
    late = np.flatnonzero(rank >= 3)
    rest = lengths.astype(np.int64)
    rest[late] -= lengths[late - 2]
    columns, is_used = [], []
    is_open = np.ones(len(rest), bool)
    while is_open.any():
        bits = rest & 31
        rest >>= 5
        goes_on = np.where(bits & 16, rest != -1, rest != 0)
        columns.append(bits + 48 + 32 * goes_on)
        is_used.append(is_open)
        is_open = is_open & goes_on
    if not columns:
        return [b""] * len(num_counts)
    used = np.stack(is_used, 1)
    text = bytes(np.stack(columns, 1)[used].astype(np.uint8))
    ends = np.append(0, np.cumsum(used.sum(1)))[np.append(0, np.cumsum(num_counts))].tolist()
    return [text[begin:end] for begin, end in pairwise(ends)]


def _as_bytes(counts: Counts, index: int) -> bytes:
    if isinstance(counts, bytes):
        return counts
    if isinstance(counts, str):
        if not counts.isascii():
            raise ValueError(f"counts must be ASCII, got other characters in annotation {index}")
        return counts.encode("ascii")
    if not isinstance(counts, Sequence) or not all(
        type(c) is int and 0 <= c <= MAX_PIXELS for c in counts
    ):
        raise ValueError(
            f"counts must be a string or a list of whole numbers in 0..{MAX_PIXELS}, "
            f"got something else in annotation {index}"
        )
    return write_counts(np.array(counts, np.int64))


def _read_numbers(texts: Sequence[bytes], max_runs: int, most: int) -> tuple[IntArray, IntArray]:
    """The signed numbers in compressed counts, and how many there are in each text."""
    chars = np.frombuffer(b"".join(texts), np.uint8) - np.uint8(48)  # below 48: wraps
    text_ends = np.cumsum([len(text) for text in texts], dtype=np.int64)
    if len(chars) and chars.max() > 63:
        bad = int(np.argmax(chars > 63))
        index = int(np.searchsorted(text_ends, bad, side="right"))
        raise ValueError(
            f"compressed counts hold characters of code 48 to 111, "
            f"got {(int(chars[bad]) + 48) % 256} in annotation {index}"
        )
    is_end = chars < 32
    last_chars = text_ends[np.diff(text_ends, prepend=0) > 0] - 1
    if np.count_nonzero(is_end) > most:
        raise ValueError(_TOO_MANY.format(max_runs))
    ends = np.flatnonzero(is_end)
    starts = np.append(0, ends[:-1] + 1)[: len(ends)]
    if not is_end[last_chars].all() or (ends - starts >= _MAX_CHARS).any():
        raise ValueError(
            f"compressed counts must end with a whole number of at most {_MAX_CHARS} characters, "
            "got one that breaks off or is longer"
        )
    if len(ends) == 0:
        return np.zeros(0, np.int64), np.zeros(len(texts), np.int64)
    numbers = (chars[starts] & 31).astype(np.int64)
    long, place = np.flatnonzero(ends > starts), 1  # most numbers have but one character
    while len(long):
        numbers[long] |= (chars[starts[long] + place] & 31).astype(np.int64) << (5 * place)
        place += 1
        long = long[ends[long] - starts[long] >= place]
    # The highest of the bits is the sign.
    is_negative = (chars[ends] & 16) > 0
    numbers -= np.where(is_negative, np.int64(1) << (5 * (ends - starts + 1)), 0)
    num_numbers = np.diff(np.searchsorted(ends, text_ends, side="left"), prepend=0)
    return numbers, num_numbers


def _undo_differences(numbers: IntArray, rank: IntArray) -> IntArray:
    """From the fourth on, add to each number the one two before it in the same mask."""
    lengths = numbers.copy()
    for first in (1, 2):  # the chains 1, 3, 5, ... and 2, 4, 6, ...; 0 stands alone
        chain = np.flatnonzero((rank % 2 == first % 2) & (rank > 0))
        if len(chain) == 0:
            continue
        total = np.cumsum(numbers[chain])
        begins = np.flatnonzero(rank[chain] == first)
        before = total[begins] - numbers[chain[begins]]
        lengths[chain] = total - np.repeat(before, np.diff(begins, append=len(chain)))
    return lengths


def _components(
    starts: IntArray, stops: IntArray, owner: Int32Array, size: tuple[int, int]
) -> tuple[IntArray, int]:
    """Component of each run, numbered in the order of their first runs, and their number."""
    height, width = size
    # One line for all annotations, with an empty column between, so that none touches the next.
    offset = owner.astype(np.int64) * (height * (width + 1))
    begin, end = starts + offset, stops + offset
    first = np.searchsorted(end, begin + height, side="right")
    last = np.maximum(np.searchsorted(begin, end + height, side="left"), first)
    left, right = np.repeat(np.arange(len(starts)), last - first), _ranges(first, last)
    ones = np.ones(len(left), np.int8)
    graph = coo_array((ones, (left, right)), shape=(len(starts), len(starts)))
    num, label = connected_components(graph, directed=False)
    first_run = np.zeros(num, np.int64)
    first_run[label[::-1]] = np.arange(len(starts))[::-1]
    number = np.empty(num, np.int64)
    number[np.argsort(first_run)] = np.arange(num)
    return number[label], int(num)


def _border_map(runs: Runs) -> BoolArray:
    """Which pixels lie at mask borders, by flat index."""
    height, width = runs.size
    above = runs.starts[runs.starts % height > 0]
    below = runs.stops[runs.stops % height > 0]
    # Left and right of a border the mask and the mask moved by one column differ. The ends of
    # the runs of both, sorted, are the ends of the runs of their difference (by parity).
    span = height * (width + 1)
    offset = runs.mask_of_run.astype(np.int64) * span
    ends = np.stack([runs.starts + offset, runs.stops + offset], 1).ravel()
    ends = np.sort(np.concatenate([ends, ends + height]), kind="stable")  # merges sorted halves
    begin, end = ends[0::2], ends[1::2]
    base = begin // span * span
    begin, end = np.maximum(begin - base, height), np.minimum(end - base, height * width)
    begin, end = begin[end > begin], end[end > begin]
    is_border = np.zeros(height * width, bool)
    if (end - begin).sum() <= height * width:
        beside = _ranges(begin, end)
        pixels = [above, above - 1, below, below - 1, beside, beside - height]
        is_border[np.concatenate(pixels)] = True
        return is_border
    # Masks over masks of stripes: their borders can be millions of times the image.
    num_open = np.bincount(begin, minlength=height * width + 1)
    num_open -= np.bincount(end, minlength=height * width + 1)
    is_border = np.cumsum(num_open)[:-1] > 0
    is_border[:-height] |= is_border[height:]
    is_border[np.concatenate([above, above - 1, below, below - 1])] = True
    return is_border


def _ranges(starts: IntArray, stops: IntArray) -> IntArray:
    """All whole numbers of the half-open ranges, one range after the other."""
    lengths = stops - starts
    begins = np.cumsum(lengths) - lengths
    shifts: IntArray = np.repeat(starts - begins, lengths)
    return shifts + np.arange(len(shifts))
