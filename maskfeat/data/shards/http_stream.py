"""One request to a web server, whose answer is checked before a byte of it counts."""

from __future__ import annotations

import contextlib
import functools
import http.client
import re
import socket
import string
import threading
import urllib.error
import urllib.parse
import urllib.request
from typing import IO, Any, NamedTuple, Protocol

_CONTENT_RANGE = re.compile(r"bytes (\d{1,18})-\d{1,18}/(\d{1,18}|\*)")
_MOST_DIGITS = 18


class Readable(Protocol):
    """What is needed of an open shard."""

    def read(self, size: int, /) -> bytes:
        """Up to `size` bytes; none at the end."""

    def close(self) -> None:
        """Let go of it."""


class Opened(NamedTuple):
    """A file opened somewhere in the network.

    Attributes:
        stream: Its bytes from `start` on.
        start: The byte that `stream` begins at.
        total: Bytes of the whole file; None where the server does not say.
        version: What changes when the file does (ETag, or Last-Modified); None as above.
    """

    stream: Readable
    start: int
    total: int | None
    version: str | None


class RefusedError(ValueError):
    """An answer that asking again cannot mend."""


class ChangedError(ValueError):
    """The file is not the one that the first bytes came from."""


def open_http(url: str, position: int, timeout_s: float, version: str | None) -> Opened:
    """Ask for a file from a byte on.

    Args:
        url: http or https; what is not ASCII in its path is encoded as browsers do.
        position: The first byte wanted. A server may begin at 0 all the same.
        timeout_s: Seconds without a byte, or before the whole head of the answer is there, after
            which the connection has failed.
        version: `Opened.version` of the bytes before `position`.

    Raises:
        FileNotFoundError: If it is not there.
        RefusedError: If it is no url, redirects to none or to another protocol, or from https to
            http.
        ChangedError: If the file has become shorter than `position`.
        OSError: If the server fails, or answers with other bytes than those asked for.
    """
    headers = {"Range": f"bytes={position}-"} if position else {}
    if position and version is not None and not version.startswith("W/"):
        headers["If-Range"] = version  # then a changed file comes whole (RFC 9110, section 13.1.5)
    try:
        path = url.find("/", url.index("://") + 3)
        if path >= 0:
            url = url[:path] + urllib.parse.quote(url[path:], safe=string.punctuation)
        request = urllib.request.Request(url, headers=headers)
        answer: Any = _opener().open(request, timeout=timeout_s)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code in (404, 410):
            raise FileNotFoundError(str(error)) from error
        if error.code == 416:
            raise ChangedError("it is shorter now") from error
        raise
    except RefusedError:
        raise
    except ValueError as error:  # no url, or a redirect to none
        raise RefusedError(str(error)) from error
    found = answer.headers.get("ETag") or answer.headers.get("Last-Modified") or None
    length = _number(answer.headers.get("Content-Length"))
    if answer.status != 206:
        return Opened(_AsItComes(answer), 0, length, found)
    asked = _CONTENT_RANGE.fullmatch(answer.headers.get("Content-Range", ""))
    if asked is None or int(asked[1]) != position:
        content_range = answer.headers.get("Content-Range")
        answer.close()
        raise ConnectionError(f"byte {position} was asked for, Content-Range is '{content_range}'")
    # Some servers leave the version out when a condition held (RFC 9110, section 15.3.7).
    return Opened(_AsItComes(answer), position, _number(asked[2]), found or version)


def _number(text: str | None) -> int | None:
    if text is None or not (text.isascii() and text.isdigit()) or len(text) > _MOST_DIGITS:
        return None
    return int(text)


class _AsItComes:
    """An answer that gives what has arrived.

    A plain `read` waits for all that was asked for, and a server that sends a byte now and then
    would never time out.
    """

    def __init__(self, answer: http.client.HTTPResponse) -> None:
        self._answer = answer

    def read(self, size: int) -> bytes:
        data: bytes = self._answer.read1(size)
        return data

    def close(self) -> None:
        self._answer.close()


class _WebOnly(urllib.request.HTTPRedirectHandler):
    """Follows redirects within http(s), and never from https to http."""

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: http.client.HTTPMessage,
        newurl: str,
    ) -> urllib.request.Request | None:
        kept = ("https://",) if req.full_url.startswith("https://") else ("https://", "http://")
        if not newurl.lower().startswith(kept):
            fp.close()
            raise RefusedError(
                f"it redirects to '{newurl}'; only http and https are followed, and https never "
                "to http"
            )
        return super().redirect_request(req, fp, code, msg, headers, newurl)


class _InTime(http.client.HTTPConnection):
    """Bounds the time until the head of an answer is there.

    A time-out of a socket begins anew with each byte, and a server can send one now and then.
    """

    def getresponse(self) -> http.client.HTTPResponse:
        is_over = threading.Event()

        def end(connection: socket.socket) -> None:
            is_over.set()
            with contextlib.suppress(OSError):  # closed at this moment
                connection.shutdown(socket.SHUT_RDWR)

        timer = threading.Timer(self.timeout or 0, end, [self.sock])
        timer.daemon = True
        timer.start()
        try:
            answer = super().getresponse()
        finally:
            timer.cancel()
            if is_over.is_set():  # what has come by then may look like a short head
                raise TimeoutError(f"no whole answer within {self.timeout:g} s")
        return answer


class _InTimeTls(_InTime, http.client.HTTPSConnection):
    """The same with TLS."""


class _Http(urllib.request.HTTPHandler):
    def http_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(_InTime, req)


class _Https(urllib.request.HTTPSHandler):
    def https_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(_InTimeTls, req)


@functools.cache
def _opener() -> urllib.request.OpenerDirector:
    return urllib.request.build_opener(_WebOnly, _Http, _Https)
