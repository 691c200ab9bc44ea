"""What no mask holds: unknown, or a background of its own."""

from __future__ import annotations

import dataclasses

import numpy as np

from maskfeat.data.annotations.rle import Runs, part_runs
from maskfeat.data.annotations.sample import AnnotatedImage

# What pixels in no mask are, see `maskfeat.data.training_set.sets_of`.
UNMARKED = ("unknown", "background", "everything")


def without_masks(sample: AnnotatedImage) -> AnnotatedImage:
    """The same image without any mask: for distillation, which needs none."""
    none = np.zeros(0, np.int64)
    few = none.astype(np.int32)
    return dataclasses.replace(
        sample, runs=Runs(sample.runs.size, none, none, few, 0, none, few), annotators=(), levels=()
    )


def with_background(sample: AnnotatedImage, min_area_px: int = 16) -> AnnotatedImage:
    """Give what no mask holds masks of its own, one for each connected component.

    For sets whose unmarked pixels are background. Else nothing is taught of them: pairs that no
    mask holds are not counted.

    Args:
        sample: The image.
        min_area_px: Smaller components stay unmarked.

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
