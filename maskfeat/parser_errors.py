"""Errors of the command line's parser, in one line."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import jsonargparse
import yaml

from maskfeat.packaged import config_names, resolve_config

_KEY = re.compile(r'Parser key "([^"]+)":')
_NO_MODULE = re.compile(r"No module named '([^']+)'")
_GIVEN = re.compile(r"Given value: (.*)")
# How the parser tried; and that an option may be null is no help.
_NO_FAULT = re.compile(
    r"Parser key|Does not validate|Subtypes:|Errors:|Problem with given class_path|Given value|"
    r"Expected a <class 'NoneType'>|Not a valid subclass|Subclass types expect|"
    r"a class path \(str\)|a dict with|a dict without|expected a path but"
)


class OneLineErrors(jsonargparse.ArgumentParser):
    """Leaves out of an error what was tried before the parser gave up."""

    def parse_args(self, args: Any = None, *more: Any, **settings: Any) -> Any:  # noqa: ANN401
        """Parse words, once bare names of packaged configs are paths and all configs are YAML."""
        words = resolve_configs(sys.argv[1:] if args is None else args)
        for file in named_configs(words):
            fault = fault_of_config(file)
            if fault is not None:
                self.error(fault)
        return super().parse_args(words, *more, **settings)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """End the program with the message, in one line."""
        super().error(in_one_line(message), ex)


def fault_of_config(file: str) -> str | None:
    """What is wrong with a config as YAML, with file, line and column; None if nothing is.

    Args:
        file: The value of --config: a file, or settings themselves, which are not looked at.
    """
    path = Path(file)
    try:
        if not path.exists():
            is_settings = "{" in file or "\n" in file or ": " in file
            known = ", ".join(config_names())
            fault = f"no config at '{file}'; name a YAML file, or one that is packaged: {known}"
            return None if is_settings else fault
        if not path.is_file():
            return f"config '{file}' must be a YAML file, but is none"
        content = yaml.compose(path.read_text(encoding="utf-8"), yaml.SafeLoader)
    except OSError as error:
        return f"cannot read config '{file}': {error.strerror}"
    except UnicodeDecodeError as error:
        return f"config '{file}' must be UTF-8 text, but byte {error.start} is none"
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = "" if mark is None else f", line {mark.line + 1}, column {mark.column + 1}"
        is_tab = "cannot start any token" in str(error.problem)
        hint = " (a tab? YAML indents by spaces)" if is_tab else ""
        return f"config '{file}'{place} is no YAML: {error.problem}{hint}"
    except yaml.YAMLError as error:
        return f"config '{file}' is no YAML: {str(error).splitlines()[0]}"
    if content is None:
        return f"config '{file}' must hold settings, NAME: VALUE, but is empty"
    if not isinstance(content, yaml.MappingNode):
        is_list = isinstance(content, yaml.SequenceNode)
        got = "a list" if is_list else repr(str(content.value)[:40])
        return f"config '{file}' must hold settings, NAME: VALUE, got {got}"
    return None


def resolve_configs(words: Any) -> Any:  # noqa: ANN401 - settings from Python are left alone
    """Replace bare names of packaged configs, in `--config NAME` and `--config=NAME`."""
    if not isinstance(words, (list, tuple)):
        return words
    resolved = []
    for before, word in zip(("", *words), map(str, words), strict=False):
        name, equals, value = word.partition("=")
        if before in ("-c", "--config"):
            resolved.append(resolve_config(word))
        elif name == "--config" and equals:
            resolved.append(f"--config={resolve_config(value)}")
        else:
            resolved.append(word)
    return resolved


def named_configs(words: object) -> Iterator[str]:
    """The files that are given as configs, by --config, or in place of a group of settings."""
    if not isinstance(words, (list, tuple)):
        return  # settings from Python
    for before, word in zip(("", *words), words, strict=False):
        name, equals, value = str(word).partition("=")
        if before in ("-c", "--config"):
            yield str(word)
        elif name == "--config" and equals:
            yield value
        elif (file := value or name).endswith((".yaml", ".yml")) and Path(file).is_file():
            yield file


def in_one_line(message: str) -> str:
    """The option and what is wrong with its value, of jsonargparse's paragraph.

    Returns:
        One line; the message as it is, if it is of another form.
    """
    keys = list(dict.fromkeys(_KEY.findall(message)))
    lines = [line.strip().removeprefix("- ") for line in message.splitlines()]
    faults = list(dict.fromkeys(line for line in lines if line and not _NO_FAULT.match(line)))
    missing = _NO_MODULE.search(message)
    if missing:  # that it is no path or no subclass either, only misleads
        faults = [
            f"no module named '{missing[1]}', neither in the working folder nor installed; "
            "class_path is MODULE.CLASS"
        ]
    if not faults or not (keys or "Does not validate" in message):
        return message
    fault = re.sub(r"<class '(?:\w+\.)*(\w+)'>", r"\1", "; ".join(faults))
    fault = re.sub(r"Expected a typing\.Literal\[([^\]]*)\]", r"expected one of \1", fault)
    fault = fault.replace("Expected a int", "expected an int").replace("Expected a", "expected a")
    fault = fault.replace(". Got value: ", ", got ")
    given = _GIVEN.search(message)
    if given and ", got " not in fault and not given[1].startswith(("NestedArg(", "Namespace(")):
        fault += f", got {given[1]}"
    # The parser of a class gives one line already.
    joint = "." if re.match(r"[\w.]+: expected ", fault) else ": "
    return ".".join(keys) + joint + fault if keys else fault
