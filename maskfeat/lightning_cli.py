"""LightningCLI, repaired and extended."""

from __future__ import annotations

import contextlib
import logging
import sys
from argparse import HelpFormatter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonargparse
import torch
from jsonargparse.typing import register_type
from lightning import LightningDataModule
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.plugins.io import CheckpointIO

from maskfeat.data.datamodule import ShardDataModule
from maskfeat.features.checkpoint import WholeFileCheckpointIO
from maskfeat.features.task import check_precision
from maskfeat.help_text import DESCRIPTIONS, ShortLists
from maskfeat.packaged import resolve_data_root, uses_packaged_scenes
from maskfeat.parser_errors import OneLineErrors
from maskfeat.running.net_summary import shorten_summary
from maskfeat.running.rank_watch import RankWatch
from maskfeat.running.run_folder import (
    RemoveEmptyRun,
    SaveLastStep,
    has_last,
    held_run,
    move_aside,
    moved_aside,
    whole_checkpoint,
)
from maskfeat.running.signals import StopTogether
from maskfeat.tasks import TaskName, named_task, task_and_data

_LOG = logging.getLogger("maskfeat")

# A reference like ${run_name} means the key of the merged config, in whichever file it stands.
jsonargparse.set_parsing_settings(omegaconf_absolute_to_relative_paths=True)
# To follow references all values are written and read once, also those that no config names. Of
# the types in signatures of Lightning and torch this one alone had no written form.
register_type(torch.device, str, torch.device)


class _Parser(OneLineErrors, LightningArgumentParser):
    """Prints errors without 80 lines of usage before them."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401 - Lightning's
        super().__init__(*args, **kwargs, formatter_class=ShortLists)

    def format_usage(self) -> str:
        return ""

    def format_help(self, formatter: HelpFormatter | None = None) -> str:
        """All options are listed below; a usage that lists them too is a page of its own."""
        self.usage = "%(prog)s [--config FILE ...] [--NAME VALUE ...]"
        # Older versions of jsonargparse take no formatter.
        text: str = super().format_help() if formatter is None else super().format_help(formatter)
        return text

    def dump(self, *args: Any, **settings: Any) -> str:  # noqa: ANN401
        """As Lightning's, without checking again what parsing has just checked."""
        text: str = super().dump(*args, **{"skip_validation": True, **settings})
        return text

    def save(self, *args: Any, **settings: Any) -> None:  # noqa: ANN401
        """As `dump`, to a file."""
        super().save(*args, **{"skip_validation": True, **settings})

    def get_defaults(self, *args: Any, **kwargs: Any) -> jsonargparse.Namespace:  # noqa: ANN401
        """As above, but without the settings of the usual datamodule.

        They are filled in when the class is known. Else a class of the user's own would get the
        defaults of ShardDataModule wherever it has a setting of the same name.
        """
        defaults = super().get_defaults(*args, **kwargs)
        defaults.pop("data.init_args", None)
        return defaults


