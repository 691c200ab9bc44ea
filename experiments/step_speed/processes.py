"""Images per second of two training processes against one, at one core each.

    python experiments/step_speed/processes.py --out experiments/step_speed

`maskfeat fit --config conf/base.yaml` with one process held to one core, and with two (ddp, gloo)
held to two, in turns; each process trains and reads its input on its own core. The rates are what
the `Throughput` callback wrote for TensorBoard: all processes together, median over the run.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

REPOSITORY = Path(__file__).resolve().parents[2]
EVERY = 5  # steps between two logs
CONFIG = """
trainer:
  accelerator: cpu
  max_epochs: 1
  log_every_n_steps: {every}
  limit_val_batches: 0
  enable_progress_bar: false
  enable_model_summary: false
  callbacks:
    - class_path: maskfeat.running.throughput.Throughput
"""


def images_per_s(num_processes: int, steps: int, crop_size: int, cores: list[int]) -> float:
    """Of one run, all processes together.

    Raises:
        subprocess.CalledProcessError: If the run failed.
    """
    with TemporaryDirectory() as folder:
        (Path(folder) / "short.yaml").write_text(CONFIG.format(every=EVERY))
        for name in ("conf", "data_shards"):
            (Path(folder) / name).symlink_to(REPOSITORY / name)
        subprocess.run(
            [
                *(sys.executable, "-m", "maskfeat", "fit"),
                *("--config=conf/base.yaml", "--config=short.yaml", "--run_name=speed"),
                f"--trainer.devices={num_processes}",
                f"--trainer.strategy={'ddp' if num_processes > 1 else 'auto'}",
                f"--data.epoch_images={8 * steps * num_processes}",
                *(
                    "--data.batch_size=8",
                    f"--data.examples.crop_size={crop_size}",
                    "--data.num_workers=1",
                ),
            ],
            cwd=folder,
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)},
            stdout=subprocess.DEVNULL,
            preexec_fn=lambda: os.sched_setaffinity(0, cores[:num_processes]),
            check=True,
        )
        events = EventAccumulator(str(Path(folder) / "runs" / "speed")).Reload()
        rates = [event.value for event in events.Scalars("throughput/images_per_s")]
    return statistics.median(rates[1:] or rates)


def main() -> None:
    """Measure in turns, print, save."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=40, help="of each run")
    parser.add_argument("--turns", type=int, default=3, help="of one and of two processes")
    parser.add_argument("--crop_size", type=int, default=192, help="pixels")
    parser.add_argument("--out", type=Path, default=Path("experiments/step_speed"))
    args = parser.parse_args()
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        raise SystemExit(f"two cores are needed, this process may use {len(cores)}")
    if args.steps < EVERY:
        raise SystemExit(f"--steps must be at least {EVERY}, got {args.steps}")

    one, two = [], []
    for turn in range(args.turns):
        one.append(images_per_s(1, args.steps, args.crop_size, cores))
        two.append(images_per_s(2, args.steps, args.crop_size, cores))
        print(f"turn {turn}: {one[-1]:.2f} and {two[-1]:.2f} images/s", flush=True)
    ratio = statistics.median(b / a for a, b in zip(one, two, strict=True))
    result = {"one": one, "two": two, "steps": args.steps, "crop_size": args.crop_size}
    args.out.mkdir(parents=True, exist_ok=True)
    record = json.dumps(result | {"two_over_one": ratio}, indent=2) + "\n"
    (args.out / "processes.json").write_text(record)
    print(f"two processes over one: {ratio:.2f}")


if __name__ == "__main__":
    main()
