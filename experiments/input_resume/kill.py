"""Kill -9 at random moments, many times over one epoch: is anything read twice, lost or changed?

For both modes: an unbroken run, then one that is killed, each time started with another number of
workers, until it has been killed so often; then to its end. Writes result.json and result.md.
"""

from __future__ import annotations

import argparse
import io
import json
import tarfile
import time
from pathlib import Path

import numpy as np
from PIL import Image
from resume_runs import Run, compare

MODES = ("indexed", "streaming")


def main() -> None:
    """Read the command line, run, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/input_resume"))
    parser.add_argument("--num_kills", type=int, default=20)
    parser.add_argument("--num_images", type=int, default=480, help="a multiple of 48")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    shards = options.out.resolve() / "shards"
    write_shards(shards, options.num_images)
    rows = [kill_often(mode, options, shards) for mode in MODES]
    (options.out / "result.json").write_text(json.dumps(rows, indent=2) + "\n")
    table = to_table(rows)
    (options.out / "result.md").write_text(table)
    print(table)


def kill_often(mode: str, options: argparse.Namespace, shards: Path) -> dict:
    """Both runs of one mode, and how they compare."""
    words = [f"--data_root={shards}", f"--data.mode={mode}"]
    words.append(f"--data.epoch_images={options.num_images}")
    folder = options.out.resolve() / mode
    whole, broken = Run(folder / "whole", words), Run(folder / "broken", words)
    start = time.perf_counter()
    whole.finish("--data.num_workers=1")
    total = len(whole.lines())
    longest_s = 2 * (time.perf_counter() - start) / total  # so that it falls anywhere in a step
    rng = np.random.default_rng(options.seed)
    num_kills = 0
    while num_kills < options.num_kills:
        # Steps per life; the kills are evenly spaced over the epoch, and all come to
        # pass.
        num_left = total - max((line["step"] for line in broken.lines()), default=0)
        kills_left = options.num_kills - num_kills
        most = min(2 * num_left // (kills_left + 1), num_left - 2 * kills_left)
        num_steps = int(rng.integers(1, max(2, most)))
        workers = f"--data.num_workers={num_kills % 4}"
        if not broken.kill_at_random(rng, longest_s, workers, num_steps=num_steps):
            break
        num_kills += 1
    broken.finish("--data.num_workers=2")
    return {"mode": mode, "kills": num_kills, **compare(broken, whole)}


def write_shards(folder: Path, num_images: int) -> None:
    """Eight shards of equally many drawn images, and one to validate on."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    for number in range(8):
        write_shard(folder / f"train-{number}.tar", number * 1000, num_images // 8, rng)
    write_shard(folder / "val-0.tar", 9000, 2, rng)


def write_shard(path: Path, first: int, num_images: int, rng: np.random.Generator) -> None:
    """Images of 48 x 64 pixels with three boxes each."""
    with tarfile.open(path, "w") as tar:
        for number in range(first, first + num_images):
            image = np.full((48, 64, 3), rng.integers(0, 256, 3), np.uint8)
            annotations = []
            for _ in range(3):
                top, left = int(rng.integers(0, 30)), int(rng.integers(0, 40))
                image[top : top + 16, left : left + 20] = rng.integers(0, 256, 3)
                mask = np.zeros((48, 64), bool)
                mask[top : top + 16, left : left + 20] = True
                edges = np.flatnonzero(np.diff(mask.ravel(order="F"), prepend=False)).tolist()
                counts = np.diff([0, *edges, mask.size]).tolist()
                annotations.append({"segmentation": {"size": [48, 64], "counts": counts}})
            jpg = io.BytesIO()
            Image.fromarray(image).save(jpg, "JPEG")
            text = json.dumps({"annotations": annotations}).encode()
            for name, content in (("jpg", jpg.getvalue()), ("json", text)):
                info = tarfile.TarInfo(f"sa_{number}.{name}")
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))


def to_table(rows: list[dict]) -> str:
    """The rows as Markdown."""
    lines = [
        "| mode | kills | steps | done again | images seen once | steps with the same images "
        "| largest difference of the loss |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    lines += [
        f"| {row['mode']} | {row['kills']} | {row['steps']} | {row['repeated']} "
        f"| {row['seen_once']:.0%} | {row['same_keys']:.0%} | {row['loss_difference']:.1e} |"
        for row in rows
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
