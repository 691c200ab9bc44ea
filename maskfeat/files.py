"""Files that are written whole or not at all; digests, stamps and names of files."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import secrets
import socket
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

_MAX_NAMED = 10  # names that one sentence lists


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
    # Short, for the name of the file may have 255 bytes.
    digest = hashlib.sha256(os.fsencode(final.name)).hexdigest()[:12]
    start = f".{re.sub(r'[^A-Za-z0-9._-]', '_', final.name)[:40]}-{digest}"
    named = re.compile(rf"{re.escape(start)}\.(\d+)-[0-9a-f]+@{re.escape(host)}\.part")
    for name in os.listdir(final.parent):  # what processes that were killed have left
        match = named.fullmatch(name)
        if match and not _is_alive(int(match.group(1))):
            (final.parent / name).unlink(missing_ok=True)
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


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # somebody else's
        return True
    return True


def file_digest(path: Path, digest: Any = None) -> str:  # noqa: ANN401 - hashlib names no type
    """A text that differs between contents, hexadecimal; by blake2b of 16 bytes, or `digest`, new.

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
