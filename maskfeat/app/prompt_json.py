"""Prompts, masks and words as JSON, read with suspicion: it comes from a page or an old file."""

from __future__ import annotations

import re
from typing import Any, get_args

from maskfeat.app.annotation_state import (
    MAX_LABEL,
    OBJECT,
    Description,
    MaskRuns,
    Prompt,
    PromptKind,
)

JsonDict = dict[str, Any]

_KINDS: dict[str, PromptKind] = {kind: kind for kind in get_args(PromptKind)}
_MOST_CORNERS = 50_000  # of a scribble: minutes of drawing, and a second of computing
_LONGEST_NAME = 200
_LARGEST_BRUSH = 1000  # radius, pixels
_FARTHEST = 10**6  # pixels
_COLOR = re.compile("#[0-9a-f]{6}")


def mask_from_json(entry: JsonDict, size: tuple[int, int]) -> MaskRuns:
    """Read a mask; its runs are not decoded.

    Args:
        entry: `{"size": [h, w], "counts": text}`.
        size: Height and width of the image, pixels; no mask is larger.

    Raises:
        ValueError: If it is malformed.
    """
    match entry:
        case {"size": [h, w], "counts": str(counts)} if is_int(h, 1, size[0]) and is_int(
            w, 1, size[1]
        ):
            return MaskRuns((h, w), counts)
    raise ValueError(
        f"a mask needs counts and a size (height, width) up to {size}, got {str(entry)[:80]}"
    )


def mask_to_json(mask: MaskRuns) -> JsonDict:
    """What `mask_from_json` reads."""
    return {"size": list(mask.size), "counts": mask.counts}


def prompt_from_json(entry: JsonDict, size: tuple[int, int]) -> Prompt:
    """Read a prompt.

    Args:
        entry: The fields of `Prompt`; `granularity` only with a segment, `radius_px` only with a
            brush, `click_radius` only with clicks and scribbles.
        size: Height and width of the image, pixels; points of lines and boxes may lie outside.

    Raises:
        ValueError: If it is malformed, or a click lies outside the image.
    """
    kind, label = _KINDS.get(str(entry.get("kind"))), entry.get("label")
    if kind is None:
        raise ValueError(f"a prompt is one of {list(_KINDS)}, got {str(entry.get('kind'))[:80]!r}")
    if type(label) is not int or not 0 <= label <= MAX_LABEL:
        raise ValueError(f"a label lies in 0 to {MAX_LABEL}, got {str(label)[:80]}")
    points = _points_from_json(entry.get("points_yx"))
    if kind in ("click", "segment"):
        (y, x), others = points[0], points[1:]
        if others or not (0 <= y < size[0] and 0 <= x < size[1]):
            raise ValueError(
                f"a {kind} is one point inside the image of {size[0]} x {size[1]} pixels "
                f"(height x width), got {str(list(points))[:80]}"
            )
    granularity = entry.get("granularity")
    if kind == "segment" and not (isinstance(granularity, float) and 0 < granularity < 1):
        raise ValueError(f"a segment needs a granularity in (0, 1), got {str(granularity)[:80]}")
    if kind == "segment":
        return Prompt(kind, points, label, granularity)
    if kind == "brush":
        brush = entry.get("radius_px"), "the radius of a brush", 0.5, _LARGEST_BRUSH
        return Prompt(kind, points, label, radius_px=_pixels_from_json(*brush))
    if kind == "box":
        if len(points) != 2 or label != OBJECT:
            raise ValueError("a box is two corners around an object, of label 1")
        return Prompt(kind, points, label)
    radius = entry.get("click_radius", entry.get("reach"))  # the name of 0.1
    if radius is not None:  # prompts of older files have none
        radius = _pixels_from_json(radius, "a click radius", 0, _FARTHEST)
    return Prompt(kind, points, label, click_radius=radius)


def prompt_to_json(prompt: Prompt) -> JsonDict:
    """The fields of a prompt, those that are None left out."""
    return {name: value for name, value in vars(prompt).items() if value is not None}


def name_from_json(entry: JsonDict, key: str) -> str:
    """Read a name that a person gave, see `as_name`; empty if there is none.

    Raises:
        ValueError: If it is no text.
    """
    name = entry.get(key, "")
    if not isinstance(name, str):
        raise ValueError(f"{key} must be a text, got {str(name)[:80]}")
    return as_name(name)


def as_name(text: str) -> str:
    """A text as a name: one line without spaces around, cut where it is very long."""
    return " ".join(text.split())[:_LONGEST_NAME].rstrip()


def description_to_json(description: Description) -> JsonDict:
    """What `{"do": "describe"}` has beside the number."""
    fields = vars(description)
    return {"name": fields["name"], "class": fields["class_name"], "color": fields["color"]}


def description_from_json(entry: JsonDict) -> Description:
    """Read what `description_to_json` wrote.

    Raises:
        ValueError: If it is malformed.
    """
    color = entry.get("color", "")
    if not isinstance(color, str) or (color and not _COLOR.fullmatch(color)):
        raise ValueError(f"a color is written #rrggbb, got {str(color)[:80]!r}")
    return Description(name_from_json(entry, "name"), name_from_json(entry, "class"), color)


def _points_from_json(entry: object) -> tuple[tuple[int, int], ...]:
    if not isinstance(entry, list) or not entry:
        raise ValueError(f"points_yx must be a list of [row, column], got {str(entry)[:80]}")
    if len(entry) > _MOST_CORNERS:
        raise ValueError(f"a prompt has at most {_MOST_CORNERS} points, got {len(entry)}")
    for point in entry:
        is_pair = isinstance(point, list) and len(point) == 2
        if not is_pair or not all(is_int(value, -_FARTHEST, _FARTHEST) for value in point):
            raise ValueError(f"a point is two whole numbers [row, column], got {str(point)[:80]}")
    return tuple((y, x) for y, x in entry)


def _pixels_from_json(entry: object, name: str, low: float, high: int) -> float:
    # True and False are numbers to Python, which reads NaN and Infinity as JSON.
    if isinstance(entry, int | float) and type(entry) is not bool and low <= entry <= high:
        return float(entry)
    raise ValueError(f"{name} lies in {low} to {high} pixels, got {str(entry)[:80]}")


def is_int(value: object, low: int, high: int) -> bool:
    """Whether a value is a whole number from `low` to `high`; True is none."""
    return type(value) is int and low <= value <= high
