"""How many samples streamed shards hold, which is known before any is read."""

from __future__ import annotations

import contextlib
import json
import logging
import os
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch.distributed as dist

from maskfeat.data.annotations.limits import MB
from maskfeat.data.job import gathered, is_in_job
from maskfeat.data.shards.index import index_shard
from maskfeat.data.shards.names import is_url
from maskfeat.data.shards.remote import ShardSource
from maskfeat.data.shards.stream import raw_samples

_LOG = logging.getLogger("maskfeat")
# What `maskfeat shards convert` writes beside its shards.
_INDEX = "index.json"


class CountedShard(NamedTuple):
    """A shard, and how many samples it has, complete or not."""

    url: str
    num_samples: int


def count_samples(urls: Sequence[str], source: ShardSource) -> tuple[CountedShard, ...]:
    """Count the samples of shards (see `expand_shards`), in the cheapest way that there is.

    Returns:
        Each with its number of samples: from the `index.json` beside it (that of
        `maskfeat shards convert`, if a local shard has the size in it); else, of a local tar, by a
        scan of its headers, which is kept; else by reading it once, with a warning in the log. All
        processes of a job must call this; each reads a part of these.

    Raises:
        FileNotFoundError: If a shard is missing.
        UnreachableError: If a url failed again and again.
        ValueError: If a shard is no tar, or has no complete sample.
    """
    known: dict[str, dict[str, Any]] = {}  # by folder
    unknown = []
    counts = dict[str, int]()
    for url in urls:
        folder, _, name = url.rpartition("/")
        if folder not in known:
            known[folder] = {} if url.startswith("pipe:") else _indexed(folder, source)
        entry = known[folder].get(name)
        if entry is not None and (is_url(url) or os.path.getsize(url) == entry["bytes"]):
            counts[url] = entry["samples"]
            continue
        if os.path.isdir(url):
            raise ValueError(
                f"'{url}' is a folder of images and masks, which are read in indexed mode alone; "
                "set data.mode to indexed, or make tars of it by maskfeat shards convert"
            )
        is_local = not is_url(url) and not url.startswith("pipe:")
        try:
            index = index_shard(url, source.index_dir) if is_local else None
        except ValueError:  # it is compressed, which an index cannot be of
            index = None
        if index is None:
            unknown.append(url)
        elif not index.keys:
            raise ValueError(
                f"shard '{url}' has no complete sample; it should hold KEY.jpg with KEY.json, "
                "as in SA-1B"
            )
        else:
            counts[url] = len(index.keys) + len(index.incomplete)
    if unknown:
        _LOG.warning(
            "%d shards are read once to count their samples, e.g. '%s'; an index.json beside them, "
            "as maskfeat shards convert writes it, would spare this",
            len(unknown),
            unknown[0],
        )
    counts |= _read_together(unknown, source)
    return tuple(CountedShard(url, counts[url]) for url in urls)


def _read_together(urls: Sequence[str], source: ShardSource) -> dict[str, int]:
    """Samples of shards by reading them; each process of a job reads a part and shares the counts.

    If one fails, all raise its error, so that no process waits for it.
    """
    rank, num_ranks = (dist.get_rank(), dist.get_world_size()) if is_in_job() else (0, 1)

    def read(some: Sequence[str]) -> dict[str, int]:
        return {url: sum(1 for _ in raw_samples(url, source)) for url in some}

    own: dict[str, int] | Exception = {}
    try:
        own = read(urls[rank::num_ranks])
    except (OSError, ValueError) as error:
        own = error
    counts: dict[str, int] = {}
    for of_one in gathered(own):
        if isinstance(of_one, Exception):
            raise of_one
        counts |= of_one
    # Nothing is left, unless a process saw an index that another could not reach.
    return counts | read([url for url in urls if url not in counts])


def _indexed(folder: str, source: ShardSource) -> dict[str, Any]:
    """Entries of the index of a folder, by name of the shard; none if there is no such index."""
    path = f"{folder}/{_INDEX}" if folder else _INDEX
    try:
        # Not from the cache, which takes the content of a url not to change.
        with contextlib.closing(replace(source, cache_dir=None).open(path)) as file:
            chunks, rest = [], int(source.limits.json_mb * MB)  # a longer file is cut: no JSON
            while rest > 0 and (chunk := file.read(min(2**20, rest))):
                chunks.append(chunk)
                rest -= len(chunk)
    except (OSError, ValueError):
        return {}  # not there; some stores refuse what they do not have
    try:
        entries = [(str(entry["shard"]), entry) for entry in json.loads(b"".join(chunks))["shards"]]
    except (ValueError, KeyError, TypeError, RecursionError, MemoryError) as error:
        fault = f"{type(error).__name__}: {str(error)[:80]}"
        _LOG.warning("%s is not as shards convert writes it and is passed over (%s)", path, fault)
        return {}
    sound = {}
    for name, entry in entries:
        samples, num_bytes = entry.get("samples"), entry.get("bytes")
        if type(samples) is int and type(num_bytes) is int and 0 < samples < num_bytes:
            sound[name] = entry
    if len(sound) < len(entries):
        _LOG.warning("%s has impossible numbers for some shards; they are counted", path)
    return sound
