"""Settings by the names they had in 0.1: flags and keys of configs. They go with 0.3."""

from __future__ import annotations

import re
from typing import Any

import jsonargparse

from maskfeat.data.datamodule import ShardDataModule
from maskfeat.data.settings import GROUP_OF_FORMER_SETTING
from maskfeat.deprecation import warn_renamed


class FormerSettings(jsonargparse.ArgumentParser):
    """A parser that moves settings from the top of `data` to their group, with a `FutureWarning`.

    The library makes a parser of its own for the class of the datamodule, with this class.
    """

    _is_of_datamodule = False

    def add_class_arguments(self, theclass: type, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        """As upstream; remembers whether the class is our datamodule."""
        if isinstance(theclass, type) and issubclass(theclass, ShardDataModule):
            self._is_of_datamodule = True
        return super().add_class_arguments(theclass, *args, **kwargs)

    def parse_args(self, args: Any = None, *more: Any, **settings: Any) -> Any:  # noqa: ANN401
        """As upstream, for flags of the form --augmentation.flip=0."""
        if self._is_of_datamodule:
            args = [_moved(word) for word in args]
        return super().parse_args(args, *more, **settings)

    def parse_object(self, cfg_obj: Any, *more: Any, **settings: Any) -> Any:  # noqa: ANN401
        """As upstream, for the keys of a config."""
        if self._is_of_datamodule:
            for name in [name for name in GROUP_OF_FORMER_SETTING if name in cfg_obj]:
                cfg_obj[_new_name(name)] = cfg_obj.pop(name)
        return super().parse_object(cfg_obj, *more, **settings)


def _moved(word: str) -> str:
    name = re.split("[.=]", word.removeprefix("--"), maxsplit=1)[0]
    if name not in GROUP_OF_FORMER_SETTING:
        return word
    return f"--{_new_name(name)}{word.removeprefix('--' + name)}"


def _new_name(name: str) -> str:
    """GROUP.NAME."""
    new = f"{GROUP_OF_FORMER_SETTING[name]}.{name}"
    warn_renamed(f"data.{name}", f"data.{new}")
    return new
