"""The stream: sorted tars read front to back, from disk or over the network."""

from __future__ import annotations

import contextlib
import logging
import sys
import tarfile
import zlib
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import IO, NamedTuple, cast

from maskfeat.batch import SkippedSample
from maskfeat.data.http_stream import Readable
from maskfeat.data.index import member_key
from maskfeat.data.remote import ShardSource
from maskfeat.data.sample import AnnotatedImage, SampleError, read_sample
from maskfeat.data.shards import expand_shards

_LOG = logging.getLogger("maskfeat")
_ALL = range(sys.maxsize)


class RawSample(NamedTuple):
    """The files of one sample."""

    key: str
    url: str
    jpg: bytes
    json: bytes


def stream_samples(
    urls: str | Sequence[str], allow_pipe: bool = False
) -> Iterator[AnnotatedImage | SkippedSample]:
    """Read shards front to back, once.

    Args:
        urls: Paths or urls of sorted tars, as in `maskfeat.data.shards.expand_shards`.
        allow_pipe: Let `pipe:COMMAND` run a shell command and read what it prints.

    Yields:
        Each sample, or why it could not be read.

    Raises:
        FileNotFoundError: If a shard is missing.
        UnreachableError: If a url failed again and again.
        ValueError: If a shard is no tar, is not sorted or has no complete sample, or for a
            `pipe:` that is not allowed.
    """
    source = ShardSource(allow_pipe)
    for url in expand_shards(urls, allow_pipe):
        for _, raw in raw_samples(url, source):
            yield read_raw(raw)


def read_raw(
    raw: RawSample | SkippedSample, keep_crowds: bool = False
) -> AnnotatedImage | SkippedSample:
    """Check a sample and read its masks; what is wrong with it is given, not raised."""
    if isinstance(raw, SkippedSample):
        return raw
    try:
        return read_sample(raw.key, raw.url, raw.jpg, raw.json, keep_crowds)
    except SampleError as error:
        return SkippedSample(error.reason, raw.url, raw.key, error.detail)


def raw_samples(
    url: str, source: ShardSource, wanted: range = _ALL
) -> Iterator[tuple[int, RawSample | SkippedSample]]:
    """Pair the members of a shard; those that miss their half come last.

    Args:
        url: The shard.
        source: Opens it.
        wanted: Places in the shard that are to be read. Those before are passed over without their
            content, and the shard is closed after the last.

    Yields:
        Place in the shard (0, 1, ..., first all that are complete) and files, of those wanted.
    """
    lone: dict[tuple[str, str], None] = {}  # halves whose other half has not followed
    key, held = "", dict[str, bytes]()
    place = 0

    def is_next_wanted() -> bool:
        return place in wanted  # of the pair at hand, for both of its halves

    with contextlib.closing(_members(url, source, is_next_wanted)) as members:
        for key_now, kind, data in members:
            if key_now != key:
                lone.update({(key, half): None for half in held})
                key, held = key_now, {}
            other = "json" if kind == "jpg" else "jpg"
            if (key, other) in lone:
                raise ValueError(
                    f"shard '{url}' is not sorted (member {key}.{other} is not followed by its "
                    f"{kind}); read it in indexed mode or re-shard it"
                )
            held[kind] = data
            if len(held) == 2:
                if place in wanted:
                    yield place, RawSample(key, url, held["jpg"], held["json"])
                key, held = "", {}
                place += 1
                if place >= wanted.stop:
                    return
    lone.update({(key, half): None for half in held})
    if place == 0:
        raise ValueError(
            f"shard '{url}' has no complete sample; it should hold KEY.jpg with KEY.json, "
            "as in SA-1B"
        )
    for number, (key, half) in enumerate(lone, start=place):
        missing = "json" if half == "jpg" else "jpg"
        if number in wanted:
            detail = f"the shard has no {key}.{missing}"
            yield number, SkippedSample("incomplete", url, key, detail)


def _members(
    url: str, source: ShardSource, is_wanted: Callable[[], bool]
) -> Generator[tuple[str, str, bytes]]:
    """Key, kind and content of the jpg and json members of a shard, in order.

    The content is empty where `is_wanted` says at the time that it need not be read. A shard that
    is cut short gives its whole members, with a warning in the log.
    """
    last = None
    with contextlib.closing(source.open(url)) as stream:
        tail = _Tail(stream)
        try:
            for name, data in _named_members(tail, is_wanted):
                named = member_key(name)
                if named is not None:
                    last = name
                    yield *named, data
        except (tarfile.ReadError, EOFError, zlib.error) as error:
            if last is None:
                raise ValueError(f"shard '{url}' is no tar, or has no whole member") from error
            tail.chunk = b""
        if last is not None and not tail.is_end_of_tar():
            _LOG.warning("shard %s is cut short after member %s", url, last)


def _named_members(stream: _Tail, is_wanted: Callable[[], bool]) -> Iterator[tuple[str, bytes]]:
    """Name and content of the members of a tar, compressed or not, that may belong to a sample."""
    with tarfile.open(fileobj=cast("IO[bytes]", stream), mode="r|*") as tar:
        for member in tar:
            if member.isreg() and member_key(member.name) is not None:
                file = tar.extractfile(member) if is_wanted() else None
                yield member.name, file.read() if file is not None else b""
            tar.members = []  # type: ignore[attr-defined]  # or all headers of the shard would be kept


class _Tail:
    """A stream that remembers what it gave last."""

    def __init__(self, stream: Readable) -> None:
        self.stream = stream
        self.chunk = b""

    def read(self, size: int) -> bytes:
        chunk = self.stream.read(size)
        self.chunk = chunk or self.chunk
        return chunk

    def is_end_of_tar(self) -> bool:
        """Whether the stream closed with a block of zeros, as a whole tar does."""
        return self.chunk[-512:] == bytes(512)
