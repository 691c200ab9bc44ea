"""Names of shards: paths, globs, brace ranges and urls become a list."""

from __future__ import annotations

import glob
import logging
import os
import re
from collections.abc import Iterable, Iterator, Sequence

from maskfeat.data.annotations.limits import Limits
from maskfeat.data.shards.compression import PACKED
from maskfeat.data.shards.sample_folder import sample_folders

_LOG = logging.getLogger("maskfeat")
_INSTEAD = (
    "name tars in SA-1B's layout that are there, or their folder (in a config by data.train, "
    "data.val and data.test, or data_root)"
)
_MOST_DIGITS = 18  # of a number in a range
_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")
_CHOICE = re.compile(r"\{([^{}]*,[^{}]*)\}")


def expand_shards(
    shards: str | Sequence[str],
    allow_pipe: bool = False,
    max_names: int = Limits.names,
    max_json_mb: float = Limits.json_mb,
) -> list[str]:
    """Turn globs, ranges and lists into the names of shards.

    Args:
        shards: A path, a folder (all its `*.tar`; compressed ones where there are no others;
            without any tar, the folders in it that hold KEY.json as files, see `sample_folder`), a
            glob, a url, or a list of these; each may hold brace ranges `{000000..000012}` and
            choices `{a,b}`. A file whose name looks like a glob is taken as it is.
        allow_pipe: Let `pipe:COMMAND` through. It runs in a shell when it is read.
        max_names: Most names that a pattern may stand for.
        max_json_mb: A larger KEY.json is not read to find out what a folder holds, MB.

    Returns:
        Paths and urls, sorted, each once.

    Raises:
        FileNotFoundError: If a path or glob matches no file, or nothing is given.
        ValueError: If there is a `pipe:` that is not allowed, a range that ends before it begins,
            or a pattern of too many names.
    """
    patterns = [shards] if isinstance(shards, str) else list(shards)
    if not patterns:
        raise FileNotFoundError(f"no shards are given; {_INSTEAD}")
    found: set[str] = set()
    for pattern in map(os.fspath, patterns):
        if pattern.startswith("pipe:"):
            if not allow_pipe:
                raise ValueError(
                    f"'{pattern}' would run a shell command; set data.shards.allow_pipe if you "
                    "trust it"
                )
            found.add(pattern)
            continue
        for number, name in enumerate(_expand_braces(pattern)):
            if number == max_names:
                raise ValueError(
                    f"'{pattern}' stands for more than {max_names:,} names (limits.names); "
                    "give a shorter range, a glob or a folder"
                )
            found.update([name] if is_url(name) else _match(name, max_json_mb))
    return sorted(found)


def is_url(name: str) -> bool:
    """Whether a shard is read over the network (`http://`, `s3://`, ...) and not from a path."""
    return re.match(r"[a-zA-Z][a-zA-Z0-9+.-]*://", name) is not None


def _expand_braces(pattern: str) -> Iterator[str]:
    """What the braces of a pattern stand for, one after the other: there may be very many."""
    match = _RANGE.search(pattern)
    values: Iterable[str]
    if match:
        first, last = match.groups()
        if max(len(first), len(last)) > _MOST_DIGITS or int(first) > int(last):
            raise ValueError(f"a range in braces must go from less to more, got '{pattern}'")
        values = (f"{i:0{len(first)}d}" for i in range(int(first), int(last) + 1))
    else:
        match = _CHOICE.search(pattern)
        if not match:
            yield pattern
            return
        values = match.group(1).split(",")
    head, tail = pattern[: match.start()], pattern[match.end() :]
    for value in values:
        yield from _expand_braces(head + value + tail)


def _match(pattern: str, max_json_mb: float) -> list[str]:
    path = os.path.expanduser(pattern.removeprefix("file://"))
    if os.path.isfile(path):
        return [path]
    if os.path.isdir(path):
        names = [name for name in os.listdir(path) if os.path.isfile(os.path.join(path, name))]
        plain = [name for name in names if name.endswith(".tar") and not name.startswith(".")]
        packed = [name for name in names if name.endswith(PACKED) and not name.startswith(".")]
        if plain and packed:  # compressed ones count only where there are no others
            _LOG.warning("%d compressed tars beside others in %s are left out", len(packed), path)
        found = [os.path.join(path, name) for name in plain or packed]
        found = found or sample_folders(path, Limits(json_mb=max_json_mb))
    else:
        found = [name for name in glob.glob(path, recursive=True) if os.path.isfile(name)]
    if not found:
        raise FileNotFoundError(f"no shard matches '{pattern}'; {_INSTEAD}")
    return found
