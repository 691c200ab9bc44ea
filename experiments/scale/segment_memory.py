"""Resident memory of `maskfeat segment` over thousands of images, in one process.

python experiments/scale/segment_memory.py --out experiments/scale --num 2000
"""

from __future__ import annotations

import argparse
import json
import tempfile
import threading
from pathlib import Path

import numpy as np
from PIL import Image

from maskfeat.app.segment_command import segment

SIZES = [(48, 64), (64, 48), (40, 72), (56, 56)]  # height, width


def write_images(folder: Path, num: int) -> None:
    """Blots of color."""
    folder.mkdir()
    generator = np.random.default_rng(0)
    for number in range(num):
        height, width = SIZES[number % len(SIZES)]
        colors = generator.integers(0, 256, (height // 8, width // 8, 3), np.uint8)
        blots = Image.fromarray(colors).resize((width, height), Image.Resampling.BICUBIC)
        blots.save(folder / f"{number:05d}.jpg", quality=90)


def resident_mb() -> float:
    """Memory of this process, 10^6 bytes."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 1e6


def watch(out: Path, every: int, found: dict[int, float], is_over: threading.Event) -> None:
    """Note the memory each time that so many images are done."""
    while not is_over.wait(0.2):
        done = len(list(out.glob("*.json")))
        if done // every > len(found):
            found[done] = round(resident_mb(), 1)


def main() -> None:
    """Segment, and write segment_memory.json."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--num", type=int, default=2000)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        images, out = Path(folder, "in"), Path(folder, "out")
        write_images(images, given.num)
        found: dict[int, float] = {}
        is_over = threading.Event()
        watcher = threading.Thread(target=watch, args=(out, 200, found, is_over))
        watcher.start()
        segment([str(images)], out=str(out))
        is_over.set()
        watcher.join()
    found[given.num] = round(resident_mb(), 1)
    content = {"images": given.num, "resident_mb_by_images_done": found}
    (given.out / "segment_memory.json").write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
