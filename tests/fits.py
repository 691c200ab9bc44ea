"""Fits that run as a user runs them: in a process of their own, by the command."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from forked_python import run

# A third of the modules of the default backbone, where the backbone is not what is tested.
TINY = "--model.net.init_args.backbone=test_efficientnet"
SMALL = [
    "--trainer.accelerator=cpu",
    "--trainer.devices=1",
    "--trainer.enable_progress_bar=false",
    "--trainer.enable_model_summary=false",
    TINY,
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
# A quarter of the pixels of the held-out scenes, where images are evaluated.
SMALL_SCENES = "--data.val=data_shards/small-*.tar"
# Only what the test is about: no evaluation, checkpoints every five steps.
CHECKPOINTS = [
    "--trainer.callbacks=[{class_path: lightning.pytorch.callbacks.ModelCheckpoint, init_args: "
    "{save_last: true, save_top_k: 0, every_n_train_steps: 5, enable_version_counter: false}}]"
]

BASE = Path(__file__).resolve().parents[1] / "conf/base.yaml"


def evaluating_less(folder: Path, settings: Mapping[str, Mapping[str, Any]]) -> str:
    """The word that gives callbacks of conf/base.yaml other settings, by the name of the class."""
    callbacks = yaml.safe_load(BASE.read_text())["trainer"]["callbacks"]
    for callback in callbacks:
        less = settings.get(callback["class_path"].rpartition(".")[2], {})
        callback["init_args"] = {**callback.get("init_args", {}), **less}
    path = folder / "less.yaml"
    path.write_text(yaml.safe_dump({"trainer": {"callbacks": callbacks}}))
    return f"--config={path}"


def fit_in(folder: Path, words: Sequence[str], forks_ranks: bool = True) -> None:
    """`maskfeat fit` in a folder; it must end well."""
    run(["-m", "maskfeat", "fit", *words], folder, check=True, forks_ranks=forks_ranks)
