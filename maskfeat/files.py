"""Files that are written whole or not at all."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO


@contextlib.contextmanager
def whole_file(path: str | os.PathLike[str]) -> Iterator[IO[bytes]]:
    """Open a file that appears under its name only when the block has ended well.

    It is written beside its final place (a rename between file systems would be a copy, which a
    kill can cut in half), flushed to disk, then renamed. Several processes may write the same
    file; the last one to finish stays. After an exception nothing is left.

    Args:
        path: Where the file is to be; folders are made.

    Yields:
        The open file, binary.
    """
    final = Path(path)
    final.parent.mkdir(parents=True, exist_ok=True)
    temporary = final.with_name(f".{final.name}.{os.getpid()}.part")
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(final)
    finally:
        temporary.unlink(missing_ok=True)
