"""Fits that run as a user runs them: in a process of their own, by the command."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from forked_python import run

SMALL = [
    "--trainer.accelerator=cpu",
    "--trainer.devices=1",
    "--trainer.enable_progress_bar=false",
    "--trainer.enable_model_summary=false",
    "--model.net.init_args.width=8",
    "--data.num_workers=0",
    "--data.batch_size=2",
    "--data.examples.num_points=64",
]
TWO_STEPS = [
    *SMALL,
    "--trainer.max_epochs=1",
    "--trainer.check_val_every_n_epoch=1",
    "--data.epoch_images=4",
    "--data.examples.crop_size=64",
    "--data.num_val_images=2",
]
# Only what the test is about: no evaluation, checkpoints every five steps.
CHECKPOINTS = [
    "--trainer.callbacks=[{class_path: lightning.pytorch.callbacks.ModelCheckpoint, init_args: "
    "{save_last: true, save_top_k: 0, every_n_train_steps: 5, enable_version_counter: false}}]"
]

# A backbone of a third of the modules, where the backbone is not what is tested.
TINY = "--model.net.init_args.backbone=test_efficientnet"


def fit_in(folder: Path, words: Sequence[str], forks_ranks: bool = True) -> None:
    """`maskfeat fit` in a folder; it must end well."""
    run(["-m", "maskfeat", "fit", *words], folder, check=True, forks_ranks=forks_ranks)
