"""By what it is known that a source has changed: sizes and times of its files, and hashes.

Small things are hashed (the head of a tar, a JSON of COCO); of other files the size and the time
of the last change count, so that a second run over a large set costs one `stat` for each file.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from maskfeat.data.convert.sample import Record

_HEAD = 2**16  # bytes of a tar: its first headers


def digest(data: bytes) -> str:
    """16 characters that stand for some bytes."""
    return hashlib.sha256(data).hexdigest()[:16]


def measure_tar(path: Path) -> str:
    """Size, time of the last change and first headers of a tar."""
    status = path.stat()
    with path.open("rb") as file:
        head = digest(file.read(_HEAD))
    return f"{status.st_size} bytes, {status.st_mtime_ns}, {head}"


def measure_records(records: Sequence[Record], basis: str = "") -> str:
    """Names of samples, and the files that each is read from.

    Args:
        records: The samples.
        basis: What else they are read from, as a digest.

    Returns:
        Words that differ where a file was added, removed, or written anew. Folders do not count,
        so a source that is moved with its times stays the same.
    """
    total = hashlib.sha256(basis.encode())
    for record in records:
        lines = [record.key, *(_state_of(path) for path in record.files)]
        total.update(("\n".join(lines) + "\0").encode(errors="surrogatepass"))
    return f"{len(records)} samples {total.hexdigest()[:16]}"


def _state_of(path: str) -> str:
    name = os.path.basename(path)
    try:
        status = os.stat(path)
    except (OSError, ValueError):  # gone, out of reach, or no name: reading it says so
        return f"{name} -"
    return f"{name} {status.st_size} {status.st_mtime_ns}"
