"""What stopped a command, in one sentence instead of a page of traceback."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from traceback import walk_tb

_PACKAGE = str(Path(__file__).parents[1])


@contextlib.contextmanager
def in_one_sentence() -> Iterator[None]:
    """End the program with one sentence for what a user can cause, not with a traceback."""
    try:
        yield
    except SystemExit as stop:
        if isinstance(stop.__context__, KeyboardInterrupt):  # Lightning ends with 1
            sys.exit(130)
        raise
    except (ValueError, OSError) as error:
        # Without a file name, as for a lost connection, only the place in the code helps.
        names_none = isinstance(error, OSError) and error.strerror and error.filename is None
        sentence = _cause_of(error) if names_none else _sentence_of(error)
        if is_debugging() or sentence is None:
            raise
        sys.exit(f"error: {sentence}")
    except (RuntimeError, EOFError) as error:
        sentence = _cause_of(error)
        if sentence is None or is_debugging():
            raise
        sys.exit(f"error: {sentence}")


def _cause_of(error: Exception) -> str | None:
    """A sentence for an error of a library, with what to do; None where nothing is known."""
    from maskfeat.data.order.workers import death_of_worker

    of_run = sentence_of_run(error) if isinstance(error, RuntimeError) else None
    return death_of_worker(error) or of_run


def _sentence_of(error: ValueError | OSError) -> str:
    """What was wrong, without the number of an error of the system, and with its file."""
    if isinstance(error, OSError) and error.filename is not None:
        is_there = isinstance(error, FileExistsError)  # where a folder was to be made
        reason = "a file of this name is in the way" if is_there else error.strerror
        return f"cannot read or write '{os.fsdecode(error.filename)}': {reason}"
    from maskfeat.parser_errors import in_one_line

    sentence = in_one_line(str(error))
    if not sentence.startswith("Caught "):
        return sentence
    # A worker of a loader hands over its whole traceback; the last line is the error.
    return re.sub(r"^(Original )?\w+Error: ", "", sentence.strip().rpartition("\n")[2])


def is_debugging() -> bool:
    """Whether tracebacks are wanted: the logger "maskfeat" is set to DEBUG."""
    return logging.getLogger("maskfeat").isEnabledFor(logging.DEBUG)


def sentence_of_run(error: RuntimeError) -> str | None:
    """A sentence for what can happen to a run without a mistake in the code.

    None for what only a traceback explains. The error must still have its own.
    """
    text = str(error)
    of_worker = text.startswith("Caught ")  # which hands over its whole traceback as text
    raised_in = [frame.f_code.co_filename for frame, _ in walk_tb(error.__traceback__)]
    file = text.rpartition('File "')[2] if of_worker else "".join(raised_in[-1:])
    if file.startswith(_PACKAGE):  # our own, and a sentence already
        return text.strip().rpartition("\n")[2].partition(": ")[2] if of_worker else text
    if "out of memory" in text and type(error).__name__ == "OutOfMemoryError":
        first = text.partition(". ")[0]
        return f"{first}; lower data.batch_size or data.examples.crop_size"
    return None
