"""One sample of any source becomes one of a training shard: smaller, its masks one piece each."""

from __future__ import annotations

import contextlib
import io
import math
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple, Protocol

import numpy as np
from PIL import Image

from maskfeat.data.annotations.image import SampleError, decode_image
from maskfeat.data.annotations.limits import Limits
from maskfeat.data.annotations.painting import (
    RawRuns,
    boxes_xywh,
    encode_runs,
    middles_yx,
    reduce_runs,
    reduced_size,
)
from maskfeat.data.annotations.read_as import ReadAs
from maskfeat.data.annotations.rle import Runs, membership, part_runs
from maskfeat.data.annotations.sample import is_crowd
from maskfeat.formats.sa1b import json_bytes

# What is worked out anew for each mask; anything else that an annotation holds is kept.
_MADE_ANEW = ("id", "segmentation", "area", "bbox", "crop_box", "point_coords")


def check_output(size: int, jpg_quality: int, shard_mb: float) -> None:
    """Refuse settings of images and shards that are out of range.

    Raises:
        ValueError: Names the setting.
    """
    if size < 16:
        raise ValueError(f"size must be at least 16 pixels, got {size}")
    if not 1 <= jpg_quality <= 95:
        raise ValueError(f"jpg_quality must lie in 1 to 95, got {jpg_quality}")
    if not (shard_mb > 0 and math.isfinite(shard_mb)):
        raise ValueError(f"shard_mb must be above 0, got {shard_mb}")


@dataclass(frozen=True)
class Settings:
    """What decides the bytes of converted shards, a `Recipe`.

    Args:
        size: Short side of the images, pixels; smaller ones are left as they are.
        min_area_px: Masks of fewer pixels are dropped, counted in the new image and by connected
            component.
        jpg_quality: Of images that had to be encoded anew, 1 to 95.
        shard_mb: Size of a shard, 10^6 bytes, that is not passed (but by a single sample).
        keep_crowds: Whether to keep masks that hold many objects at once (`iscrowd` of COCO).
        void_label: Which number of a label map stands for pixels that nobody labeled, which give no
            mask: a whole number; "auto", 255 in maps with the palette of PASCAL VOC; or "none".

    Raises:
        ValueError: If a setting is out of range.
    """

    size: int = 512
    min_area_px: int = 16
    jpg_quality: int = 90
    shard_mb: float = 256.0
    keep_crowds: bool = False
    void_label: str = "auto"

    def __post_init__(self) -> None:
        check_output(self.size, self.jpg_quality, self.shard_mb)
        if self.min_area_px < 2:
            raise ValueError(
                f"min_area_px must be at least 2, below which masks say nothing, "
                f"got {self.min_area_px}"
            )
        if self.void_label not in ("auto", "none") and not self.void_label.isdecimal():
            raise ValueError(
                f"void_label must be auto, none or a whole number, got '{self.void_label}'"
            )

    def described(self) -> dict[str, Any]:
        """The settings, as JSON has them."""
        return asdict(self)

    def make(self, key: str, number: int, record: Record) -> Shrunk:
        """Reduce a sample, see `shrink`."""
        return shrink(key, number, record.read(self), self)


DEFAULTS = Settings()


@dataclass(frozen=True, eq=False)
class SourceSample:
    """A sample as a source holds it.

    Attributes:
        encoded: A file of one of `maskfeat.data.annotations.image.FORMATS`.
        size: Height and width of its masks, pixels; the image is turned to lie as they do.
        runs: The masks, see `maskfeat.data.annotations.painting.RawRuns`.
        entries: What else is known of each annotation, for the json.
        image: What is known of the image.
        left_out: How many masks could not be taken, by reason.
        max_runs: Most runs of its masks, see `maskfeat.data.annotations.rle.part_runs`.
        read_as: How the image is read.
    """

    encoded: bytes
    size: tuple[int, int]
    runs: RawRuns
    entries: Sequence[Mapping[str, Any]]
    image: Mapping[str, Any]
    left_out: Mapping[str, int] = field(default_factory=dict)
    max_runs: int = Limits.runs
    read_as: ReadAs = ReadAs()  # noqa: RUF009 - frozen


