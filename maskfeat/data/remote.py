"""Opening shards, from disk or over the network: retries, time-outs, and the local cache."""

from __future__ import annotations

import http.client
import logging
import re
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from typing import IO, Any, Protocol

import fsspec
from webdataset.gopen import gopen

_LOG = logging.getLogger("maskfeat")
_LONGEST_WAIT_S = 60.0
# Answers of a server after which asking again may help; any other refusal is final.
_PASSING = {408, 425, 429, 500, 502, 503, 504}
_FAILURES = (OSError, http.client.HTTPException, EOFError)
# What the library behind a store says when asking again cannot help: it is not installed or does
# not know the protocol, or the store does not let us in.
_FINAL = (ImportError, PermissionError, ValueError)


class UnreachableError(ConnectionError, ValueError):
    """A shard could not be read over the network, however often it was tried."""


class Readable(Protocol):
    """What is needed of an open shard."""

    def read(self, size: int, /) -> bytes:
        """Up to `size` bytes; none at the end."""

    def close(self) -> None:
        """Let go of it."""


@dataclass(frozen=True)
class ShardSource:
    """How shards are opened; workers receive it by pickle.

    Args:
        allow_pipe: Let `pipe:COMMAND` run a shell command and read what it prints.
        attempts: How often in a row a url may fail before it is given up.
        wait_s: Pause after the first failure, seconds; it doubles with each, up to a minute.
        timeout_s: Seconds without a byte after which a connection has failed.
        cache_dir: Folder that shards at urls are kept in; None keeps none.
        cache_gb: Bound on what is kept, in GB (10^9 bytes).
    """

    allow_pipe: bool = False
    attempts: int = 5
    wait_s: float = 1.0
    timeout_s: float = 60.0
    cache_dir: str | None = None
    cache_gb: float = 50.0

    def __post_init__(self) -> None:
        if self.attempts < 1 or self.wait_s < 0 or self.timeout_s <= 0 or self.cache_gb <= 0:
            raise ValueError(
                "url_attempts must be at least 1, url_wait_s at least 0, url_timeout_s and "
                f"cache_gb above 0, got {self.attempts}, {self.wait_s}, {self.timeout_s} and "
                f"{self.cache_gb}"
            )

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
                    f"'{url}' would run a shell command; set data.allow_pipe to allow it"
                )
            stream: Readable = gopen(url)
            return stream
        if not is_url(url):
            return open(url, "rb")
        if self.cache_dir is None:
            return RemoteStream(url, self)
        from maskfeat.data.cache import ShardCache  # file locks, which not every system has

        cache = ShardCache(self.cache_dir, int(self.cache_gb * 1e9))
        return cache.open(url, lambda: RemoteStream(url, self))


def is_url(name: str) -> bool:
    """Whether a shard is read over the network (`http://`, `s3://`, ...) and not from a path."""
    return re.match(r"[a-zA-Z][a-zA-Z0-9+.-]*://", name) is not None


def _is_http(url: str) -> bool:
    return url.startswith(("http://", "https://"))


def _is_final(error: Exception) -> bool:
    """Whether asking again cannot help."""
    if isinstance(error, urllib.error.HTTPError):
        return error.code not in _PASSING
    return isinstance(error, _FINAL)


class RemoteStream:
    """A file at a url, read front to back; where the connection fails it goes on after a pause.

    Args:
        url: http(s), or whatever fsspec knows.
        source: How often to try.
    """

    def __init__(self, url: str, source: ShardSource) -> None:
        self.url = url
        self.source = source
        self.position = 0  # bytes given out
        self._total: int | None = None  # bytes of the file, where the server says
        self._stream: Readable | None = None

    def read(self, size: int) -> bytes:
        """Up to `size` bytes; none at the end of the file.

        Raises:
            FileNotFoundError: If there is no such file.
            UnreachableError: If the url failed `source.attempts` times in a row.
        """
        for failures in range(1, self.source.attempts + 1):
            try:
                return self._read_once(size)
            except FileNotFoundError as error:
                raise FileNotFoundError(f"no shard at '{self.url}'") from error
            except UnreachableError:
                raise
            except self._failures as error:
                self.close()
                told = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
                if _is_final(error):
                    raise UnreachableError(f"shard '{self.url}' is refused: {told}") from error
                if failures == self.source.attempts:
                    raise UnreachableError(
                        f"shard '{self.url}' failed {failures} times in a row, the last time with "
                        f"{told}; look at the server, or raise data.url_attempts"
                    ) from error
                wait = min(self.source.wait_s * 2 ** (failures - 1), _LONGEST_WAIT_S)
                _LOG.warning("%s (%s), trying again in %g s", self.url, told, wait)
                time.sleep(wait)
        raise AssertionError("the last failure is raised")

    def close(self) -> None:
        """End the connection."""
        if self._stream is not None:
            self._stream.close()
            self._stream = None

    @property
    def _failures(self) -> tuple[type[Exception], ...]:
        """What counts as a failed attempt; stores have exceptions of their own."""
        return _FAILURES if _is_http(self.url) else (Exception,)

    def _read_once(self, size: int) -> bytes:
        if self._stream is None:
            self._connect()
        assert self._stream is not None
        chunk = self._stream.read(size)
        if size and not chunk and self._total is not None and self.position < self._total:
            raise ConnectionError(f"cut off after {self.position} of {self._total} bytes")
        self.position += len(chunk)
        return chunk

    def _connect(self) -> None:
        """Open the url at `position`."""
        opened = _open_http if _is_http(self.url) else _open_other
        self._stream, start, total = opened(self.url, self.position, self.source.timeout_s)
        if self.position and total != self._total:
            raise UnreachableError(f"shard '{self.url}' has changed while it was read")
        self._total = total
        while start < self.position:  # a server that cannot begin in the middle
            chunk = self._stream.read(min(2**20, self.position - start))
            if not chunk:
                raise ConnectionError(f"cut off after {start} bytes")
            start += len(chunk)


def _open_http(url: str, position: int, timeout_s: float) -> tuple[IO[bytes], int, int | None]:
    """Stream, the byte that it starts at, and the size of the file, if known."""
    headers = {"Range": f"bytes={position}-"} if position else {}
    request = urllib.request.Request(url, headers=headers)
    try:
        answer: Any = urllib.request.urlopen(request, timeout=timeout_s)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code in (404, 410):
            raise FileNotFoundError(str(error)) from error
        raise
    start = position if answer.status == 206 else 0
    length = answer.headers.get("Content-Length")
    return answer, start, start + int(length) if length is not None else None


def _open_other(url: str, position: int, timeout_s: float) -> tuple[IO[bytes], int, int | None]:
    """As `_open_http`; how long to wait is up to the library behind fsspec."""
    file: Any = fsspec.open(url, "rb").open()
    if position:
        file.seek(position)
    return file, position, getattr(file, "size", None)
