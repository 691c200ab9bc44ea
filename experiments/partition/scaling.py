"""How time grows with pixels, features given: superpixels, the hierarchy, k-means.

    python experiments/partition/scaling.py runs/bsds500/checkpoints/last.ckpt

CPU seconds of one thread, the median of a few runs, on one image enlarged or reduced. Prints
the exponent of a power law fitted to the times, and saves a plot and the numbers.

Needs the extra "bench": matplotlib.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from skimage.segmentation import slic

import maskfeat
from maskfeat.data.heldout import ShardImages
from maskfeat.segment.hierarchy import hierarchy
from maskfeat.segment.partition import partition_superpixels
from maskfeat.segment.superpixels import superpixels


def cpu_seconds(work: Callable[[], object], repeats: int) -> float:
    """Median CPU time of a call."""
    times = []
    for _ in range(repeats):
        started = time.process_time()
        work()
        times.append(time.process_time() - started)
    return float(np.median(times))


def main() -> None:
    """Measure, print, save."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", help="a .ckpt of lightning fit, or .safetensors")
    parser.add_argument("--shards", default="../shared/data/bsds500/val-*.tar")
    parser.add_argument(
        "--sides", type=int, nargs="+", default=[256, 362, 512, 724, 1024, 1448, 2048]
    )
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("experiments/partition"))
    args = parser.parse_args()

    torch.set_num_threads(1)
    model = maskfeat.load(args.checkpoint)
    photo = Image.fromarray(ShardImages(args.shards, 1)[0].image)
    rows = []
    for side in args.sides:
        rgb = np.asarray(photo.resize((side, side), Image.Resampling.LANCZOS))
        features = model.features(rgb)
        graph = superpixels(features)
        row = {
            "pixels": side * side,
            "superpixels": cpu_seconds(lambda f=features: superpixels(f), args.repeats),
            "hierarchy": cpu_seconds(
                lambda g=graph: hierarchy(g).cut(100),
                args.repeats,
            ),
            "k-means": cpu_seconds(lambda g=graph: partition_superpixels(g, 100), args.repeats),
            "encoder": cpu_seconds(lambda r=rgb: model.features(r), args.repeats),
            "SLIC": cpu_seconds(lambda r=rgb: slic(r, 100), args.repeats),
        }
        rows.append(row)
        print(f"{side} x {side}: " + ", ".join(f"{k} {v:.3f} s" for k, v in list(row.items())[1:]))
    logs = np.log([row["pixels"] for row in rows])
    exponents = {
        name: float(np.polyfit(logs, np.log([row[name] for row in rows]), 1)[0])
        for name in ("superpixels", "hierarchy", "k-means", "encoder", "SLIC")
    }
    total = np.log([row["superpixels"] + row["hierarchy"] for row in rows])
    exponents["superpixels + hierarchy"] = float(np.polyfit(logs, total, 1)[0])
    print("exponents: " + ", ".join(f"{name} {value:.2f}" for name, value in exponents.items()))
    args.out.mkdir(parents=True, exist_ok=True)
    record = {"times": rows, "exponents": exponents}
    (args.out / "scaling.json").write_text(json.dumps(record, indent=1) + "\n")
    plot(rows, exponents, args.out / "scaling.png")


def plot(rows: list[dict[str, float]], exponents: dict[str, float], path: Path) -> None:
    """Seconds against megapixels, both logarithmic."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(7, 5), layout="constrained")
    megapixels = [row["pixels"] / 1e6 for row in rows]
    for name in ("superpixels", "hierarchy", "k-means", "encoder", "SLIC"):
        values = [row[name] for row in rows]
        axis.plot(megapixels, values, marker="o", label=f"{name} (exponent {exponents[name]:.2f})")
    axis.set(xscale="log", yscale="log", xlabel="megapixels", ylabel="CPU seconds, one thread")
    axis.grid(alpha=0.3, which="both")
    axis.legend()
    figure.savefig(path, dpi=90)


if __name__ == "__main__":
    main()
