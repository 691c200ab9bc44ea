"""Shards at urls kept on a local disk: whole files, bounded in bytes, safe for many processes."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import urllib.parse
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from maskfeat.data.remote import Readable

_ENTRY = re.compile(r"[0-9a-f]{24}-")
_CHUNK = 2**20


class ShardCache:
    """A folder of whole shards, of which those used longest ago make room for new ones.

    Any number of processes may share it. Each url is fetched by one process while the others that
    want it wait; whoever is killed leaves a part file behind that the next one writes anew. A
    shard that is removed while it is being read stays readable to its readers, as the system
    keeps open files. So beyond the bound the disk holds at most the shards in flight: those being
    fetched, and removed ones still being read. What lies at a url is taken not to change.

    Args:
        folder: Where they are kept; made if it is not there. On a disk of the machine itself.
        max_bytes: Bound on all whole shards together.
    """

    def __init__(self, folder: str | Path, max_bytes: int) -> None:
        self.folder = Path(folder).expanduser()
        self.max_bytes = max_bytes
        self.folder.mkdir(parents=True, exist_ok=True)

    def path(self, url: str) -> Path:
        """Where a url is kept."""
        digest = hashlib.sha256(url.encode()).hexdigest()[:24]
        name = os.path.basename(urllib.parse.urlsplit(url).path)
        return self.folder / f"{digest}-{re.sub(r'[^A-Za-z0-9._-]', '_', name)[-80:]}"

    def open(self, url: str, fetch: Callable[[], Readable]) -> IO[bytes]:
        """Open a shard, after fetching it if it is not kept.

        Args:
            url: Its name.
            fetch: Opens it where it comes from.

        Raises:
            ValueError: If it is larger than the bound; and whatever `fetch` and its `read` raise.
        """
        path = self.path(url)
        with self._locked(path.name):
            with contextlib.suppress(FileNotFoundError):
                file = path.open("rb")
                os.utime(path)  # when it was used last
                return file
            part = self.folder / f".{path.name}.part"
            try:
                _copy(fetch(), part)
                file = part.open("rb")  # before anyone can remove it
                self._keep(part, path, url)
            finally:
                part.unlink(missing_ok=True)
        return file

    def _keep(self, part: Path, path: Path, url: str) -> None:
        size = part.stat().st_size
        if size > self.max_bytes:
            raise ValueError(
                f"shard '{url}' has {size / 1e9:.3g} GB, more than the cache may hold "
                f"({self.max_bytes / 1e9:.3g} GB); raise data.cache_gb"
            )
        with self._locked("all"):
            kept = []
            for entry in self.folder.iterdir():
                if _ENTRY.match(entry.name):
                    status = entry.stat()
                    kept.append((status.st_mtime_ns, status.st_size, entry))
                elif entry.suffix == ".part" and entry != part:
                    self._sweep(entry)
            excess = size + sum(size for _, size, _ in kept) - self.max_bytes
            for _, size_of_old, entry in sorted(kept):
                if excess <= 0:
                    break
                entry.unlink()
                excess -= size_of_old
            part.replace(path)

    def _sweep(self, part: Path) -> None:
        """Remove what a killed process has left."""
        with contextlib.suppress(BlockingIOError), self._locked(part.name[1:-5], wait=False):
            part.unlink(missing_ok=True)

    @contextlib.contextmanager
    def _locked(self, name: str, wait: bool = True) -> Iterator[None]:
        """Hold a lock; the system lets go of it when the process ends, however it ends."""
        # Lock files stay: removing one would let two processes hold "the" lock.
        with (self.folder / f".{name}.lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            yield


def _copy(stream: Readable, target: Path) -> None:
    with contextlib.closing(stream), target.open("wb") as file:
        while chunk := stream.read(_CHUNK):
            file.write(chunk)
