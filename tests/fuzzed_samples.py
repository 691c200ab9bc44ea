"""Broken annotations in endless variety, and a slow, simple reader that says what is in them."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from typing import Any

import numpy as np
from skimage.measure import label

MAX_PIXELS = 2**26
JUNK: list[Any] = [
    None, True, False, 0, -1, 1, 2, 24, 10**6, 10**9, 2**31, 2**63, 10**40, -(10**40), 0.5, 18.0,
    math.nan, math.inf, -math.inf, "", "x", "0", "\x00", "\ud800", "é" * 9, [], [[]], {}, [None],
    [0], [18, 24], [24, 18], [0, 432], [432], [-5, 437], [10**12], {"a": [1]}, "o" * 99,
    [[[[[[1]]]]]], {"size": [18, 24], "counts": [432]}, [10**6, 10**6], [2**31, 2**31], [1, 432],
]  # fmt: skip


def mutate(text: bytes, rng: np.random.Generator) -> bytes:
    """Break a sample's json, or change what it says."""
    for _ in range(rng.integers(1, 4)):
        text = _MUTATIONS[rng.integers(len(_MUTATIONS))](text, rng)
    return text


def expected_components(text: bytes) -> list[np.ndarray] | None:
    """The masks in a json, one (H, W) for each component of two pixels, by annotation and place.

    Knows nothing of the code it judges: loops over characters and pixels. None if the json breaks
    a rule: the masks are of one size, counts whole, not negative, of seven characters at most, that
    fill the size; and there is a component at all.
    """
    try:
        annotations = json.loads(text)["annotations"]
        if not isinstance(annotations, list):
            return None
        # An annotation that has but a box is left out.
        masks = [one.get("segmentation") for one in annotations]
        masks = [mask for mask in masks if mask is not None]
        sizes = [mask["size"] for mask in masks]
        texts = [mask["counts"] for mask in masks]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    if not sizes or any(size != sizes[0] for size in sizes) or not isinstance(sizes[0], list):
        return None
    if [type(side) for side in sizes[0]] != [int, int] or min(sizes[0]) < 1:
        return None
    height, width = sizes[0]
    if height * width > MAX_PIXELS:
        return None
    found = []
    for counts in texts:
        lengths = _lengths(counts)
        if lengths is None or min(lengths, default=0) < 0 or sum(lengths) != height * width:
            return None
        flat = [number % 2 for number, length in enumerate(lengths) for _ in range(length)]
        mask = np.array(flat, bool).reshape(width, height).T
        labels = label(mask, connectivity=1)
        parts = [labels == number for number in range(1, labels.max() + 1)]
        parts.sort(key=lambda part: int(np.argmax(part.T.ravel())))
        found += [part for part in parts if part.sum() >= 2]
    return found or None


def _lengths(counts: Any) -> list[int] | None:
    if isinstance(counts, list):
        is_good = all(type(one) is int and 0 <= one <= MAX_PIXELS for one in counts)
        return counts if is_good else None
    if not isinstance(counts, str):
        return None
    lengths: list[int] = []
    place = 0
    while place < len(counts):
        number, shift, more = 0, 0, True
        while more:
            if place == len(counts) or not 48 <= ord(counts[place]) < 112 or shift == 35:
                return None
            value = ord(counts[place]) - 48
            number |= (value & 31) << shift
            place, shift, more = place + 1, shift + 5, bool(value & 32)
        if value & 16:
            number -= 1 << shift
        lengths.append(number + lengths[-2] if len(lengths) > 2 else number)
    return lengths


def _flip_bits(text: bytes, rng: np.random.Generator) -> bytes:
    data = bytearray(text)
    for _ in range(rng.integers(1, 4)):
        if data:
            data[rng.integers(len(data))] ^= 1 << int(rng.integers(8))
    return bytes(data)


def _cut(text: bytes, rng: np.random.Generator) -> bytes:
    return text[: rng.integers(len(text) + 1)]


def _insert(text: bytes, rng: np.random.Generator) -> bytes:
    place = int(rng.integers(len(text) + 1))
    return text[:place] + rng.bytes(int(rng.integers(1, 9))) + text[place:]


def _move_piece(text: bytes, rng: np.random.Generator) -> bytes:
    first, last, place = sorted(rng.integers(len(text) + 1, size=3).tolist())
    return text[:first] + text[last:place] + text[first:last] + text[place:]


