"""`maskfeat convert`: masks of `segment` and `annotate` in the formats of other tools."""

from __future__ import annotations

from pathlib import Path

from maskfeat.data.shards.sample_folder import is_sample_json
from maskfeat.files import check_stems, check_writable, holds_one_of
from maskfeat.formats.image_masks import read_image_masks
from maskfeat.formats.writers import FORMATS, write_masks, writer_of


def convert(
    masks: list[str],
    to: str,
    out: str,
    tolerance_px: float = 0.5,
    flat: bool = False,
) -> None:
    """Write the masks that maskfeat segment and annotate made in the format of another tool.

    - coco: annotations.json, masks as polygons; an outline is joined to its holes.
    - coco_rle: annotations.json, masks as compressed run lengths, exact.
    - yolo: labels/KEY.txt and data.yaml, for Ultralytics; put the images to images/.
    - voc: SegmentationObject/KEY.png, SegmentationClass/KEY.png and labels.txt.
    - labelme: KEY.json of LabelMe, to be put beside the images.
    - geojson: KEY.geojson, polygons with holes in pixels, as QuPath reads them.

    The class of a mask is its `label`, or else its `level`, or else "object". Polygons of
    neighbors share their borders: there is no gap and no overlap between them.

    Args:
        masks: Files in the layout of SA-1B (KEY.json), and folders of them.
        to: The format.
        out: Folder to write to, made if it is not there; not one of those with the masks.
        tolerance_px: A corner of a polygon goes if that changes areas by less than the tolerance's
            square. Up to 0.7 every pixel stays on its side; 1 makes lines of the steps of slanted
            borders, with two fifths of the corners; 2 is coarse.
        flat: Where masks overlap or nest, keep the smallest alone, so that each pixel is in one
            mask at most.
    """
    if to not in FORMATS:
        raise ValueError(f"to must be one of {', '.join(FORMATS)}, got '{to}'")
    paths, folder = _annotation_files(masks), Path(out)
    check_stems(paths)
    if holds_one_of(folder, paths):
        raise ValueError(f"out must be another folder than that of the masks, '{folder}'")
    check_writable(folder)
    from rich.console import Console
    from rich.progress import track

    images = read_image_masks(paths)
    if flat:
        images = (image.without_overlap() for image in images)
    bar = track(images, "converting", total=len(paths), console=Console(stderr=True))
    num_images = write_masks(bar, writer_of(to, folder, tolerance_px))
    print(f"masks of {num_images} {'image' if num_images == 1 else 'images'} written to '{folder}'")


def _annotation_files(places: list[str]) -> list[Path]:
    """The files named, and the .json files of the folders named."""
    found: list[Path] = []
    for place in map(Path, places):
        if not place.exists():
            raise FileNotFoundError(f"no file or folder of masks at '{place}'")
        inside = sorted(filter(is_sample_json, place.glob("*.json"))) if place.is_dir() else [place]
        if not inside:
            raise FileNotFoundError(f"'{place}' holds no .json files with masks")
        found += inside
    if not found:
        raise ValueError("masks must name at least one file or folder, got none")
    return list(dict.fromkeys(found))
