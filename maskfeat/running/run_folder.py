"""The folder of a run: one run works in it at a time, and what it goes on from is whole."""

from __future__ import annotations

import contextlib
import glob
import logging
import os
import re
import time
from collections.abc import Iterable
from pathlib import Path

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger

from maskfeat.features.checkpoint import WholeFileCheckpointIO
from maskfeat.folder_lock import held_folder

_LOG = logging.getLogger("maskfeat")
# Checkpoints that a run writes over again and again.
_NEWEST = re.compile(r"(last|hpc_ckpt_).*\.ckpt")


def held_run(folder: Path) -> contextlib.AbstractContextManager[None]:
    """Hold the folder of a run, also while it is moved.

    Raises:
        FolderInUseError: If another run works there.
    """
    return held_folder(folder, "a training run", beside=True)


def move_aside(folder: Path) -> None:
    """Give an earlier run another name, with the time when something was last made in it."""
    stamp = time.strftime("%Y-%m-%dT%H-%M-%S", time.localtime(folder.stat().st_mtime))
    aside = folder.with_name(f"{folder.name}.{stamp}")
    folder.rename(aside)
    _LOG.warning(
        "%s held an earlier run, which now lies in %s (--ckpt_path last would have gone on "
        "with it)",
        folder,
        aside,
    )


def moved_aside(run: Path) -> list[Path]:
    """Earlier runs of one name, the newest last."""
    return sorted(run.parent.glob(f"{glob.escape(run.name)}.????-??-??T??-??-??"))


def has_last(folder: Path) -> bool:
    """Whether a folder of checkpoints has a last one."""
    # What a url holds, here with one slash, only Lightning can tell.
    return ":/" in str(folder) or any(folder.glob("last*.ckpt"))


def whole_checkpoint(asked: str | None, folder: Path, is_fit: bool) -> str | None:
    """The checkpoint to take: the one that was asked for, or an earlier one if it is damaged.

    Only where the newest is meant: by the word "last", or to go on with training by the path of
    one that training writes over (last.ckpt, hpc_ckpt_1.ckpt).

    Args:
        asked: The value of --ckpt_path.
        folder: Where the run's checkpoints lie.
        is_fit: Whether training is to go on.

    Raises:
        ValueError: If none is whole.
    """
    if asked == "last":
        found = _by_age(folder.glob("last*.ckpt"))
        if not found:  # none, or at a url
            return asked
        path = found[0]
    elif asked and is_fit and _NEWEST.fullmatch(Path(asked).name) and Path(asked).is_file():
        path = Path(asked)
    else:
        return asked
    reader = WholeFileCheckpointIO()
    others = _by_age({*folder.glob("*.ckpt"), *path.parent.glob("*.ckpt")} - {path})
    fault: ValueError | None = None
    for candidate in (path, *others):
        try:
            reader.load_checkpoint(candidate)
        except ValueError as error:
            fault = fault or error
            continue
        if fault is not None:
            message = str(fault).partition(";")[0]
            _LOG.warning("%s, so '%s' is taken, which is whole", message, candidate)
        return str(candidate)
    assert fault is not None
    raise fault


def _by_age(paths: Iterable[Path]) -> list[Path]:
    """The newest first."""
    return sorted(paths, key=lambda path: (path.stat().st_mtime_ns, path.name), reverse=True)


class RemoveEmptyRun(Callback):
    """Removes the file of events of a run that ended before its config was written.

    Lightning opens the logger before it looks at the data. When these are not there, the folder of
    the run holds nothing but a file of events without any, which later runs would move aside.
    Only a file of this very process is removed, and then the folder, if it is empty.
    """

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Remove it, on rank zero."""
        if trainer.global_step > 0 or not trainer.is_global_zero:
            return
        for logger in trainer.loggers:
            if not isinstance(logger, TensorBoardLogger) or "://" in str(logger.log_dir):
                continue
            folder = Path(logger.log_dir)
            if (folder / "config.yaml").exists() or not folder.is_dir():
                continue
            logger.experiment.close()
            for file in folder.glob(f"events.out.tfevents.*.{os.getpid()}.*"):
                file.unlink()
            if not any(folder.iterdir()):
                folder.rmdir()


class SaveLastStep(Callback):
    """Makes `last.ckpt` hold the last step of a fit that ended by itself.

    A ModelCheckpoint that saves every N steps leaves out the steps after the last multiple:
    those in which the learning rate is lowest. It is saved in the hooks of ModelCheckpoint's own,
    so that a fit which goes on with more steps or epochs begins at the right sample: at the end of
    training Lightning has called an epoch complete that ended in its middle.
    """

    def on_train_batch_end(self, trainer: Trainer, *_: object) -> None:
        """Save the last of a number of steps."""
        if 0 < trainer.max_steps <= trainer.global_step:
            self._save(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save the last of a number of epochs."""
        is_ended = 0 < trainer.max_steps <= trainer.global_step
        if not is_ended and trainer.current_epoch + 1 == trainer.max_epochs:
            self._save(trainer)

    def _save(self, trainer: Trainer) -> None:
        """Save where the user asked for a last checkpoint."""
        for saver in trainer.checkpoint_callbacks:
            if not isinstance(saver, ModelCheckpoint) or not saver.save_last:
                continue
            if 0 < saver._last_global_step_saved < trainer.global_step:
                trainer.save_checkpoint(saver.last_model_path, saver.save_weights_only)
