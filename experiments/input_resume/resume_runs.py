"""Training runs that are killed: started from one process that has loaded everything before."""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
import time
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path

import lightning as L
import numpy as np
import torch

HERE = Path(__file__).resolve().parent
RECORD = "record.jsonl"


class Recorder(L.Callback):
    """Writes step, loss and keys of each training step as a line, at once."""

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx) -> None:
        """Write a line, after the checkpoint of this step if there is one."""
        line = {
            "step": trainer.global_step,
            "epoch": trainer.current_epoch,
            "loss": float(outputs["loss"]),
            "keys": list(batch["keys"]),
        }
        # One write call: a kill leaves a whole line or none.
        handle = os.open(RECORD, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(handle, (json.dumps(line) + "\n").encode())
        os.close(handle)


class Run:
    """One training, in a folder of its own, started as often as it takes.

    Args:
        folder: Made if it is not there.
        words: Of `lightning fit`, after the config of this experiment.
    """

    def __init__(self, folder: Path, words: list[str]) -> None:
        self.folder = folder
        self.words = words
        self.last = folder / "checkpoints" / "last.ckpt"
        folder.mkdir(parents=True, exist_ok=True)

    def start(self, *more: str) -> ForkServerProcess:
        """Start a process that trains, from the last checkpoint if there is one."""
        resume = ["--ckpt_path", str(self.last)] if self.last.exists() else []
        words = ["fit", "--config", str(HERE / "small.yaml"), *self.words, *more, *resume]
        process = _server().Process(target=_train, args=(str(self.folder), words))
        process.start()
        return process

    def finish(self, *more: str) -> None:
        """Train to the end."""
        process = self.start(*more)
        process.join()
        if process.exitcode != 0:
            raise RuntimeError(f"training failed: {(self.folder / 'log.txt').read_text()[-3000:]}")

    def kill_at_random(
        self, rng: np.random.Generator, longest_s: float, *more: str, num_steps: int = 1
    ) -> bool:
        """Start, kill -9 at a random moment after a number of new steps; whether it still ran.

        Raises:
            RuntimeError: If training ended by a fault, or left a checkpoint that is not whole.
        """
        wanted = len(self.lines()) + num_steps
        process = self.start(*more)
        while len(self.lines()) < wanted and process.is_alive():
            time.sleep(0.005)
        process.join(timeout=rng.uniform(0, longest_s))
        was_running = process.is_alive()
        process.kill()
        process.join()
        if not was_running and process.exitcode != 0:
            raise RuntimeError(f"training failed: {(self.folder / 'log.txt').read_text()[-3000:]}")
        if self.last.exists():
            torch.load(self.last, weights_only=True)  # whole, or it raises
        return was_running

    def lines(self) -> list[dict]:
        """What was recorded, in the order of time."""
        path = self.folder / RECORD
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def history(self) -> list[dict]:
        """One entry for each step: of those that were done again after a kill the last counts."""
        steps = {line["step"]: line for line in self.lines()}
        return [steps[step] for step in sorted(steps)]


def compare(broken: Run, whole: Run) -> dict[str, float]:
    """How far two histories are from each other.

    Returns:
        "steps", "repeated" (steps done again after a kill), "same_keys" (share of the steps with
        the same images), "seen_once" (share of the images of the broken run that its history has
        exactly once) and "loss_difference" (largest, over all steps ever done).
    """
    first, second = broken.history(), whole.history()
    truth = {line["step"]: line for line in second}
    keys = [key for line in first for key in line["keys"]]
    return {
        "steps": len(first),
        "repeated": len(broken.lines()) - len(first),
        "same_keys": float(
            np.mean([line["keys"] == truth[line["step"]]["keys"] for line in first])
        ),
        "seen_once": float(np.mean([keys.count(key) == 1 for key in keys])),
        "loss_difference": max(
            abs(line["loss"] - truth[line["step"]]["loss"]) for line in broken.lines()
        ),
    }


def _server() -> ForkServerContext:
    """Children of it start in a tenth of the time, as all imports are done."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["maskfeat.lightning_cli", "timm", "torchvision", __name__])
    return context


def _train(folder: str, words: list[str]) -> None:
    # As in a process started from a shell; here it would be the server of the one above.
    multiprocessing.set_start_method("fork", force=True)
    os.chdir(folder)
    sys.stdout = sys.stderr = open("log.txt", "a")
    from maskfeat.cli import main

    sys.argv = [sys.argv[0]]
    main(words)
