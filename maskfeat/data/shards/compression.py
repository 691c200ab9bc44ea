"""Compressed tars, read front to back."""

from __future__ import annotations

import bz2
import gzip
import lzma
import zlib
from typing import IO, Any

from maskfeat.data.shards.http_stream import Readable

# Endings of the names of compressed tars.
PACKED = (".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst")
_DAMAGED = (EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile)
_COMPRESSIONS = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ\x00": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
}
_OPENERS: dict[str, Any] = {
    "gzip": lambda file: gzip.GzipFile(fileobj=file),
    "bzip2": bz2.BZ2File,
    "xz": lzma.LZMAFile,
}


class CutShortError(Exception):
    """The tar ends, or is damaged, within a member."""


def compression_of(head: bytes) -> str | None:
    """The compression of a file, by its first bytes; None for none that is known."""
    return next((name for magic, name in _COMPRESSIONS.items() if head.startswith(magic)), None)


def begun(stream: Readable) -> tuple[bytes, Readable]:
    """Find out whether a stream is compressed, and decompress it if so.

    Returns:
        The first bytes of the content, which were read for that, and a stream of the others.

    Raises:
        ValueError: If it is compressed by something that cannot be read here.
    """
    head = b""
    while len(head) < 6 and (chunk := stream.read(6 - len(head))):
        head += chunk
    name = compression_of(head)
    if name is None:
        return head, stream
    if name not in _OPENERS:
        raise ValueError(f"it is compressed by {name}, which is not read; decompress it")
    return b"", _Decompressed(_OPENERS[name](_Joined(head, stream)))


class _Joined:
    """A stream after its first bytes were read; its opener closes it."""

    mode = "rb"  # gzip asks

    def __init__(self, head: bytes, stream: Readable) -> None:
        self._head = head
        self._stream = stream

    def read(self, size: int) -> bytes:
        if not self._head:
            return self._stream.read(size)
        head, self._head = self._head[:size], self._head[size:]
        return head

    def close(self) -> None:
        pass


class _Decompressed:
    """The content of a compressed stream; damage and a failing source raise different errors."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    def read(self, size: int) -> bytes:
        try:
            return self._file.read(size)
        except _DAMAGED as error:
            raise CutShortError from error
        except OSError as error:
            if type(error) is OSError and error.errno is None:  # what bz2 says of damage
                raise CutShortError from error
            raise

    def close(self) -> None:
        pass
