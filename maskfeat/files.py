"""Files that are written whole or not at all, and folders that one process works in at a time."""

from __future__ import annotations

import contextlib
import datetime
import errno
import functools
import hashlib
import json
import logging
import os
import re
import secrets
import socket
import tempfile
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

_LOG = logging.getLogger("maskfeat")
_LOCK_NAME = ".maskfeat.lock"
_MAX_NAMED = 10  # names that one sentence lists
# What file systems without locks answer.
_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP}


class FolderInUseError(ValueError):
    """Another process works in the folder."""


@contextlib.contextmanager
def whole_file(path: str | os.PathLike[str]) -> Iterator[IO[bytes]]:
    """Open a file that appears under its name only when the block has ended well.

    It is written beside its final place (a rename between file systems would be a copy, which a
    kill can cut in half), flushed to disk, then renamed, and the rename is flushed too. Several
    threads and processes may write the same file; the last one to finish stays. After an exception
    nothing is left; what a killed process left beside the file is removed by the next that writes
    it on the same machine.

    Args:
        path: Where the file is to be; folders are made.

    Yields:
        The open file, binary.

    Raises:
        OSError: If it cannot be written; `filename` is that of the file, or of a folder above it.
    """
    final = Path(path)
    final.parent.mkdir(parents=True, exist_ok=True)
    host = socket.gethostname()
    start = _temporary_start(final)
    _remove_leftovers(final.parent, start, host)
    temporary = final.with_name(f"{start}.{os.getpid()}-{secrets.token_hex(4)}@{host}.part")
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(final)
        sync_folder(final.parent)
    except OSError as error:
        # A full disk names no file, and the temporary one means nothing to the user.
        if error.filename in (None, str(temporary)):
            error.filename, error.filename2 = str(final), None
        raise
    finally:
        temporary.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Flush a folder's entries to disk: without it, a power cut can undo a rename."""
    if os.name != "posix":  # elsewhere folders cannot be opened
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def held_folder(folder: Path, what: str, *, beside: bool = False) -> Iterator[None]:
    """Work in a folder that no other process works in meanwhile.

    The system drops the lock when the process ends, however it ends. Children made by fork do not
    hold it. Within one process a folder may be held several times.

    Args:
        folder: The folder; it is made, unless the lock lies beside it.
        what: What the process does with it, for the sentence that others get ("a training run").
        beside: Put the lock's file beside the folder, so that the folder itself can be moved.

    Raises:
        FolderInUseError: If another process holds it; names it (process, machine, since when).
        OSError: If the lock's file cannot be written.
    """
    lock = folder.parent / f".{folder.name}.lock" if beside else folder / _LOCK_NAME
    with held_lock(lock, folder, what):
        yield


@contextlib.contextmanager
def held_lock(lock: Path, folder: Path, what: str) -> Iterator[None]:
    """Hold a part of a folder, as `held_folder` holds all of it.

    On a file system without locks nothing is held; a warning says so once for each folder.

    Args:
        lock: The lock's file; folders are made. It is removed in the end.
        folder: For sentences.
        what: As for `held_folder`.

    Raises:
        FolderInUseError: If another process holds it.
        OSError: If the lock's file cannot be written.
    """
    lock.parent.mkdir(parents=True, exist_ok=True)
    lock = Path(os.path.realpath(lock))  # the working folder may change meanwhile
    _LOCKS.acquire(lock, folder, what)
    try:
        yield
    finally:
        _LOCKS.release(lock)


def check_free(folder: Path) -> None:
    """Refuse a folder that another process holds by `held_folder`; several may ask at once.

    Raises:
        FolderInUseError: If one does; names it.
    """
    lock = folder / _LOCK_NAME
    if lock.exists() and not _LOCKS.has(lock):
        _locked_file(lock, folder).close()


class _ProcessLocks:
    """The locked files of this process.

    The system counts locks of one file once per process, and drops them when the process closes
    any handle of the file. So each file is opened once, and its holders are counted here.
    """

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._files: dict[str, tuple[IO[str], int]] = {}  # by real path: file, number of holders

    def has(self, lock: Path) -> bool:
        """Whether this process holds it: to open and close its file would drop it."""
        with self._guard:
            return os.path.realpath(lock) in self._files

    def acquire(self, lock: Path, folder: Path, what: str) -> None:
        key = os.path.realpath(lock)
        with self._guard:
            if key in self._files:
                file, count = self._files[key]
            else:
                file, count = _locked_file(lock, folder), 0
                _write_holder(file, what)
            self._files[key] = (file, count + 1)

    def release(self, lock: Path) -> None:
        key = os.path.realpath(lock)
        with self._guard:
            file, count = self._files.pop(key)
            if count > 1:
                self._files[key] = (file, count - 1)
                return
            lock.unlink(missing_ok=True)  # before the lock is dropped: no other process has it yet
            file.close()


_LOCKS = _ProcessLocks()


