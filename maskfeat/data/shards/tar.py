"""Tars as people have them, read front to back: one walk for indexes and for streams.

A tar may be several put together by `cat`, compressed, and hold links, folders and sparse files.
Headers are taken apart by the standard library; it reads names of any length, though, and ends at
the first of several tars, so the walk from one header to the next is our own.
"""

from __future__ import annotations

import functools
import logging
import posixpath
import tarfile
import zlib
from collections.abc import Iterator
from typing import IO, NamedTuple, cast

from maskfeat.data.shards.compression import CutShortError, begun
from maskfeat.data.shards.http_stream import Readable

_LOG = logging.getLogger("maskfeat")
BLOCK = 512
_FORMATS = {"jpg": "jpg", "jpeg": "jpg", "png": "jpg", "json": "json"}
# A name or the notes on a member are this long at most: paths have 4096 bytes.
_MAX_NOTES = 2**20
_HARD_LINK, _SYMBOLIC_LINK = "a hard link", "a symbolic link"
_KINDS = {
    tarfile.LNKTYPE: _HARD_LINK,
    tarfile.SYMTYPE: _SYMBOLIC_LINK,
    tarfile.DIRTYPE: "a folder",
    tarfile.FIFOTYPE: "a pipe",
    tarfile.CHRTYPE: "a device",
    tarfile.BLKTYPE: "a device",
}


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
        self._ahead, self._file = begun(file) if size is None else (b"", file)
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
                end = member.offset + -(-member.size // BLOCK) * BLOCK
                if self._size is not None:
                    cast("IO[bytes]", self._file).seek(end)
                    self._position = end
                while self._position < end:
                    if not self._read(min(2**20, end - self._position)):
                        return
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

    def _read_whole(self, size: int) -> bytes:
        data = self._read(size)
        if len(data) < size:
            raise CutShortError
        return data

    def _read(self, size: int) -> bytes:
        """Up to `size` bytes, fewer at the end."""
        data, self._ahead = self._ahead[:size], self._ahead[size:]
        data = data or self._file.read(size)
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


def member_key(name: str) -> tuple[str, str] | None:
    """Part the name of a tar member, e.g. `./photos/sa_1.5_0.jpg`, into sample and kind.

    Returns:
        The name without folders and without its last extension, and "jpg" (an image, JPEG or PNG)
        or "json"; None for members that are neither, or are hidden (`._sa_1.jpg`, of macOS).
    """
    key, dot, extension = name.rsplit("/", 1)[-1].rpartition(".")
    kind = _FORMATS.get(extension.lower())
    if not dot or not key or key.startswith(".") or kind is None:
        return None
    return key, kind


def is_png(name: str) -> bool:
    """Whether a member of a tar is a PNG, by its name."""
    return name.lower().endswith(".png")


def preferred_half(first: Member | None, second: Member, shard: str) -> Member:
    """Which of two members of a shard is a half of a sample, in streams and indexes alike.

    The first counts, if there is one: a stream does not know of the second when it reads the first.
    A file comes before links to it, and a JPEG before a PNG, which then is a mask or the like.

    Raises:
        ValueError: If they are files of two names, which are two samples of one key.
    """
    if first is None:
        return second
    if is_png(first.name) != is_png(second.name):
        return second if is_png(first.name) else first
    names = [member.name.removeprefix("./") for member in (first, second)]
    if first.is_file and second.is_file and names[0] != names[1]:
        key = member_key(second.name)
        assert key is not None
        raise ValueError(
            f"shard '{shard}' holds two files for {key[1]} of key '{key[0]}', "
            f"'{first.name}' and '{second.name}'; give samples different names"
        )
    return second if second.is_file and not first.is_file else first


def is_repeated(first: Member | None, second: Member) -> bool:
    """Whether a half of a sample came before; a PNG beside a JPEG is no half."""
    return first is not None and is_png(first.name) == is_png(second.name)


@functools.cache
def warn_of_repeated(shard: str, num: int) -> None:
    """Log, once in a process, that files of a shard are left out by `preferred_half`."""
    if num:
        _LOG.warning(
            "shard %s has %d files of samples that came before: left out, the first counts",
            shard,
            num,
        )


def not_a_file(member: Member) -> str:
    """The reason why half a sample cannot be read: it is not a regular file in the tar."""
    if member.leads_to is not None:
        return (
            f"'{member.name}' is {member.kind} to '{member.target}', which is no file in the shard;"
            " make the tar with --dereference"
        )
    if member.kind == "a sparse file":
        return f"'{member.name}' is a sparse file, which is not read; make the tar without --sparse"
    return f"'{member.name}' is {member.kind}, not a file"
