"""The masks of one image, each with a name: what all formats are written from."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from maskfeat.arrays import BoolArray, IntArray
from maskfeat.data.annotations.painting import decode_annotations, encode
from maskfeat.data.annotations.read_as import ReadAs
from maskfeat.data.annotations.rle import Counts
from maskfeat.formats.coverage import Rings, mask_polygons


@dataclass(frozen=True)
class ImageMasks(Sequence[BoolArray]):
    """The masks of one image; a sequence of bool arrays, (H, W), decoded when asked for.

    Attributes:
        file_name: Of the image.
        image_id: Its number, unique in a set.
        size: Height and width, pixels.
        counts: COCO counts of each mask.
        names: What each mask shows: its class.
        path: The image, if it is known where it lies.
        read_as: How it is read.
    """

    file_name: str
    image_id: int
    size: tuple[int, int]
    counts: tuple[Counts, ...]
    names: tuple[str, ...]
    path: Path | None = None
    read_as: ReadAs = ReadAs()  # noqa: RUF009 - frozen

    def __len__(self) -> int:
        return len(self.counts)

    def __getitem__(self, index: int) -> BoolArray:  # type: ignore[override]
        mask: BoolArray = decode_annotations([self.counts[index]], self.size)[0]
        return mask

    @property
    def key(self) -> str:
        """The file name without its ending: what files of annotations are named by."""
        return Path(self.file_name).stem

    def polygons(self, tolerance_px: float) -> list[list[Rings]]:
        """Each mask as polygons, see `maskfeat.formats.coverage.mask_polygons`."""
        return mask_polygons(self, tolerance_px)

    def label_map(self) -> IntArray:
        """The mask of each pixel, numbered from 1, the smallest where masks overlap; 0 for none."""
        labels = np.zeros(self.size, np.int64)
        areas = [int(mask.sum()) for mask in self]
        for index in sorted(range(len(self)), key=lambda one: -areas[one]):
            labels[self[index]] = index + 1
        return labels

    def without_overlap(self) -> ImageMasks:
        """Each pixel in the smallest mask that held it; masks without pixels are left out."""
        labels = self.label_map()
        numbers = np.unique(labels[labels > 0]).tolist()
        return dataclasses.replace(
            self,
            counts=tuple(encode(labels == number) for number in numbers),
            names=tuple(self.names[number - 1] for number in numbers),
        )
