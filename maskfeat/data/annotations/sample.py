"""One annotated image in SA-1B's layout: a JPEG and a JSON, checked and read as runs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from maskfeat.arrays import BoolArray, IntArray
from maskfeat.data.annotations.image import (
    SampleError,
    check_image,
    decode_image,
    within_memory,
)
from maskfeat.data.annotations.limits import Limits
from maskfeat.data.annotations.painting import paint
from maskfeat.data.annotations.read_as import ReadAs, read_as_from_json
from maskfeat.data.annotations.reduce import reduce_runs, reduced_size
from maskfeat.data.annotations.rle import Runs, runs_from_counts

if TYPE_CHECKING:  # it needs torch, seconds that processes which only read need not wait for
    from maskfeat.batch import HeldOutImage

__all__ = [
    "AnnotatedImage",
    "SampleError",
    "check_held_out",
    "is_crowd",
    "parse_annotations",
    "read_sample",
    "to_held_out",
]

_LEVELS = {"object": 0, "region": 0, "part": 1, "subpart": 2}


@dataclass(frozen=True, eq=False)
class AnnotatedImage:
    """An image with its masks, not decoded yet.

    Attributes:
        key: Name of the sample.
        shard: Path or url of the tar it lies in.
        jpg: The JPEG file.
        runs: Its masks, one connected component each.
        annotators: Who drew each annotation; None where the file does not say.
        levels: "object", "part", "subpart", ... of each annotation, or None.
        num_crowds: Annotations that were left out as crowds.
        read_as: How the image is read.
    """

    key: str
    shard: str
    jpg: bytes
    runs: Runs
    annotators: tuple[int | None, ...]
    levels: tuple[str | None, ...]
    num_crowds: int = 0
    read_as: ReadAs = ReadAs()  # noqa: RUF009 - frozen

    def decode(self, at_least: float = 1.0) -> npt.NDArray[np.uint8]:
        """Decode the image.

        Args:
            at_least: In (0, 1]. Below 1 the JPEG decoder may shrink the image by 2, 4 or 8, which
                is quicker, but to no less than `at_least` times the full height and width.

        Returns:
            RGB, uint8, shape (h, w, 3): `runs.size` in full, or a shrunken image of about the
            same proportions (sides are rounded up).

        Raises:
            SampleError: If the file is broken ("bad jpg").
        """
        return np.asarray(self.decode_image(at_least))

    def decode_image(self, at_least: float = 1.0) -> Image.Image:
        """As `decode`, but an image of Pillow's, of mode RGB."""
        return decode_image(self.jpg, self.runs.size, at_least, self.read_as)


@within_memory("to read its masks")
def read_sample(
    key: str,
    shard: str,
    jpg: bytes,
    json_bytes: bytes,
    keep_crowds: bool = False,
    limits: Limits = Limits(),  # noqa: B008 - frozen
) -> AnnotatedImage:
    """Check a sample and read its masks; of the JPEG only the header.

    Args:
        key: Name of the sample.
        shard: Where it comes from.
        jpg: The JPEG file.
        json_bytes: The annotations: {"annotations": [{"segmentation": {"size": [H, W], "counts":
            compressed or list}}, ...]}. An annotation may have "annotator" (a whole number) and
            "level" (a word); of another type they count as absent. One without a segmentation
            gives no mask. All else is ignored.
        keep_crowds: Whether annotations with `iscrowd` of COCO, many objects under one mask, give
            masks.
        limits: What it may ask for.

    Returns:
        The sample, with at least one mask of two pixels or more.

    Raises:
        SampleError: With its reason, see there; "too large" beyond the limits, or the memory.
    """
    content, found, size = parse_annotations(json_bytes)
    read_as = how_to_read(content)
    annotations = found
    if not keep_crowds and any("iscrowd" in one for one in found):
        annotations = [one for one in found if not is_crowd(one)]
    if not annotations:
        raise SampleError("no masks", "all annotations are crowds; see keep_crowds")
    check_image(jpg, size, read_as)
    counts = [one["segmentation"]["counts"] for one in annotations]
    try:
        runs = runs_from_counts(counts, size, max_runs=limits.runs)
    except ValueError as error:
        raise SampleError("bad rle", str(error)) from error
    if runs.num_masks == 0:
        raise SampleError("no masks", "no mask has two connected pixels or more")
    if runs.num_masks > limits.masks:
        raise SampleError(
            "too large", f"it has {runs.num_masks} masks, more than {limits.masks} (limits.masks)"
        )
    return AnnotatedImage(
        key=key,
        shard=shard,
        jpg=jpg,
        runs=runs,
        annotators=tuple(_typed(one.get("annotator"), int) for one in annotations),
        levels=tuple(_typed(one.get("level"), str) for one in annotations),
        num_crowds=len(found) - len(annotations),
        read_as=read_as,
    )


