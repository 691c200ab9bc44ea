"""CPU seconds of two checkouts of maskfeat, side by side: cold commands, then steps on one image.

    python experiments/speed/commits.py OLD NEW --turns 3

OLD and NEW are folders with a checkout each, e.g. made by `git worktree add ../old COMMIT`; the
packages are those of the Python that runs this. The two take turns at every step, so that a
machine that slows down slows both; the least of the turns counts, as what else runs adds to it.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

FIT = "--trainer.max_steps=4 --trainer.enable_progress_bar=false --data.num_workers=0"
COMMANDS = {
    "import maskfeat": ["-c", "import maskfeat"],
    "maskfeat --help": ["-m", "maskfeat", "--help"],
    "maskfeat segment, one image": ["-m", "maskfeat", "segment", "image.png", "--out=segments"],
    "fit of 4 steps, table of 4 images": [
        *("-m", "maskfeat", "fit", "--config=conf/base.yaml", *FIT.split()),
    ],
}
STEPS = ("encoder", "superpixels", "tree", "ten cuts", "set_image", "four clicks")
# Pixels of the drawn image, and whether they lie on the object.
CLICKS = [((240, 320), True), ((100, 100), False), ((300, 400), True), ((400, 200), False)]


def cpu_seconds(of: int = resource.RUSAGE_SELF) -> float:
    """What this process, or its ended children, took so far."""
    usage = resource.getrusage(of)
    return usage.ru_utime + usage.ru_stime


def environment(root: Path) -> dict[str, str]:
    """In which Python finds the maskfeat of a checkout."""
    return {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}


def command_seconds(root: Path, words: list[str], image: Path) -> float:
    """A command in a fresh process and an empty folder with the checkout's configs."""
    with tempfile.TemporaryDirectory() as folder:
        for name in ("conf", "data_shards"):
            Path(folder, name).symlink_to(root / name)
        Path(folder, "image.png").symlink_to(image)
        before = cpu_seconds(resource.RUSAGE_CHILDREN)
        subprocess.run(
            [sys.executable, *words],
            cwd=folder,
            env=environment(root),
            check=True,
            capture_output=True,
        )
        return cpu_seconds(resource.RUSAGE_CHILDREN) - before


def serve(image: Path) -> None:
    """In a process of one checkout: time the steps whose names are read from standard input."""
    import numpy as np
    from PIL import Image

    import maskfeat
    from maskfeat.segment import hierarchy
    from maskfeat.segment.superpixels import superpixels

    # Up to 9fbdbfb a tree of superpixels had a function of its own.
    of_superpixels = getattr(hierarchy, "superpixel_hierarchy", hierarchy.hierarchy)

    rgb, model, found = np.asarray(Image.open(image)), maskfeat.load(), dict[str, Any]()
    if hasattr(model, "fused"):  # as commands have it
        model = model.fused()
    segmenter = maskfeat.InteractiveSegmenter(model)

    def click() -> None:
        for count in range(1, len(CLICKS) + 1):
            pixels, signs = zip(*CLICKS[:count], strict=True)
            segmenter.predict(np.array(pixels), np.array(signs))

    steps: dict[str, Callable[[], Any]] = {
        "encoder": lambda: model.features(rgb),
        "superpixels": lambda: superpixels(found["encoder"]),
        "tree": lambda: of_superpixels(found["superpixels"], merge_classifier="default"),
        "ten cuts": lambda: [found["tree"].cut(granularity=0.05 + n / 10) for n in range(10)],
        "set_image": lambda: segmenter.set_image(rgb),
        "four clicks": click,
    }
    for line in sys.stdin:
        start = cpu_seconds()
        found[line.strip()] = steps[line.strip()]()
        print(cpu_seconds() - start, flush=True)


def start_serving(root: Path, image: Path) -> Callable[[str], float]:
    """A process of one checkout; the function asks it for the seconds of a step."""
    worker = subprocess.Popen(
        [sys.executable, __file__, "--serve", str(image)],
        env=environment(root),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert worker.stdin is not None
    assert worker.stdout is not None
    asked, answers = worker.stdin, worker.stdout

    def ask(name: str) -> float:
        asked.write(f"{name}\n")
        asked.flush()
        return float(answers.readline())

    return ask


def compare(roots: list[Path], image: Path, turns: int) -> dict[str, list[float]]:
    """Least CPU seconds of every command and step, old and new."""
    rows: dict[str, list[list[float]]] = {name: [] for name in (*COMMANDS, *STEPS)}
    for _ in range(turns):
        for name, words in COMMANDS.items():
            rows[name].append([command_seconds(root, words, image) for root in roots])
    workers = [start_serving(root, image) for root in roots]
    for _ in range(turns + 1):
        for name in STEPS:
            rows[name].append([ask(name) for ask in workers])
    for name in STEPS:
        del rows[name][0]  # what is loaded or looked up once
    return {name: [min(column) for column in zip(*of, strict=True)] for name, of in rows.items()}


def table(seconds: dict[str, list[float]]) -> str:
    """As Markdown."""
    rows = [
        f"| {name} | {old:.3f} s | {new:.3f} s | {new / old:.2f} |"
        for name, (old, new) in seconds.items()
    ]
    return "\n".join(["| | old | new | new / old |", "|---|--:|--:|--:|", *rows]) + "\n"


def main() -> None:
    """Compare, print the table and write result.json beside this file, or where --out says."""
    if sys.argv[1] == "--serve":
        return serve(Path(sys.argv[2]))
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "result.json")
    words = parser.parse_args()
    from PIL import Image

    from maskfeat.data.synth.scene import draw_scene

    with tempfile.TemporaryDirectory() as folder:
        image = Path(folder, "drawn.png")
        Image.fromarray(draw_scene(0, 0, (480, 640)).image).save(image)
        seconds = compare([words.old.resolve(), words.new.resolve()], image, words.turns)
    record = {"turns": words.turns, "date": time.strftime("%Y-%m-%d"), "CPU seconds": seconds}
    words.out.write_text(json.dumps(record, indent=2) + "\n")
    print(table(seconds))


if __name__ == "__main__":
    main()
