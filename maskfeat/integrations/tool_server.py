"""What the servers for other tools have in common: no web pages, and errors as sentences."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from maskfeat.app.server import Json
from maskfeat.integrations.prompted_image import BAD_REQUEST

Answer = Callable[[Request], Awaitable[Response]]


class RequestError(ValueError):
    """A request that a protocol has a code for.

    Args:
        code: That code.
        message: One sentence.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


def tool_server(
    answers: Mapping[str, tuple[str, Answer]],
    check: Callable[[Request], None],
    refusal: Callable[[str, str], Response],
    unchecked: Mapping[str, Answer],
) -> Starlette:
    """The application of a server; web pages get no answer from it.

    Args:
        answers: Method and answer by path.
        check: Raises `RequestError` for a request whose password is wrong.
        refusal: The answer for a code and what is wrong; "" is the code of all other errors.
        unchecked: Answers by path that need no password, to GET.
    """

    def guarded(answer: Answer) -> Answer:
        async def run(request: Request) -> Response:
            try:
                check(request)
                return await answer(request)
            except BAD_REQUEST as error:
                code = error.code if isinstance(error, RequestError) else ""
                return refusal(code, str(error))

        return run

    routes = [Route(path, answer) for path, answer in unchecked.items()]
    routes += [Route(path, guarded(one), methods=[how]) for path, (how, one) in answers.items()]
    return Starlette(routes=routes, middleware=[Middleware(_NoBrowsers)])


class _NoBrowsers:
    """Refuses what a browser sends: every page that is open on a machine can reach its servers.

    Tools send no `Origin` and no `Sec-Fetch-Site`, and browsers let no page leave both out.
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
