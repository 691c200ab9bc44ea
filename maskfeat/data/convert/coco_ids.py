"""Identities in a JSON of COCO: ids are whole numbers or text, and each stands for one thing.

Tools write ids as 7, 7.0 or "7"; these are one id. Ambiguous ids are refused.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Sequence
from typing import Any

Json = dict[str, Any]


def read_id(value: object) -> Hashable:
    """An id as a number if it is one, else as text.

    Raises:
        ValueError: If it is neither a whole number nor text.
    """
    if isinstance(value, str) and value:
        return int(value) if value.isascii() and value.isdecimal() else value
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    raise ValueError(f"an id must be a whole number or text, got {str(value)[:80]!r}")


def by_id(entries: Sequence[Json], what: str, name: str) -> dict[Hashable, Json]:
    """Entries by id, in order; one that is there twice counts once.

    Args:
        entries: Images or categories.
        what: What they are, for the message.
        name: The key of their names.

    Raises:
        KeyError: If an entry has no id or name.
        ValueError: If two of different names have one id, or an id is none.
    """
    found: dict[Hashable, Json] = {}
    for one in entries:
        number = read_id(one["id"])
        other = found.setdefault(number, one)
        if other[name] != one[name]:
            raise ValueError(
                f"two {what} have one id, {number!r}: '{other[name]}' and '{one[name]}'; "
                "give each an id of its own"
            )
    return found


def annotations_of(
    content: Json, images: dict[Hashable, Json]
) -> tuple[dict[Hashable, list[Json]], dict[str, list[object]]]:
    """Group the annotations by image.

    Args:
        content: A JSON of COCO.
        images: Its images by id.

    Returns:
        The annotations of each image; and by reason the image_id of those that belong to none.

    Raises:
        ValueError: If no annotation belongs to an image.
    """
    found: dict[Hashable, list[Json]] = defaultdict(list)
    strays: dict[str, list[object]] = defaultdict(list)
    for one in content["annotations"]:
        value, reason = one.get("image_id"), "of an image that is not listed"
        try:
            number = read_id(value)
        except ValueError:
            number, reason = None, "without an id" if value is None else "with a malformed id"
        if number is not None and number in images:
            found[number].append(one)
        else:
            strays[reason].append(value)
    if strays and not found:
        first = str(next(iter(strays.values()))[0])[:80]
        raise ValueError(
            f"no annotation belongs to an image: ids of images are like {next(iter(images), None)},"
            f" image_id of annotations like {first}"
        )
    return found, dict(sorted(strays.items()))