class MaskfeatCLI(LightningCLI):
    """`lightning fit|validate|test|predict --config ...`.

    Args:
        args: Words of the command line; None takes sys.argv.
    """

    def __init__(self, args: Any = None) -> None:  # noqa: ANN401 - Lightning's
        self._words = args
        words = sys.argv[1:] if args is None else args
        self._task_name = named_task(words if isinstance(words, (list, tuple)) else [])
        task, self._usual_data = task_and_data(self._task_name)
        super().__init__(
            task,
            LightningDataModule,  # the usual one unless the user names another
            subclass_mode_data=True,
            args=args,
            auto_configure_optimizers=False,
            parser_class=_Parser,
            seed_everything_default=0,
            save_config_kwargs={"overwrite": True},
            parser_kwargs={
                "parser_mode": "omegaconf+",
                **{name: {"description": text} for name, text in DESCRIPTIONS.items()},
            },
        )

    def _add_subcommands(self, parser: LightningArgumentParser, **kwargs: Any) -> None:  # noqa: ANN401
        """Build the parser of the command that is asked for alone: each takes 0.2 seconds."""
        every = LightningCLI.subcommands()
        asked = sys.argv[1:2] if self._words is None else self._words[:1]
        chosen = {name: skip for name, skip in every.items() if name in asked}
        self.subcommands = lambda: chosen or every  # type: ignore[method-assign]
        super()._add_subcommands(parser, **kwargs)

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Top-level keys: the task, and what configs refer to as ${run_name} and ${data_root}."""
        parser.add_argument(
            "--task",
            type=TaskName,
            default=self._task_name,
            help="What is trained: features, or a click decoder on those of a network.",
        )
        parser.add_argument(
            "--run_name", type=str, default="run", help="Names the folder of the run, runs/NAME."
        )
        parser.add_argument(
            "--data_root",
            type=resolve_data_root,
            default="data_shards",
            help="Folder of the data sets, for configs that refer to it as ${data_root}; "
            "data_shards, where no such folder exists, is the scenes that come with the package.",
        )
        parser.add_argument(
            "--rank_timeout_s",
            type=float,
            default=1200.0,
            help="Seconds in which some rank must begin a batch or a held-out image; else the run "
            "ends and names the rank that stands still.",
        )
        assert parser.groups is not None
        parser.groups["data"].title = "Training, held-out and prediction data"
        parser.set_defaults({"data": {"class_path": self._usual_data}})

    def _parse_ckpt_path(self) -> None:
        """Do nothing: upstream lets settings of the checkpoint override the command line."""

    def instantiate_trainer(self, **kwargs: Any) -> Any:  # noqa: ANN401 - Lightning's
        """Make the trainer write checkpoints whole, unless the user brings another way."""
        given = self._get(self.config_init, "trainer.plugins") or []
        plugins = list(given) if isinstance(given, (list, tuple)) else [given]
        if not any(isinstance(plugin, CheckpointIO) for plugin in plugins):
            plugins.append(WholeFileCheckpointIO())
        trainer: Any = super().instantiate_trainer(plugins=plugins, **kwargs)
        check_precision(trainer.precision)  # before any folder is moved
        root = self._get(self.config_init, "data_root")
        if trainer.is_global_zero and uses_packaged_scenes(root):
            _LOG.info("no folder data_shards here; reading the packaged scenes in %s", root)
        shorten_summary(trainer)
        if trainer.fast_dev_run:  # upstream saves the last one all the same, over that of the run
            for saver in trainer.checkpoint_callbacks:
                if isinstance(saver, ModelCheckpoint):
                    saver.save_last = None
        self._stop = StopTogether()
        own = [
            RemoveEmptyRun(),
            SaveLastStep(),
            RankWatch(self._get(self.config, "rank_timeout_s")),
        ]
        if not SLURMEnvironment.detect():  # where Lightning and SaveTogether see to signals
            own.append(self._stop)
        trainer.callbacks[:0] = own
        return trainer

    def before_instantiate_classes(self) -> None:
        """Check that run_name is a single folder name."""
        name = self._get(self.config, "run_name")
        if not name.strip() or name in (".", "..") or "/" in name or "\\" in name:
            raise ValueError(
                f"run_name must be the name of one folder, without slashes, got '{name}'"
            )

    def fit(self, **settings: Any) -> None:  # noqa: ANN401 - Trainer.fit's
        """Train, in a folder that no other run has, and end well at Ctrl-C and SIGTERM."""
        with self._held_folder(), self._stop.listening():
            self.trainer.fit(**settings)

    def _prepare_subcommand_kwargs(self, subcommand: str) -> dict[str, Any]:
        """What `Trainer.fit` and the others are given: in place of a damaged checkpoint a whole."""
        settings = super()._prepare_subcommand_kwargs(subcommand)
        settings["ckpt_path"] = whole_checkpoint(
            settings.get("ckpt_path"), self._folder_of_checkpoints(), subcommand == "fit"
        )
        return settings

    @contextlib.contextmanager
    def _held_folder(self) -> Iterator[None]:
        """Hold the run's folder, on rank zero; an earlier run is moved aside, or goes on."""
        logger = self.trainer.logger
        if not self.trainer.is_global_zero:
            yield
            return
        self._say_if_nothing_to_go_on_with()
        if logger is None or logger.log_dir is None or ":/" in str(logger.log_dir):
            yield
            return
        folder = Path(logger.log_dir)
        with held_run(folder):
            goes_on = self._get(self.config, "ckpt_path") or list(folder.glob("hpc_ckpt_*"))
            if not goes_on and (folder / "config.yaml").exists():
                self._check_data()
                move_aside(folder)
            yield

    def _say_if_nothing_to_go_on_with(self) -> None:
        """Warn; no error, as a requeued job has `--ckpt_path last` from its first start on."""
        checkpoints = self._folder_of_checkpoints()
        if self._get(self.config, "ckpt_path") != "last" or has_last(checkpoints):
            return
        run = Path(self.trainer.log_dir or ".")
        moved = [path for path in moved_aside(run) if has_last(path / checkpoints.name)]
        earlier = f"; an earlier run of that name lies in {moved[-1]}" if moved else ""
        _LOG.warning(
            "no checkpoint to go on with in %s, so training starts from the beginning%s",
            checkpoints,
            earlier,
        )

    def _check_data(self) -> None:
        """Open the data before the earlier run is moved: a start that fails must move nothing.

        Not streamed data: all ranks count these together, and this runs on rank zero alone.
        """
        data = self.datamodule
        if isinstance(data, ShardDataModule) and data.mode == "indexed":
            data.trainer = self.trainer  # which knows the number of devices
            data.setup("fit")

    def before_validate(self) -> None:
        """Refuse `--ckpt_path last` where there is none; warn of random weights."""
        asked = self._get(self.config, "ckpt_path")
        if asked == "last" and not has_last(folder := self._folder_of_checkpoints()):
            raise ValueError(
                f"--ckpt_path last found no checkpoint in {folder}; give the path of one, or the "
                "--run_name of a run that has one"
            )
        # A fair baseline, but mostly a mistake.
        has_weights = asked or self._get(self.config, "model.start_from")
        is_requeued = SLURMEnvironment.detect() and list(
            Path(self.trainer.default_root_dir).glob("hpc_ckpt_*")  # which Lightning then takes
        )
        if self.trainer.is_global_zero and not has_weights and not is_requeued:
            _LOG.warning(
                "the weights are untrained, so what comes out means little; give --ckpt_path last, "
                "for the run of that --run_name, or --ckpt_path with the path of a checkpoint"
            )

    before_test = before_predict = before_validate

    def _folder_of_checkpoints(self) -> Path:
        saver = self.trainer.checkpoint_callback
        folder = getattr(saver, "dirpath", None) or Path(self.trainer.log_dir or ".", "checkpoints")
        return Path(folder)