def how_to_read(content: Mapping[str, Any]) -> ReadAs:
    """How the image of a sample is read, as the `image` of its json says.

    Raises:
        SampleError: "bad json".
    """
    image = content.get("image")
    try:
        return read_as_from_json(image.get("read_as") if isinstance(image, dict) else None)
    except (TypeError, ValueError) as error:
        raise SampleError("bad json", f"read_as of its image: {error}") from error


def is_crowd(annotation: Mapping[str, Any]) -> bool:
    """Whether a mask holds many objects at once, as COCO marks it by `iscrowd`."""
    # As text, too: some exporters write all numbers so.
    return str(annotation.get("iscrowd", 0)).strip().lower() in ("1", "1.0", "true")


@within_memory("to decode its masks")
def to_held_out(
    sample: AnnotatedImage,
    short_side: int | None = None,
    limits: Limits = Limits(),  # noqa: B008 - frozen
) -> HeldOutImage:
    """Decode a sample whole: image, masks and true partitions.

    A partition is painted mask over mask, larger first, so a pixel carries the smallest mask that
    holds it; numbers are 0, 1, ... without gaps. With annotators there is one partition for each,
    by rising number; else with levels, one per level (objects, then parts on top, then subparts;
    what has no or another level counts as object); else one of all masks.

    Args:
        sample: The sample.
        short_side: Larger images are reduced to this short side, pixels, and masks with them (a
            pixel belongs to what held its center; a mask left without pixels is dropped).
        limits: What it may ask for.

    Raises:
        SampleError: If the image cannot be decoded ("bad jpg"), or its masks take more memory than
            the limits say, or there is ("too large").
    """
    from maskfeat.batch import HeldOutImage

    check_held_out(sample, short_side, limits)
    size, runs = sample.runs.size, sample.runs
    new_size = reduced_size(size, short_side) if short_side else size
    image = sample.decode(at_least=min(1.0, short_side / min(size)) if short_side else 1.0)
    if new_size != size:
        reduced = Image.fromarray(image).resize(new_size[::-1], Image.Resampling.BOX)
        image = np.asarray(reduced)
    # Straight from the runs: decoded in full, the masks would take many times the memory.
    masks = paint(*reduce_runs(runs, new_size), runs.num_masks, new_size)
    partitions = tuple(_paint_partition(masks, order) for order in _painting_orders(sample))
    is_left = masks.any(axis=(1, 2))
    masks = masks if is_left.all() else masks[is_left]
    return HeldOutImage(sample.key, image, masks, partitions)


def check_held_out(sample: AnnotatedImage, short_side: int | None, limits: Limits) -> None:
    """Check what the decoded masks of a sample will take, before they are decoded.

    Args:
        sample: The sample.
        short_side: As in `to_held_out`.
        limits: What it may take.

    Raises:
        SampleError: "too large".
    """
    size, num_masks = sample.runs.size, sample.runs.num_masks
    height, width = reduced_size(size, short_side) if short_side else size
    num_partitions = len(_painting_orders(sample))
    num_gb = (num_masks + 8 * num_partitions) * height * width / 1e9
    if num_gb > limits.held_out_gb:
        raise SampleError(
            "too large",
            f"{num_masks} masks and {num_partitions} partitions of {height} x {width} take "
            f"{num_gb:.3g} GB, more than {limits.held_out_gb:g} (limits.held_out_gb)",
        )


