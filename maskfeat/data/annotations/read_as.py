"""How image files become 8 bits of red, green and blue: which page and channels, which values."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

# What becomes 0 and 255 where nobody says it: the rest is mostly dust and hot pixels.
_PERCENTILES = (0.1, 99.9)
_MOST_VALUES = 2**22  # that percentiles are taken of, evenly spaced


@dataclass(frozen=True)
class ReadAs:
    """What of an image file is taken, and how its values become 8 bits.

    Args:
        page: Which page or frame, counted from 1; None takes the first, and the log says so.
        channels: Which channels become red, green and blue, counted from 1; or one, which becomes
            gray. None takes those that the file calls so, else the first three; of two the first
            is red, the second green. Alpha is dropped, not blended.
        value_range: What becomes 0 and 255; values beyond become these, too. None leaves 8 bits as
            they are. Of values of more bits, or floats, it takes the percentiles 0.1 and 99.9 of
            the page: of a color image over all channels together, else of each by itself.

    Raises:
        ValueError: If a number is out of its range.
    """

    page: int | None = None
    channels: tuple[int, ...] | None = None
    value_range: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        if self.page is not None and self.page < 1:
            raise ValueError(f"page counts from 1, got {self.page}")
        channels, span = self.channels, self.value_range
        if channels is not None and (len(channels) not in (1, 3) or min(channels) < 1):
            raise ValueError(f"channels must be one or three numbers from 1, got {channels}")
        if span is not None and not span[0] < span[1]:
            raise ValueError(f"value_range must be LOW,HIGH, the lower first, got {span}")
        if span is not None and not all(map(math.isfinite, span)):
            raise ValueError(f"value_range must be finite numbers, got {span}")

    def to_json(self) -> dict[str, Any]:
        """What was chosen, by name; {} if nothing was."""
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in vars(self).items()
            if value is not None
        }


def read_as_from_json(entry: object) -> ReadAs:
    """Read what `to_json` wrote; anything else chooses nothing.

    Raises:
        ValueError: If a number is out of its range.
        TypeError: If it is no number.
        OverflowError: If it is infinite, or larger than a float.
    """
    known: Mapping[str, Any] = entry if isinstance(entry, dict) else {}
    page, channels, span = (known.get(name) for name in ("page", "channels", "value_range"))
    return ReadAs(
        page if isinstance(page, int) else None,
        tuple(map(int, channels)) if isinstance(channels, list) else None,
        (float(span[0]), float(span[1])) if isinstance(span, list) and len(span) == 2 else None,
    )


def read_as_of_words(page: int | None, channels: str | None, value_range: str | None) -> ReadAs:
    """From the options of a command: numbers with commas between.

    Raises:
        ValueError: If they are none.
    """
    chosen = None if channels is None else tuple(map(int, _numbers("channels", channels)))
    if value_range is None:
        return ReadAs(page, chosen)
    span = _numbers("value_range", value_range)
    if len(span) != 2:
        raise ValueError(f"value_range must be LOW,HIGH, got '{value_range}'")
    return ReadAs(page, chosen, (span[0], span[1]))


def rgb_of_values(
    values: npt.NDArray[Any], is_color: bool, read_as: ReadAs
) -> tuple[npt.NDArray[np.uint8], list[str]]:
    """Choose channels, and scale their values to 8 bits.

    Args:
        values: Real numbers, shape (H, W, C); NaN and infinite ones become what is nearest.
        is_color: Whether the first three channels are red, green and blue.
        read_as: What to take.

    Returns:
        uint8, shape (H, W, 3), and what was decided that the user may want otherwise, in words.

    Raises:
        ValueError: If there is no such channel, or no finite value.
    """
    num = values.shape[2]
    chosen = read_as.channels or ((1,) if num == 1 else (1, 2, 3)[:num])
    if max(chosen) > num:
        raise ValueError(f"it has {num} channels, so there is no channel {max(chosen)}")
    notes = []
    if num not in (1, 3) and read_as.channels is None:
        named = "1 and 2 are red and green" if num == 2 else "1, 2, 3 are red, green, blue"
        notes.append(f"of its {num} channels {named} (--channels)")
    taken = values[..., [channel - 1 for channel in chosen]]
    if taken.dtype == bool:
        taken = taken.astype(np.uint8) * np.uint8(255)
    if taken.dtype == np.uint8 and read_as.value_range is None:
        scaled = taken
    else:
        groups = [taken] if is_color else list(np.split(taken, taken.shape[2], axis=2))
        ranges = [read_as.value_range or _percentiles(one) for one in groups]
        scaled = np.concatenate(
            [_scaled(one, *span) for one, span in zip(groups, ranges, strict=True)], axis=2
        )
        if read_as.value_range is None:
            spans = " and ".join(f"{low:.6g} to {high:.6g}" for low, high in ranges)
            notes.append(f"its values {spans} become 0 to 255 (--value_range)")
    if scaled.shape[2] == 1:
        scaled = np.repeat(scaled, 3, axis=2)
    if scaled.shape[2] == 2:
        scaled = np.concatenate([scaled, np.zeros_like(scaled[..., :1])], axis=2)
    return np.ascontiguousarray(scaled), notes


def _percentiles(values: npt.NDArray[Any]) -> tuple[float, float]:
    flat = values.reshape(-1)
    flat = flat[:: max(1, flat.size // _MOST_VALUES)]
    finite = flat[np.isfinite(flat)] if flat.dtype.kind == "f" else flat
    if not finite.size:
        raise ValueError("it holds no finite value")
    low, high = np.percentile(finite, _PERCENTILES)
    return float(low), float(high)


def _scaled(values: npt.NDArray[Any], low: float, high: float) -> npt.NDArray[np.uint8]:
    """Values as 8 bits, a band of rows at a time: floats of a large image would fill the memory."""
    scaled = np.empty(values.shape, np.uint8)
    factor = 255 / (high - low) if high > low else 0.0
    for start in range(0, len(values), 256):
        band = np.nan_to_num(values[start : start + 256].astype(np.float64), nan=low)
        scaled[start : start + 256] = np.rint((np.clip(band, low, high) - low) * factor)
    return scaled


def _numbers(name: str, words: str) -> list[float]:
    try:
        numbers = [float(word) for word in words.split(",")]
    except ValueError as error:
        raise ValueError(f"{name} must be numbers with commas between, got '{words}'") from error
    if not all(map(math.isfinite, numbers)):
        raise ValueError(f"{name} must be finite numbers, got '{words}'")
    return numbers
