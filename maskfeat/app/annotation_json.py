"""Steps as JSON, read with suspicion: it comes from a web page or from an old file."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

from maskfeat.app.annotation import Annotation
from maskfeat.app.annotation_state import MAX_LABEL, MODES, MaskRuns
from maskfeat.app.annotation_steps import (
    AddObjects,
    AddPrompt,
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
from maskfeat.app.prompt_json import (
    JsonDict,
    description_from_json,
    description_to_json,
    is_int,
    mask_from_json,
    mask_to_json,
    name_from_json,
    prompt_from_json,
    prompt_to_json,
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
