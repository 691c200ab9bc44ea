"""`maskfeat segment`: images become segments. What is slow to import waits for the work."""

from __future__ import annotations

import contextlib
import logging
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from maskfeat import __version__
from maskfeat.app.segment_run import ImageRun, in_processes
from maskfeat.app.segment_task import OUTPUTS, Task, Work, is_current
from maskfeat.app.set_aside import ENDING, FORMER_ENDING
from maskfeat.data.annotations.read_as import read_as_of_words
from maskfeat.data.convert.pool import num_cores
from maskfeat.data.folder import find_images
from maskfeat.features.model_file import find_model
from maskfeat.files import check_stems, check_writable, file_digest, holds_one_of
from maskfeat.folder_lock import check_free

_LOG = logging.getLogger("maskfeat")

# Chosen on train splits, 40 images each: covering of BSDS500 0.720 (0.617 for 100 segments), mean
# best IoU of the objects of coco_mini 0.371 (0.394); 4 and 6 % of the segments are below 50 px
# (31 and 26 %). 0.3 gives 0.715 and 0.336 with 2 %, 0.5 gives 0.723 and 0.386 with 9 %.
DEFAULT_GRANULARITY = 0.4


def segment(
    images: list[str],
    num_segments: int | None = None,
    granularity: float | None = None,
    model: str = "maskfeat-b0",
    out: str = "segments",
    max_megapixels: float = 2.0,
    tile: bool = False,
    skip_existing: bool = False,
    recursive: bool = False,
    outputs: str = "labels,overlay,contours",
    page: int | None = None,
    channels: str | None = None,
    value_range: str | None = None,
    workers: int = 1,
    device: str = "cpu",
) -> None:
    """Cut images into segments, and write label maps, images and nested masks.

    For KEY.jpg these files go to the folder `out`, each written whole, then renamed:

    - KEY_labels.png: the segment of each pixel, numbered from 0 in reading order, 16 bit.
    - KEY_overlay.png: the image tinted by segments, with their borders.
    - KEY_contours.png: the borders of all cuts at once, gray: 255 times 1 - p around a pixel, p
      being the probability that both sides of a border are one segment.
    - KEY.json: masks in the layout of SA-1B. The folder `out` is training data as it is
      (`--data.train=out`, images of up to 67 megapixels): `path` leads to the image. First the
      segments by number, then the larger ones they are merged into, short of the whole.
      `predicted_iou` is the probability that a mask is one segment, `stability_score` the share
      of all granularities at which it is one; `image_id` counts the images from 0. `made_of` says
      what the files were made of: settings, model, image.

    An image of more than `max_megapixels` is reduced to that size, by means over boxes, before
    its features are taken; segments, borders and masks are enlarged back to the pixels of the
    image. So an image of 40 megapixels takes little memory, and what is smaller than a pixel
    of the reduced image is lost. Images above 400 megapixels are refused.

    Of several images, those that cannot be read are named, counted and left out. Images of one
    KEY, like a.jpg and a.png, are refused before anything is written; with --recursive a folder
    of `out` for each folder of images keeps them apart. Ctrl+C leaves whole results
    alone; the same command with --skip_existing does the rest.

    Args:
        images: Images and folders of images (.jpg, .png, .webp, .bmp, .tif, .gif, .avif,
            .jp2, with pillow-heif .heic); what else a folder holds is named. EXIF data turn them
            upright.
        num_segments: How many segments, 1 to 65,536, instead of a granularity. Small ones are made
            where there is most contrast: of 100 segments of an image, a third are crumbs.
        granularity: Between 0 and 1: regions are merged as long as the probability that they are
            one segment is at least this. 0.01 gives few, 0.99 many. The default, if num_segments
            is not given either, is 0.4, which finds whole things: about ten in an image, with
            0.25 larger ones alone, with 0.6 their parts.
        model: A checkpoint of `lightning fit` (.ckpt) or a .safetensors file; or the word lab, for
            the color of pixels alone.
        out: Folder to write to, made if it is not there; not that of the images.
        max_megapixels: Size to work with, millions of pixels.
        tile: Segment larger images at full resolution by overlapping tiles instead, with one tree
            of at most 400,000 superpixels: what is smaller than a thing of the reduced image is
            found, too. It takes longer, in proportion to the pixels, and more memory.
        skip_existing: Pass over images whose KEY.json is there already and was made of the same
            image by the same model, settings and version; others are made anew.
        recursive: Take the images in folders within folders, too; `out` gets the same folders.
        outputs: Which of labels, overlay and contours to write, with commas between, or none;
            KEY.json is always written.
        page: Which page of stacks, counted from 1; the first, if it is not given.
        channels: Which channels become red, green and blue, counted from 1: 4,3,2; or one for gray.
            If not given, those that the file calls so, else the first three.
        value_range: LOW,HIGH: the values that become 0 and 255. If not given, 8 bits stay as they
            are, and of more bits or floats it is the percentiles 0.1 and 99.9 of the image.
        workers: Processes that segment images side by side, each with its share of the cores and
            about 1 GB of memory; 0 takes one for each core. A process that dies costs its image.
        device: Where the network runs: cpu, cuda, cuda:1, mps; auto takes a GPU if there is one.
            Trees are built on the CPU, so that more workers help there, too.
    """
    cut = cut_settings(num_segments, granularity)
    if not max_megapixels > 0:
        raise ValueError(f"max_megapixels must be above 0, got {max_megapixels}")
    if not images:
        raise ValueError("images must name at least one image or folder, got none")
    if workers < 0:
        raise ValueError(f"workers must be at least 0, got {workers}")
    names = [] if outputs == "none" else [word.strip() for word in outputs.split(",")]
    if not set(names) <= set(OUTPUTS):
        raise ValueError(f"outputs must be of {', '.join(OUTPUTS)}, or none, got '{outputs}'")
    wanted, folder = frozenset(names), Path(out)
    read_as = read_as_of_words(page, channels, value_range)
    placed = {}  # where the results of each image go: with `recursive` as deep as it lies
    for place in images:
        for path in find_images(place, recursive, folder):
            is_deep = recursive and Path(place).is_dir()
            placed[path] = folder / path.parent.relative_to(place) if is_deep else folder
    paths = list(placed)
    _check_out(placed, folder)
    settings = {"version": __version__, **origin_of_model(model), **cut}
    settings["max_megapixels"] = max_megapixels
    if tile:
        settings["tile"] = True
    if read_as.to_json():
        settings["read_as"] = read_as.to_json()
    results = [placed[path] / f"{path.stem}.json" for path in paths]
    is_waiting = [
        not (skip_existing and _is_done(path, result, settings, wanted))
        for path, result in zip(paths, results, strict=True)
    ]
    tasks = [Task(p, number, placed[p]) for number, p in enumerate(paths) if is_waiting[number]]
    num_changed = sum(results[task.number].exists() for task in tasks)
    is_one = len(paths) == 1 and not Path(images[0]).is_dir()
    work = Work(model, device, cut, settings, wanted, read_as, max_megapixels, tile)
    done = _segment_all(tasks, work, folder, workers or num_cores(), is_one)
    num_left_out = len(tasks) - done
    if num_left_out == len(paths):
        raise ValueError(
            f"none of the images in '{', '.join(images)}' could be segmented; "
            f"{num_left_out} left out"
        )
    _say_counts(
        done, num_left_out, len(paths) - len(tasks), num_changed if skip_existing else 0, folder
    )


