"""Where each sample lies in a tar, from one scan of the headers.

The members of the genuine SA-1B tars lie in random order, so a sample's JPEG and JSON are found
by name. With their offsets kept, any tar is read at random where it lies.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from maskfeat.data.shards.compression import compression_of
from maskfeat.data.shards.index_file import (
    ShardIndex,
    home_of_index,
    load_index,
    save_index,
    table_dtype,
)
from maskfeat.data.shards.tar import (
    BLOCK,
    Member,
    TarWalk,
    is_repeated,
    member_key,
    not_a_file,
    preferred_half,
    warn_of_repeated,
)

_LOG = logging.getLogger("maskfeat")
_LONGEST_KEY = 255  # bytes, as file systems have it
_MOST_LINKS = 40  # one leading to the next, as Linux has it


def index_shard(path: str | Path, index_dir: str | Path | None = None) -> ShardIndex:
    """Get the index of a tar, from the file kept with it or by a scan of its headers.

    A tar that is cut short is read up to its last whole member, with a warning in the log.

    Args:
        path: A plain tar, or several put together; members in any order, folders in their names
            are ignored. Of files of one name the first counts.
        index_dir: Where to keep the index. None is `PATH.index` beside the tar, or where that
            folder is read-only, the folder `maskfeat` in $XDG_CACHE_HOME or ~/.cache. A kept
            index counts until the tar is written to, replaced or moved.

    Returns:
        The index.

    Raises:
        FileNotFoundError: If there is no such tar.
        ValueError: If the file is no plain tar, holds no whole member, or two files for one key.
    """
    path = Path(os.path.abspath(path))
    if not path.is_file():
        raise FileNotFoundError(f"no shard at '{path}'; name a tar in SA-1B's layout that is there")
    home = home_of_index(path, index_dir)
    status = path.stat()  # before the scan: if the tar changes meanwhile, the index is stale
    index = load_index(path, home, status)
    if index is None:
        index = save_index(scan_shard(path), home, status)
    if index.cut_after is not None:
        _LOG.warning(
            "shard %s is cut short or broken after member %s; reading its %d whole samples",
            path,
            index.cut_after,
            len(index),
        )
    warn_of_repeated(str(path), index.num_repeated)
    return index


def scan_shard(path: Path) -> ShardIndex:
    """Index a plain tar by reading its headers, and nothing else.

    Raises:
        ValueError: As `index_shard`.
    """
    members: dict[str, Member] = {}  # by whole name: links lead to these
    halves: dict[tuple[str, str], Member] = {}
    last, num_repeated = None, 0
    with path.open("rb", buffering=0) as file:
        head = file.read(BLOCK)
        file.seek(0)
        walk = TarWalk(file, path.stat().st_size)
        for member in walk:
            last = member.name
            members.setdefault(member.name.removeprefix("./"), member)
            half = member_key(member.name)
            if half is not None:
                first = halves.get(half)
                num_repeated += is_repeated(first, member)
                halves[half] = preferred_half(first, member, str(path))
    if last is None and not walk.is_whole:
        compression = compression_of(head)
        if compression is None:
            raise ValueError(
                f"shard '{path}' is no plain tar, or cut short before its first whole member"
            )
        streamed = ", or read it front to back (data.mode streaming)"
        raise ValueError(
            f"shard '{path}' is compressed by {compression}, so it cannot be read at random; "
            f"decompress it{'' if compression == 'zstd' else streamed}"
        )
    cut_after = None if walk.is_whole else last
    return ShardIndex(str(path), *_paired(halves, members), cut_after, num_repeated)


def _paired(
    halves: dict[tuple[str, str], Member], members: dict[str, Member]
) -> tuple[npt.NDArray[Any], tuple[tuple[str, str], ...]]:
    """The table of the samples that have both halves, and what is wrong with the others."""
    rows, incomplete = [], []
    for key in sorted({key for key, _ in halves}):
        jpg, json = (_found_half(key, kind, halves, members) for kind in ("jpg", "json"))
        name = key.encode("utf-8", "surrogateescape")
        if len(name) > _LONGEST_KEY:
            incomplete.append((key, f"its name has more than {_LONGEST_KEY} bytes"))
        elif isinstance(jpg, str) or isinstance(json, str):
            incomplete.append((key, jpg if isinstance(jpg, str) else str(json)))
        else:
            span = (jpg.offset, jpg.size, json.offset, json.size, jpg.header, json.header)
            rows.append((*span, name))
    longest = max((len(row[-1]) for row in rows), default=1)
    return np.array(rows, table_dtype(longest)), tuple(incomplete)


def _found_half(
    key: str, kind: str, halves: dict[tuple[str, str], Member], members: dict[str, Member]
) -> Member | str:
    """The file that is half of a sample, or why there is none."""
    found = first = halves.get((key, kind))
    if first is None:
        return f"the shard has no {key}.{kind}"
    for _ in range(_MOST_LINKS):
        if found is None or found.leads_to is None:
            break
        found = members.get(found.leads_to)
    if found is not None and found.is_file:
        return found
    return not_a_file(first)