class Shrunk(NamedTuple):
    """A sample of a training shard.

    Attributes:
        jpg: Its image.
        json: Its annotations.
        num_masks: How many masks it has.
        left_out: How many annotations of the source gave none, by reason.
    """

    jpg: bytes
    json: bytes
    num_masks: int
    left_out: dict[str, int]


class Recipe(Protocol):
    """Makes the samples of shards, and decides their bytes; small, and fit to be sent around."""

    @property
    def shard_mb(self) -> float:
        """Size of a shard, 10^6 bytes, that is not passed (but by a single sample)."""

    def described(self) -> dict[str, Any]:
        """All that decides the bytes, as JSON has it: a folder of shards is made by one recipe."""

    def make(self, key: str, number: int, record: Record) -> Shrunk:
        """Make a sample.

        Args:
            key: Its new name.
            number: Its place in its input, from 1.
            record: Where its source lies.

        Raises:
            SampleError: If that cannot be, with the reason.
        """


@dataclass(frozen=True)
class Record(ABC):
    """Where a sample lies: small, and fit to be sent to another process.

    Attributes:
        key: Its name in the source.
        files: The files that it is read from; it has changed where one of them has.
    """

    key: str
    files: tuple[str, ...]

    @abstractmethod
    def read(self, settings: Settings = DEFAULTS) -> SourceSample:
        """Read it.

        Args:
            settings: Some of them say how it is read.

        Raises:
            SampleError: If that cannot be, with the reason.
        """


@dataclass(frozen=True)
class Missing(Record):
    """A sample that is not whole, and so is reported when its turn comes.

    It has no files: it counts as changed when it becomes whole.
    """

    files: tuple[str, ...] = field(default=(), init=False)
    detail: str
    reason: str = "incomplete"

    def read(self, settings: Settings = DEFAULTS) -> SourceSample:
        """Say what is missing."""
        raise SampleError(self.reason, self.detail)


def shrink(key: str, number: int, sample: SourceSample, settings: Settings) -> Shrunk:
    """Reduce a sample, and part its masks into connected components.

    Components that are apart in the source stay apart, also where the coarser grid would join
    them; one that the coarser grid tears becomes several.

    Args:
        key: Its new name.
        number: Its `image_id`, should the source give none.
        sample: The sample.
        settings: Sizes and quality.

    Raises:
        SampleError: "no masks" if none is left, "bad rle" if they have more runs than training
            reads, or as `decode_image`.
    """
    size = reduced_size(sample.size, settings.size)
    is_taken = np.array(
        [settings.keep_crowds or not is_crowd(entry) for entry in sample.entries], bool
    )
    try:
        starts, stops, owner = (part[is_taken[sample.runs[2]]] for part in sample.runs)
        owner = owner.astype(np.int32)
        whole = part_runs(starts, stops, owner, sample.size, 1, sample.max_runs)
        runs = part_runs(*reduce_runs(whole, size), size, settings.min_area_px, sample.max_runs)
    except ValueError as error:
        raise SampleError("bad rle", str(error)) from error
    annotation_of = whole.annotation[runs.annotation]
    num_kept = len(np.unique(annotation_of))
    left_out = Counter(sample.left_out)
    left_out["crowd"] += int((~is_taken).sum())
    left_out["too small"] += int(is_taken.sum()) - num_kept
    if runs.num_masks == 0:
        listed = ", ".join(f"{num} {reason}" for reason, num in sorted((+left_out).items()))
        why = f"no mask has {settings.min_area_px} connected pixels at {size}"
        raise SampleError("no masks", f"{why}; left out: {listed}" if listed else why)
    entries = [sample.entries[i] for i in annotation_of]
    image = {"image_id": number, **sample.image, "width": size[1], "height": size[0]}
    image["file_name"] = f"{key}.jpg"
    content = {"image": image, "annotations": _describe(runs, entries, sample.size)}
    jpg = reduced_jpg(sample, size, settings.jpg_quality)
    return Shrunk(jpg, json_bytes(content), runs.num_masks, dict(+left_out))