def _tracked(results: Iterable[ValueError | None], total: int) -> Iterable[ValueError | None]:
    from rich.console import Console
    from rich.progress import track

    return track(results, "segmenting", total, console=Console(stderr=True))


def _say_counts(
    num_done: int, num_left_out: int, num_passed: int, num_anew: int, folder: Path
) -> None:
    parts = [f"{num_done} {'image' if num_done == 1 else 'images'} segmented into '{folder}'"]
    if num_anew:
        parts.append(f"{num_anew} of them anew: what they were made of has changed")
    if num_left_out:
        parts.append(f"{num_left_out} left out")
    if num_passed:
        parts.append(f"{num_passed} passed over, there already")
    print("; ".join(parts))


def _is_done(path: Path, result: Path, settings: Mapping[str, Any], outputs: Iterable[str]) -> bool:
    """Whether all results of an image are there, made of what they would be made of now."""
    files = [result.with_name(f"{path.stem}_{name}.png") for name in outputs]
    return is_current(result, path, settings) and all(file.exists() for file in files)


def _check_out(placed: Mapping[Path, Path], folder: Path) -> None:
    """Refuse, before anything slow, a folder that cannot or should not be written to."""
    for place in dict.fromkeys(placed.values()):
        check_names([path for path in placed if placed[path] == place], place)
    labeled = [
        path.name
        for path, place in placed.items()
        if any((place / f"{path.stem}{ending}").exists() for ending in (ENDING, FORMER_ENDING))
    ]
    if labeled:
        raise ValueError(
            f"'{folder}' holds what was clicked on '{labeled[0]}' by maskfeat annotate, and "
            "its masks would be written over; name another folder by --out"
        )
    check_writable(folder)
    check_free(folder)  # a page may be open whose results are there


