"""Opening shards, from disk or over the network: retries, time-outs, and the local cache."""

from __future__ import annotations

import hashlib
import http.client
import logging
import time
import urllib.error
from dataclasses import dataclass
from typing import Any

import fsspec

from maskfeat.data.annotations.limits import Limits
from maskfeat.data.shards.http_stream import ChangedError, Opened, Readable, RefusedError, open_http
from maskfeat.data.shards.names import is_url

_LOG = logging.getLogger("maskfeat")
_LONGEST_WAIT_S = 60.0
# Answers of a server after which asking again may help; any other refusal is final.
_PASSING = {408, 425, 429, 500, 502, 503, 504}
_FAILURES = (OSError, http.client.HTTPException, EOFError, RefusedError)
# What the library behind a store says when asking again cannot help: it is not installed or does
# not know the protocol, or the store does not let us in.
_FINAL = (ImportError, PermissionError, ValueError)


class UnreachableError(ConnectionError, ValueError):
    """A shard could not be read over the network, however often it was tried."""


@dataclass(frozen=True)
class ShardSettings:
    """How shards are opened, from disk or over the network.

    Args:
        index_dir: Folder for the indexes of local tars; null keeps each beside its tar.
        cache_dir: Folder on a local disk that keeps whole shards from urls, for later epochs and
            other processes; null reads them over the network each time.
        cache_gb: Bound on that folder, GB (10^9 bytes); shards used longest ago make room. Keep
            room for one more shard per reader: those being fetched or read come on top.
        url_attempts: Failures of a url in a row that end training, in one sentence.
        url_wait_s: Pause after the first failure, seconds; doubles with each, up to a minute.
        url_timeout_s: Seconds without a byte after which a connection counts as failed.
        url_min_bytes_s: Fewest bytes a second, on average over that time; a slower connection
            counts as failed too.
        allow_pipe: Let `pipe:COMMAND` urls run a shell command and read its output. Only for urls
            that you wrote yourself.

    Raises:
        ValueError: If a number is out of its range; names the setting.
    """

    index_dir: str | None = None
    cache_dir: str | None = None
    cache_gb: float = 50
    url_attempts: int = 5
    url_wait_s: float = 1
    url_timeout_s: float = 60
    url_min_bytes_s: float = 1000
    allow_pipe: bool = False

    def __post_init__(self) -> None:
        numbers = (self.url_attempts, self.url_wait_s, self.url_timeout_s, self.cache_gb)
        if numbers[0] < 1 or numbers[1] < 0 or numbers[2] <= 0 or numbers[3] <= 0:
            raise ValueError(
                "url_attempts must be at least 1, url_wait_s at least 0, url_timeout_s and "
                "cache_gb above 0, got {}, {}, {} and {}".format(*numbers)
            )
        if not self.url_min_bytes_s >= 0:
            raise ValueError(f"url_min_bytes_s must be at least 0, got {self.url_min_bytes_s}")


@dataclass(frozen=True)
class ShardSource(ShardSettings):
    """Opens shards; workers receive it by pickle.

    Args:
        limits: What a sample in them may ask for; see `ShardSettings` for the rest.
    """

    limits: Limits = Limits()  # noqa: RUF009 - frozen

    def open(self, url: str) -> Readable:
        """Open a shard; no shell is run but for an allowed `pipe:`.

        Raises:
            FileNotFoundError: If it is not there.
            UnreachableError: If it could not be read over the network; so may every `read`.
            ValueError: For a `pipe:` that is not allowed, or a shard larger than the cache.
        """
        if url.startswith("pipe:"):
            if not self.allow_pipe:
                raise ValueError(
                    f"'{url}' would run a shell command; set data.shards.allow_pipe to allow it"
                )
            from webdataset.gopen import gopen  # torch comes with it

            stream: Readable = gopen(url)
            return stream
        if not is_url(url):
            return open(url, "rb")
        if self.cache_dir is None:
            return RemoteStream(url, self)
        from maskfeat.data.shards.cache import ShardCache  # file locks, which not every system has

        cache = ShardCache(self.cache_dir, int(self.cache_gb * 1e9))
        return cache.open(url, lambda: RemoteStream(url, self))


def _is_http(url: str) -> bool:
    return url.startswith(("http://", "https://"))


