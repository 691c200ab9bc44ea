"""The index of a tar in a file: written once, then read whole, or a row at a time."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import stat
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from maskfeat.arrays import IntArray
from maskfeat.data.shards.tar import BLOCK
from maskfeat.files import whole_file

_LOG = logging.getLogger("maskfeat")
_MAGIC = b"maskfeat index 4"
# After it the length of the notes, their CRC 32, the notes as JSON, and the table.
_HEAD = struct.Struct("<16sII")
_ENDING = ".index"
# What anything that is no index, or a damaged one, may lead to.
_BAD = (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError, struct.error)


class Span(NamedTuple):
    """Where the files of a sample lie: offsets and sizes, bytes, and CRC 32 of their headers."""

    jpg_offset: int
    jpg_size: int
    json_offset: int
    json_size: int
    jpg_header: int
    json_header: int


class KeptTable(NamedTuple):
    """Where the table of an index lies.

    Attributes:
        path: The file.
        head: Its first bytes, which are others for another table.
        start: Where the table begins, bytes.
        key_bytes: Of the longest key.
    """

    path: str
    head: bytes
    start: int
    key_bytes: int

    def row(self, number: int) -> npt.NDArray[Any] | None:
        """One row of the table, shape (1,); None where the file is not there, or is another."""
        dtype = table_dtype(self.key_bytes)
        try:
            handle = os.open(self.path, os.O_RDONLY)
        except OSError:
            return None
        try:
            head = os.pread(handle, len(self.head), 0)
            data = os.pread(handle, dtype.itemsize, self.start + number * dtype.itemsize)
        finally:
            os.close(handle)
        if head != self.head or len(data) < dtype.itemsize:
            return None
        return np.frombuffer(data, dtype)


@dataclass(frozen=True, eq=False)
class ShardIndex:
    """The samples of one tar, sorted by key.

    Attributes:
        path: The tar.
        table: A row for each sample that has both a JPEG and a JSON: what `Span` holds, and "key",
            UTF-8.
        incomplete: (key, what is wrong) of the others.
        cut_after: Last whole member of a tar that is cut short or broken; None for a whole tar.
        num_repeated: Files that are left out because one of their name came before.
        kept: Where the table lies on disk; None where it could not be kept.
    """

    path: str
    table: npt.NDArray[Any]
    incomplete: tuple[tuple[str, str], ...]
    cut_after: str | None
    num_repeated: int
    kept: KeptTable | None = None

    def __len__(self) -> int:
        return len(self.table)

    @property
    def keys(self) -> tuple[str, ...]:
        """Names of the complete samples."""
        return tuple(map(decode_key, self.table["key"].tolist()))

    @property
    def spans(self) -> IntArray:
        """Offset and size of the JPEG, then of the JSON, in bytes, int64, shape (N, 4)."""
        return np.stack([self.table[name] for name in Span._fields[:4]], axis=1)

    @property
    def digest(self) -> int:
        """A number that differs where the table does."""
        return zlib.crc32(self.table.data)

    def places(self) -> list[tuple[str, Span]]:
        """Key of each sample, and where it lies."""
        return [(decode_key(row[-1]), Span(*row[:-1])) for row in self.table.tolist()]


def table_dtype(key_bytes: int) -> np.dtype[Any]:
    """The dtype of a table with keys of at most `key_bytes` bytes."""
    spans = [(name, "<u4" if name.endswith("header") else "<i8") for name in Span._fields]
    return np.dtype([*spans, ("key", f"S{key_bytes}")])


def home_of_index(path: Path, index_dir: str | Path | None) -> Path:
    """Where the index of a tar is kept, see `maskfeat.data.shards.index.index_shard`."""
    if index_dir is None:
        folder = path.parent
        # Root may write anywhere; a folder that its owner has closed stays as it is.
        is_closed = not stat.S_IMODE(folder.stat().st_mode) & 0o222
        if os.access(folder, os.W_OK) and not is_closed:
            return path.with_name(path.name + _ENDING)
        cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        index_dir = Path(cache) / "maskfeat"
    digest = hashlib.sha256(os.fsencode(path)).hexdigest()[:16]
    return Path(index_dir) / f"{path.name}.{digest}{_ENDING}"


def load_index(path: Path, home: Path, status: os.stat_result) -> ShardIndex | None:
    """The index kept at `home`, if there is one and the tar, of this status, is still the same."""
    if not home.is_file():
        return None
    try:
        with home.open("rb") as file:
            head = file.read(_HEAD.size)
            magic, length, checksum = _HEAD.unpack(head)
            text = file.read(length)
            if magic != _MAGIC or zlib.crc32(text) != checksum:
                raise ValueError("it is damaged, or of another version")
            notes = json.loads(text)
            if notes["tar"] != _identity(status):
                return None
            dtype = table_dtype(notes["key_bytes"])
            table = np.fromfile(file, dtype, notes["samples"])
        _check_table(table, notes, status.st_size)
        incomplete = tuple((str(key), str(detail)) for key, detail in notes["incomplete"])
        kept = KeptTable(str(home), head, _HEAD.size + length, notes["key_bytes"])
        repeated = int(notes["repeated"])
        return ShardIndex(str(path), table, incomplete, notes["cut_after"], repeated, kept)
    except _BAD as error:
        _LOG.warning("index %s cannot be read and is made anew: %s", home, error)
        return None


def save_index(index: ShardIndex, home: Path, status: os.stat_result) -> ShardIndex:
    """Keep an index at `home`, if that can be.

    Args:
        index: What the scan has found.
        home: Where to keep it.
        status: Of the tar, from before the scan.

    Returns:
        The same, with the place where it is kept, if it is.
    """
    notes = {
        "tar": _identity(status),
        "samples": len(index.table),
        "key_bytes": index.table.dtype["key"].itemsize,
        "checksum": zlib.crc32(index.table.data),
        "cut_after": index.cut_after,
        "incomplete": index.incomplete,
        "repeated": index.num_repeated,
    }
    text = json.dumps(notes).encode()
    try:
        with whole_file(home) as file:  # several processes may do this at once
            file.write(_HEAD.pack(_MAGIC, len(text), zlib.crc32(text)))
            file.write(text)
            file.write(index.table.tobytes())
    except OSError as error:
        _LOG.warning("index %s cannot be kept, so the tar is scanned each time: %s", home, error)
        return index
    kept = load_index(Path(index.path), home, status)
    return index if kept is None else kept


def _identity(status: os.stat_result) -> list[int]:
    # The last is set by the system at any change, also where size and time of contents are made
    # to look the same.
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns]


def _check_table(table: npt.NDArray[Any], notes: dict[str, Any], tar_size: int) -> None:
    is_same = len(table) == notes["samples"] and zlib.crc32(table.data) == notes["checksum"]
    for kind in ("jpg", "json"):
        offsets, sizes = table[f"{kind}_offset"], table[f"{kind}_size"]
        is_within = (offsets >= BLOCK) & (sizes >= 0) & (offsets <= tar_size - sizes)
        is_same = is_same and bool(is_within.all())
    if not is_same:
        raise ValueError("its table is damaged")


def decode_key(key: bytes) -> str:
    """The name of a sample, as a table has it."""
    return key.decode("utf-8", "surrogateescape")
