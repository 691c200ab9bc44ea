"""Tars as people have them, read front to back: one walk for indexes and for streams.

A tar may be several put together by `cat`, compressed, and hold links, folders and sparse files.
Headers are taken apart by the standard library; it reads names of any length, though, and ends at
the first of several tars, so the walk from one header to the next is our own.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import posixpath
import tarfile
import zlib
from collections.abc import Iterator
from typing import IO, Any, NamedTuple, cast

from maskfeat.data.shards.http_stream import Readable

BLOCK = 512
# Endings of the names of compressed tars.
PACKED = (".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst")
# A name or the notes on a member are this long at most: paths have 4096 bytes.
_MAX_NOTES = 2**20
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
_HARD_LINK, _SYMBOLIC_LINK = "a hard link", "a symbolic link"
_KINDS = {
    tarfile.LNKTYPE: _HARD_LINK,
    tarfile.SYMTYPE: _SYMBOLIC_LINK,
    tarfile.DIRTYPE: "a folder",
    tarfile.FIFOTYPE: "a pipe",
    tarfile.CHRTYPE: "a device",
    tarfile.BLKTYPE: "a device",
}


class CutShortError(Exception):
    """The tar ends, or is damaged, within a member."""


class Member(NamedTuple):
    """A file in a tar, or what stands there in place of one.

    Attributes:
        name: With its folders.
        offset: Where its content begins, bytes from the start of the (uncompressed) tar.
        size: Bytes of its content in the tar.
        kind: "a file", or what else it is, in words.
        target: Where a link leads to, as the tar has it.
        header: Checksum (CRC 32) of the block before the content.
    """

    name: str
    offset: int
    size: int
    kind: str
    target: str
    header: int

    @property
    def is_file(self) -> bool:
        """Whether its content is that of a file, as it is."""
        return self.kind == "a file"

    @property
    def leads_to(self) -> str | None:
        """Name of the member that a link stands for, without "." and ".."; None for no link."""
        if self.kind == _HARD_LINK:
            return posixpath.normpath(self.target)
        if self.kind == _SYMBOLIC_LINK:
            return posixpath.normpath(posixpath.join(posixpath.dirname(self.name), self.target))
        return None


def compression_of(head: bytes) -> str | None:
    """The compression of a file, by its first bytes; None for none that is known."""
    return next((name for magic, name in _COMPRESSIONS.items() if head.startswith(magic)), None)


class TarWalk:
    """The members of a tar, one after the other.

    Args:
        file: The tar; a file on disk, with `seek`, is read at its headers alone; a stream may be
            compressed.
        size: Bytes of a file on disk; None for a stream, whose contents can be read on the way.

    Attributes:
        is_whole: After the walk, whether nothing but zeros came after the last member.

    Raises:
        ValueError: If it is compressed by something that cannot be read here.
    """

    def __init__(self, file: Readable, size: int | None = None) -> None:
        self.is_whole = False
        self._file = file if size is not None else _decompressed(file)
        self._size = size
        self._position = 0
        self._member: Member | None = None

    def __iter__(self) -> Iterator[Member]:
        """Walk; whatever is wrong with the tar ends the walk, and `is_whole` stays False."""
        num_zeros = 0
        try:
            while block := self._read(BLOCK):
                if not block.strip(b"\0"):
                    num_zeros += 1  # of the end, after which `cat` may have put another tar
                    continue
                member = self._member = self._member_at(block)
                num_zeros = 0
                if member.kind != _HARD_LINK or member.target != member.name:  # as `tar c a a` has
                    yield member
                self._go_to(member.offset + -(-member.size // BLOCK) * BLOCK)
        except CutShortError:
            return
        self.is_whole = num_zeros > 0

    def content(self) -> bytes:
        """Content of the member at hand, once, in a stream.

        Raises:
            CutShortError: If the stream ends before it does; so does the walk.
        """
        assert self._member is not None
        return self._read_whole(self._member.size)

    def _member_at(self, block: bytes) -> Member:
        """The member whose first header this is; extended headers may come before its own."""
        notes: dict[str, str] = {}
        while True:
            if len(block) < BLOCK:
                raise CutShortError
            try:
                info = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
            except (tarfile.TarError, ValueError, OverflowError) as error:
                raise CutShortError from error
            if info.size < 0:
                raise CutShortError
            if info.type in (tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK):
                text = self._notes(info.size).partition(b"\0")[0].decode("utf-8", "surrogateescape")
                notes["path" if info.type == tarfile.GNUTYPE_LONGNAME else "linkpath"] = text
            elif info.type in (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE):
                notes |= _parse_pax(self._notes(info.size))
            elif info.type == tarfile.XGLTYPE:
                self._notes(info.size)  # on all members: no sane one names or measures them
            else:
                return self._described(info, block, notes)
            block = self._read(BLOCK)

    def _described(self, info: tarfile.TarInfo, block: bytes, notes: dict[str, str]) -> Member:
        size = _whole_number(notes["size"]) if "size" in notes else info.size
        kind = _KINDS.get(info.type, "a file" if info.isreg() else "of an unknown kind")
        if info.type == tarfile.GNUTYPE_SPARSE:
            kind, goes_on = "a sparse file", block[482]
            while goes_on:
                goes_on = self._read_whole(BLOCK)[504]
        elif any(name.startswith("GNU.sparse.") for name in notes):
            kind = "a sparse file"
        if info.type in _KINDS:
            size = 0  # whatever it says: no content follows
        if size < 0 or (self._size is not None and self._position + size > self._size):
            raise CutShortError
        name = notes.get("GNU.sparse.name") or notes.get("path") or info.name
        name, target = name.partition("\0")[0].rstrip("/"), notes.get("linkpath") or info.linkname
        return Member(name, self._position, size, kind, target, zlib.crc32(block))

    def _notes(self, size: int) -> bytes:
        if size > _MAX_NOTES:
            raise CutShortError
        return self._read_whole(-(-size // BLOCK) * BLOCK)[:size]

    def _go_to(self, position: int) -> None:
        if self._size is not None:
            cast("IO[bytes]", self._file).seek(position)
            self._position = position
        while self._position < position:
            if not self._read(min(2**20, position - self._position)):
                raise CutShortError

    def _read_whole(self, size: int) -> bytes:
        data = self._read(size)
        if len(data) < size:
            raise CutShortError
        return data

    def _read(self, size: int) -> bytes:
        """Up to `size` bytes, fewer at the end."""
        data = self._file.read(size)
        if 0 < len(data) < size:
            chunks = [data]
            while (rest := size - sum(map(len, chunks))) and (data := self._file.read(rest)):
                chunks.append(data)
            data = b"".join(chunks)
        self._position += len(data)
        return data


def _parse_pax(data: bytes) -> dict[str, str]:
    """Records "LENGTH NAME=VALUE", one a line; LENGTH is of the whole line."""
    notes = {}
    while data:
        length = _whole_number(data[:20].partition(b" ")[0].decode("ascii", "replace"))
        if not 0 < length <= len(data):
            raise CutShortError
        name, _, value = data[:length].partition(b" ")[2].rstrip(b"\n").partition(b"=")
        notes[name.decode("utf-8", "replace")] = value.decode("utf-8", "surrogateescape")
        data = data[length:]
    return notes


def _whole_number(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) <= 20):
        raise CutShortError
    return int(text)


def _decompressed(stream: Readable) -> Readable:
    head = b""
    while len(head) < 6 and (chunk := stream.read(6 - len(head))):
        head += chunk
    joined = _Joined(head, stream)
    name = compression_of(head)
    if name is None:
        return joined
    if name not in _OPENERS:
        raise ValueError(f"it is compressed by {name}, which is not read; decompress it")
    return _Decompressed(_OPENERS[name](joined))


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
