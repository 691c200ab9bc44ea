"""LightningCLI with what this project repairs and adds."""

from __future__ import annotations

import logging
import time
from argparse import HelpFormatter
from pathlib import Path
from typing import Any

import jsonargparse
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.plugins.io import CheckpointIO

from maskfeat.data.datamodule import ShardDataModule
from maskfeat.features.checkpoint import WholeFileCheckpointIO
from maskfeat.features.task import FeatureTask

# A reference like ${run_name} means the key of the merged config, in whichever file it stands.
jsonargparse.set_parsing_settings(omegaconf_absolute_to_relative_paths=True)


class _Parser(LightningArgumentParser):
    """Says what is wrong without 80 lines of usage before it."""

    def format_usage(self) -> str:
        return ""


class MaskfeatCLI(LightningCLI):
    """`lightning fit|validate|test|predict --config ...`.

    Args:
        args: Words of the command line; None takes sys.argv.
        epilog: Shown under the help.
        formatter_class: Of the help.
    """

    def __init__(
        self,
        args: Any = None,  # noqa: ANN401 - Lightning's
        epilog: str = "",
        formatter_class: type[HelpFormatter] = jsonargparse.DefaultHelpFormatter,
    ) -> None:
        super().__init__(
            FeatureTask,
            ShardDataModule,
            subclass_mode_data=True,
            args=args,
            auto_configure_optimizers=False,
            parser_class=_Parser,
            seed_everything_default=0,
            save_config_kwargs={"overwrite": True},
            parser_kwargs={
                "parser_mode": "omegaconf+",
                "description": "Learn a feature space from masks, and evaluate it.",
                "epilog": epilog,
                "formatter_class": formatter_class,
            },
        )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Top-level keys that configs refer to as ${run_name} and ${data_root}."""
        parser.add_argument(
            "--run_name", type=str, default="run", help="Names the folder of the run, runs/NAME."
        )
        parser.add_argument(
            "--data_root",
            type=str,
            default="data_shards",
            help="Folder of the data sets, for configs that refer to it as ${data_root}.",
        )
        parser.set_defaults({"data": {"class_path": "maskfeat.data.datamodule.ShardDataModule"}})

    def _parse_ckpt_path(self) -> None:
        """Do nothing: upstream lets the checkpoint's settings override what the user typed."""

    def instantiate_trainer(self, **kwargs: Any) -> Any:  # noqa: ANN401 - Lightning's
        """Make the trainer write checkpoints whole, unless the user brings another way."""
        plugins = _listed(self._get(self.config_init, "trainer.plugins"))
        if not any(isinstance(plugin, CheckpointIO) for plugin in plugins):
            plugins.append(WholeFileCheckpointIO())
        return super().instantiate_trainer(plugins=plugins, **kwargs)

    def before_fit(self) -> None:
        """A new run never writes over an old one of the same name: that is moved aside."""
        logger = self.trainer.logger
        if logger is None or logger.log_dir is None or not self.trainer.is_global_zero:
            return
        folder = Path(logger.log_dir)
        goes_on = self._get(self.config, "ckpt_path") or list(folder.glob("hpc_ckpt_*"))
        if goes_on or not (folder / "config.yaml").exists():
            return
        stamp = time.strftime("%Y-%m-%dT%H-%M-%S", time.localtime(folder.stat().st_mtime))
        aside = folder.with_name(f"{folder.name}.{stamp}")
        folder.rename(aside)
        logging.getLogger("maskfeat").warning(
            "%s held an earlier run, which now lies in %s (--ckpt_path last would have gone on "
            "with it)",
            folder,
            aside,
        )

    def before_validate(self) -> None:
        """A last checkpoint that is asked for must be there, or random weights were judged."""
        self._check_last()

    before_test = before_predict = before_validate

    def _check_last(self) -> None:
        if self._get(self.config, "ckpt_path") != "last":
            return
        saver = self.trainer.checkpoint_callback
        folder = getattr(saver, "dirpath", None) or Path(self.trainer.log_dir or ".", "checkpoints")
        if not list(Path(folder).glob("last*.ckpt")):
            raise ValueError(
                f"--ckpt_path last found no checkpoint in {folder}; give the path of one, or the "
                "--run_name of a run that has one"
            )


def _listed(value: Any) -> list[Any]:  # noqa: ANN401 - None, one or several
    if value is None:
        return []
    return list(value) if isinstance(value, (list, tuple)) else [value]