def origin_of_model(model: str) -> dict[str, str]:
    """What tells a model from others: the content of its file."""
    if model == "lab":
        return {"model": model}
    path = find_model(model)
    return {"model": path.name, "model_digest": file_digest(path)}


def _segment_all(
    tasks: Sequence[Task], work: Work, folder: Path, num_workers: int, is_one: bool
) -> int:
    """Segment images, and say how many it were.

    Raises:
        ValueError: If the one image cannot be segmented; of several it is left out.
        KeyboardInterrupt: After a sentence.
    """
    num_done = 0
    num_workers = min(num_workers, len(tasks))
    try:
        with _kept_interrupts() as check_interrupt:
            if num_workers > 1:
                results: Iterable[ValueError | None] = in_processes(work, tasks, num_workers)
            else:
                results = map(ImageRun(work, check_interrupt), tasks)
            for error in results if is_one else _tracked(results, len(tasks)):
                if error is None:
                    num_done += 1
                elif is_one:
                    raise error
                else:
                    _LOG.warning("left out: %s", error)
    except KeyboardInterrupt:
        _LOG.warning(
            "stopped; %d of %d images are done in '%s', and the same command with "
            "--skip_existing does the rest",
            *(num_done, len(tasks), folder),
        )
        raise
    return num_done


@contextlib.contextmanager
def _kept_interrupts() -> Iterator[Callable[[], None]]:
    """Keep a Ctrl+C that a library swallows, as torch may while it is imported.

    Yields:
        A function that raises KeyboardInterrupt, if there was one.
    """
    came = threading.Event()

    def keep(number: int, frame: object) -> None:
        came.set()
        raise KeyboardInterrupt

    def check() -> None:
        if came.is_set():
            raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():  # signals are not for it
        yield check
        return
    before = signal.signal(signal.SIGINT, keep)
    try:
        yield check
    finally:
        signal.signal(signal.SIGINT, before)


def cut_settings(num_segments: int | None, granularity: float | None) -> dict[str, Any]:
    """Check how to cut, and fill in the default."""
    if granularity is None:
        if num_segments is None:
            return {"granularity": DEFAULT_GRANULARITY}
        if not 1 <= num_segments <= 2**16:
            raise ValueError(f"num_segments must lie in 1 to 65,536, got {num_segments}")
        return {"num_segments": num_segments}
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
            f"out must be another folder than that of the images, '{paths[0].parent}', whose "
            "files could be written over"
        )
    check_stems(paths)
