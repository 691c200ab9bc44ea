"""Prompts and steps as JSON, read with suspicion: it comes from a web page or from an old file."""

from __future__ import annotations

from typing import Any, get_args

from maskfeat.app.annotation import (
    MAX_LABEL,
    MODES,
    AddObjects,
    AddPrompt,
    Annotation,
    ChooseMask,
    ClearPrompts,
    DeleteObject,
    FinishObject,
    MaskRuns,
    Prompt,
    PromptKind,
    ReopenObject,
    SetDone,
    SetMode,
    Step,
)

JsonDict = dict[str, Any]

_KINDS: dict[str, PromptKind] = {kind: kind for kind in get_args(PromptKind)}
_FARTHEST = 10**6  # pixels
_MOST_MASKS = 100  # candidates
_MOST_CORNERS = 50_000  # of a scribble: minutes of drawing, and a second of computing

_NAMES: dict[type[Any], str] = {
    AddPrompt: "prompt",
    ClearPrompts: "clear",
    ChooseMask: "choose",
    FinishObject: "finish",
    ReopenObject: "reopen",
    DeleteObject: "delete",
    AddObjects: "add",
    SetMode: "mode",
    SetDone: "done",
}


def annotation_to_json(annotation: Annotation) -> JsonDict:
    """All steps, `{"position": int, "steps": [{"do": name, ...}, ...]}`."""
    return {
        "position": annotation.position,
        "steps": [{"do": _NAMES[type(s)], **_fields(s)} for s in annotation.steps],
    }


def annotation_from_json(content: JsonDict, size: tuple[int, int]) -> Annotation:
    """Read what `annotation_to_json` wrote.

    Args:
        content: The object.
        size: Height and width of the image, pixels.

    Raises:
        ValueError: If it is malformed, or a step cannot follow those before it.
    """
    entries, position = content.get("steps"), content.get("position")
    if not isinstance(entries, list) or not _is_int(position, 0, len(entries)):
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
            {"size": [h, w], "counts": text}}`, `{"do": "choose", "number": int, "num_masks": int,
            "mask": {...}}`, without a mask for number 0, `{"do": "reopen" | "delete", "number":
            int}`, `{"do": "mode", "mode": "object" | "labels"}` or `{"do": "done", "is_done":
            bool}`, also with `"labels": [{"label": int, "size": [h, w], "counts": text}, ...]`.
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
            return FinishObject(mask_from_json(mask, size))
        case {"do": "choose", "number": number, "num_masks": count} if _is_int(
            count, 1, _MOST_MASKS
        ) and _is_int(number, 0, count - 1):
            if (number == 0) == ("mask" in entry):
                raise ValueError("a chosen mask comes with its pixels, and number 0 without")
            chosen = mask_from_json(entry["mask"], size) if number else None
            return ChooseMask(number, count, chosen)
        # True is an int to Python, and no object's number.
        case {"do": "reopen", "number": int(number)} if type(number) is int:
            return ReopenObject(number)
        case {"do": "delete", "number": int(number)} if type(number) is int:
            return DeleteObject(number)
        case {"do": "add", "masks": list(masks)} if all(isinstance(one, dict) for one in masks):
            return AddObjects(tuple(mask_from_json(one, size) for one in masks))
        case {"do": "mode", "mode": mode} if mode in MODES:
            return SetMode(mode)
        case {"do": "done", "is_done": bool(is_done), "labels": list(labels)}:
            return SetDone(is_done, tuple(_label_from_json(one, size) for one in labels))
        case {"do": "done", "is_done": bool(is_done)}:
            return SetDone(is_done)
    raise ValueError(f"no such step: {str(entry)[:80]}")


def mask_from_json(entry: JsonDict, size: tuple[int, int]) -> MaskRuns:
    """Read a mask; its runs are not decoded.

    Args:
        entry: `{"size": [h, w], "counts": text}`.
        size: Height and width of the image, pixels; no mask is larger.

    Raises:
        ValueError: If it is malformed.
    """
    match entry:
        case {"size": [h, w], "counts": str(counts)} if _is_int(h, 1, size[0]) and _is_int(
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
        entry: The fields of `Prompt`; `granularity` only with a segment, `click_radius` only
            without.
        size: Height and width of the image, pixels; points of a scribble may lie outside.

    Raises:
        ValueError: If it is malformed, or a click lies outside the image.
    """
    kind, label = _KINDS.get(str(entry.get("kind"))), entry.get("label")
    if kind is None:
        raise ValueError(f"a prompt is one of {list(_KINDS)}, got {str(entry.get('kind'))[:80]!r}")
    if type(label) is not int or not 0 <= label <= MAX_LABEL:
        raise ValueError(f"a label lies in 0 to {MAX_LABEL}, got {str(label)[:80]}")
    points = _points_from_json(entry.get("points_yx"))
    if kind != "scribble":
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
    radius = entry.get("click_radius", entry.get("reach"))  # the name of 0.1
    return Prompt(kind, points, label, click_radius=_click_radius_from_json(radius))


def prompt_to_json(prompt: Prompt) -> JsonDict:
    """The fields of a prompt, those that are None left out."""
    return {name: value for name, value in vars(prompt).items() if value is not None}


def _label_from_json(entry: object, size: tuple[int, int]) -> tuple[int, MaskRuns]:
    if not isinstance(entry, dict) or not _is_int(entry.get("label"), 1, MAX_LABEL):
        raise ValueError(f"kept labels lie in 1 to {MAX_LABEL}, got {str(entry)[:80]}")
    return entry["label"], mask_from_json(entry, size)


def _fields(step: Step) -> JsonDict:
    match step:
        case AddPrompt(prompt):
            return {"prompt": prompt_to_json(prompt)}
        case AddObjects(masks):
            return {"masks": [mask_to_json(mask) for mask in masks]}
        case FinishObject(mask):
            return {"mask": mask_to_json(mask)}
        case ChooseMask(number, count, chosen):
            fields: JsonDict = {"number": number, "num_masks": count}
            return fields if chosen is None else {**fields, "mask": mask_to_json(chosen)}
        case SetDone(is_done, labels) if labels is not None:
            named = [{"label": label, **mask_to_json(mask)} for label, mask in labels]
            return {"is_done": is_done, "labels": named}
        case SetDone(is_done):
            return {"is_done": is_done}
    return dict(vars(step))


def _points_from_json(entry: object) -> tuple[tuple[int, int], ...]:
    if not isinstance(entry, list) or not entry:
        raise ValueError(f"points_yx must be a list of [row, column], got {str(entry)[:80]}")
    if len(entry) > _MOST_CORNERS:
        raise ValueError(f"a prompt has at most {_MOST_CORNERS} points, got {len(entry)}")
    for point in entry:
        is_pair = isinstance(point, list) and len(point) == 2
        if not is_pair or not all(_is_int(value, -_FARTHEST, _FARTHEST) for value in point):
            raise ValueError(f"a point is two whole numbers [row, column], got {str(point)[:80]}")
    return tuple((y, x) for y, x in entry)


def _click_radius_from_json(entry: object) -> float | None:
    if entry is None:  # prompts of older files have none
        return None
    # True and False are numbers to Python, which reads NaN and Infinity as JSON.
    if isinstance(entry, int | float) and type(entry) is not bool and 0 <= entry <= _FARTHEST:
        return float(entry)
    raise ValueError(f"a click radius lies in 0 to {_FARTHEST} pixels, got {str(entry)[:80]}")


def _is_int(value: object, low: int, high: int) -> bool:
    return type(value) is int and low <= value <= high
