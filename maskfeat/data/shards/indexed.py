"""The indexed set: tars on disk as one sequence of samples, each read when asked for."""

from __future__ import annotations

import logging
import os
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from maskfeat.data.annotations.image import SampleError, within_memory
from maskfeat.data.annotations.limits import Limits
from maskfeat.data.annotations.sample import AnnotatedImage, check_sizes, read_sample
from maskfeat.data.shards.index import index_shard
from maskfeat.data.shards.index_file import KeptTable, Span, decode_key
from maskfeat.data.shards.names import expand_shards, is_url
from maskfeat.data.shards.sample_folder import FileSample, list_samples
from maskfeat.data.shards.tar import BLOCK

if TYPE_CHECKING:  # it needs torch, seconds that processes which only read need not wait for
    from maskfeat.batch import SkippedSample

_LOG = logging.getLogger("maskfeat")
# Indexes of a set that are held in memory, 50 bytes a sample; those beyond stay on disk.
_MOST_BYTES = 2**25


@dataclass
class _Tar:
    """A tar, and its index, either in memory or left on disk, where all workers read one copy."""

    path: str
    index_dir: str | Path | None
    num_samples: int
    digest: int
    kept: KeptTable | None
    table: npt.NDArray[Any] | None

    def key(self, number: int) -> str:
        """Name of a sample."""
        return self._place(number)[0]

    def read(self, number: int, limits: Limits) -> tuple[bytes, bytes]:
        """Image and JSON of a sample, see `read_pair`."""
        return read_pair(self.path, self._place(number)[1], limits)

    def _place(self, number: int) -> tuple[str, Span]:
        row = self.kept.row(number) if self.table is None and self.kept is not None else None
        if row is None:
            if self.table is None:  # its file was removed, or made anew
                index = index_shard(self.path, self.index_dir)
                if index.digest != self.digest:
                    raise SampleError("incomplete", "the shard has changed since it was indexed")
                self.table = index.table
            row = self.table[number : number + 1]
        *span, key = row.tolist()[0]
        return decode_key(key), Span(*span)


@dataclass(frozen=True)
class _Folder:
    """Samples that lie as files in a folder."""

    path: str
    samples: tuple[FileSample, ...]

    @property
    def num_samples(self) -> int:
        return len(self.samples)

    def key(self, number: int) -> str:
        """Name of a sample."""
        return self.samples[number].key

    def read(self, number: int, limits: Limits) -> tuple[bytes, bytes]:
        """Image and JSON of a sample, see `read_pair`."""
        _, image, text = self.samples[number]
        try:
            check_sizes(os.stat(image).st_size, os.stat(text).st_size, limits)
            return Path(image).read_bytes(), Path(text).read_bytes()
        except OSError as error:
            raise SampleError("incomplete", f"a file cannot be read: {error}") from error


class IndexedShards(Sequence[AnnotatedImage]):
    """Samples of tars and folders on disk, sorted by shard, then key; each is read when asked for.

    It holds no open files, so it can be pickled and used by threads and by forked or spawned
    workers alike. Offsets of large sets stay in the files of the indexes, so that workers do not
    hold a copy each.

    Args:
        shards: As in `expand_shards`; local files only.
        index_dir: Where indexes are kept, see `maskfeat.data.shards.index.index_shard`.
        keep_crowds: As in `maskfeat.data.annotations.sample.read_sample`.
        limits: What a sample may ask for.

    Attributes:
        shards: Paths of the tars and folders, sorted.
        incomplete: Samples that miss their JPEG or JSON, or whose JSON in a folder is beyond the
            limits; they are not counted by `len`.

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
        from maskfeat.batch import SkippedSample

        self.keep_crowds = keep_crowds
        self.limits = limits
        self.shards = expand_shards(shards, max_names=limits.names, max_json_mb=limits.json_mb)
        self.incomplete: list[SkippedSample] = []
        self._shards: list[_Tar | _Folder] = []
        num_bytes = 0
        for path in self.shards:
            if is_url(path):
                raise ValueError(
                    f"the indexed mode reads local tars, got '{path}'; "
                    "download it or set data.mode to streaming"
                )
            shard: _Tar | _Folder
            if os.path.isdir(path):
                folder = list_samples(path, limits)
                shard = _Folder(path, folder.samples)
                wrong = [(key, one.reason, one.detail) for key, one in folder.left_out]
            else:
                index = index_shard(path, index_dir)
                num_bytes += index.table.nbytes
                is_left = num_bytes > _MOST_BYTES and index.kept is not None
                table = None if is_left else index.table
                shard = _Tar(path, index_dir, len(index), index.digest, index.kept, table)
                wrong = [(key, "incomplete", detail) for key, detail in index.incomplete]
            if not shard.num_samples:
                why = f": {wrong[0][2]}" if wrong else ""
                raise ValueError(
                    f"shard '{path}' has no complete sample; "
                    f"it should hold KEY.jpg with KEY.json, as in SA-1B{why}"
                )
            self._shards.append(shard)
            self.incomplete += [SkippedSample(why, path, key, text) for key, why, text in wrong]
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
        return self._shards[shard].key(number)

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
        key = self._shards[shard].key(number)
        jpg, text = self._shards[shard].read(number, self.limits)
        return read_sample(key, self.shards[shard], jpg, text, self.keep_crowds, self.limits)

    def __iter__(self) -> Iterator[AnnotatedImage]:
        return (self[i] for i in range(len(self)))

    def _locate(self, i: int) -> tuple[int, int]:
        if not -len(self) <= i < len(self):
            raise IndexError(f"there are {len(self)} samples, got number {i}")
        i = int(i) % len(self)
        shard = int(np.searchsorted(self._ends, i, side="right"))
        return shard, i - int(self._ends[shard]) + self._shards[shard].num_samples


@within_memory("to read its files")
def read_pair(path: str, span: Span, limits: Limits) -> tuple[bytes, bytes]:
    """Read the JPEG and the JSON of a sample, after a look whether they are still there.

    Raises:
        SampleError: "incomplete" if the tar has changed since, "too large" beyond the limits.
        OSError: If the tar cannot be read.
    """
    check_sizes(span.jpg_size, span.json_size, limits)
    # Opened for each sample: that takes microseconds, and nothing is left open in any worker.
    handle = os.open(path, os.O_RDONLY)
    try:
        jpg = content_at(handle, span.jpg_offset, span.jpg_size, span.jpg_header)
        text = content_at(handle, span.json_offset, span.json_size, span.json_header)
    finally:
        os.close(handle)
    return jpg, text


def content_at(handle: int, offset: int, size: int, header: int) -> bytes:
    """The content of a member of an open tar, after a look whether it is still there, see `Member`.

    Raises:
        SampleError: "incomplete" if the tar has changed since it was indexed.
    """
    before = os.pread(handle, BLOCK, offset - BLOCK)
    data = os.pread(handle, size, offset)
    if len(before) < BLOCK or len(data) < size:
        raise SampleError("incomplete", "the shard has become shorter since it was indexed")
    if zlib.crc32(before) != header:
        raise SampleError("incomplete", "the shard has changed since it was indexed")
    return data
