"""The web server behind `maskfeat annotate --classes`; it answers its own page alone."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from maskfeat.app.image_at_work import read_at_work
from maskfeat.app.label_views import LabelViews
from maskfeat.app.own_page import (
    ERROR_HANDLERS,
    Json,
    gzipped,
    json_of,
    number_of,
    own_page_only,
    page_of,
)

# The page asks again: who turns many pages at once leaves no threads behind that wait.
_WAIT_S = 0.5


def create_label_app(views: LabelViews, host: str = "127.0.0.1") -> Starlette:
    """The application.

    Args:
        views: What it serves.
        host: The address it listens on, see `own_page_only`.

    Returns:
        An ASGI application. Errors come as `{"error": sentence}`, 400 for what the user caused.
    """
    return Starlette(
        routes=[
            Route("/", _index),
            Route("/api/folder", _folder),
            Route("/api/alive", _alive),
            Route("/api/progress", _progress),
            Route("/api/next", _next),
            Route("/api/export", _export, methods=["POST"]),
            Route("/api/images/{number:int}", _view),
            Route("/api/images/{number:int}/image", _image),
            Route("/api/images/{number:int}/partition", _partition),
            Route("/api/images/{number:int}/actions", _act, methods=["POST"]),
            Mount("/page", StaticFiles(packages=[("maskfeat.app", "page")])),
        ],
        middleware=own_page_only(host),
        exception_handlers=ERROR_HANDLERS,
        lifespan=_lifespan(views),
    )


def _lifespan(views: LabelViews) -> Callable[[Starlette], Any]:
    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[dict[str, LabelViews]]:
        views.labeler.prepare(in_background=True)
        yield {"views": views}
        views.close()

    return lifespan


def _index(request: Request) -> Response:
    return page_of("label.html")


def _folder(request: Request) -> Response:
    return Json(request.state.views.folder())


def _alive(request: Request) -> Response:
    """That the server is there, and the revision of the image that a page shows."""
    return Json({"revision": request.state.views.revision(number_of(request))})


def _progress(request: Request) -> Response:
    return Json(request.state.views.progress())


def _next(request: Request) -> Response:
    text = request.query_params.get("after", "")
    after = int(text) if text.isdecimal() and len(text) < 10 else None
    return Json({"number": request.state.views.labeler.next(after)})


def _view(request: Request) -> Response:
    timeout_s = _WAIT_S if "wait" in request.query_params else 0
    number, learn = request.path_params["number"], "learn" in request.query_params
    return Json(request.state.views.view(number, timeout_s, learn))


def _image(request: Request) -> Response:
    paths, number = request.state.views.labeler.paths, request.path_params["number"]
    if number >= len(paths):
        raise ValueError(f"there is no image {number} among {len(paths)}")
    return Response(read_at_work(paths[number], max_megapixels=1).jpeg, media_type="image/jpeg")


def _partition(request: Request) -> Response:
    return gzipped(request.state.views.partition(request.path_params["number"]))


async def _act(request: Request) -> Response:
    views, action = request.state.views, await json_of(request)
    answer = await run_in_threadpool(views.act, request.path_params["number"], action)
    return Json(answer)


async def _export(request: Request) -> Response:
    views, action = request.state.views, await json_of(request)
    return Json(await run_in_threadpool(views.export, action))
