"""The stream: sorted tars read front to back, from disk or over the network."""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Callable, Generator, Iterator
from typing import NamedTuple

from maskfeat.batch import SkippedSample
from maskfeat.data.annotations.image import SampleError
from maskfeat.data.annotations.sample import check_sizes
from maskfeat.data.shards.compression import CutShortError
from maskfeat.data.shards.remote import ShardSource
from maskfeat.data.shards.tar import (
    Member,
    TarWalk,
    is_repeated,
    member_key,
    not_a_file,
    preferred_half,
    warn_of_repeated,
)

_LOG = logging.getLogger("maskfeat")
_ALL = range(sys.maxsize)


class RawSample(NamedTuple):
    """The files of one sample."""

    key: str
    url: str
    jpg: bytes
    json: bytes


def raw_samples(
    url: str, source: ShardSource, wanted: range = _ALL
) -> Iterator[tuple[int, RawSample | SkippedSample]]:
    """Pair the members of a shard; those without their other half come last.

    A key counts once. Where it comes again, as in tars put together by `cat`, the first counts, as
    in indexes; files left out are counted in a warning. Samples before those wanted are skipped
    without reading their content, and the shard is closed after the last.

    Yields:
        Number in the shard (0, 1, ..., first all that are complete) and files, of those wanted; or
        why they cannot be read, as where one is a link.

    Raises:
        ValueError: If it is no tar, is not sorted, has no complete sample, or two files for one
            key.
    """
    lone: dict[tuple[str, str], None] = {}  # halves whose other half has not followed
    key, halves = "", dict[str, bytes | SampleError]()
    keys = set[str]()  # of complete samples
    firsts = dict[tuple[str, str], Member]()  # of each half
    num_again = 0

    def is_next_wanted() -> bool:
        return len(keys) in wanted  # of the pair at hand, for both of its halves

    with contextlib.closing(_members(url, source, is_next_wanted)) as members:
        for (key_now, kind), member, data in members:
            first = firsts.get((key_now, kind))
            firsts[key_now, kind] = preferred_half(first, member, url)
            num_again += is_repeated(first, member)
            if key_now in keys:
                continue
            if key_now != key:
                lone.update({(key, half): None for half in halves})
                key, halves = key_now, {}
            other = "json" if kind == "jpg" else "jpg"
            if (key, other) in lone:
                raise ValueError(
                    f"shard '{url}' is not sorted (member {key}.{other} is not followed by its "
                    f"{kind}); read it in indexed mode or re-shard it"
                )
            if firsts[key, kind] is member:
                halves[kind] = data
            if len(halves) < 2:
                continue
            if is_next_wanted():
                yield len(keys), _sample(key, url, halves)
            keys.add(key)
            key, halves = "", {}
            if len(keys) >= wanted.stop:
                return
    lone.update({(key, half): None for half in halves})
    warn_of_repeated(url, num_again)
    if not keys:
        raise ValueError(
            f"shard '{url}' has no complete sample; it should hold KEY.jpg with KEY.json, "
            "as in SA-1B"
        )
    for number, (key, half) in enumerate(lone, start=len(keys)):
        missing = "json" if half == "jpg" else "jpg"
        if number in wanted:
            detail = f"the shard has no {key}.{missing}"
            yield number, SkippedSample("incomplete", url, key, detail)


def _sample(
    key: str, url: str, halves: dict[str, bytes | SampleError]
) -> RawSample | SkippedSample:
    """Both halves, or why one of them cannot be read."""
    jpg, text = halves["jpg"], halves["json"]
    for half in (jpg, text):
        if isinstance(half, SampleError):
            return SkippedSample(half.reason, url, key, half.detail)
    return RawSample(key, url, jpg, text)  # type: ignore[arg-type]


def _members(
    url: str, source: ShardSource, is_wanted: Callable[[], bool]
) -> Generator[tuple[tuple[str, str], Member, bytes | SampleError]]:
    """Key and kind, header and content (or why there is none) of halves of samples, in order.

    The content is empty where `is_wanted` says at the time that it need not be read. A shard that
    is cut short gives its whole members, with a warning in the log.
    """
    last = None
    with contextlib.closing(source.open(url)) as stream:
        try:
            walk = TarWalk(stream)
        except ValueError as error:
            raise ValueError(f"shard '{url}' cannot be read: {error}") from error
        for member in walk:
            named = member_key(member.name)
            if named is None:
                continue
            try:
                data = _content(member, named[1], walk, source) if is_wanted() else b""
            except CutShortError:
                break
            last = member.name
            yield named, member, data
        if not walk.is_whole and last is None:
            raise ValueError(f"shard '{url}' is no tar, or has no whole member")
        if not walk.is_whole:
            _LOG.warning("shard %s is cut short or broken after member %s", url, last)


def _content(member: Member, kind: str, walk: TarWalk, source: ShardSource) -> bytes | SampleError:
    if member.leads_to is not None:
        return SampleError(
            "incomplete",
            f"'{member.name}' is {member.kind} to '{member.target}', and a stream does not go "
            "back; read the shard in indexed mode or re-shard it",
        )
    if not member.is_file:
        return SampleError("incomplete", not_a_file(member))
    try:
        check_sizes(*((member.size, 0) if kind == "jpg" else (0, member.size)), source.limits)
    except SampleError as error:
        return error
    return walk.content()
