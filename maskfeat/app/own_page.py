"""What keeps a server on this machine to its own page.

A server on the loopback interface can be reached by every web page that is open on the machine, so
requests that come from other sites are refused by what browsers say about them, and names that are
not this machine's (DNS rebinding) are not answered at all.
"""

from __future__ import annotations

import ipaddress
import json
import socket
from collections.abc import Iterable
from importlib.resources import files
from typing import Any

from starlette.datastructures import Headers
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from maskfeat.app.annotation_json import JsonDict
from maskfeat.app.revisions import StaleError

_MAX_REQUEST_BYTES = 1_000_000

_HEADERS = {
    "Cache-Control": "no-store",  # the next start may serve another folder at the same address
    "Content-Security-Policy": "default-src 'self'; img-src 'self' blob:; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
}


def own_page_only(host: str) -> list[Middleware]:
    """What stands before an application that listens on an address.

    Args:
        host: The address; other than loopback it also answers to the names of the machine and to
            any address.
    """
    return [Middleware(_OwnPageOnly, names=_own_names(host))]


def is_loopback(host: str) -> bool:
    """Whether an address can be reached from this machine alone."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def number_of(request: Request) -> int:
    """The image that a request for a revision asks about, -1 for none."""
    text = request.query_params.get("number", "")
    return int(text) if text.isdecimal() and len(text) < 10 else -1


async def json_of(request: Request) -> JsonDict:
    """The object that a request carries.

    Raises:
        ValueError: If it is too large, or none.
    """
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > _MAX_REQUEST_BYTES:
            raise ValueError(f"an action has at most {_MAX_REQUEST_BYTES} bytes")
    try:
        content = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"an action must be JSON: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"an action must be an object, got {str(content)[:80]}")
    return content


class Json(JSONResponse):
    """An answer in ASCII: names of files that are not UTF-8 hold what UTF-8 cannot encode."""

    def render(self, content: Any) -> bytes:  # noqa: ANN401 - as Starlette has it
        """Encode the content; characters beyond ASCII are escaped."""
        return json.dumps(content, allow_nan=False, separators=(",", ":")).encode("ascii")


def _user_error(request: Request, error: Exception) -> Response:
    return Json({"error": str(error)}, status_code=400)


def _stale_error(request: Request, error: Exception) -> Response:
    return Json({"error": str(error), "is_stale": True}, status_code=409)


def _memory_error(request: Request, error: Exception) -> Response:
    return Json({"error": "this takes more memory than there is; nothing was changed"}, 400)


def _file_error(request: Request, error: Exception) -> Response:
    return Json({"error": f"a file could not be written: {error}"}, status_code=500)


# Errors come as `{"error": sentence}`, 400 for what the user caused; 409 and `is_stale` for an
# action on what is gone.
ERROR_HANDLERS: Any = {
    StaleError: _stale_error,
    ValueError: _user_error,
    MemoryError: _memory_error,
    OSError: _file_error,
}


def _own_names(host: str) -> frozenset[str] | None:
    """The names that a browser may know this server by; None also allows any address."""
    if is_loopback(host):
        return frozenset({"localhost", "127.0.0.1", "[::1]", host})
    return None


class _OwnPageOnly:
    """Refuses what other sites send, and says to browsers that no other site may embed this one.

    Args:
        app: What answers.
        names: Host names without port that it is known by; None is this machine's name, localhost
            and any address: what a stranger makes a browser resolve to this machine is a name.
    """

    def __init__(self, app: ASGIApp, names: Iterable[str] | None) -> None:
        self._app = app
        self._names = None if names is None else frozenset(names)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        refusal = self._refusal(Headers(scope=scope), scope)
        if refusal:
            response = Json({"error": refusal}, status_code=403, headers=_HEADERS)
            await response(scope, receive, send)
            return

        async def send_with_headers(message: Any) -> None:  # noqa: ANN401 - as ASGI has it
            if message["type"] == "http.response.start":
                added = [(k.lower().encode(), v.encode()) for k, v in _HEADERS.items()]
                message["headers"] = [*message["headers"], *added]
            await send(message)

        await self._app(scope, receive, send_with_headers)

    def _refusal(self, headers: Headers, scope: Scope) -> str | None:
        host = headers.get("host", "")
        if not self._is_own(host):
            return f"this server is not called {host[:80]!r}"
        # Absent where the request is not a browser's, which could send what it likes anyway.
        origin = headers.get("origin")
        if origin is not None and origin != f"{scope['scheme']}://{host}":
            return "requests from other sites are refused"
        is_opening = scope["method"] == "GET" and scope["path"] == "/"
        if headers.get("sec-fetch-site", "none") not in ("same-origin", "none") and not is_opening:
            return "requests from other sites are refused"
        is_json = headers.get("content-type", "").partition(";")[0] == "application/json"
        if scope["method"] not in ("GET", "HEAD") and not is_json:
            # What a form can send needs no leave from the server; this does.
            return "an action must be sent as application/json"
        return None

    def _is_own(self, host: str) -> bool:
        name = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() else host
        if self._names is not None:
            return name in self._names
        try:
            ipaddress.ip_address(name.strip("[]"))
        except ValueError:
            return name in ("localhost", socket.gethostname(), socket.getfqdn())
        return True


def page_of(name: str) -> Response:
    """A page that comes with the package, from `maskfeat/app/page`."""
    content = files("maskfeat.app").joinpath("page", name).read_bytes()
    return Response(content, media_type="text/html")


def gzipped(content: bytes) -> Response:
    """Bytes that were packed by gzip already."""
    headers = {"Content-Encoding": "gzip"}
    return Response(content, media_type="application/octet-stream", headers=headers)
