"""What the servers for other tools have in common: no web pages, and errors as sentences."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from maskfeat.app.server import Json
from maskfeat.integrations.prompted_image import BAD_REQUEST

Answer = Callable[[Request], Awaitable[Response]]


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


class RequestError(ValueError):
    """A request that a protocol has a code for.

    Args:
        code: That code.
        message: One sentence.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


def guarded(
    answer: Answer,
    check: Callable[[Request], None],
    refusal: Callable[[str, str], Response],
) -> Answer:
    """Let a request be checked, and errors be answered by a sentence.

    Args:
        answer: Answers it.
        check: Raises `RequestError`, as for a password that is wrong.
        refusal: The answer for a code and what is wrong; "" is the code of all other errors.
    """

    async def run(request: Request) -> Response:
        try:
            check(request)
            return await answer(request)
        except BAD_REQUEST as error:
            code = error.code if isinstance(error, RequestError) else ""
            return refusal(code, str(error))

    return run
