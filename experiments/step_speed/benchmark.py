"""How much of a training step the loss takes, and what the Lightning loop costs.

    python experiments/step_speed/benchmark.py --out experiments/step_speed

Three measurements in one run, medians and ratios:
1. the parts of a step at 256 px, batch 8, 512 points, 128 masks: network, reading at points,
   loss (forward and backward), backward through the network;
2. images per second of a bare PyTorch loop and of `Trainer.fit`, over the same loader, module and
   optimizer, taking turns;
3. the loader alone.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import time
import warnings
from pathlib import Path
from tempfile import TemporaryDirectory

import lightning as L
import torch

from maskfeat.batch import normalize_images
from maskfeat.data.datamodule import ShardDataModule
from maskfeat.features.losses import MaskConsistencyLoss
from maskfeat.features.pyramid import FeaturePyramid
from maskfeat.features.reading import sample_pyramid
from maskfeat.features.task import FeatureTask


def step_parts(num_steps: int, num_masks: int = 128) -> dict[str, float]:
    """Median seconds of each part of a training step."""
    torch.manual_seed(0)
    net = FeaturePyramid().to(memory_format=torch.channels_last)
    loss = MaskConsistencyLoss()
    images = torch.randn(8, 3, 256, 256).to(memory_format=torch.channels_last)
    points = torch.randint(0, 256, (8, 512, 2))
    membership = torch.rand(8, num_masks, 512) < 0.1
    times: dict[str, list[float]] = {"network": [], "points": [], "loss": [], "backward": []}
    for _ in range(num_steps):
        marks = [time.perf_counter()]
        pyramid = net(images)
        marks.append(time.perf_counter())
        features = sample_pyramid(pyramid, net.strides, points)
        marks.append(time.perf_counter())
        leaf = features.detach().requires_grad_()
        loss(leaf, membership, net.scale, points).total.backward()
        marks.append(time.perf_counter())
        features.backward(leaf.grad)
        marks.append(time.perf_counter())
        for name, start, stop in zip(times, marks, marks[1:], strict=False):
            times[name].append(stop - start)
    return {name: statistics.median(values[2:]) for name, values in times.items()}


def task_and_data(num_steps: int) -> tuple[FeatureTask, ShardDataModule]:
    """The base config's task and data, as classes."""
    torch.manual_seed(0)
    data = ShardDataModule(batch_size=8, epoch_images=8 * num_steps, num_workers=1)
    return FeatureTask(FeaturePyramid()), data


def bare_loop(num_steps: int) -> float:
    """Images per second of a plain loop: forward, backward, clip, step, average."""
    task, data = task_and_data(num_steps)
    optimizer = torch.optim.AdamW(task.net.parameters(), lr=1e-3)
    data.setup("fit")
    marks = []
    for batch in data.train_dataloader():
        batch["images"] = normalize_images(batch["images"])
        optimizer.zero_grad()
        loss = task._loss(task.net, batch)
        loss.total.backward()
        torch.nn.utils.clip_grad_norm_(task.net.parameters(), 1.0)
        optimizer.step()
        assert task.averaged is not None
        task.averaged.update_parameters(task.net)
        marks.append(time.perf_counter())
    return rate(marks)


class Marks(L.Callback):
    """When each batch ended."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def on_train_batch_end(self, *args: object) -> None:
        """Look at the clock."""
        self.times.append(time.perf_counter())


def lightning_loop(num_steps: int, folder: Path) -> float:
    """Images per second of Trainer.fit, logging to TensorBoard as in the configs."""
    task, data = task_and_data(num_steps)
    marks = Marks()
    trainer = L.Trainer(
        max_epochs=1,
        accelerator="cpu",
        gradient_clip_val=1.0,
        log_every_n_steps=10,
        callbacks=[marks],
        limit_val_batches=0,
        default_root_dir=folder,
        enable_checkpointing=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )
    trainer.fit(task, data)
    return rate(marks.times)


def loader_alone(num_steps: int) -> float:
    """Images per second of the loader with nothing behind it."""
    _, data = task_and_data(num_steps)
    data.setup("fit")
    return rate([time.perf_counter() for _ in data.train_dataloader()])


def rate(marks: list[float]) -> float:
    """Images per second from the median time between batches of 8, the first few left out."""
    steps = [b - a for a, b in itertools.pairwise(marks[3:])]
    return 8 / statistics.median(steps)


def main() -> None:
    """Measure, print, save."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=30, help="steps per loop and turn")
    parser.add_argument("--turns", type=int, default=3, help="turns of the two loops")
    parser.add_argument("--out", type=Path, default=Path("experiments/step_speed"))
    args = parser.parse_args()
    warnings.filterwarnings("ignore")

    parts = step_parts(args.steps)
    share = parts["loss"] / sum(parts.values())
    ratios, bare, fit = [], [], []
    for turn in range(args.turns):
        bare.append(bare_loop(args.steps))
        with TemporaryDirectory() as folder:
            fit.append(lightning_loop(args.steps, Path(folder)))
        ratios.append(fit[-1] / bare[-1])
        print(f"turn {turn}: bare {bare[-1]:.2f}, Lightning {fit[-1]:.2f} images/s")
    result = {
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "step_seconds": parts,
        "loss_share": share,
        "bare_images_per_s": statistics.median(bare),
        "lightning_images_per_s": statistics.median(fit),
        "lightning_over_bare": statistics.median(ratios),
        "loader_images_per_s": loader_alone(args.steps),
    }
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "result.json").write_text(json.dumps(result, indent=2) + "\n")
    for name, seconds in parts.items():
        print(f"{name:>10}: {1000 * seconds:7.1f} ms")
    print(f"loss share of the step: {share:.1%}")
    print(f"Lightning over bare loop: {result['lightning_over_bare']:.3f}")
    print(f"loader alone: {result['loader_images_per_s']:.1f} images/s")


if __name__ == "__main__":
    main()
