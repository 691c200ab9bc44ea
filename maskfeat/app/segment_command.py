"""`maskfeat segment`: pictures become segments. What is slow to import waits for the work."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from maskfeat.files import check_stems, holds_one_of


def segment(
    pictures: str,
    num_segments: int | None = None,
    granularity: float | None = None,
    model: str = "maskfeat-b0",
    out: str = "segments",
    max_megapixels: float = 2.0,
    skip_existing: bool = False,
) -> None:
    """Cut pictures into segments, and write label maps, pictures and nested masks.

    For KEY.jpg these files go to the folder `out`, each written whole, then renamed:

    - KEY_labels.png: the segment of each pixel, numbered from 0 in reading order, 16 bit.
    - KEY_overlay.png: the picture tinted by segments, with their borders.
    - KEY_contours.png: the borders of all cuts at once, gray: 255 times 1 - p around a pixel, p
      being the probability that both sides of a border are one segment.
    - KEY.json: masks in the layout of SA-1B, so that KEY.jpg and KEY.json are training data
      (up to 67 megapixels). First the segments by number, then the larger ones they are merged
      into, short of the whole. `predicted_iou` is the probability that a mask is one segment,
      `stability_score` the share of all granularities at which it is one; `image_id` counts the
      pictures from 0.

    A picture of more than `max_megapixels` is reduced to that size, by means over boxes, before
    its features are taken; segments, borders and masks are enlarged back to the pixels of the
    picture. So a picture of 40 megapixels takes little memory, and what is smaller than a pixel
    of the reduced picture is lost. Pictures above 400 megapixels are refused.

    In a folder, what cannot be read is named, counted and left out. Two pictures of one KEY, like
    a.jpg and a.png, are refused before anything is written.

    Args:
        pictures: A picture or a folder of pictures (.jpg, .png, .webp, .bmp, .tif). They are turned
            upright as their EXIF data say.
        num_segments: How many segments, 1 to 65,536; 100 if granularity is not given either.
        granularity: Instead of a number, between 0 and 1: regions are merged as long as the
            probability that they are one segment is at least this. 0.01 gives few, 0.99 many.
        model: A checkpoint of `lightning fit` (.ckpt) or a .safetensors file; or the word lab, for
            the color of pixels alone.
        out: Folder to write to, made if it is not there; not that of the pictures.
        max_megapixels: Size to work with, millions of pixels.
        skip_existing: Pass over pictures whose KEY.json is there already.
    """
    cut = _cut_settings(num_segments, granularity)
    if not max_megapixels > 0:
        raise ValueError(f"max_megapixels must be above 0, got {max_megapixels}")
    from maskfeat.app.segment_pictures import encoder_of, segment_picture
    from maskfeat.data.folder import find_pictures

    paths, folder = find_pictures(pictures), Path(out)
    check_names(paths, folder)
    is_waiting = [not (skip_existing and (folder / f"{p.stem}.json").exists()) for p in paths]
    numbered = [(number, path) for number, path in enumerate(paths) if is_waiting[number]]
    encoder = encoder_of(model) if numbered else None
    is_folder = Path(pictures).is_dir()
    num_left_out = 0
    for number, path in _tracked(numbered) if is_folder else numbered:
        assert encoder is not None
        try:
            segment_picture(path, number, encoder, cut, folder, max_megapixels)
        except ValueError as error:
            if not is_folder:
                raise
            logging.getLogger("maskfeat").warning("left out: %s", error)
            num_left_out += 1
    if num_left_out == len(paths):
        raise ValueError(
            f"none of the pictures in '{pictures}' could be segmented; {num_left_out} left out"
        )
    _say_counts(len(numbered) - num_left_out, num_left_out, len(paths) - len(numbered), folder)


def _cut_settings(num_segments: int | None, granularity: float | None) -> dict[str, Any]:
    """Check how to cut, and fill in the default."""
    if granularity is None:
        number = 100 if num_segments is None else num_segments
        if not 1 <= number <= 2**16:
            raise ValueError(f"num_segments must lie in 1 to 65,536, got {number}")
        return {"num_segments": number}
    if num_segments is not None:
        raise ValueError(
            f"give num_segments or granularity, not both, got {num_segments} and {granularity}"
        )
    if not 0 < granularity < 1:
        raise ValueError(f"granularity must lie between 0 and 1, got {granularity}")
    return {"granularity": granularity}


def check_names(paths: Sequence[Path], folder: Path) -> None:
    """Refuse what would write one file over another."""
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"out must be a folder, but '{folder}' is a file")
    if holds_one_of(folder, paths):
        raise ValueError(
            f"out must be another folder than that of the pictures, '{paths[0].parent}', whose "
            "files could be written over"
        )
    check_stems(paths)


def _tracked(numbered: Sequence[tuple[int, Path]]) -> Iterable[tuple[int, Path]]:
    from rich.console import Console
    from rich.progress import track

    return track(numbered, description="segmenting", console=Console(stderr=True))


def _say_counts(num_done: int, num_left_out: int, num_passed: int, folder: Path) -> None:
    parts = [f"{num_done} {'picture' if num_done == 1 else 'pictures'} segmented into '{folder}'"]
    if num_left_out:
        parts.append(f"{num_left_out} left out")
    if num_passed:
        parts.append(f"{num_passed} passed over, there already")
    print("; ".join(parts))