class RemoteStream:
    """A file at a url, read front to back; where the connection fails it goes on after a pause.

    What it gives is one version of the file, from the first byte to the last.

    Args:
        url: http(s), or whatever fsspec knows.
        source: How often to try.
    """

    def __init__(self, url: str, source: ShardSource) -> None:
        self.url = url
        self.source = source
        self.position = 0  # bytes given out
        self.total: int | None = None  # bytes of the file, where the server says
        self.version: str | None = None  # of the file, where the server says
        self._digest = hashlib.blake2b()  # of the bytes given out
        self._stream: Readable | None = None
        self._pace = _Pace(source.url_timeout_s, source.url_min_bytes_s)

    def read(self, size: int) -> bytes:
        """Exactly `size` bytes; fewer at the end of the file alone.

        Raises:
            FileNotFoundError: If there is no such file.
            UnreachableError: If the url failed `source.url_attempts` times in a row, gave the file
                too slowly as often, or has changed in mid-reading.
        """
        chunks = []
        while size and (chunk := self._read_some(size)):
            chunks.append(chunk)
            size -= len(chunk)
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    def close(self) -> None:
        """End the connection."""
        if self._stream is not None:
            self._stream.close()
            self._stream = None

    def _read_some(self, size: int) -> bytes:
        """Up to `size` bytes, trying again where that may help; none at the end of the file."""
        failures = 0
        # Other stores have exceptions of their own.
        passing: tuple[type[Exception], ...] = _FAILURES if _is_http(self.url) else (Exception,)
        while True:
            try:
                return self._read_once(size)
            except FileNotFoundError as error:
                raise FileNotFoundError(f"no shard at '{self.url}'") from error
            except ChangedError as error:
                message = f"shard '{self.url}' has changed while it was read"
                raise UnreachableError(message) from error
            except passing as error:
                self.close()
                # Every slow connection has given some bytes, so those are counted for themselves.
                failures = max(failures + 1, self._pace.num_slow)
                text = " ".join(str(error).split())  # some have several lines
                named = ": ".join(filter(None, (type(error).__name__, text)))
                reason = text if isinstance(error, RefusedError) else named
                is_final = isinstance(error, _FINAL)
                if isinstance(error, urllib.error.HTTPError):
                    is_final = error.code not in _PASSING
                if is_final:
                    raise UnreachableError(f"shard '{self.url}' is refused: {reason}") from error
                if failures >= self.source.url_attempts:
                    raise UnreachableError(
                        f"shard '{self.url}' failed {failures} times in a row, the last time with "
                        f"{reason}; look at the server, or raise data.shards.url_attempts"
                    ) from error
                wait = min(self.source.url_wait_s * 2 ** (failures - 1), _LONGEST_WAIT_S)
                _LOG.warning("%s (%s), trying again in %g s", self.url, reason, wait)
                time.sleep(wait)

    def _read_once(self, size: int) -> bytes:
        self._pace.check()
        began = time.monotonic()
        if self._stream is None:
            self._connect()
        assert self._stream is not None
        chunk = self._stream.read(size)
        if size and not chunk and self.total is not None and self.position < self.total:
            raise ConnectionError(f"cut off after {self.position} of {self.total} bytes")
        self.position += len(chunk)
        self._digest.update(chunk)
        self._pace.add(len(chunk), time.monotonic() - began)
        return chunk

    def _connect(self) -> None:
        """Open the url at `position`."""
        opener = open_http if _is_http(self.url) else _open_other
        opened = opener(self.url, self.position, self.source.url_timeout_s, self.version)
        self._stream = opened.stream
        if self.position and (opened.total, opened.version) != (self.total, self.version):
            raise ChangedError("its size or its version differs")
        self.total, self.version = opened.total, opened.version
        if opened.start < self.position:  # a server that cannot begin in the middle
            self._skip(self.position)

    def _skip(self, size: int) -> None:
        """Pass over bytes that were given out before, if they still are the same."""
        assert self._stream is not None
        digest = hashlib.blake2b()
        while size:
            chunk = self._stream.read(min(2**20, size))
            if not chunk:
                raise ConnectionError(f"cut off {size} bytes before where it broke off last time")
            digest.update(chunk)
            size -= len(chunk)
        if digest.digest() != self._digest.digest():
            raise ChangedError("its first bytes differ")


class _Pace:
    """How fast bytes come, while they are waited for."""

    def __init__(self, window_s: float, min_bytes_s: float) -> None:
        self.num_slow = 0  # windows in a row that were too slow
        self._window_s = window_s
        self._min_bytes_s = min_bytes_s
        self._waited_s = 0.0
        self._num_bytes = 0

    def add(self, num_bytes: int, waited_s: float) -> None:
        """Count bytes that have come."""
        self._waited_s += waited_s
        self._num_bytes += num_bytes

    def check(self) -> None:
        """Close a window that is over.

        Raises:
            TimeoutError: If too few bytes came in it.
        """
        if self._waited_s < self._window_s:
            return
        waited_s, num_bytes = self._waited_s, self._num_bytes
        self._waited_s, self._num_bytes = 0.0, 0
        if num_bytes >= self._min_bytes_s * waited_s:
            self.num_slow = 0
            return
        self.num_slow += 1
        raise TimeoutError(f"only {num_bytes} bytes in {waited_s:.3g} s")


def _open_other(url: str, position: int, timeout_s: float, version: str | None) -> Opened:
    """As `open_http`; how long to wait is up to the library behind fsspec."""
    file: Any = fsspec.open(url, "rb").open()
    if position:
        file.seek(position)
    details = getattr(file, "details", None) or {}
    found = details.get("ETag") or details.get("LastModified") or details.get("updated")
    return Opened(file, position, getattr(file, "size", None), str(found) if found else None)
