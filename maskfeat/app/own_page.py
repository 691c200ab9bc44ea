"""What keeps a server on this machine to its own page.

Every web page that is open on a machine can reach a server on its loopback interface. So requests
from other sites are refused by what browsers say about them, and requests for names that are not
this machine's (DNS rebinding) are not answered at all.
"""

from __future__ import annotations

import ipaddress
import json
import socket
from typing import Any

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

_HEADERS = {
    "Cache-Control": "no-store",  # the next start may serve another folder at the same address
    "Content-Security-Policy": "default-src 'self'; img-src 'self' blob:; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
}


class Json(JSONResponse):
    """An answer in ASCII: file names that are not UTF-8 hold what UTF-8 cannot encode."""

    def render(self, content: Any) -> bytes:  # noqa: ANN401 - as Starlette has it
        """Encode the content; characters beyond ASCII are escaped."""
        return json.dumps(content, allow_nan=False, separators=(",", ":")).encode("ascii")


def is_loopback(host: str) -> bool:
    """Whether an address can be reached from this machine alone."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def own_names(host: str) -> frozenset[str] | None:
    """The names that a browser may use for a server at this address; None allows any address."""
    return frozenset({"localhost", "127.0.0.1", "[::1]", host}) if is_loopback(host) else None


class OwnPageOnly:
    """Refuses what other sites send, and tells browsers that no other site may embed this one.

    Starlette's TrustedHostMiddleware cannot allow every address and no foreign name, as a server
    that listens on all interfaces needs.

    Args:
        app: What answers.
        names: Host names without port that are answered. None is this machine's names, localhost
            and any address: only a name can be made to point here by a stranger.
    """

    def __init__(self, app: ASGIApp, names: frozenset[str] | None) -> None:
        self._app = app
        self._names = names

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or refuse it by 403 and a sentence."""
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
            # A form of another site needs no permission to send its types; it does for this one.
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
