"""Names of before, which work for one release more."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


def renamed_argument(old: str, new: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Let a function take an argument by its former name, with a `FutureWarning`.

    Args:
        old: The former name.
        new: The name of today.

    Raises:
        TypeError: By the function, when it is called with both.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        name = function.__qualname__.removesuffix(".__init__")

        @functools.wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            if old in kwargs:
                warn_renamed(f"{name}({old}=...)", f"{new}=...")
                if new in kwargs:
                    raise TypeError(f"{name} got both {new} and {old}, its former name")
                kwargs[new] = kwargs.pop(old)
            return function(*args, **kwargs)

        return call

    return decorate


# Command, option of 0.1 -> option of today.
_OPTIONS = {
    ("shards stats", "--picture"): "--image",
    ("annotate", "--order"): "--acquisition",
}


def current_options(command: str, words: Sequence[str]) -> list[str]:
    """Replace options by the names they have today, with a `FutureWarning`.

    Args:
        command: The words that name the command, as "shards stats".
        words: What follows them; an option is --name or --name=value.
    """
    current = []
    for word in words:
        option, equals, value = word.partition("=")
        new = _OPTIONS.get((command, option))
        if new is not None:
            warn_renamed(f"maskfeat {command} {option}", new)
        current.append(word if new is None else f"{new}{equals}{value}")
    return current


def current_command(words: Sequence[str]) -> list[str]:
    """The words of today for `clicks fit ...`, with a `FutureWarning`."""
    warn_renamed("maskfeat clicks fit", "maskfeat fit --config clicks, or --task clicks")
    return [*words[1:2], "--task=clicks", *words[2:]]


def grouped_arguments(group_of: Mapping[str, str]) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Let a function take arguments that are now fields of another one, with a `FutureWarning`.

    Args:
        group_of: For each former argument the argument, a dataclass with a default, that has it
            as a field of the same name.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        parameters = inspect.signature(function).parameters

        @functools.wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            for old in [name for name in kwargs if name in group_of]:
                group = group_of[old]
                warn_renamed(f"{old}=...", f"a field of {group}=...")
                before: Any = kwargs.get(group, parameters[group].default)
                kwargs[group] = dataclasses.replace(before, **{old: kwargs.pop(old)})
            return function(*args, **kwargs)

        return call

    return decorate


def warn_renamed(old: str, new: str) -> None:
    """Say that a name has changed, at the line that called our function."""
    warnings.warn(
        f"{old} is now {new}; the former name goes with the next release",
        FutureWarning,
        stacklevel=3,
    )
