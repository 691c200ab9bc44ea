"""Steps, prompts and masks as JSON, read with suspicion: a web page or an old file wrote it."""

from __future__ import annotations

import dataclasses
import json
import re
from typing import Any, get_args

from maskfeat.app.annotation import (
    AddObjects,
    AddPrompt,
    Annotation,
    ChooseMask,
    ClearPrompts,
    DeleteObject,
    DescribeObject,
    FinishObject,
    MoveObject,
    ReopenObject,
    SetDone,
    SetMode,
    SetToCheck,
    Step,
)
from maskfeat.app.annotation_state import (
    MAX_LABEL,
    MODES,
    OBJECT,
    Description,
    MaskRuns,
    Prompt,
    PromptKind,
)

_MOST_OBJECTS = 10**6
_MOST_MASKS = 100  # candidates

_NAMES: dict[type[Any], str] = {
    AddPrompt: "prompt",
    ClearPrompts: "clear",
    ChooseMask: "choose",
    FinishObject: "finish",
    ReopenObject: "reopen",
    DeleteObject: "delete",
    DescribeObject: "describe",
    MoveObject: "move",
    AddObjects: "add",
    SetMode: "mode",
    SetDone: "done",
    SetToCheck: "check",
}
JsonDict = dict[str, Any]

_KINDS: dict[str, PromptKind] = {kind: kind for kind in get_args(PromptKind)}
_MOST_CORNERS = 50_000  # of a scribble: minutes of drawing, and a second of computing
_LONGEST_NAME = 200
_LARGEST_BRUSH = 1000  # radius, pixels
_FARTHEST = 10**6  # pixels
_COLOR = re.compile("#[0-9a-f]{6}")


def annotation_text(annotation: Annotation) -> str:
    """All steps as JSON, `{"position": int, "steps": [{"do": name, ...}, ...]}`.

    Steps that were written before cost nothing.
    """
    steps = ",".join(map(_step_text, annotation.steps))
    return f'{{"position":{annotation.position},"steps":[{steps}]}}'


def _step_text(step: Step) -> str:
    """The JSON of a step. It stays with the step, which never changes, and goes with it."""
    known = vars(step)
    if "_text" not in known:
        content = {"do": _NAMES[type(step)], **_fields(step)}
        known["_text"] = json.dumps(content, separators=(",", ":"))
    text: str = known["_text"]
    return text


def annotation_from_json(content: JsonDict, size: tuple[int, int]) -> Annotation:
    """Read what `annotation_text` wrote.

    Args:
        content: The object.
        size: Height and width of the image, pixels.

    Raises:
        ValueError: If it is malformed, or a step cannot follow those before it.
    """
    entries, position = content.get("steps"), content.get("position")
    if not isinstance(entries, list) or not is_int(position, 0, len(entries)):
        raise ValueError("an annotation needs a list of steps and a position among them")
    steps = tuple(step_from_json(entry, size) for entry in entries)
    assert isinstance(position, int)
    whole = Annotation(steps, len(steps))
    _ = whole.state  # refuses steps that cannot follow one another, those taken back included
    return Annotation(steps, position)


