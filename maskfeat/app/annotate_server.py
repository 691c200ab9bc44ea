"""The web server behind `maskfeat annotate`: a page, its images, and what is done with them.

It answers its own page alone, see `own_page`.
"""

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

from maskfeat.app.annotation_json import JsonDict
from maskfeat.app.open_images import OpenImages
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


def create_app(images: OpenImages, host: str = "127.0.0.1") -> Starlette:
    """The application.

    Args:
        images: What it serves.
        host: The address it listens on; other than loopback it also answers to the names of
            the machine and to any address.

    Returns:
        An ASGI application. Errors come as `{"error": sentence}`, 400 for what the user caused.
    """
    return Starlette(
        routes=[
            Route("/", _index),
            Route("/api/folder", _folder),
            Route("/api/alive", _alive),
            Route("/api/images/{number:int}", _view),
            Route("/api/images/{number:int}/image", _image),
            Route("/api/images/{number:int}/partition", _partition),
            Route("/api/images/{number:int}/actions", _act, methods=["POST"]),
            Mount("/page", StaticFiles(packages=[("maskfeat.app", "page")])),
        ],
        middleware=own_page_only(host),
        exception_handlers=ERROR_HANDLERS,
        lifespan=_lifespan(images),
    )


def _lifespan(images: OpenImages) -> Callable[[Starlette], Any]:
    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[dict[str, OpenImages]]:
        yield {"images": images}
        images.close()

    return lifespan


def _index(request: Request) -> Response:
    return page_of("index.html")


def _folder(request: Request) -> Response:
    store = request.state.images.store
    return Json(
        {
            "names": [path.name for path in store.paths],
            "is_done": [store.is_done(number) for number in range(len(store.paths))],
            "first": store.next_not_done(0) or 0,
            "out": str(store.folder),
        }
    )


def _alive(request: Request) -> Response:
    """That the server is there, and the revision of the image that a page shows."""
    return Json({"revision": request.state.images.revision(number_of(request))})


def _view(request: Request) -> Response:
    images: OpenImages = request.state.images
    number = request.path_params["number"]
    with images.hold(number) as image:
        view = image.view(_WAIT_S if "wait" in request.query_params else 0)
    if view["is_ready"]:
        images.prepare_next(number)
    return Json(view)


def _image(request: Request) -> Response:
    with request.state.images.hold(request.path_params["number"]) as image:
        return Response(image.image.result().jpeg, media_type="image/jpeg")


def _partition(request: Request) -> Response:
    with request.state.images.hold(request.path_params["number"]) as image:
        return gzipped(image.partition())


async def _act(request: Request) -> Response:
    action = await json_of(request)

    def act() -> JsonDict:
        with request.state.images.hold(request.path_params["number"]) as image:
            answer: JsonDict = image.act(action)
            return answer

    return Json(await run_in_threadpool(act))
