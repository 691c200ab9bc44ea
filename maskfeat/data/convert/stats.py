"""`maskfeat shards stats`: what is in shards, in numbers and as a sheet of images."""

from __future__ import annotations

import glob
import logging
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array

from maskfeat.arrays import IntArray
from maskfeat.data.annotations.image import SampleError
from maskfeat.data.annotations.limits import Limits
from maskfeat.data.annotations.rle import Runs
from maskfeat.data.annotations.sample import AnnotatedImage, read_sample
from maskfeat.data.convert.pool import OrderedPool, Progress
from maskfeat.data.convert.state import INDEX_NAME, read_json
from maskfeat.data.shards.index import index_shard
from maskfeat.data.shards.index_file import Span
from maskfeat.data.shards.indexed import read_pair

_LOG = logging.getLogger("maskfeat")
_MOST_NUMBERS = 2**26  # half a gigabyte in each of a few arrays
QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)


class Place(NamedTuple):
    """Where a sample lies."""

    key: str
    shard: str
    span: Span
    limits: Limits = Limits()


class Facts(NamedTuple):
    """What is counted of one sample."""

    size: tuple[int, int]
    areas: IntArray
    depth: int
    num_annotators: int
    levels: dict[str, int]
    num_crowds: int


def find_places(
    shards: Sequence[str],
    index_dir: str | None = None,
    limits: Limits = Limits(),  # noqa: B008 - frozen
) -> tuple[list[Place], list[str], int]:
    """The samples of shards, in order of shards and keys.

    Args:
        shards: Tars, folders of tars, or globs.
        index_dir: Where to keep their indexes, if not beside them.
        limits: What a sample may ask for.

    Returns:
        The complete samples, the paths of the shards, and the number of incomplete samples.

    Raises:
        FileNotFoundError: If a name stands for no tar.
        ValueError: If a shard is no tar.
    """
    paths: list[str] = []
    for name in shards:
        found = sorted(str(one) for one in Path(name).glob("*.tar")) if Path(name).is_dir() else []
        found = found or ([name] if Path(name).is_file() else sorted(glob.glob(name)))
        if not found:
            raise FileNotFoundError(f"no shard matches '{name}'; name tars or a folder of them")
        paths += [path for path in found if path not in paths]
    indexes = [index_shard(path, index_dir) for path in paths]
    places = [
        Place(key, index.path, span, limits) for index in indexes for key, span in index.places()
    ]
    return places, paths, sum(len(index.incomplete) for index in indexes)


def read_place(place: Place) -> AnnotatedImage:
    """Read a sample.

    Raises:
        SampleError: If that cannot be, with the reason.
    """
    jpg, text = read_pair(place.shard, place.span, place.limits)
    return read_sample(place.key, place.shard, jpg, text, limits=place.limits)


def count_up(
    places: Sequence[Place], num_workers: int | None = None, show_progress: bool = False
) -> tuple[list[Facts], Counter[str]]:
    """Read samples and count.

    Returns:
        The facts of those that can be read, in order; and how many were skipped, by reason.
    """
    facts: list[Facts] = []
    skipped: Counter[str] = Counter()
    with OrderedPool(num_workers) as pool, Progress(show_progress, 1) as progress:
        progress.start("samples", len(places))
        for result in pool.map(_facts_of, places):
            if isinstance(result, Facts):
                facts.append(result)
            else:
                skipped[result] += 1
            progress.advance()
    return facts, skipped


def summarize(facts: Sequence[Facts]) -> dict[str, Any]:
    """Counts and quantiles over the facts of at least one sample: the JSON file of the command."""
    areas = np.concatenate([one.areas for one in facts])
    shares = np.concatenate([one.areas / (one.size[0] * one.size[1]) for one in facts])
    depths = Counter(one.depth for one in facts)
    levels: Counter[str] = Counter()
    for one in facts:
        levels.update(one.levels)
    return {
        "samples": len(facts),
        "masks": len(areas),
        "crowds_left_out": sum(one.num_crowds for one in facts),
        "short_side_px": _quantiles([min(one.size) for one in facts]),
        "masks_per_image": _quantiles([len(one.areas) for one in facts]),
        "mask_area_px": _quantiles(areas),
        "mask_area_share": _quantiles(shares),
        "nesting_depth": _quantiles([one.depth for one in facts]),
        "images_by_nesting_depth": {str(depth): depths[depth] for depth in sorted(depths)},
        "annotators_per_image": _quantiles([one.num_annotators for one in facts]),
        "masks_by_level": dict(sorted(levels.items())),
    }


