"""How many clicks label a set of images, by the cut and by what people do without it.

    python experiments/labeling/study.py --data camvid --data ccp

Every session is written to sessions.jsonl as soon as it is over: the same command goes on where it
was stopped. Ends in result.md, result.json and result.png.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import report
from labeling import simulate
from scenes import CLASSES, read_scenes
from views import METHODS, SETTINGS, Patches, open_patches

import maskfeat


def main() -> None:
    """Run what is missing, then print and save all that was asked for."""
    args = arguments()
    args.out.mkdir(parents=True, exist_ok=True)
    file = args.out / "sessions.jsonl"
    curves = read_sessions(file)
    for data in args.data:
        missing = [
            session for session in sessions_of(args, data) if json.dumps(session) not in curves
        ]
        images = opened(args, data) if missing else []
        for session in missing:
            views = [METHODS[session["method"]](image, session["settings"]) for image in images]
            start = time.process_time()
            curve = simulate(views, len(CLASSES[data]), args.clicks, session["seed"])
            took = round(time.process_time() - start, 1)
            curves[json.dumps(session)] = curve
            with file.open("a") as lines:
                lines.write(json.dumps({"session": session, "curve": curve, "cpu_s": took}) + "\n")
            shown = f"{data}, {session['method']}, seed {session['seed']}"
            print(f"{shown}: mIoU {curve[-1]['miou']:.3f}, {took} s", flush=True)
    wanted = [session for data in args.data for session in sessions_of(args, data)]
    print(report.write([(session, curves[json.dumps(session)]) for session in wanted], args.out))


def sessions_of(args: argparse.Namespace, data: str) -> list[dict[str, Any]]:
    """Every session that was asked for on a set, with all that would change it."""
    return [
        {
            "data": data,
            "split": args.split,
            "num_images": args.num_images,
            "clicks": args.clicks,
            "model": args.model,
            "method": method,
            "settings": {**SETTINGS[method], **changed_settings(args, method)},
            "seed": seed,
        }
        for seed in range(args.first_seed, args.first_seed + args.seeds)
        for method in args.methods
    ]


def changed_settings(args: argparse.Namespace, method: str) -> dict[str, Any]:
    """What was set by hand."""
    return {name: value for name, value in args.set if name in SETTINGS[method]}


def opened(args: argparse.Namespace, data: str) -> list[Patches]:
    """The images of a set, prepared."""
    model = maskfeat.load(args.model)
    scenes = read_scenes(args.data_root, data, args.split, args.num_images)
    start = time.process_time()
    images = [open_patches(scene, model) for scene in scenes]
    print(
        f"{data}: {len(images)} images prepared in {time.process_time() - start:.0f} s", flush=True
    )
    return images


def read_sessions(file: Path) -> dict[str, list[dict]]:
    """The sessions that are over; a torn last line counts for nothing."""
    curves = {}
    if file.is_file():
        for line in file.read_text().split("\n")[:-1]:
            entry = json.loads(line)
            curves[json.dumps(entry["session"])] = entry["curve"]
    return curves


def arguments() -> argparse.Namespace:
    """What was typed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", action="append", choices=CLASSES, help="may be repeated")
    parser.add_argument("--data_root", type=Path, default=Path("../shared/data"))
    parser.add_argument("--split", default="val", help="val is measured, train is for choosing")
    parser.add_argument("--num_images", type=int, help="evenly spaced; all if left out")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--clicks", type=int, default=15, help="clicks for each image")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first_seed", type=int, default=0)
    parser.add_argument("--model", default="maskfeat-b0", help="a name, .ckpt or .safetensors")
    parser.add_argument("--set", action="append", default=[], type=setting, help="NAME=NUMBER")
    parser.add_argument("--out", type=Path, default=Path("experiments/labeling"))
    args = parser.parse_args()
    args.data = args.data or list(CLASSES)
    for name in ("clicks", "seeds"):
        if getattr(args, name) < 1:
            parser.error(f"--{name} must be at least 1, got {getattr(args, name)}")
    return args


def setting(text: str) -> tuple[str, float]:
    """NAME=NUMBER."""
    name, _, value = text.partition("=")
    return name, int(value) if value.isdigit() else float(value)


if __name__ == "__main__":
    main()
