"""What `lightning fit` can train: a config says it by its key `task`."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, get_args

import yaml

from maskfeat.parser_errors import named_configs, resolve_configs

TaskName = Literal["features", "clicks"]
_FEATURES: TaskName = "features"
# The task, and the data module unless a config names another.
_CLASSES: dict[TaskName, tuple[str, str]] = {
    "features": (
        "maskfeat.features.task.FeatureTask",
        "maskfeat.data.datamodule.ShardDataModule",
    ),
    "clicks": (
        "maskfeat.interactive.training.task.ClickTask",
        "maskfeat.interactive.training.data.ClickDataModule",
    ),
}


def task_and_data(name: TaskName) -> tuple[Any, str]:
    """The class of the task, and the path of its usual data module."""
    path, data = _CLASSES[name]
    module, _, class_name = path.rpartition(".")
    return getattr(import_module(module), class_name), data


def named_task(words: Sequence[str]) -> TaskName:
    """The task that a command line asks for, before there is a parser: it depends on the task.

    --task NAME counts, else the last config that has the key. It is "features" where no task is
    named, or one that the parser will refuse.
    """
    words = resolve_configs(words)
    found: Any = _FEATURES
    for config in named_configs(words):
        if not Path(config).is_file():  # the parser will say so; a pipe would be waited for
            continue
        # One that is no YAML has no such key, as the parser will say.
        with contextlib.suppress(OSError, UnicodeDecodeError, yaml.YAMLError):
            settings = yaml.safe_load(Path(config).read_text(encoding="utf-8"))
            found = settings.get("task", found) if isinstance(settings, dict) else found
    for before, word in zip(("", *words), words, strict=False):
        if before == "--task":
            found = word
        elif word.startswith("--task="):
            found = word.partition("=")[2]
    return found if found in get_args(TaskName) else _FEATURES
