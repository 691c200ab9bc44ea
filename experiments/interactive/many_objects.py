"""What a click and finishing an object cost on the page, from the first object to the hundredth.

    python experiments/interactive/many_objects.py --out runs/many_objects

Plays the server of `maskfeat annotate` without a browser: each disc of a drawn image of a million
pixels is clicked once and finished, in random order, and all is saved. Each session begins in an
empty folder. Times are CPU milliseconds of the process, and of several sessions, which play the
same clicks, the least counts for each action: a busy machine does not spoil them. The table has
medians of five objects. Writes many_objects.json.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from pathlib import Path

import numpy as np
from PIL import Image

import maskfeat
from maskfeat.app.annotation_store import AnnotationStore
from maskfeat.app.open_images import OpenImages

SIDE, NUM_IN_ROW = 1000, 10  # pixels, discs
NUM_OBJECTS = NUM_IN_ROW**2
GROUP = 5  # objects of which the median is taken
STARTS = (1, 26, 51, 76, 96)  # first objects of the groups in the table


def draw(path: Path) -> np.ndarray:
    """Write an image of discs on noise; their centers (row, column), shape (100, 2)."""
    random = np.random.default_rng(0)
    pixels = random.normal(120, 12, (SIDE, SIDE, 3))
    step = SIDE // NUM_IN_ROW
    centers = np.stack(np.mgrid[:NUM_IN_ROW, :NUM_IN_ROW], -1).reshape(-1, 2) * step + step // 2
    rows, columns = np.mgrid[:SIDE, :SIDE]
    for y, x in centers:
        is_inside = np.hypot(rows - y, columns - x) < 0.36 * step
        pixels[is_inside] += random.uniform(40, 100, 3) * random.choice([-1, 1], 3)
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path)
    return centers


def session(image: Path, out: Path, model: object, centers: np.ndarray) -> dict[str, list[float]]:
    """CPU milliseconds of each click and of finishing each object."""
    images = OpenImages(AnnotationStore(out, [image]), model, max_megapixels=1.0)
    while not images.view(0, timeout_s=1)["is_ready"]:
        pass
    times: dict[str, list[float]] = {"click": [], "finish": []}
    for y, x in centers.tolist():
        prompt = {"kind": "click", "points_yx": [[y, x]], "label": 1}
        for name, action in (
            ("click", {"do": "prompt", "prompt": prompt}),
            ("finish", {"do": "finish"}),
        ):
            started = time.process_time()
            images.act(0, action)
            times[name].append(1000 * (time.process_time() - started))
    images.close()
    return times


def main() -> None:
    """Play the sessions, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/many_objects"))
    parser.add_argument("--model", default="maskfeat-b0")
    parser.add_argument("--sessions", type=int, default=5)
    words = parser.parse_args()
    words.out.mkdir(parents=True, exist_ok=True)
    centers = draw(words.out / "discs.png")
    centers = np.random.default_rng(1).permutation(centers)
    model, sessions = maskfeat.load(words.model), []
    for number in range(words.sessions):
        folder = words.out / "annotations"
        shutil.rmtree(folder, ignore_errors=True)
        sessions.append(session(words.out / "discs.png", folder, model, centers))
        print(f"session {number + 1} of {words.sessions}", flush=True)
    print(f"| CPU ms, objects | {' | '.join(f'{n} to {n + GROUP - 1}' for n in STARTS)} | ratio |")
    print(f"|---|{'--:|' * (len(STARTS) + 1)}")
    for name in ("click", "finish"):
        least = np.min([one[name] for one in sessions], axis=0)
        medians = [float(np.median(least[start - 1 : start - 1 + GROUP])) for start in STARTS]
        cells = " | ".join(f"{ms:.0f}" for ms in medians)
        print(f"| {name} | {cells} | {medians[-1] / medians[0]:.2f} |")
    (words.out / "many_objects.json").write_text(json.dumps(sessions))


if __name__ == "__main__":
    main()
