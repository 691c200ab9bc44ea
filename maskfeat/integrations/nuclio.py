"""A serverless function for CVAT: Nuclio calls it, `examples/cvat` deploys it.

For CVAT servers of one's own, whose interactors are Nuclio functions. The body of a request has
`image` (base64), `pos_points`, `neg_points` ([x, y] each) and perhaps `obj_bbox` (two corners);
the answer has `mask`, rows of 0 and 255, and `points`, the outline of its largest part.
"""

from __future__ import annotations

import base64
import json
import os
from hashlib import sha256
from typing import Any

import numpy as np
import shapely

from maskfeat.arrays import BoolArray
from maskfeat.data.folder import read_image_bytes
from maskfeat.formats.coverage import mask_polygons
from maskfeat.integrations.prompted_image import BAD_REQUEST, Click, PromptedImages


def init_context(context: Any) -> None:  # noqa: ANN401 - Nuclio's own
    """Load the model, once for each worker; MASKFEAT_MODEL names another than maskfeat-b0."""
    context.user_data.images = PromptedImages(os.environ.get("MASKFEAT_MODEL", "maskfeat-b0"))
    context.logger.info("maskfeat is ready")


def handler(context: Any, event: Any) -> Any:  # noqa: ANN401 - Nuclio's own
    """The mask of a request; status 400 and a sentence for a request that cannot be answered."""
    try:
        answer, status = mask_of(context.user_data.images, event.body), 200
    except KeyError as error:
        answer, status = {"error": f"the request has no {error}"}, 400
    except BAD_REQUEST as error:
        answer, status = {"error": f"the request cannot be answered: {error}"}, 400
    return context.Response(
        body=json.dumps(answer), headers={}, content_type="application/json", status_code=status
    )


def mask_of(images: PromptedImages, body: dict[str, Any]) -> dict[str, Any]:
    """The answer to a request.

    Raises:
        ValueError: If the image cannot be read, no prompt shows an object, or prompts contradict
            each other.
        BAD_REQUEST: If the body is no request of CVAT's.
    """
    content = base64.b64decode(body["image"])
    image = images.get(sha256(content).hexdigest(), lambda: read_image_bytes(content))
    clicks = [Click(x, y, True) for x, y in body["pos_points"]]
    clicks += [Click(x, y, False) for x, y in body.get("neg_points") or ()]
    corners = body.get("obj_bbox")
    mask = image.mask(clicks, (*corners[0], *corners[1]) if corners else None)
    if mask is None:
        raise ValueError("at least one positive point or a box is needed, got none")
    return {"mask": (mask * np.uint8(255)).tolist(), "points": _outline(mask)}


def _outline(mask: BoolArray) -> list[list[float]]:
    """The outline of the largest part of a mask, (x, y) each."""
    parts = mask_polygons([mask])[0]
    outlines = [part[0] for part in parts]
    largest = max(outlines, key=lambda ring: shapely.Polygon(ring).area, default=np.zeros((0, 2)))
    points: list[list[float]] = largest[:-1].tolist()
    return points
