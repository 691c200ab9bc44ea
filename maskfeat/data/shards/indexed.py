"""Names of shards, and the indexed set: tars on disk as one sequence of samples."""

from __future__ import annotations

import glob
import logging
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from maskfeat.batch import SkippedSample
from maskfeat.data.annotations.limits import Limits
from maskfeat.data.annotations.sample import AnnotatedImage, SampleError, read_sample
from maskfeat.data.shards.index import index_shard, places_of, read_pair
from maskfeat.data.shards.index_file import KeptTable, Span
from maskfeat.data.shards.remote import is_url
from maskfeat.data.shards.tar import PACKED

_LOG = logging.getLogger("maskfeat")
_INSTEAD = (
    "name tars in SA-1B's layout that are there, or their folder (in a config by data.train, "
    "data.val and data.test, or data_root)"
)
# Indexes of a set that are held in memory, 50 bytes a sample; those beyond stay on disk.
_MOST_BYTES = 2**25
_MOST_DIGITS = 18  # of a number in a range
_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")
_CHOICE = re.compile(r"\{([^{}]*,[^{}]*)\}")


def expand_shards(
    shards: str | Sequence[str], allow_pipe: bool = False, max_names: int = Limits.names
) -> list[str]:
    """Turn globs, ranges and lists into the names of shards.

    Args:
        shards: A path, a folder (all its `*.tar`; compressed ones where there are no others), a
            glob, a url, or a list of these; each may hold brace ranges `{000000..000012}` and
            choices `{a,b}`. A file whose name looks like a glob is taken as it is.
        allow_pipe: Let `pipe:COMMAND` through. It runs in a shell when it is read.
        max_names: Most names that a pattern may stand for.

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
            found.update([name] if is_url(name) else _match(name))
    return sorted(found)


@dataclass
class _Shard:
    """A tar, and its index, either in memory or left on disk, where all workers read one copy."""

    path: str
    index_dir: str | Path | None
    num_samples: int
    digest: int
    kept: KeptTable | None
    table: npt.NDArray[Any] | None

    def place(self, number: int) -> tuple[str, Span]:
        """Key of a sample, and where it lies."""
        row = self.kept.row(number) if self.table is None and self.kept is not None else None
        if row is None:
            if self.table is None:  # its file was removed, or made anew
                index = index_shard(self.path, self.index_dir)
                if index.digest != self.digest:
                    raise SampleError("incomplete", "the shard has changed since it was indexed")
                self.table = index.table
            row = self.table[number : number + 1]
        return places_of(row)[0]


class IndexedShards(Sequence[AnnotatedImage]):
    """Samples of tars on disk, in the order of shards, then keys; each is read when asked for.

    It holds no open files, so it can be pickled and used by threads and by forked or spawned
    workers alike. Offsets of large sets stay in the files of the indexes, so that workers do not
    hold a copy each.

    Args:
        shards: As in `expand_shards`; local files only.
        index_dir: Where indexes are kept, see `maskfeat.data.shards.index.index_shard`.
        keep_crowds: As in `maskfeat.data.annotations.sample.read_sample`.
        limits: What a sample may ask for.

    Attributes:
        shards: Paths of the tars, sorted.
        incomplete: Samples that miss their JPEG or JSON; they are not counted by `len`.

    Raises:
        FileNotFoundError: If no shard matches.
        ValueError: If a shard is a url, is no plain tar, or has no complete sample.
    """

    def __init__(
        self,
        shards: str | Sequence[str],
        index_dir: str | Path | None = None,
        keep_crowds: bool = False,
        limits: Limits = Limits(),  # noqa: B008 - frozen
    ) -> None:
        self.keep_crowds = keep_crowds
        self.limits = limits
        self.shards = expand_shards(shards, max_names=limits.names)
        self.incomplete: list[SkippedSample] = []
        self._shards: list[_Shard] = []
        num_bytes = 0
        for path in self.shards:
            if is_url(path):
                raise ValueError(
                    f"the indexed mode reads local tars, got '{path}'; "
                    "download it or set data.mode to streaming"
                )
            index = index_shard(path, index_dir)
            self.incomplete += [
                SkippedSample("incomplete", path, key, detail) for key, detail in index.incomplete
            ]
            if not len(index):
                why = f": {index.incomplete[0][1]}" if index.incomplete else ""
                raise ValueError(
                    f"shard '{path}' has no complete sample; "
                    f"it should hold KEY.jpg with KEY.json, as in SA-1B{why}"
                )
            num_bytes += index.table.nbytes
            is_left = num_bytes > _MOST_BYTES and index.kept is not None
            table = None if is_left else index.table
            self._shards.append(
                _Shard(path, index_dir, len(index), index.digest, index.kept, table)
            )
        if self.incomplete:
            _LOG.warning(
                "%d samples are incomplete, e.g. '%s' in %s: %s",
                len(self.incomplete),
                self.incomplete[0].key,
                self.incomplete[0].shard,
                self.incomplete[0].detail,
            )
        self._ends = np.cumsum([shard.num_samples for shard in self._shards])

    @property
    def sizes(self) -> list[int]:
        """Samples of each shard."""
        return [shard.num_samples for shard in self._shards]

    def __len__(self) -> int:
        return int(self._ends[-1])

    def key(self, i: int) -> str:
        """Name of sample `i`; raises IndexError beyond the last."""
        shard, number = self._locate(i)
        return self._shards[shard].place(number)[0]

    def shard(self, i: int) -> str:
        """Path of the tar that holds sample `i`; raises IndexError beyond the last."""
        return self.shards[self._locate(i)[0]]

    def __getitem__(self, i: int) -> AnnotatedImage:  # type: ignore[override]
        """Read sample `i`.

        Raises:
            SampleError: If it cannot be read, with the reason.
            IndexError: Beyond the last.
        """
        shard, number = self._locate(i)
        path = self.shards[shard]
        key, span = self._shards[shard].place(number)
        jpg, text = read_pair(path, span, self.limits)
        return read_sample(key, path, jpg, text, self.keep_crowds, self.limits)

    def __iter__(self) -> Iterator[AnnotatedImage]:
        return (self[i] for i in range(len(self)))

    def _locate(self, i: int) -> tuple[int, int]:
        if not -len(self) <= i < len(self):
            raise IndexError(f"there are {len(self)} samples, got number {i}")
        i = int(i) % len(self)
        shard = int(np.searchsorted(self._ends, i, side="right"))
        return shard, i - int(self._ends[shard]) + self._shards[shard].num_samples


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


def _match(pattern: str) -> list[str]:
    path = os.path.expanduser(pattern.removeprefix("file://"))
    if os.path.isfile(path):
        return [path]
    if os.path.isdir(path):
        found = _tars_in(path)
    else:
        found = [name for name in glob.glob(path, recursive=True) if os.path.isfile(name)]
    if not found:
        raise FileNotFoundError(f"no shard matches '{pattern}'; {_INSTEAD}")
    return found


def _tars_in(folder: str) -> list[str]:
    """The tars of a folder; compressed ones only where there are no others."""
    names = [name for name in os.listdir(folder) if os.path.isfile(os.path.join(folder, name))]
    plain = [name for name in names if name.endswith(".tar") and not name.startswith(".")]
    packed = [name for name in names if name.endswith(PACKED) and not name.startswith(".")]
    if plain and packed:
        _LOG.warning("%d compressed tars beside others in %s are left out", len(packed), folder)
    return [os.path.join(folder, name) for name in plain or packed]
