"""A machine learning backend for Label Studio.

    pip install "maskfeat[label-studio]"
    maskfeat serve label_studio

and in Label Studio: Settings, Model, Connect Model, with this address and "Interactive
preannotations". The labeling config needs BrushLabels or PolygonLabels, and for the clicks
KeyPointLabels or RectangleLabels with `smart="true"`.

Images that Label Studio keeps are fetched from it: LABEL_STUDIO_URL and LABEL_STUDIO_API_KEY, as
with its own backends.
"""

from __future__ import annotations

import base64
import hmac
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
from label_studio_sdk._extensions.label_studio_tools.core.utils.io import get_local_path
from label_studio_sdk.converter.brush import mask2rle
from label_studio_sdk.label_interface import LabelInterface
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from maskfeat import __version__
from maskfeat.app.server import Json, json_of
from maskfeat.arrays import RgbImage
from maskfeat.data.folder import read_image
from maskfeat.formats.coverage import as_one_line, mask_polygons
from maskfeat.integrations.prompted_image import Click, PromptedImages
from maskfeat.integrations.tool_server import RequestError, tool_server

_MAX_REQUEST_BYTES = 10_000_000
_VERSION = f"maskfeat {__version__}"


def create_app(images: PromptedImages, token: str | None = None) -> Starlette:
    """The ASGI application; the token is the password of its "Basic Authentication", of any user.

    A request that cannot be answered gets 400 and a sentence, which Label Studio shows.
    """

    async def health(request: Request) -> Response:
        return Json({"status": "UP", "model_class": "maskfeat"})

    async def setup(request: Request) -> Response:
        return Json({"model_version": _VERSION})

    async def predict(request: Request) -> Response:
        body = await json_of(request, _MAX_REQUEST_BYTES)
        return Json({"results": await run_in_threadpool(predictions, images, body)})

    async def webhook(request: Request) -> Response:
        return Json({}, 201)  # nothing is learned from annotations

    def check(request: Request) -> None:
        kind, _, code = request.headers.get("authorization", "").partition(" ")
        try:
            given = base64.b64decode(code).partition(b":")[2]
        except ValueError:
            given = b""
        is_basic = kind.lower() == "basic"
        if token is not None and not (is_basic and hmac.compare_digest(given, token.encode())):
            raise RequestError("401", "the password is missing or wrong")

    def refusal(code: str, message: str) -> Response:
        sentence = message if code else f"the request cannot be answered: {message}"
        return Json({"error": sentence}, int(code or 400))

    answers = {"/setup": setup, "/predict": predict, "/webhook": webhook}
    posts = {path: ("POST", answer) for path, answer in answers.items()}
    return tool_server(posts, check, refusal, {"/": health, "/health": health})


def predictions(images: PromptedImages, body: dict[str, Any]) -> list[dict[str, Any]]:
    """The answer to a request of Label Studio's.

    Args:
        images: Gives the masks.
        body: `tasks`, `label_config`, and in `params` the `context` of an interactive request.

    Returns:
        A prediction for the one task of an interactive request; none where there are no prompts.

    Raises:
        ValueError: If the config has no place for a mask, or the image cannot be had.
    """
    context = ((body.get("params") or {}).get("context") or {}).get("result") or []
    tasks = body.get("tasks") or []
    if not context or not tasks:
        return []
    form, from_name, to_name, value = _place_of_masks(str(body.get("label_config")))
    task = tasks[0]
    url = str((task.get("data") or {}).get(value, ""))

    def read() -> RgbImage:
        try:
            path = Path(get_local_path(url, task_id=task.get("id")))
        except Exception as error:  # requests, files, urls: the library raises what comes
            raise ValueError(f"the image '{url}' cannot be fetched: {error}") from error
        return read_image(path)

    image = images.get(url, read)
    clicks, box, label = _prompts(context, image.size)
    mask = image.mask(clicks, box)
    if mask is None:
        return []
    height, width = image.size
    common: dict[str, Any] = {"from_name": from_name, "to_name": to_name, "type": form}
    common |= {"original_width": width, "original_height": height, "image_rotation": 0}
    named = {form: [label]} if label is not None else {}
    values: list[dict[str, Any]]
    if form == "brushlabels":
        values = [{"format": "rle", "rle": mask2rle(mask * np.uint8(255))}]
    else:  # in percent, one for each part; holes are joined to their outline
        percent = 100 / np.array([width, height])
        lines = [as_one_line([part]) for part in mask_polygons([mask])[0]]
        values = [{"points": (line * percent).tolist(), "closed": True} for line in lines]
    result = [{"id": uuid4().hex[:10], **common, "value": {**one, **named}} for one in values]
    return [{"result": result, "model_version": _VERSION, "score": None}]


def _place_of_masks(config: str) -> tuple[str, str, str, str]:
    """Type and name of the control for masks, name of its image, key of the image in a task."""
    interface = LabelInterface(config)
    for control in ("BrushLabels", "PolygonLabels"):
        try:
            from_name, to_name, value = interface.get_first_tag_occurence(control, "Image")
        except ValueError:
            continue
        return control.lower(), from_name, to_name, value
    raise ValueError("the labeling config needs BrushLabels or PolygonLabels for an Image")


def _prompts(
    context: Sequence[dict[str, Any]], size: tuple[int, int]
) -> tuple[list[Click], tuple[float, float, float, float] | None, str | None]:
    """Clicks, the last box, and the class of the prompts; Label Studio counts in percent."""
    height, width = size
    clicks, box, label = list[Click](), None, None
    for prompt in context:
        value, form = prompt["value"], prompt["type"]
        x, y = value["x"] * width / 100, value["y"] * height / 100
        label = (value.get(form) or value.get("labels") or [label])[0]
        if form.startswith("keypoint"):
            clicks.append(Click(x, y, bool(prompt.get("is_positive", 1))))
        elif form.startswith("rectangle"):
            right, bottom = x + value["width"] * width / 100, y + value["height"] * height / 100
            box = (x, y, right, bottom)
    return clicks, box, label
