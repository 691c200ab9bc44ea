"""Names of shards, and the indexed set: tars on disk as one sequence of samples."""

from __future__ import annotations

import glob
import logging
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from maskfeat.batch import SkippedSample
from maskfeat.data.index import index_shard
from maskfeat.data.remote import is_url
from maskfeat.data.sample import AnnotatedImage, SampleError, read_sample

_LOG = logging.getLogger("maskfeat")
_INSTEAD = (
    "name tars in SA-1B's layout that are there, or their folder (in a config by data.train, "
    "data.val and data.test, or data_root)"
)
_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")
_CHOICE = re.compile(r"\{([^{}]*,[^{}]*)\}")


def expand_shards(shards: str | Sequence[str], allow_pipe: bool = False) -> list[str]:
    """Turn globs, ranges and lists into the names of shards.

    Args:
        shards: A path, a folder (all its `*.tar`), a glob, a url, or a list of these; each may
            hold brace ranges `{000000..000012}` and choices `{a,b}`. A file whose name looks like
            a glob is taken as it is.
        allow_pipe: Let `pipe:COMMAND` through. It runs in a shell when it is read.

    Returns:
        Paths and urls, sorted, each once.

    Raises:
        FileNotFoundError: If a path or glob matches no file, or nothing is given.
        ValueError: If there is a `pipe:` that is not allowed.
    """
    patterns = [shards] if isinstance(shards, str) else list(shards)
    if not patterns:
        raise FileNotFoundError(f"no shards are given; {_INSTEAD}")
    found: set[str] = set()
    for pattern in map(os.fspath, patterns):
        if pattern.startswith("pipe:"):
            if not allow_pipe:
                raise ValueError(
                    f"'{pattern}' would run a shell command; set data.allow_pipe if you trust it"
                )
            found.add(pattern)
            continue
        for name in _expand_braces(pattern):
            found.update([name] if is_url(name) else _match(name))
    return sorted(found)


class IndexedShards(Sequence[AnnotatedImage]):
    """Samples of tars on disk, in the order of shards, then keys; each is read when asked for.

    It holds offsets, no open files, so it can be pickled and used by threads and by forked or
    spawned workers alike.

    Args:
        shards: As in `expand_shards`; local files only.
        index_dir: Where indexes are kept, see `maskfeat.data.index.index_shard`.
        keep_crowds: As in `maskfeat.data.sample.read_sample`.

    Attributes:
        shards: Paths of the tars, sorted.
        incomplete: Samples that miss their JPEG or JSON; they are not counted by `len`.

    Raises:
        FileNotFoundError: If no shard matches.
        ValueError: If a shard is a url, is no tar, or has no complete sample.
    """

    def __init__(
        self,
        shards: str | Sequence[str],
        index_dir: str | Path | None = None,
        keep_crowds: bool = False,
    ) -> None:
        self.keep_crowds = keep_crowds
        self.shards = expand_shards(shards)
        self.incomplete: list[SkippedSample] = []
        self._indexes = []
        for path in self.shards:
            if is_url(path):
                raise ValueError(
                    f"the indexed mode reads local tars, got '{path}'; "
                    "download it or set data.mode to streaming"
                )
            index = index_shard(path, index_dir)
            if not index.keys:
                raise ValueError(
                    f"shard '{path}' has no complete sample; "
                    "it should hold KEY.jpg with KEY.json, as in SA-1B"
                )
            self._indexes.append(index)
            self.incomplete.extend(
                SkippedSample("incomplete", path, key, f"the shard has no {key}.{missing}")
                for key, missing in index.incomplete
            )
        if self.incomplete:
            _LOG.warning(
                "%d samples are incomplete, e.g. '%s' in %s: %s",
                len(self.incomplete),
                self.incomplete[0].key,
                self.incomplete[0].shard,
                self.incomplete[0].detail,
            )
        self._ends = np.cumsum([len(index.keys) for index in self._indexes])

    def __len__(self) -> int:
        return int(self._ends[-1])

    def key(self, i: int) -> str:
        """Name of sample `i`; raises IndexError beyond the last."""
        shard, row = self._locate(i)
        return self._indexes[shard].keys[row]

    def shard(self, i: int) -> str:
        """Path of the tar that holds sample `i`; raises IndexError beyond the last."""
        return self.shards[self._locate(i)[0]]

    def __getitem__(self, i: int) -> AnnotatedImage:  # type: ignore[override]
        """Read sample `i`.

        Raises:
            SampleError: If it cannot be read, with the reason.
            IndexError: Beyond the last.
        """
        shard, row = self._locate(i)
        index, path = self._indexes[shard], self.shards[shard]
        jpg_offset, jpg_size, json_offset, json_size = index.spans[row].tolist()
        # Opened for each sample: that takes microseconds, and nothing is left open in any worker.
        handle = os.open(path, os.O_RDONLY)
        try:
            jpg = os.pread(handle, jpg_size, jpg_offset)
            json_bytes = os.pread(handle, json_size, json_offset)
        finally:
            os.close(handle)
        if len(jpg) < jpg_size or len(json_bytes) < json_size:
            raise SampleError("incomplete", "the shard has become shorter since it was indexed")
        return read_sample(index.keys[row], path, jpg, json_bytes, self.keep_crowds)

    def __iter__(self) -> Iterator[AnnotatedImage]:
        return (self[i] for i in range(len(self)))

    def _locate(self, i: int) -> tuple[int, int]:
        if not -len(self) <= i < len(self):
            raise IndexError(f"there are {len(self)} samples, got number {i}")
        i = int(i) % len(self)
        shard = int(np.searchsorted(self._ends, i, side="right"))
        return shard, i - int(self._ends[shard]) + len(self._indexes[shard].keys)


def _expand_braces(pattern: str) -> list[str]:
    match = _RANGE.search(pattern)
    if match:
        first, last = match.groups()
        values = [f"{i:0{len(first)}d}" for i in range(int(first), int(last) + 1)]
    else:
        match = _CHOICE.search(pattern)
        if not match:
            return [pattern]
        values = match.group(1).split(",")
    head, tail = pattern[: match.start()], pattern[match.end() :]
    return [name for value in values for name in _expand_braces(head + value + tail)]


def _match(pattern: str) -> list[str]:
    path = os.path.expanduser(pattern.removeprefix("file://"))
    if os.path.isfile(path):
        return [path]
    if os.path.isdir(path):
        path = os.path.join(glob.escape(path), "*.tar")
    found = [name for name in glob.glob(path, recursive=True) if os.path.isfile(name)]
    if not found:
        raise FileNotFoundError(f"no shard matches '{pattern}'; {_INSTEAD}")
    return found
