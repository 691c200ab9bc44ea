"""What keeps web pages away from a server for other tools."""

from __future__ import annotations

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from maskfeat.app.own_page import Json


class NoBrowsers:
    """Refuses what a browser sends: every page that is open on a machine can reach its servers.

    Tools send no `Origin` and no `Sec-Fetch-Site`, and browsers let no page leave both out.

    Args:
        app: What answers the tools.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or refuse it by 403 and a sentence."""
        if scope["type"] == "http":
            headers = Headers(scope=scope)
            if "origin" in headers or headers.get("sec-fetch-site", "none") != "none":
                refusal = Json({"error": "requests of web pages are refused"}, status_code=403)
                await refusal(scope, receive, send)
                return
        await self._app(scope, receive, send)
