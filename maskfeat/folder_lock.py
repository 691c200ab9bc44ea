"""Folders that one process works in at a time."""

from __future__ import annotations

import contextlib
import datetime
import errno
import functools
import json
import logging
import os
import socket
import threading
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

_LOG = logging.getLogger("maskfeat")
_LOCK_NAME = ".maskfeat.lock"
# What file systems without locks answer.
_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP}


class FolderInUseError(ValueError):
    """Another process works in the folder."""


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
    """Hold a part of a folder, as `held_folder` holds all of it, by the file of its lock.

    On a file system without locks nothing is held; a warning says so once for each folder.

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

    A holder that was dropped without an end is ended by the garbage collector, which may run in any
    line, those under the guard too. So to release waits for nothing: whoever has the guard does it.
    """

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._files: dict[str, tuple[IO[str], int]] = {}  # by real path: file, number of holders
        self._released: deque[Path] = deque()

    def has(self, lock: Path) -> bool:
        """Whether this process holds it: to open and close its file would drop it."""
        with self._guard:
            found = os.path.realpath(lock) in self._files
        self._do_released()
        return found

    def acquire(self, lock: Path, folder: Path, what: str) -> None:
        key = os.path.realpath(lock)
        with self._guard:
            if key in self._files:
                file, count = self._files[key]
            else:
                file, count = _locked_file(lock, folder), 0
                _write_holder(file, what)
            self._files[key] = (file, count + 1)
        self._do_released()

    def release(self, lock: Path) -> None:
        self._released.append(lock)
        self._do_released()

    def _do_released(self) -> None:
        while self._released and self._guard.acquire(blocking=False):
            try:
                if not self._released:  # another thread was here
                    continue
                lock = self._released.popleft()
                key = os.path.realpath(lock)
                file, count = self._files.pop(key)
                if count > 1:
                    self._files[key] = (file, count - 1)
                    continue
                lock.unlink(missing_ok=True)  # while it is held: no other process has it yet
                file.close()
            finally:
                self._guard.release()


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
            try:
                known: dict[str, Any] = json.loads(file.read())
                where = f"process {known['process']} on {known['machine']}"
                holder = f"{known['what']} ({where}, since {known['since']})"
            except (ValueError, KeyError, TypeError):  # read in the instant before it was written
                holder = "another process"
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
