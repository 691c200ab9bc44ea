"""`maskfeat convert`: masks from one format to another."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from maskfeat.data.annotations.image import SampleError
from maskfeat.data.convert.mask_sets import MaskRecord, list_masks
from maskfeat.files import check_stems, check_writable, holds_one_of
from maskfeat.formats.image_masks import ImageMasks
from maskfeat.formats.writers import FORMATS, write_masks, writer_of


def convert(
    masks: list[str],
    to: str,
    out: str,
    tolerance_px: float = 0.5,
    flat: bool = False,
    format: str = "auto",
    images_dir: str | None = None,
) -> None:
    """Write masks in the format of another tool, or what another tool wrote in maskfeat's own.

    To, and from:

    - sa1b: KEY.json in the layout of SA-1B, as segment and annotate write it: training data.
    - coco: annotations.json, masks as polygons; an outline is joined to its holes.
    - coco_rle: annotations.json, masks as compressed run lengths, exact.
    - yolo: labels/KEY.txt and data.yaml, for Ultralytics; put the images to images/.
    - voc: SegmentationObject/KEY.png, SegmentationClass/KEY.png and labels.txt.
    - labelme: KEY.json of LabelMe, to be put beside the images.
    - geojson: KEY.geojson, polygons with holes in pixels, as QuPath reads them.
    - png, only from: label maps KEY.png, a mask for each number or color but 0 and black.

    The class of a mask is its `label`, or else its `level`, or else "object". Polygons of
    neighbors share their borders: there is no gap and no overlap between them.

    Args:
        masks: Files and folders of masks in one of these formats.
        to: The format.
        out: Folder to write to, made if it is not there; not one of those with the masks.
        tolerance_px: A corner of a polygon goes if that changes areas by less than the tolerance's
            square. Up to 0.7 every pixel stays on its side; 1 makes lines of the steps of slanted
            borders, with two fifths of the corners; 2 is coarse.
        flat: Where masks overlap or nest, keep the smallest alone, so that each pixel is in one
            mask at most.
        format: That of the masks; auto finds it out.
        images_dir: Folder of the images, if they lie neither beside the masks nor in images/ or
            JPEGImages/ there. Only sizes are read from them, where masks do not tell them.
    """
    if to not in FORMATS:
        raise ValueError(f"to must be one of {', '.join(FORMATS)}, got '{to}'")
    if not masks:
        raise ValueError("masks must name at least one file or folder, got none")
    folder = Path(out)
    for place in masks:
        if not Path(place).exists():
            raise FileNotFoundError(f"no file or folder of masks at '{place}'")
        if folder.resolve() == Path(place).resolve():
            raise ValueError(f"out must be another folder than that of the masks, '{folder}'")
    records = [one for place in masks for one in list_masks(place, format, images_dir)]
    check_stems([Path(record.file_name) for record in records])
    if holds_one_of(folder, [Path(record.source) for record in records]):
        raise ValueError(f"out must be another folder than that of the masks, '{folder}'")
    check_writable(folder)
    from rich.console import Console
    from rich.progress import track

    images = _read_all(records)
    if flat:
        images = (image.without_overlap() for image in images)
    bar = track(images, "converting", total=len(records), console=Console(stderr=True))
    num_images = write_masks(bar, writer_of(to, folder, tolerance_px))
    print(f"masks of {num_images} {'image' if num_images == 1 else 'images'} written to '{folder}'")


def _read_all(records: Sequence[MaskRecord]) -> Iterator[ImageMasks]:
    """The masks of images, numbered from 1.

    Raises:
        ValueError: Names the file that cannot be read.
    """
    for number, record in enumerate(records, start=1):
        try:
            found = record.masks()
        except SampleError as error:
            raise ValueError(f"'{record.source}' cannot be converted: {error.detail}") from error
        path = None if record.image is None else Path(record.image)
        yield ImageMasks(
            record.file_name, number, found.size, found.counts, found.names, path, found.read_as
        )
