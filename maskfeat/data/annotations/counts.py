"""The counts of COCO run-length masks, as strings and as lists.

The lengths of alternating runs of background and mask, background first. The compressed form
(COCO API, `maskApi.c`, https://github.com/cocodataset/cocoapi) writes each length from the fourth
on as the difference to the length two before, in groups of five bits, lowest first, one printable
character each (48 + five bits + 32 if more follow), the highest bit being the sign.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from maskfeat.arrays import Int32Array, IntArray
from maskfeat.data.annotations.limits import Limits

Counts = str | bytes | Sequence[int]

MAX_PIXELS = 2**26  # 67 megapixels: what one image may have, so that memory stays bounded
_TOO_MANY = "masks must have at most {} runs in all (limits.runs), got more"
_MAX_CHARS = 7  # of one number: 35 bits with sign, more than any pixel index needs


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
    rank = np.arange(len(numbers)) - np.repeat(np.cumsum(num_counts) - num_counts, num_counts)
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


def write_counts(lengths: IntArray) -> bytes:
    """Write run lengths as compressed COCO counts.

    Args:
        lengths: Pixels of background, mask, background, ..., int64, shape (n,).

    Returns:
        The counts, as pycocotools writes them; empty for no lengths.
    """
    return write_all_counts(lengths, np.array([len(lengths)]))[0]


def write_all_counts(lengths: IntArray, num_counts: IntArray) -> list[bytes]:
    """Write the run lengths of many masks as compressed COCO counts.

    Args:
        lengths: As in `write_counts`, one mask after the other, int64, shape (n,).
        num_counts: How many of them each of N masks has, int64, shape (N,).

    Returns:
        The counts of each mask.
    """
    rank = np.arange(len(lengths)) - np.repeat(np.cumsum(num_counts) - num_counts, num_counts)
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
