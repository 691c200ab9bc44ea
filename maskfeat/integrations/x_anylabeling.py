"""A server for X-AnyLabeling, by the protocol of its remote models.

    maskfeat serve x_anylabeling

and in X-AnyLabeling the model "Remote-Server" with this address. There are two models: clicks and
boxes give the mask of an object, or one run gives all segments at a granularity, which is what the
field of the confidence is for. Masks are polygons; holes are joined to their outline.
"""

from __future__ import annotations

import base64
import binascii
import hmac
from collections.abc import Sequence
from datetime import datetime, timezone
from hashlib import sha256
from typing import Any

import numpy as np
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from maskfeat.app.server import Json, json_of
from maskfeat.arrays import BoolArray
from maskfeat.data.folder import read_image_bytes
from maskfeat.formats.coverage import as_one_line, label_polygons, mask_polygons
from maskfeat.integrations.prompted_image import Click, PromptedImages
from maskfeat.integrations.tool_server import RequestError, tool_server

_MAX_REQUEST_BYTES = 200_000_000
# What X-AnyLabeling calls an object whose class the user chooses when it is finished.
_UNFINISHED = "AUTOLABEL_OBJECT"
_CLICKS, _SEGMENTS = "maskfeat_clicks", "maskfeat_segments"
_BUTTONS = ("add_point", "remove_point", "add_rect", "clear", "finish_object")
_MODELS: dict[str, dict[str, Any]] = {
    _CLICKS: {
        "display_name": "maskfeat: clicks and boxes",
        "batch_processing_mode": None,
        "widgets": [{"name": f"button_{name}", "value": None} for name in _BUTTONS],
        "params": {},
    },
    _SEGMENTS: {
        "display_name": "maskfeat: segments (confidence = granularity)",
        "batch_processing_mode": "default",
        "widgets": [
            {"name": "button_run", "value": None},
            {"name": "input_conf", "value": None},
            {"name": "edit_conf", "value": 0.4},
            {"name": "toggle_preserve_existing_annotations", "value": False},
        ],
        "params": {"conf_threshold": 0.4},
    },
}


def create_app(images: PromptedImages, token: str | None = None) -> Starlette:
    """The ASGI application; requests must carry the token in the header `Token` (there: api_key).

    As the protocol has it, errors are answered by 200 and
    `{"success": false, "error": {"code", "message"}}`.
    """

    async def health(request: Request) -> Response:
        now = datetime.now(timezone.utc).isoformat()
        return Json({"status": "healthy", "models_loaded": len(_MODELS), "timestamp": now})

    async def models(request: Request) -> Response:
        return _answer(_MODELS)

    async def info(request: Request) -> Response:
        model = request.path_params["model"]
        return _answer({"model_id": model, **_known(model)})

    async def predict(request: Request) -> Response:
        body = await json_of(request, _MAX_REQUEST_BYTES)
        return _answer(await run_in_threadpool(_predict, images, body))

    def check(request: Request) -> None:
        given = request.headers.get("token", "")
        if token is not None and not hmac.compare_digest(given.encode(), token.encode()):
            raise RequestError("UNAUTHORIZED", "the header Token is missing or wrong")

    def refusal(code: str, message: str) -> Response:
        sentence = f"the request cannot be answered: {message}"
        error = {"code": code or "INFERENCE_ERROR", "message": sentence}
        return Json({"success": False, "error": error})

    answers = {
        "/v1/models": ("GET", models),
        "/v1/models/{model}/info": ("GET", info),
        "/v1/predict": ("POST", predict),
    }
    return tool_server(answers, check, refusal, {"/health": health})


def _answer(data: Any) -> Response:  # noqa: ANN401 - JSON
    return Json({"success": True, "data": data})


def _known(model: str) -> dict[str, Any]:
    if model not in _MODELS:
        raise RequestError("MODEL_NOT_FOUND", f"the models are {', '.join(_MODELS)}, got {model!r}")
    return _MODELS[model]


def _predict(images: PromptedImages, body: dict[str, Any]) -> dict[str, Any]:
    """The shapes of a request."""
    model, params = body.get("model"), body.get("params") or {}
    _known(str(model))
    try:
        content = base64.b64decode(str(body.get("image", "")).rpartition(",")[2], validate=True)
        image = images.get(sha256(content).hexdigest(), lambda: read_image_bytes(content))
    except (binascii.Error, ValueError) as error:
        raise RequestError("INVALID_IMAGE", f"image must be a file in base64: {error}") from error
    if model == _SEGMENTS:
        labels = image.segments(float(params.get("conf_threshold", 0.4)))
        found = list(label_polygons(labels).values())
    else:
        clicks, box = _prompts(params.get("marks") or ())
        mask: BoolArray | None = image.mask(clicks, box)
        found = [] if mask is None else mask_polygons([mask])
    shapes = []
    for number, parts in enumerate(found, 1):
        for part in parts:  # those of one object share a group
            shape: dict[str, Any] = {"label": _UNFINISHED, "shape_type": "polygon"}
            shape["points"] = as_one_line([part]).tolist()
            shape["group_id"] = number if len(parts) > 1 else None
            shapes.append({**shape, "score": None, "attributes": {}, "flags": None})
    replace = {} if model == _SEGMENTS else {"replace": False}
    return {"shapes": shapes, "description": "", **replace}


def _prompts(
    marks: Sequence[dict[str, Any]],
) -> tuple[list[Click], tuple[float, float, float, float] | None]:
    """The clicks, and the box that was drawn last."""
    clicks, box = list[Click](), None
    for mark in marks:
        try:
            data = np.array(mark["data"], np.float64)
            if mark["type"] == "point":
                x, y = data.tolist()
                clicks.append(Click(x, y, mark.get("label") == 1))
            elif mark["type"] == "rectangle":
                left, top, right, bottom = data.tolist()
                box = (left, top, right, bottom)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"marks must be points and rectangles, got {mark}") from error
    return clicks, box