def skipped_at_conversion(shards: Sequence[str]) -> dict[str, int]:
    """What `shards convert` skipped, by reason, from the indexes in those that are folders."""
    total: Counter[str] = Counter()
    for name in shards:
        path = Path(name) / INDEX_NAME
        if not path.is_file():
            continue
        try:
            skipped = read_json(path).get("skipped", {})
            total.update({str(reason): int(num) for reason, num in skipped.items()})
        except (ValueError, AttributeError, TypeError, OverflowError) as error:
            _LOG.warning("what was skipped before is not known: %s (%s)", path, error)
    return dict(sorted(total.items()))


def _facts_of(place: Place) -> Facts | str:
    try:
        sample = read_place(place)
        depth = int(nesting_depths(sample.runs).max())
    except SampleError as error:
        return error.reason
    runs = sample.runs
    words = Counter(sample.levels[i] or "none" for i in runs.annotation)
    annotators = {one for one in sample.annotators if one is not None}
    return Facts(runs.size, runs.areas, depth, len(annotators), dict(words), sample.num_crowds)


def _quantiles(values: npt.ArrayLike) -> dict[str, float]:
    numbers = np.asarray(values, np.float64)
    found = {f"{q:g}": float(np.quantile(numbers, q)) for q in QUANTILES}
    return {**found, "mean": float(numbers.mean())}


def nesting_depths(runs: Runs, min_share: float = 0.95, max_iou: float = 0.7) -> IntArray:
    """How many masks each of M masks lies in, along the longest chain, itself counted.

    A mask lies in another if at least `min_share` (above 0.5) of its pixels do and their IoU is
    below `max_iou`: two outlines of the same thing (SA-1B's own measure of that) are not nested. A
    chain is a row of masks that each lie in the next.

    Returns:
        int64 from 1, shape (M,); its maximum is the nesting depth of the image.
    """
    shared, areas = overlaps(runs), runs.areas
    iou = shared / np.maximum(areas[:, None] + areas[None, :] - shared, 1)
    is_inside = (shared >= min_share * areas[:, None]) & (iou < max_iou)
    is_inside &= areas[:, None] < areas[None, :]
    depths = np.ones(runs.num_masks, np.int64)
    for mask in np.argsort(-areas, kind="stable"):  # those it can lie in come before
        around = np.flatnonzero(is_inside[mask])
        if len(around):
            depths[mask] = depths[around].max() + 1
    return depths


def overlaps(runs: Runs) -> IntArray:
    """How many pixels each two of M masks share, int64, shape (M, M); the diagonal holds the areas.

    It is counted from the runs; no mask is decoded. All ends of all runs cut the image into
    segments; each mask holds a segment whole or not at all. The shared area is the summed length of
    the segments that both hold.

    Raises:
        SampleError: "too large" if that would take gigabytes.
    """
    ends = np.unique(np.concatenate([runs.starts, runs.stops]))
    first, last = np.searchsorted(ends, runs.starts), np.searchsorted(ends, runs.stops)
    counts = last - first
    if max(runs.num_masks**2, int(counts.sum())) > _MOST_NUMBERS:
        raise SampleError("too large", f"its {runs.num_masks} masks share too much to be compared")
    offset = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    segment = np.repeat(first, counts) + offset
    owner = np.repeat(runs.mask_of_run, counts)
    shape = (runs.num_masks, max(len(ends) - 1, 1))
    ones = csr_array((np.ones(len(owner), np.int64), (owner, segment)), shape)
    lengths = np.diff(ends)[segment]
    weighted = csr_array((lengths, (owner, segment)), shape)
    return np.asarray((weighted @ ones.T).todense(), np.int64)