def _locked_file(lock: Path, folder: Path) -> IO[str]:
    """Open the file of a lock and lock it.

    Raises:
        FolderInUseError: If another process has locked it.
    """
    import fcntl  # which not every system has

    while True:
        file = lock.open("a+")
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # The last holder may have removed the file between our opening and our locking it.
            if lock.exists() and os.path.samestat(os.fstat(file.fileno()), lock.stat()):
                return file
        except OSError as error:
            if error.errno in _NO_LOCKS:
                _warn_of_no_locks(folder, str(error))
                return file
            if error.errno not in (errno.EACCES, errno.EAGAIN):
                file.close()
                raise
            file.seek(0)
            holder = _read_holder(file.read())
            file.close()
            raise FolderInUseError(
                f"'{folder}' is in use by {holder}; stop that first, or take another folder"
            ) from error
        file.close()


@functools.cache
def _warn_of_no_locks(folder: Path, why: str) -> None:
    _LOG.warning("'%s' cannot be locked: %s; start nothing else there", folder, why)


def _write_holder(file: IO[str], what: str) -> None:
    since = datetime.datetime.now().astimezone().strftime("%Y-%m-%d %H:%M:%S %z")
    holder = {"what": what, "process": os.getpid(), "machine": socket.gethostname(), "since": since}
    file.seek(0)
    file.truncate()
    json.dump(holder, file)
    file.flush()


def _read_holder(text: str) -> str:
    """Say who holds a lock, in the words that `_write_holder` left in its file."""
    try:
        holder: dict[str, Any] = json.loads(text)
        return (
            f"{holder['what']} (process {holder['process']} on {holder['machine']}, "
            f"since {holder['since']})"
        )
    except (ValueError, KeyError, TypeError):  # read in the instant before it was written
        return "another process"


def _temporary_start(final: Path) -> str:
    """How the names of a file's temporary files begin; short, for the file's may be 255 bytes."""
    digest = hashlib.sha256(os.fsencode(final.name)).hexdigest()[:12]
    return f".{re.sub(r'[^A-Za-z0-9._-]', '_', final.name)[:40]}-{digest}"


def _remove_leftovers(folder: Path, start: str, host: str) -> None:
    """Remove parts of a file that processes of this machine left when they were killed."""
    named = re.compile(rf"{re.escape(start)}\.(\d+)-[0-9a-f]+@{re.escape(host)}\.part")
    for name in os.listdir(folder):
        match = named.fullmatch(name)
        if match and not _is_alive(int(match.group(1))):
            (folder / name).unlink(missing_ok=True)


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # somebody else's
        return True
    return True


def file_digest(path: Path, digest: Any = None) -> str:  # noqa: ANN401 - hashlib names no type
    """A text that differs between contents, hexadecimal.

    Args:
        path: The file.
        digest: One of `hashlib`, new; None takes blake2b of 16 bytes.

    Raises:
        OSError: If the file cannot be read.
    """
    digest = digest or hashlib.blake2b(digest_size=16)
    with path.open("rb") as file:
        while chunk := file.read(2**20):
            digest.update(chunk)
    return str(digest.hexdigest())


def file_stamp(path: Path) -> tuple[int, int, int] | None:
    """Another one whenever a file is replaced or changed; None if it is not there."""
    try:
        status = path.stat()
    except OSError:  # not there, or out of reach: reading it says so
        return None
    return status.st_size, status.st_mtime_ns, status.st_ino


def holds_one_of(folder: Path, paths: Sequence[Path]) -> bool:
    """Whether some of these files lie in a folder."""
    return folder.resolve() in {path.parent.resolve() for path in paths}


def check_writable(folder: Path) -> None:
    """Refuse a folder that nothing can be written to, before the work that is to fill it.

    Nothing is left behind: of a folder that is not there, the one above it is tried.

    Raises:
        OSError: Its `filename` is that of the folder.
    """
    place = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not place.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(place))
    try:
        with tempfile.TemporaryFile(dir=place):
            pass
    except OSError as error:
        error.filename = str(place)
        raise


def check_stems(paths: Sequence[Path]) -> None:
    """Refuse files of one stem: what is made of them would have one name.

    Raises:
        ValueError: Names the files of each such stem, of at most ten stems.
    """
    of_stem: dict[str, list[Path]] = {}
    for path in paths:
        of_stem.setdefault(path.stem, []).append(path)
    equal = {stem: files for stem, files in of_stem.items() if len(files) > 1}
    if not equal:
        return
    is_one_folder = len({path.parent for path in paths}) == 1
    message = [
        f"{' and '.join(repr(file.name if is_one_folder else str(file)) for file in files)} "
        f"would {'both' if len(files) == 2 else 'all'} be written as '{stem}'"
        for stem, files in list(equal.items())[:_MAX_NAMED]
    ]
    more = f"; and {len(equal) - _MAX_NAMED} more names" if len(equal) > _MAX_NAMED else ""
    raise ValueError(f"{'; '.join(message)}{more}; rename one of each")
