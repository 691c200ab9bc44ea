"""The web server of `maskfeat annotate`: one application over a backend, for both pages.

It answers its own page alone. Every web page that is open on a machine can reach a server on its
loopback interface; so requests from other sites are refused by what browsers say about them, and
requests for names that are not this machine's (DNS rebinding) are not answered at all.
"""

from __future__ import annotations

import ipaddress
import json
import socket
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from importlib.resources import files
from typing import Any, Protocol

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Receive, Scope, Send

from maskfeat.app.annotation_json import JsonDict
from maskfeat.app.revisions import StaleError

_MAX_REQUEST_BYTES = 1_000_000
# The page asks again, so that no threads wait for images that the user has left.
_WAIT_S = 0.5
_HEADERS = {
    "Cache-Control": "no-store",  # the next start may serve another folder at the same address
    "Content-Security-Policy": "default-src 'self'; img-src 'self' blob:; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
}


class Backend(Protocol):
    """What a page shows and does; the server calls its methods from several threads.

    Attributes:
        page: The file of the page, in `maskfeat/app/page`.
        queries: What else may be asked by GET /api/NAME, with the parameters of the query.
        commands: What else may be done by POST /api/NAME.
    """

    page: str
    queries: Mapping[str, Callable[[Mapping[str, str]], JsonDict]]
    commands: Mapping[str, Callable[[JsonDict], JsonDict]]

    def start(self) -> None:
        """Begin what runs in the background."""

    def close(self) -> None:
        """Begin nothing more; what is being computed ends first."""

    def folder(self) -> JsonDict:
        """The images, and which one comes first."""

    def revision(self, number: int) -> str | None:
        """The revision of an image and its prompts; None for no image, or one not shown yet."""

    def view(self, number: int, timeout_s: float, learn: bool) -> JsonDict:
        """All that the page shows of an image, after at most this time; `learn` for classes."""

    def jpeg(self, number: int) -> bytes:
        """The image."""

    def thumbnail(self, number: int) -> bytes:
        """The image, small."""

    def partition(self, number: int) -> bytes:
        """The tree that the page cuts, see `partition_bytes`."""

    def act(self, number: int, action: JsonDict) -> JsonDict:
        """Do and save what the page asks; the new view."""


def create_app(backend: Backend, host: str = "127.0.0.1") -> Starlette:
    """The application.

    Args:
        backend: What it serves.
        host: The address it listens on; other than loopback it also answers to the names of
            the machine and to any address.

    Returns:
        An ASGI application. Errors come as `{"error": sentence}`: 400 for what the user caused,
        409 and `is_stale` for an action on a state that is gone, 500 for a file that cannot be
        written.
    """

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        backend.start()
        yield
        backend.close()

    def index(request: Request) -> Response:
        content = files("maskfeat.app").joinpath("page", backend.page).read_bytes()
        return Response(content, media_type="text/html")

    return Starlette(
        routes=[
            Route("/", index),
            *_folder_routes(backend),
            *_image_routes(backend),
            Mount("/page", StaticFiles(packages=[("maskfeat.app", "page")])),
        ],
        middleware=[Middleware(OwnPageOnly, names=own_names(host))],
        exception_handlers=_ERROR_HANDLERS,
        lifespan=lifespan,
    )


def _image_routes(backend: Backend) -> list[Route]:
    """What is asked of, and done to, one image."""

    def view(request: Request) -> Response:
        timeout_s = _WAIT_S if "wait" in request.query_params else 0
        number, learn = request.path_params["number"], "learn" in request.query_params
        return Json(backend.view(number, timeout_s, learn))

    def image(request: Request) -> Response:
        return Response(backend.jpeg(request.path_params["number"]), media_type="image/jpeg")

    def thumbnail(request: Request) -> Response:
        return Response(backend.thumbnail(request.path_params["number"]), media_type="image/jpeg")

    def partition(request: Request) -> Response:
        content = backend.partition(request.path_params["number"])
        return Response(content, media_type="application/octet-stream")

    async def act(request: Request) -> Response:
        number, action = request.path_params["number"], await json_of(request)
        return Json(await run_in_threadpool(backend.act, number, action))

    at, packed = "/api/images/{number:int}", [Middleware(GZipMiddleware, compresslevel=1)]
    return [
        Route(at, view),
        Route(f"{at}/image", image),
        Route(f"{at}/thumbnail", thumbnail),
        Route(f"{at}/partition", partition, middleware=packed),
        Route(f"{at}/actions", act, methods=["POST"]),
    ]


def _folder_routes(backend: Backend) -> list[Route]:
    """What is asked of all images together, with the queries and commands of the page."""

    def folder(request: Request) -> Response:
        return Json(backend.folder())

    def alive(request: Request) -> Response:
        return Json({"revision": backend.revision(number_of(request.query_params, "number", -1))})

    def query(function: Callable[[Mapping[str, str]], JsonDict]) -> Callable[[Request], Response]:
        return lambda request: Json(function(request.query_params))

    def command(function: Callable[[JsonDict], JsonDict]) -> Callable[[Request], Any]:
        async def run(request: Request) -> Response:
            return Json(await run_in_threadpool(function, await json_of(request)))

        return run

    queries, commands = backend.queries.items(), backend.commands.items()
    return [
        Route("/api/folder", folder),
        Route("/api/alive", alive),
        *(Route(f"/api/{name}", query(function)) for name, function in queries),
        *(Route(f"/api/{name}", command(f), methods=["POST"]) for name, f in commands),
    ]


def number_of(parameters: Mapping[str, str], name: str, default: int | None) -> Any:  # noqa: ANN401 - as the default
    """The number of an image in a query; the default if there is none."""
    text = parameters.get(name, "")
    return int(text) if text.isdecimal() and len(text) < 10 else default


async def json_of(request: Request, most_bytes: int = _MAX_REQUEST_BYTES) -> JsonDict:
    """The object that a request carries.

    Args:
        request: Carries it.
        most_bytes: A longer one is refused.

    Raises:
        ValueError: If it is too large, or none.
    """
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > most_bytes:
            raise ValueError(f"a request has at most {most_bytes} bytes")
    try:
        content = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"an action must be JSON: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"an action must be an object, got {str(content)[:80]}")
    return content


_ERROR_HANDLERS: Any = {
    StaleError: lambda _, error: Json({"error": str(error), "is_stale": True}, 409),
    ValueError: lambda _, error: Json({"error": str(error)}, 400),
    MemoryError: lambda _, error: Json(
        {"error": "this takes more memory than there is; nothing was changed"}, 400
    ),
    OSError: lambda _, error: Json({"error": f"a file could not be written: {error}"}, 500),
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