def reduced_jpg(sample: SourceSample, size: tuple[int, int], quality: int) -> bytes:
    """The image at `size` (height, width); the file itself if it is a JPEG of that size.

    Raises:
        SampleError: "bad jpg" or "size mismatch".
    """
    data, old = sample.encoded, sample.size
    scale = min(1.0, *(n / o for n, o in zip(size, old, strict=True)))
    image = decode_image(data, old, scale, sample.read_as)
    if size == old and sample.read_as == ReadAs():
        with contextlib.suppress(OSError):  # of another format
            with Image.open(io.BytesIO(data), formats=("JPEG",)) as stored:
                if stored.getexif().get(0x0112, 1) == 1:  # upright
                    return data
    if image.size != size[::-1]:
        # Of Pillow's filters the nearest to the mean over each pixel's area, by 9 dB nearer than
        # BOX, which gives a source pixel to one new pixel alone, however they lie.
        image = image.resize(size[::-1], Image.Resampling.HAMMING)
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality, optimize=True)
    return file.getvalue()


def _describe(
    runs: Runs, entries: Sequence[Mapping[str, Any]], old: tuple[int, int]
) -> list[dict[str, Any]]:
    """The annotations of masks, in the layout of SA-1B."""
    height, width = runs.size
    scale_yx = (height / old[0], width / old[1])
    boxes = boxes_xywh(runs).astype(float).tolist()
    points = _points_inside(runs, entries, scale_yx)
    whole, scales = [0.0, 0.0, old[1], old[0]], (*scale_yx[::-1], *scale_yx[::-1])
    crops = [_numbers(entry.get("crop_box"), 4) or whole for entry in entries]
    return [
        {
            "id": number + 1,
            "segmentation": {"size": [height, width], "counts": counts},
            "area": int(runs.areas[number]),
            "bbox": boxes[number],
            "predicted_iou": 1.0,
            "stability_score": 1.0,
            **{name: value for name, value in entry.items() if name not in _MADE_ANEW},
            "crop_box": [round(v * s, 2) for v, s in zip(crops[number], scales, strict=True)],
            "point_coords": [points[number]],
        }
        for number, (counts, entry) in enumerate(zip(encode_runs(runs), entries, strict=True))
    ]


def _points_inside(
    runs: Runs, entries: Sequence[Mapping[str, Any]], scale_yx: tuple[float, float]
) -> list[list[float]]:
    """A point (x, y) in each mask: the source's where it lies there, else one of ours."""
    points = middles_yx(runs)
    theirs = [_numbers(entry.get("point_coords"), 2) for entry in entries]
    given = [n for n, point in enumerate(theirs) if point is not None]
    scaled = np.array([theirs[n] for n in given]).reshape(-1, 2)[:, ::-1] * scale_yx
    most = np.array(runs.size) - 1
    pixels = np.clip(np.nan_to_num(scaled), 0, most).astype(np.int64)
    is_inside = membership(runs, pixels)[given, np.arange(len(given))]
    points[np.array(given, np.int64)[is_inside]] = pixels[is_inside]
    return [[float(x), float(y)] for y, x in points.tolist()]


def _numbers(value: object, count: int) -> list[float] | None:
    """`count` finite numbers, perhaps as the first of a list; None for anything else."""
    if isinstance(value, list) and value and isinstance(value[0], list):
        value = value[0]
    if not isinstance(value, list) or len(value) != count:
        return None
    if not all(type(one) in (int, float) and abs(one) < 1e9 for one in value):
        return None
    return [float(one) for one in value]
