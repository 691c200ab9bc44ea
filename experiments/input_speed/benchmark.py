"""Images per second and core from original and from re-sharded tars, beside the plain route.

    OMP_NUM_THREADS=1 python experiments/input_speed/benchmark.py

Makes tars as SA-1B's own, converts them with `maskfeat shards convert`, then lets the routes take
turns in one process: in each turn the plain ones make one example, ours several, the first of
them with the same sample and random numbers. Times are CPU seconds of the process, so that a busy
machine does not spoil them; a figure is the median over turns, a ratio the median of the ratios
within a turn. Beside them stands what a training step takes: on one CPU thread, and on a GPU if
there is one.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from routes import Route, Setting, our_route, plain_route
from tars import make_tars

from maskfeat.data.convert import Settings, convert_inputs, find_inputs
from maskfeat.data.shards.indexed import IndexedShards
from maskfeat.features.losses import MaskConsistencyLoss
from maskfeat.features.pyramid import FeaturePyramid
from maskfeat.features.reading import sample_pyramid

PLAIN, PLAIN_CROP = "plain", "plain, cropped first"
OURS, OURS_SMALL = "original tars", "re-sharded tars"
# (crop, short side): the scales are the same from either kind of tar.
SETTINGS = [Setting(256, 512), Setting(512, 512)]
STEPS = [("efficientvit_b0", 256), ("efficientvit_b1", 512)]
_EACH = {OURS: 4, OURS_SMALL: 12}  # images in a turn; of the plain routes one


def measure(routes: dict[str, Route], num_turns: int) -> dict[str, list[float]]:
    """CPU seconds per image of each route in each turn; one turn before is not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in routes}
    for turn in range(num_turns + 1):
        for name, route in routes.items():
            num = _EACH.get(name, 1)
            begin = time.process_time()
            for number in range(num):
                route(turn + number, np.random.default_rng([turn, number]))
            seconds[name].append((time.process_time() - begin) / num)
    return {name: values[1:] for name, values in seconds.items()}


def step_images_per_s(backbone: str, crop: int, device: str, batch_size: int) -> float:
    """Images per second of bare training steps: network, loss, backward, AdamW."""
    torch.manual_seed(0)
    net = FeaturePyramid(backbone=backbone).to(device, memory_format=torch.channels_last)
    loss, optimizer = MaskConsistencyLoss().to(device), torch.optim.AdamW(net.parameters())
    images = torch.randn(batch_size, 3, crop, crop, device=device)
    images = images.to(memory_format=torch.channels_last)
    points = torch.randint(0, crop, (batch_size, 1024, 2), device=device)
    membership = torch.rand(batch_size, 100, 1024, device=device) < 0.05
    times = []
    for _ in range(4 if device == "cpu" else 40):
        begin = time.process_time() if device == "cpu" else time.perf_counter()
        optimizer.zero_grad()
        with torch.autocast(device, torch.bfloat16, enabled=device != "cpu"):
            features = sample_pyramid(net(images), net.strides, points)
        loss(features.float(), membership, net.scale, points).total.backward()
        optimizer.step()
        if device == "cuda":
            torch.cuda.synchronize()
        end = time.process_time() if device == "cpu" else time.perf_counter()
        times.append(end - begin)
    return batch_size / statistics.median(times[1:])


def appetite() -> list[dict[str, Any]]:
    """What the network takes, on each device at hand."""
    devices = [("cpu", 2)] + ([("cuda", 32)] if torch.cuda.is_available() else [])
    rows = []
    for device, batch_size in devices:
        name = torch.cuda.get_device_name() if device == "cuda" else "one CPU thread"
        for backbone, crop in STEPS:
            rate = step_images_per_s(backbone, crop, device, batch_size)
            rows.append({"device": name, "backbone": backbone, "crop": crop, "images_per_s": rate})
    return rows


