"""Does the memory of a training process and of its workers stay flat?

    python experiments/scale/memory.py --out experiments/scale

Trains a tiny network with the real datamodule, workers, logger and checkpoints, and writes down
the resident memory (RSS) of each process every few steps: a table (JSON), a plot (PNG), and
the slope, in MB per 1,000 steps, of a line fitted to all but the first fifth.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import lightning as L
import numpy as np
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger

from maskfeat.data.datamodule import ShardDataModule
from maskfeat.data.settings import ExampleSettings, StreamSettings
from maskfeat.features.pyramid import FeaturePyramid
from maskfeat.features.task import FeatureTask
from maskfeat.running.throughput import Throughput


def resident_mb(pid: int) -> float:
    """Resident memory of a process, MB; 0 when it is gone."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def children_of(pid: int) -> list[int]:
    """Processes that this one has started and that still run."""
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        found += map(int, (task / "children").read_text().split())
    return found


class MemoryRecord(L.Callback):
    """Rows of step, seconds, MB of this process, and MB of its workers.

    Args:
        every: Steps between two rows.
        write: Called with all rows so far, now and then.
    """

    def __init__(self, every: int, write: Callable[[list[dict[str, float]]], None]) -> None:
        self.every = every
        self.write = write
        self.rows: list[dict[str, float]] = []
        self._start = time.perf_counter()

    def on_train_batch_end(self, trainer: L.Trainer, *_: object) -> None:
        """Take a row where one is due."""
        if trainer.global_step % self.every == 0:
            workers = [resident_mb(pid) for pid in children_of(os.getpid())]
            row = {
                "step": trainer.global_step,
                "seconds": round(time.perf_counter() - self._start, 1),
                "process": resident_mb(os.getpid()),
                "workers": sum(workers),
                "num_workers": len(workers),
            }
            self.rows.append(row)
            if len(self.rows) % 10 == 0:
                self.write(self.rows)


def slope_mb(rows: list[dict[str, float]], name: str) -> float:
    """MB per 1,000 steps, by least squares over all but the first fifth of the rows."""
    kept = rows[len(rows) // 5 :]
    steps = np.array([row["step"] for row in kept])
    return float(1000 * np.polyfit(steps, [row[name] for row in kept], 1)[0])


def record(
    num_steps: int,
    every: int,
    mode: str,
    num_workers: int,
    shards: str,
    write: Callable[[list[dict[str, float]]], None] = lambda rows: None,
) -> list[dict]:
    """Train, and give the rows; `write` gets those so far now and then."""
    torch.manual_seed(0)
    steps_per_epoch, batch_size = max(1, num_steps // 10), 2
    logging.getLogger("lightning.pytorch.utilities.rank_zero").setLevel(logging.WARNING)
    data = ShardDataModule(
        train=shards,
        val=shards,
        mode=mode,  # type: ignore[arg-type]
        batch_size=batch_size,
        examples=ExampleSettings(crop_size=32, num_points=64),
        epoch_images=steps_per_epoch * batch_size,
        num_val_images=4,
        num_workers=num_workers,
        streaming=StreamSettings(shuffle_buffer=50, num_readers=2),
    )
    memory = MemoryRecord(every, write)
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = ModelCheckpoint(
            save_last=True, save_top_k=0, every_n_train_steps=max(1, num_steps // 20)
        )
        trainer = L.Trainer(
            accelerator="cpu",
            devices=1,
            max_steps=num_steps,
            callbacks=[memory, checkpoint, Throughput()],
            logger=TensorBoardLogger(folder),
            default_root_dir=folder,
            use_distributed_sampler=False,
            num_sanity_val_steps=0,
            limit_val_batches=0,  # its own workers come and go, and would blur the sum
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(
            FeatureTask(FeaturePyramid("test_resnet", width=8, levels=(0, 1))), datamodule=data
        )
    return memory.rows


def draw(rows: list[dict], title: str, path: Path) -> None:
    """The curves, as a PNG, where matplotlib is there."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        print("no plot: matplotlib is not installed (extra bench)")
        return
    figure = Figure(figsize=(7, 3.5), layout="constrained")
    axes = figure.add_subplot()
    steps = [row["step"] for row in rows]
    axes.plot(steps, [row["process"] for row in rows], label="training process")
    axes.plot(steps, [row["workers"] for row in rows], label="its workers, sum")
    axes.set(xlabel="step", ylabel="resident memory, MB", title=title, ylim=(0, None))
    axes.legend()
    figure.savefig(path, dpi=110)


def main() -> None:
    """Record, draw, and say the slopes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder for memory_MODE.json, .png")
    parser.add_argument("--num_steps", type=int, default=5000)
    parser.add_argument("--every", type=int, default=50, help="steps between two rows")
    parser.add_argument("--mode", choices=["indexed", "streaming"], default="indexed")
    parser.add_argument("--num_workers", type=int, default=2)
    parser.add_argument("--shards", default="data_shards/train-*.tar")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    stem = options.out / f"memory_{options.mode}"

    def write(rows: list[dict[str, float]]) -> None:
        result = {
            "mode": options.mode,
            "num_steps": rows[-1]["step"],
            "num_workers": options.num_workers,
            "mb_per_1000_steps": {name: slope_mb(rows, name) for name in ("process", "workers")},
            "mb_at_end": {name: rows[-1][name] for name in ("process", "workers")},
            "rows": rows,
        }
        stem.with_suffix(".json").write_text(json.dumps(result, indent=1) + "\n")

    rows = record(
        options.num_steps, options.every, options.mode, options.num_workers, options.shards, write
    )
    write(rows)
    draw(rows, f"{options.mode} mode, {options.num_workers} workers", stem.with_suffix(".png"))
    for name in ("process", "workers"):
        slope = slope_mb(rows, name)
        print(f"{name}: {rows[-1][name]:.0f} MB at the end, {slope:+.2f} MB per 1,000 steps")


if __name__ == "__main__":
    main()
