"""Files that are written whole or not at all, and under names of their own."""

from __future__ import annotations

import contextlib
import os
import re
import socket
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO


@contextlib.contextmanager
def whole_file(path: str | os.PathLike[str]) -> Iterator[IO[bytes]]:
    """Open a file that appears under its name only when the block has ended well.

    It is written beside its final place (a rename between file systems would be a copy, which a
    kill can cut in half), flushed to disk, then renamed. Several processes may write the same
    file; the last one to finish stays. After an exception nothing is left; what a killed process
    left beside the file is removed by the next that writes it on the same machine.

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
    temporary = final.with_name(f".{final.name}.{os.getpid()}@{host}.part")
    _remove_leftovers(final, host)
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(final)
    except OSError as error:
        # A full disk names no file, and the temporary one means nothing to the user.
        if error.filename in (None, str(temporary)):
            error.filename, error.filename2 = str(final), None
        raise
    finally:
        temporary.unlink(missing_ok=True)


def _remove_leftovers(final: Path, host: str) -> None:
    """Remove parts of this file that processes of this machine left when they were killed."""
    named = re.compile(rf"\.{re.escape(final.name)}\.(\d+)@{re.escape(host)}\.part")
    for path in final.parent.iterdir():
        match = named.fullmatch(path.name)
        if match and not _is_alive(int(match.group(1))):
            path.unlink(missing_ok=True)


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # somebody else's
        return True
    return True


def holds_one_of(folder: Path, paths: Sequence[Path]) -> bool:
    """Whether a folder is the one in which some of these files lie."""
    return folder.resolve() in {path.parent.resolve() for path in paths}


def check_stems(paths: Sequence[Path]) -> None:
    """Refuse files of one stem: what is made of them would have one name.

    Raises:
        ValueError: Names the first two of one stem.
    """
    first_of: dict[str, Path] = {}
    for path in paths:
        first = first_of.setdefault(path.stem, path)
        if first is not path:
            raise ValueError(
                f"'{first.name}' and '{path.name}' would both be written as '{path.stem}'; "
                "rename one of them"
            )