def _change_number(text: bytes, rng: np.random.Generator) -> bytes:
    numbers = list(re.finditer(rb"-?\d+(\.\d+)?", text))
    if not numbers:
        return text
    where = numbers[rng.integers(len(numbers))]
    other = numbers[rng.integers(len(numbers))][0]
    new = [other, b"-" + where[0], b"NaN", b"-Infinity", b"1e999", b"9" * 30, b"0.0", b"9" * 5000]
    return text[: where.start()] + new[rng.integers(len(new))] + text[where.end() :]


def _nest(text: bytes, rng: np.random.Generator) -> bytes:
    depth = int(10 ** rng.uniform(0, 4))
    opening, closing = ((b"[", b"]"), (b'{"annotations":', b"}"))[rng.integers(2)]
    return opening * depth + text + closing * int(depth * rng.integers(2))


def _change_structure(text: bytes, rng: np.random.Generator) -> bytes:
    """Put junk, or another value of the same json, in place of any value."""

    def change(content: Any) -> None:
        places = _places(content)
        holder, name = places[rng.integers(len(places))]
        kind = rng.integers(4)
        if kind == 0:
            del holder[name]
        elif kind == 1:
            other, other_name = places[rng.integers(len(places))]
            holder[name] = json.loads(json.dumps(other[other_name]))
        else:
            holder[name] = JUNK[rng.integers(len(JUNK))]

    return _with_content(text, change)


def _change_counts(text: bytes, rng: np.random.Generator) -> bytes:
    """Other counts that often fill the image too, as a list or compressed."""

    def change(content: Any) -> None:
        annotations = content["annotations"]
        mask = annotations[rng.integers(len(annotations))]["segmentation"]
        lengths = _lengths(mask["counts"])
        if not lengths:
            return
        for _ in range(rng.integers(1, 30)):
            one, two = rng.integers(len(lengths), size=2)
            if rng.random() < 0.5:
                lengths[one], lengths[two] = lengths[two], lengths[one]
            else:
                moved = int(rng.integers(lengths[one] + 2)) if lengths[one] >= 0 else 1
                lengths[one], lengths[two] = lengths[one] - moved, lengths[two] + moved
        while rng.random() < 0.5:
            at = int(rng.integers(len(lengths) + 1))
            lengths[at:at] = [0, 0][: int(rng.integers(1, 3))]
        mask["counts"] = lengths if rng.random() < 0.5 else _compress(lengths)

    return _with_content(text, change)


def _change_characters(text: bytes, rng: np.random.Generator) -> bytes:
    """Other characters in compressed counts."""

    def change(content: Any) -> None:
        annotations = content["annotations"]
        mask = annotations[rng.integers(len(annotations))]["segmentation"]
        counts = list(mask["counts"])
        for _ in range(rng.integers(1, 4)):
            at = int(rng.integers(len(counts)))
            counts[at : at + int(rng.integers(3))] = [chr(rng.integers(40, 120))] * rng.integers(9)
        mask["counts"] = "".join(counts)

    return _with_content(text, change)


def _repeat_annotations(text: bytes, rng: np.random.Generator) -> bytes:
    def change(content: Any) -> None:
        content["annotations"] = content["annotations"] * int(rng.integers(2, 12))

    return _with_content(text, change)


def _with_content(text: bytes, change: Callable[[Any], None]) -> bytes:
    try:
        content = json.loads(text)
        change(content)
        return json.dumps(content).encode()
    except (ValueError, TypeError, KeyError, IndexError, RecursionError, AttributeError):
        return text  # broken before


def _places(content: Any) -> list[tuple[Any, Any]]:
    """Every value in a json, as its holder and its name there."""
    found, todo = [], [content]
    while todo:
        holder = todo.pop()
        names = holder if isinstance(holder, dict) else range(len(holder))
        for name in names:
            found.append((holder, name))
            if isinstance(holder[name], dict | list):
                todo.append(holder[name])
    return found


def _compress(lengths: list[int]) -> str:
    text = []
    for number, length in enumerate(lengths):
        rest = length - lengths[number - 2] if number > 2 else length
        more = True
        while more:
            bits, rest = rest & 31, rest >> 5
            more = rest != -1 if bits & 16 else rest != 0
            text.append(chr(48 + bits + 32 * more))
    return "".join(text)


_MUTATIONS = (
    _flip_bits, _cut, _insert, _move_piece, _change_number, _nest, _change_structure,
    _change_structure, _change_counts, _change_counts, _change_characters, _repeat_annotations,
)  # fmt: skip