@within_memory("to read its json")
def parse_annotations(
    json_bytes: bytes,
) -> tuple[dict[str, Any], list[dict[str, Any]], tuple[int, int]]:
    """Read the json of a sample; of the masks only their size.

    Args:
        json_bytes: As in `read_sample`.

    Returns:
        All its content; its annotations that have a segmentation, at least one, each with "size"
        and "counts"; and the height and width, pixels, that all of them have.

    Raises:
        SampleError: "bad json", "bad rle" (of a malformed size), "size mismatch" or "no masks".
    """
    content = _read_content(json_bytes)
    annotations = [one for one in content["annotations"] if one.get("segmentation") is not None]
    if not annotations:
        raise SampleError("no masks", "the json has no annotations with a segmentation")
    return content, annotations, _common_size(annotations)


def _read_content(json_bytes: bytes) -> dict[str, Any]:
    try:
        content = json.loads(json_bytes)
    except (ValueError, RecursionError) as error:
        raise SampleError("bad json", f"the json cannot be read: {error}") from error
    annotations = content.get("annotations") if isinstance(content, dict) else None
    if not isinstance(annotations, list):
        raise SampleError("bad json", 'the json must be an object with a list "annotations"')
    for index, one in enumerate(annotations):
        if isinstance(one, dict) and one.get("segmentation") is None:
            continue  # only a box is known
        mask = one.get("segmentation") if isinstance(one, dict) else None
        if not isinstance(mask, dict) or not {"size", "counts"} <= mask.keys():
            raise SampleError(
                "bad json", f'annotation {index} has no "segmentation" with "size" and "counts"'
            )
    assert isinstance(content, dict)
    return content


def _common_size(annotations: Sequence[dict[str, Any]]) -> tuple[int, int]:
    sizes = [one["segmentation"]["size"] for one in annotations]
    first = sizes[0]
    if not isinstance(first, list) or [type(side) for side in first] != [int, int]:
        raise SampleError("bad rle", f"size must be [height, width], got {str(first)[:80]}")
    others = [size for size in sizes if size != first]
    if others:
        raise SampleError(
            "size mismatch", f"masks have sizes {first} and {str(others[0])[:80]} in one image"
        )
    return first[0], first[1]


def _typed(value: object, kind: type) -> Any:  # noqa: ANN401 - an instance of `kind`
    return value if type(value) is kind else None


def _painting_orders(sample: AnnotatedImage) -> list[IntArray]:
    """For each partition the masks to paint, first to last."""
    runs = sample.runs
    larger_first = np.argsort(-runs.areas, kind="stable")
    owner = runs.annotation[larger_first]
    present = [sample.annotators[i] for i in owner]
    annotators = sorted({one for one in present if one is not None})
    if annotators:
        who = np.array([-1 if one is None else annotators.index(one) for one in present])
        return [larger_first[who == number] for number in range(len(annotators))]
    words = [sample.levels[i] for i in owner]
    if any(word is not None for word in words):
        depth = np.array([_LEVELS.get(word or "object", 0) for word in words])
        coarse_first = np.argsort(depth, kind="stable")
        return [
            larger_first[coarse_first][depth[coarse_first] <= level] for level in np.unique(depth)
        ]
    return [larger_first]


def _paint_partition(masks: BoolArray, order: IntArray) -> IntArray:
    labels = np.full(masks.shape[1:], -1, np.int64)
    for number in order:
        labels[masks[number]] = number
    is_visible = np.bincount(labels.ravel() + 1, minlength=len(masks) + 1) > 0
    is_visible[0] = False  # of -1, where nothing is painted
    new_number = np.where(is_visible, np.cumsum(is_visible) - 1, -1)
    return new_number[labels + 1].astype(np.int64)