def describe(tars: list[str]) -> dict[str, float]:
    """What the samples weigh and hold, on average."""
    samples = list(IndexedShards(tars))
    return {
        "samples": len(samples),
        "kilobytes": sum(map(os.path.getsize, tars)) / len(samples) / 1e3,
        "jpg_kilobytes": statistics.mean(len(one.jpg) for one in samples) / 1e3,
        "masks": statistics.mean(one.runs.num_masks for one in samples),
    }


def table(rows: list[dict[str, Any]], steps: list[dict[str, Any]]) -> str:
    """The result as Markdown."""
    lines = [
        "| crop | route | ms/image | images/s and core | x plain | x plain, cropped first |",
        "|--:|---|--:|--:|--:|--:|",
    ]
    for row in rows:
        cells = f"| {row['crop']} | {row['route']} | {1000 * row['seconds']:.1f} "
        cells += f"| {1 / row['seconds']:.2f} | {row['over_plain']:.1f} "
        lines.append(cells + f"| {row['over_plain_crop']:.1f} |")
    lines += ["", "| network | crop | device | images/s |", "|---|--:|---|--:|"]
    lines += [
        f"| {one['backbone']} | {one['crop']} | {one['device']} | {one['images_per_s']:.1f} |"
        for one in steps
    ]
    return "\n".join(lines) + "\n"


def prepare(args: argparse.Namespace, work: Path) -> tuple[list[str], list[str]]:
    """Make and convert the tars, unless they are there."""
    photos = args.photos if args.photos.is_dir() else None
    if not (work / "original").exists():
        make_tars(work / "part", args.num_images, photos, size=tuple(args.size))
        (work / "part").rename(work / "original")
    inputs = find_inputs([str(work / "original")])
    convert_inputs(inputs, work / "small", Settings(512), num_workers=0)
    return tuple(sorted(map(str, (work / kind).glob("*.tar"))) for kind in ("original", "small"))


def main() -> None:
    """Make tars, measure, print, save."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photos", type=Path, default=Path("../shared/data/sa1b_sample"))
    parser.add_argument("--num_images", type=int, default=12)
    parser.add_argument("--size", type=int, nargs=2, default=(1500, 2250), help="height, width")
    parser.add_argument("--turns", type=int, default=9)
    parser.add_argument("--work", type=Path, help="keeps the tars; default: a temporary folder")
    parser.add_argument("--no_steps", action="store_true", help="leave the network out")
    parser.add_argument("--out", type=Path, default=Path("experiments/input_speed"))
    args = parser.parse_args()
    torch.set_num_threads(1)

    rows = []
    with tempfile.TemporaryDirectory() as folder:
        original, small = prepare(args, args.work or Path(folder))
        about = {"original": describe(original), "re-sharded": describe(small)}
        for setting in SETTINGS:
            routes = {
                PLAIN: plain_route(original, setting, crop_first=False),
                PLAIN_CROP: plain_route(original, setting, crop_first=True),
                OURS: our_route(original, setting),
                OURS_SMALL: our_route(small, setting),
            }
            seconds = measure(routes, args.turns)
            for name, mine in seconds.items():
                plain, cropped = (
                    statistics.median(a / b for a, b in zip(seconds[base], mine, strict=True))
                    for base in (PLAIN, PLAIN_CROP)
                )
                row = {"crop": setting.crop_size, "route": name, "over_plain": plain}
                row |= {"over_plain_crop": cropped, "seconds": statistics.median(mine)}
                rows.append(row | {"turns": mine})
    steps = [] if args.no_steps else appetite()
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True
    ).stdout.strip()
    record = {"commit": commit, "cpu": platform.processor() or platform.machine()}
    record |= {"samples": about, "routes": rows, "steps": steps}
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "result.json").write_text(json.dumps(record, indent=1) + "\n")
    (args.out / "result.md").write_text(table(rows, steps))
    print(json.dumps(about, indent=1))
    print(table(rows, steps))


if __name__ == "__main__":
    main()