def step_from_json(entry: object, size: tuple[int, int]) -> Step:
    """Read a step.

    Args:
        entry: `{"do": "prompt", "prompt": {...}}`, `{"do": "clear"}`, `{"do": "finish", "mask":
            {"size": [h, w], "counts": text}}`, also with a `"class"`, `{"do": "choose", "number":
            int, "num_masks": int, "mask": {...}}`, without a mask for number 0, `{"do": "reopen" |
            "delete", "number": int}`, `{"do": "describe", "number": int, "name": text, "class":
            text, "color": "#rrggbb" or ""}`, `{"do": "move", "number": int, "place": int}`,
            `{"do": "add", "masks": [...]}`, also with `"classes"`, `{"do": "mode", "mode":
            "object" | "labels"}`, `{"do": "check", "is_to_check": bool}` or `{"do": "done",
            "is_done": bool}`, also with `"labels": [{"label": int, "size": [h, w], "counts":
            text}, ...]`.
        size: Height and width of the image, pixels.

    Raises:
        ValueError: If it is none of these.
    """
    if not isinstance(entry, dict):
        raise ValueError(f"a step must be an object, got {str(entry)[:80]}")
    match entry:
        # "mark" is the name of 0.1.
        case {"do": "prompt", "prompt": dict(prompt)} | {"do": "mark", "mark": dict(prompt)}:
            return AddPrompt(prompt_from_json(prompt, size))
        case {"do": "clear"}:
            return ClearPrompts()
        case {"do": "finish", "mask": dict(mask)}:
            return FinishObject(mask_from_json(mask, size), name_from_json(entry, "class"))
        case {"do": "choose", "number": number, "num_masks": count} if is_int(
            count, 1, _MOST_MASKS
        ) and is_int(number, 0, count - 1):
            if (number == 0) == ("mask" in entry):
                raise ValueError("a chosen mask comes with its pixels, and number 0 without")
            chosen = mask_from_json(entry["mask"], size) if number else None
            return ChooseMask(number, count, chosen)
        # True is an int to Python, and no object's number.
        case {"do": "reopen", "number": int(number)} if type(number) is int:
            return ReopenObject(number)
        case {"do": "delete", "number": int(number)} if type(number) is int:
            return DeleteObject(number)
        case {"do": "describe", "number": int(number)} if type(number) is int:
            return DescribeObject(number, description_from_json(entry))
        case {"do": "move", "number": int(number), "place": place} if type(number) is int:
            if not is_int(place, 0, _MOST_OBJECTS):
                raise ValueError(f"an object's place is a number from 0, got {str(place)[:80]}")
            return MoveObject(number, place)
        case {"do": "add", "masks": list(masks)} if all(isinstance(one, dict) for one in masks):
            return _added_from_json(masks, entry.get("classes", []), size)
        case {"do": "check", "is_to_check": bool(is_to_check)}:
            return SetToCheck(is_to_check)
        case {"do": "mode", "mode": mode} if mode in MODES:
            return SetMode(mode)
        case {"do": "done", "is_done": bool(is_done), "labels": list(labels)}:
            return SetDone(is_done, tuple(_label_from_json(one, size) for one in labels))
        case {"do": "done", "is_done": bool(is_done)}:
            return SetDone(is_done)
    raise ValueError(f"no such step: {str(entry)[:80]}")


def _added_from_json(masks: list[JsonDict], names: object, size: tuple[int, int]) -> AddObjects:
    if not isinstance(names, list) or len(names) not in (0, len(masks)):
        raise ValueError(f"there must be a class for each of {len(masks)} masks, or for none")
    classes = tuple(name_from_json({"class": name}, "class") for name in names)
    return AddObjects(tuple(mask_from_json(one, size) for one in masks), classes)


def _label_from_json(entry: object, size: tuple[int, int]) -> tuple[int, MaskRuns]:
    if not isinstance(entry, dict) or not is_int(entry.get("label"), 1, MAX_LABEL):
        raise ValueError(f"kept labels lie in 1 to {MAX_LABEL}, got {str(entry)[:80]}")
    return entry["label"], mask_from_json(entry, size)


def _fields(step: Step) -> JsonDict:
    match step:
        case AddPrompt(prompt):
            return {"prompt": prompt_to_json(prompt)}
        case AddObjects(masks, names):
            named_classes = {"classes": list(names)} if names else {}
            return {"masks": [mask_to_json(mask) for mask in masks], **named_classes}
        case FinishObject(mask, name):
            return {"mask": mask_to_json(mask), **({"class": name} if name else {})}
        case DescribeObject(number, description):
            return {"number": number, **description_to_json(description)}
        case ChooseMask(number, count, chosen):
            fields: JsonDict = {"number": number, "num_masks": count}
            return fields if chosen is None else {**fields, "mask": mask_to_json(chosen)}
        case SetDone(is_done, labels) if labels is not None:
            named = [{"label": label, **mask_to_json(mask)} for label, mask in labels]
            return {"is_done": is_done, "labels": named}
        case SetDone(is_done):
            return {"is_done": is_done}
    return {field.name: getattr(step, field.name) for field in dataclasses.fields(step)}


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
