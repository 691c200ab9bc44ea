"""How long a click takes in `maskfeat.Labeler` and on its page, and what a large folder needs.

    python experiments/labeling/speed.py --num_images 2000

Some images of camvid train at 640 x 480 are prepared; the folder is filled up with further
names for the same files, prepared ones included. Then true classes are clicked at random, and
after some numbers of clicks every step is timed. CPU seconds are those of this process: what the
wall clock would say where nothing else runs.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image
from scenes import CAMVID, UNKNOWN, read_scenes

import maskfeat
from maskfeat.app.label_views import LabelViews

SIZE = (480, 640)


def main() -> None:
    """Prepare, click, and print a table."""
    args = arguments()
    with tempfile.TemporaryDirectory() as place:
        truth = write_photos(Path(place) / "photos", args.data_root, args.num_real)
        model = maskfeat.load()

        def labeler() -> maskfeat.Labeler:
            folder = Path(place) / "photos"
            return maskfeat.Labeler(folder, CAMVID, model, Path(place) / "labels")

        start = time.process_time()
        labeler().prepare()
        took = (time.process_time() - start) / len(truth)
        print(f"prepared: {took:.2f} s of CPU for each image, peak {peak_mb()} MB", flush=True)
        multiply(Path(place), args.num_images)
        play(labeler(), truth, args.clicks)
        refit(labeler, truth, args.refit)


def play(labeler: maskfeat.Labeler, truth: list[np.ndarray], stages: list[int]) -> None:
    """Click up to each number of clicks, then time twenty more."""
    views, rng = LabelViews(labeler), np.random.default_rng(0)
    print(f"{labeler.progress}, peak {peak_mb()} MB")
    print(
        "| clicks | examples | save | proposal, old classifier | refit | proposal | next | peak |"
    )
    for stage in stages:
        while len(labeler.clicks) < stage:
            click(labeler, truth, rng)
        views.view(0, learn=True)
        times: dict[str, list[tuple[float, float]]] = {}
        for _ in range(20):
            image = click(labeler, truth, rng, times)
            timed(times, "old", lambda image=image: views.view(image))
            timed(times, "learn", labeler.learn)
            timed(times, "new", lambda image=image: views.view(image))
        for _ in range(3):
            timed(times, "next", lambda image=image: labeler.next(image))
        num = labeler.num_examples
        cells = [shown_times(times[name]) for name in ("save", "old", "learn", "new", "next")]
        print(f"| {stage} | {num} | " + " | ".join(cells) + f" | {peak_mb()} MB |", flush=True)


def refit(
    labeler: Callable[[], maskfeat.Labeler], truth: list[np.ndarray], num_images: int
) -> None:
    """Click on every image up to a number, then time what a new labeler learns, and one more."""
    one, rng = labeler(), np.random.default_rng(1)
    for image in range(num_images):
        click(one, truth, rng, image=image)
    times: dict[str, list[tuple[float, float]]] = {}
    again = labeler()
    timed(times, "cold", again.learn)
    for _ in range(10):
        click(again, truth, rng)
        timed(times, "warm", again.learn)
    clicks = f"{len(again.clicks)} clicks on {num_images} images, {again.num_examples} examples"
    print(f"refit, {clicks}: as a program starts {shown_times(times['cold'])} ms")
    print(f"refit, the same, with a click more: {shown_times(times['warm'])} ms")


def click(
    labeler: maskfeat.Labeler,
    truth: list[np.ndarray],
    rng: np.random.Generator,
    times: dict[str, list[tuple[float, float]]] | None = None,
    image: int | None = None,
) -> int:
    """Click a random place of an image with its true class, of a random one that was prepared."""
    image = int(rng.integers(len(truth))) if image is None else image
    classes = truth[image % len(truth)]  # of other names for the same images in turn
    known = np.argwhere(classes != UNKNOWN)
    row, column = known[rng.integers(len(known))].tolist()
    name = CAMVID[classes[row, column]]
    labeler.store.get(image)
    timed({} if times is None else times, "save", lambda: labeler.click(image, (row, column), name))
    return image


def timed(
    times: dict[str, list[tuple[float, float]]], name: str, function: Callable[[], object]
) -> None:
    """Call a function and keep its wall and CPU time."""
    wall, cpu = time.perf_counter(), time.process_time()
    function()
    took = time.perf_counter() - wall, time.process_time() - cpu
    times.setdefault(name, []).append(took)


def shown_times(times: list[tuple[float, float]]) -> str:
    """Median and largest CPU time, median wall time."""
    wall, cpu = ([1000 * value for value in side] for side in zip(*times, strict=True))
    return f"{statistics.median(cpu):.0f} (max {max(cpu):.0f}, wall {statistics.median(wall):.0f})"


def write_photos(folder: Path, data_root: Path, num: int) -> list[np.ndarray]:
    """Write images; the true class of each of their pixels."""
    folder.mkdir()
    truth = []
    for number, scene in enumerate(read_scenes(data_root, "camvid", "train", num)):
        Image.fromarray(scene.rgb).resize(SIZE[::-1]).save(folder / f"p{number:04d}.jpg")
        rows, columns = (
            np.arange(n) * m // n for n, m in zip(SIZE, scene.classes.shape, strict=True)
        )
        truth.append(scene.classes[np.ix_(rows, columns)])
    return truth


def multiply(place: Path, num_images: int) -> None:
    """More names for the same images, and for what was prepared of them."""
    photos = sorted((place / "photos").iterdir())
    (prepared,) = (place / "labels" / "prepared").iterdir()
    for number in range(len(photos), num_images):
        photo = photos[number % len(photos)]
        os.link(photo, photo.with_stem(f"q{number:04d}"))
        for file in prepared.glob(f"{photo.stem}-*"):
            os.link(file, file.with_name(file.name.replace(photo.stem, f"q{number:04d}", 1)))


def peak_mb() -> int:
    """The most memory this process has had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def arguments() -> argparse.Namespace:
    """What was typed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data_root", type=Path, default=Path("../shared/data"))
    parser.add_argument("--num_real", type=int, default=16, help="images that are prepared")
    parser.add_argument("--num_images", type=int, default=2000)
    parser.add_argument("--clicks", type=int, nargs="+", default=[20, 100, 200, 400])
    parser.add_argument("--refit", type=int, default=300, help="images that a refit learns from")
    return parser.parse_args()


if __name__ == "__main__":
    main()
