"""What stopped a run, in one sentence instead of a page of traceback."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType

_PACKAGE = str(Path(__file__).parents[1])


def said_of_failure(error: RuntimeError) -> str | None:
    """A sentence for what can happen to a run without a mistake in the code.

    Args:
        error: As it was raised, with its traceback.

    Returns:
        None for what only a traceback explains.
    """
    text = str(error)
    of_worker = text.startswith("Caught ")  # which hands over its whole traceback as text
    file = text.rpartition('File "')[2] if of_worker else _raised_in(error.__traceback__)
    if file.startswith(_PACKAGE):  # our own, and a sentence already
        return text.strip().rpartition("\n")[2].partition(": ")[2] if of_worker else text
    if "out of memory" in text and type(error).__name__ == "OutOfMemoryError":
        first = text.partition(". ")[0]
        return f"{first}; lower data.batch_size or data.crop_size"
    return None


def _raised_in(traceback: TracebackType | None) -> str:
    """The file in which an error was raised."""
    if traceback is None:
        return ""
    while traceback.tb_next is not None:
        traceback = traceback.tb_next
    return traceback.tb_frame.f_code.co_filename
