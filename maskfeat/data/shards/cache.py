"""Shards at urls kept on a local disk: whole files, bounded in bytes, safe for many processes."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import lzma
import os
import re
import tarfile
import urllib.parse
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Protocol

from maskfeat.data.shards.http_stream import Readable
from maskfeat.files import sync_folder, whole_file

_ENTRY = re.compile(r"[0-9a-f]{24}-")
_CHUNK = 2**20


class CacheFolderError(OSError, ValueError):
    """The folder of the cache cannot be used."""


class Fetched(Readable, Protocol):
    """A shard where it comes from."""

    @property
    def total(self) -> int | None:
        """Bytes of the whole shard, known once reading has begun; None where nobody says."""


class ShardCache:
    """A folder of whole shards; those used longest ago make room for new ones.

    Any number of processes may share it. Each url is fetched by one process while the others that
    want it wait; whoever is killed leaves a part file behind that the next one writes anew. A
    shard that is removed while it is being read stays readable to its readers, as the system
    keeps open files. So beyond the bound the disk holds at most the shards in flight: those being
    fetched, and removed ones still being read. What lies at a url is taken not to change.

    Args:
        folder: Where they are kept; made if it is not there. On a disk of the machine itself.
        max_bytes: Bound on all whole shards together.

    Raises:
        CacheFolderError: If the folder cannot be made.
    """

    def __init__(self, folder: str | Path, max_bytes: int) -> None:
        self.folder = Path(folder).expanduser()
        self.max_bytes = max_bytes
        with self._named_errors():
            self.folder.mkdir(parents=True, exist_ok=True)

    def path(self, url: str) -> Path:
        """Where a url is kept."""
        digest = hashlib.sha256(url.encode()).hexdigest()[:24]
        name = os.path.basename(urllib.parse.urlsplit(url).path)
        return self.folder / f"{digest}-{re.sub(r'[^A-Za-z0-9._-]', '_', name)[-80:]}"

    def open(self, url: str, fetch: Callable[[], Fetched]) -> IO[bytes]:
        """Open a shard, after fetching it if it is not kept whole.

        Args:
            url: Its name.
            fetch: Opens it where it comes from.

        Raises:
            ValueError: If it is larger than the bound, no tar, or cut short.
            CacheFolderError: If it cannot be written.
            Exception: Whatever `fetch` and its `read` raise.
        """
        path = self.path(url)
        with self._locked(path.name):
            kept = self._kept(path)
            if kept is not None:
                os.utime(kept.fileno())  # when it was used last; it may have made room meanwhile
                return kept
            part = self.folder / f".{path.name}.part"
            try:
                stream = fetch()
                with contextlib.closing(stream):
                    self._copy(stream, part)
                file = part.open("rb")  # before anyone can remove it
                with contextlib.ExitStack() as on_error:
                    on_error.callback(file.close)
                    _check_tar(file, url, is_whole=stream.total is not None)
                    self._keep(part, path, url)
                    on_error.pop_all()
            finally:
                part.unlink(missing_ok=True)
        return file

    def _kept(self, path: Path) -> IO[bytes] | None:
        """The entry of a shard, open; None if there is none, or another one than was written."""
        try:
            file = os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW), "rb")
        except OSError:  # absent, a link, unreadable: written anew
            return None
        try:
            size = int(self._size_path(path.name).read_text())
        except (OSError, ValueError):
            size = -1
        if os.fstat(file.fileno()).st_size == size:
            return file
        file.close()
        return None

    def _size_path(self, name: str) -> Path:
        """Where the number of bytes of an entry is written, to know one that was cut."""
        return self.folder / f".{name}.bytes"

    def _copy(self, stream: Readable, part: Path) -> None:
        """Write a stream to a new file, down to the disk."""
        part.unlink(missing_ok=True)  # it may be a link
        while chunk := stream.read(_CHUNK):
            with self._named_errors(), part.open("ab") as file:
                file.write(chunk)
        with self._named_errors(), part.open("ab") as file:
            os.fsync(file.fileno())

    def _keep(self, part: Path, path: Path, url: str) -> None:
        size = part.stat().st_size
        if size > self.max_bytes:
            raise ValueError(
                f"shard '{url}' has {size / 1e9:.3g} GB, more than the cache may hold "
                f"({self.max_bytes / 1e9:.3g} GB); raise data.shards.cache_gb"
            )
        with self._locked("all"):
            kept = []
            for entry in self.folder.iterdir():
                if _ENTRY.match(entry.name) and entry != path:
                    status = entry.lstat()
                    kept.append((status.st_mtime_ns, status.st_size, entry))
                elif entry.suffix == ".part" and entry != part:
                    self._sweep(entry)
            excess = size + sum(size for _, size, _ in kept) - self.max_bytes
            for _, size_of_old, entry in sorted(kept):
                if excess <= 0:
                    break
                entry.unlink()
                self._size_path(entry.name).unlink(missing_ok=True)
                excess -= size_of_old
            with self._named_errors():
                path.unlink(missing_ok=True)
                with whole_file(self._size_path(path.name)) as file:
                    file.write(str(size).encode())
                part.replace(path)
                sync_folder(self.folder)

    def _sweep(self, part: Path) -> None:
        """Remove what a killed process has left."""
        with contextlib.suppress(BlockingIOError), self._locked(part.name[1:-5], wait=False):
            part.unlink(missing_ok=True)

    @contextlib.contextmanager
    def _locked(self, name: str, wait: bool = True) -> Iterator[None]:
        """Hold a lock; the system lets go of it when the process ends, however it ends."""
        # Lock files stay: removing one would let two processes hold "the" lock.
        with self._named_errors():
            flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW
            file = os.fdopen(os.open(self.folder / f".{name}.lock", flags, 0o666), "r+")
        with file:
            with self._named_errors():
                fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            yield

    @contextlib.contextmanager
    def _named_errors(self) -> Iterator[None]:
        try:
            yield
        except BlockingIOError:  # another process holds the lock
            raise
        except OSError as error:
            raise CacheFolderError(
                f"data.shards.cache_dir '{self.folder}' cannot keep shards "
                f"({error.strerror}); make room there, name another folder, or set it to null"
            ) from error


def _check_tar(file: IO[bytes], url: str, is_whole: bool) -> None:
    """Refuse what is no tar (a login page, say), and leave the file at its start.

    Unless the server gave its length (`is_whole`), one that is cut short is refused, too.
    """
    head = file.read(64)
    file.seek(0)
    try:
        with tarfile.open(fileobj=file, mode="r:*") as tar:
            if tar.next() is None:
                raise tarfile.ReadError("it is empty")
            while not is_whole and tar.next() is not None:
                tar.members = []  # type: ignore[attr-defined]  # or all headers would be kept
            if not is_whole and tar.fileobj is file:  # not compressed
                file.seek(-512, os.SEEK_END)
                if file.read() != bytes(512):
                    raise EOFError("it ends without the zeros that close a tar")
    except (tarfile.ReadError, EOFError, zlib.error, lzma.LZMAError) as error:
        raise ValueError(
            f"what lies at '{url}' is no whole tar; it begins with "
            f"{head[:40]!r}, open it in a browser to see what the server answers"
        ) from error
    file.seek(0)
