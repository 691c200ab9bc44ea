"""One annotated image in SA-1B's layout: a JPEG and a JSON, checked and read as runs."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from maskfeat.data.annotations.image import (
    SampleError,
    check_image,
    decode_image,
    within_memory,
)
from maskfeat.data.annotations.limits import MB, Limits
from maskfeat.data.annotations.read_as import ReadAs, read_as_from_json
from maskfeat.data.annotations.rle import Runs, part_runs, runs_from_counts

# What pixels in no mask are, see `maskfeat.data.training_set.sets_of`.
UNMARKED = ("unknown", "background", "everything")
_AS_IT_IS = ReadAs()


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
    if not isinstance(image, dict) or "read_as" not in image:
        return _AS_IT_IS
    try:
        return read_as_from_json(image["read_as"])
    except (TypeError, ValueError, OverflowError) as error:
        raise SampleError("bad json", f"read_as of its image: {error}") from error


def is_crowd(annotation: Mapping[str, Any]) -> bool:
    """Whether a mask holds many objects at once, as COCO marks it by `iscrowd`."""
    # As text, too: some exporters write all numbers so.
    return str(annotation.get("iscrowd", 0)).strip().lower() in ("1", "1.0", "true")


def as_marked(sample: AnnotatedImage, unmarked: str) -> AnnotatedImage:
    """An image of a set whose unmarked pixels are one of `UNMARKED`.

    For distillation, "everything", it has no mask: none is needed.
    """
    if unmarked == "background":
        return with_background(sample)
    if unmarked != "everything":
        return sample
    none = np.zeros(0, np.int64)
    few = none.astype(np.int32)
    runs = Runs(sample.runs.size, none, none, few, 0, none, few)
    return dataclasses.replace(sample, runs=runs, annotators=(), levels=())


def with_background(sample: AnnotatedImage, min_area_px: int = 16) -> AnnotatedImage:
    """Give what no mask holds masks of its own, one for each component of `min_area_px` or more.

    For sets whose unmarked pixels are background. Else nothing is taught of them: pairs that no
    mask holds are not counted.

    Returns:
        The image with more masks, of one more annotation; the same one where all is marked.
    """
    runs = sample.runs
    num_pixels = runs.size[0] * runs.size[1]
    steps = np.bincount(runs.starts, minlength=num_pixels + 1)
    steps -= np.bincount(runs.stops, minlength=num_pixels + 1)
    is_free = np.pad(np.cumsum(steps)[:-1] == 0, 1)
    ends = np.flatnonzero(np.diff(is_free))
    owner = np.zeros(len(ends) // 2, np.int32)
    free = part_runs(ends[0::2], ends[1::2], owner, runs.size, min_area_px, num_pixels)
    if not free.num_masks:
        return sample
    number = len(sample.annotators)
    both = Runs(
        runs.size,
        np.concatenate([runs.starts, free.starts]),
        np.concatenate([runs.stops, free.stops]),
        np.concatenate([runs.mask_of_run, free.mask_of_run + np.int32(runs.num_masks)]),
        runs.num_masks + free.num_masks,
        np.concatenate([runs.areas, free.areas]),
        np.concatenate([runs.annotation, np.full(free.num_masks, number, np.int32)]),
    )
    return dataclasses.replace(
        sample,
        runs=both,
        annotators=(*sample.annotators, None),
        levels=(*sample.levels, None),
    )


def check_sizes(jpg_size: int, json_size: int, limits: Limits) -> None:
    """Check the files of a sample before they are read.

    Raises:
        SampleError: "too large".
    """
    for kind, size, most in (("jpg", jpg_size, limits.jpg_mb), ("json", json_size, limits.json_mb)):
        if size > most * MB:
            raise SampleError(
                "too large",
                f"the {kind} has {size / MB:.4g} MB, more than {most:g} (limits.{kind}_mb)",
            )


@within_memory("to read its json")
def parse_annotations(
    json_bytes: bytes,
) -> tuple[dict[str, Any], list[dict[str, Any]], tuple[int, int]]:
    """Read the json of a sample, see `read_sample`; of the masks only their size.

    Returns:
        All its content; its annotations that have a segmentation, at least one, each with "size"
        and "counts"; and the height and width, pixels, that all of them have.

    Raises:
        SampleError: "bad json", "bad rle" (of a malformed size), "size mismatch" or "no masks".
    """
    try:
        content = json.loads(json_bytes)
    except (ValueError, RecursionError) as error:
        raise SampleError("bad json", f"the json cannot be read: {error}") from error
    listed = content.get("annotations") if isinstance(content, dict) else None
    if not isinstance(listed, list):
        raise SampleError("bad json", 'the json must be an object with a list "annotations"')
    annotations = []
    for index, one in enumerate(listed):
        mask = one.get("segmentation") if isinstance(one, dict) else None
        if isinstance(one, dict) and mask is None:
            continue  # only a box is known
        if not isinstance(mask, dict) or not {"size", "counts"} <= mask.keys():
            raise SampleError(
                "bad json", f'annotation {index} has no "segmentation" with "size" and "counts"'
            )
        annotations.append(one)
    if not annotations:
        raise SampleError("no masks", "the json has no annotations with a segmentation")
    sizes = [one["segmentation"]["size"] for one in annotations]
    first = sizes[0]
    if not isinstance(first, list) or [type(side) for side in first] != [int, int]:
        raise SampleError("bad rle", f"size must be [height, width], got {str(first)[:80]}")
    others = [size for size in sizes if size != first]
    if others:
        raise SampleError(
            "size mismatch", f"masks have sizes {first} and {str(others[0])[:80]} in one image"
        )
    return content, annotations, (first[0], first[1])


def _typed(value: object, kind: type) -> Any:  # noqa: ANN401 - an instance of `kind`
    return value if type(value) is kind else None
