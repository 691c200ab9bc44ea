"""Samples to tar shards in the layout of SA-1B: KEY.jpg, then KEY.json, sorted by key."""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from maskfeat.formats.sa1b import json_bytes

MEMBER_OVERHEAD = 1024  # bytes: a tar header and, on average, half a block of padding, rounded up


class ShardWriter:
    """Writes samples to PREFIX-000000.tar, PREFIX-000001.tar, ... in a folder.

    A shard is written under a temporary name and renamed when whole; after an exception inside
    the `with` block no half shard is left, while those finished before it are. The bytes depend
    on the samples alone: no times, no users.

    Args:
        folder: Where the shards go; made if absent.
        prefix: First part of their names.
        samples_per_shard: Samples per shard, at least 1, or no such limit.
        max_mb: Size of a shard, 10^6 bytes, or no such limit. A sample that is larger by itself
            gets a shard of its own.
        first_number: Number of the first shard, to go on where an earlier writer was stopped.
        on_finish: Called with the path of each shard as soon as it is whole.
    """

    def __init__(
        self,
        folder: str | Path,
        prefix: str,
        samples_per_shard: int | None = None,
        max_mb: float | None = None,
        first_number: int = 0,
        on_finish: Callable[[Path], None] | None = None,
    ) -> None:
        if not prefix or "/" in prefix:
            raise ValueError(f"prefix must be the start of a file name, got {prefix!r}")
        if samples_per_shard is not None and samples_per_shard < 1:
            raise ValueError(f"samples_per_shard must be at least 1, got {samples_per_shard}")
        if max_mb is not None and max_mb <= 0:
            raise ValueError(f"max_mb must be above 0, got {max_mb}")
        self.paths: list[Path] = []  # finished shards, in order
        self._folder, self._prefix = Path(folder), prefix
        self._most_samples, self._most_bytes = samples_per_shard, max_mb and max_mb * 1e6
        self._first_number, self._on_finish = first_number, on_finish
        self._tar: tarfile.TarFile | None = None
        self._num_samples = self._num_bytes = 0
        self._last_key = ""

    def __enter__(self) -> ShardWriter:
        self._folder.mkdir(parents=True, exist_ok=True)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None:
            self._finish_shard()
        elif self._tar is not None:
            self._tar.close()
            self._temporary.unlink()

    def write_sample(self, key: str, jpg: bytes, annotation: Mapping[str, Any] | bytes) -> None:
        """Add one sample: a JPEG, and its `image` and `annotations` as in SA-1B, or their file.

        Its key has no dot or slash and is greater than the key before it.

        Raises:
            ValueError: If the key is malformed or out of order.
            FileExistsError: If a shard of the next name is there already.
        """
        if not key or "." in key or "/" in key:
            raise ValueError(f"a key is a name without dot or slash, got {key!r}")
        if key <= self._last_key:
            raise ValueError(f"keys must come sorted, got {key!r} after {self._last_key!r}")
        text = annotation if isinstance(annotation, bytes) else json_bytes(annotation)
        num_bytes = len(jpg) + len(text) + 2 * MEMBER_OVERHEAD
        has_most = self._most_samples is not None and self._num_samples >= self._most_samples
        is_full = self._most_bytes is not None and self._num_bytes + num_bytes > self._most_bytes
        if self._tar is not None and (has_most or is_full):
            self._finish_shard()
        if self._tar is None:
            if self._path.exists():
                raise FileExistsError(
                    f"{self._path} is there already; remove it or choose a prefix"
                )
            self._tar = tarfile.open(self._temporary, "w", format=tarfile.USTAR_FORMAT)
            self._num_samples = self._num_bytes = 0
        for ending, content in (("jpg", jpg), ("json", text)):
            member = tarfile.TarInfo(f"{key}.{ending}")  # mtime, uid and gid are 0
            member.size, member.mode = len(content), 0o644
            self._tar.addfile(member, io.BytesIO(content))
        self._last_key = key
        self._num_samples += 1
        self._num_bytes += num_bytes

    @property
    def _path(self) -> Path:
        number = self._first_number + len(self.paths)
        return self._folder / f"{self._prefix}-{number:06d}.tar"

    @property
    def _temporary(self) -> Path:
        return self._path.with_name(f".{self._path.name}.{os.getpid()}.part")

    def _finish_shard(self) -> None:
        if self._tar is None:
            return
        self._tar.close()
        self._tar = None
        path = self._path
        with self._temporary.open("rb") as file:
            os.fsync(file.fileno())  # before it has its name, lest a power cut leaves it half
        self._temporary.replace(path)
        self.paths.append(path)
        if self._on_finish is not None:
            self._on_finish(path)
