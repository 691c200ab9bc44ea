"""What a parser of commands says of a value that does not fit, in one line."""

from __future__ import annotations

import re
from typing import NoReturn

import jsonargparse

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

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """End the program with the message, in one line."""
        super().error(in_one_line(message), ex)


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
    said = _in_plain_words("; ".join(faults))
    given = _GIVEN.search(message)
    if given and ", got " not in said and not given[1].startswith(("NestedArg(", "Namespace(")):
        said += f", got {given[1]}"
    # The parser of a class has said its part in one line already.
    joint = "." if re.match(r"[\w.]+: expected ", said) else ": "
    return ".".join(keys) + joint + said if keys else said


def _in_plain_words(text: str) -> str:
    text = re.sub(r"<class '(?:\w+\.)*(\w+)'>", r"\1", text)
    text = re.sub(r"Expected a typing\.Literal\[([^\]]*)\]", r"expected one of \1", text)
    text = text.replace("Expected a int", "expected an int").replace("Expected a", "expected a")
    return text.replace(". Got value: ", ", got ")
