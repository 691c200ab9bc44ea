"""Why a file is no checkpoint, in one sentence instead of torch's paragraphs."""

from __future__ import annotations

import contextlib
import os
import pickle
import zipfile
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def unreadable_in_a_sentence(path: str | os.PathLike[str], instead: str) -> Iterator[None]:
    """Around `torch.load` of a local file.

    Args:
        path: The file.
        instead: What to do, the end of the sentence.

    Raises:
        ValueError: If torch cannot load the file: that it is empty, foreign, cut short, damaged, or
            holds more than weights and settings.
    """
    try:
        yield
    except (OSError, MemoryError):  # these are of the machine, not of the file
        raise
    except Exception as error:  # torch raises pickle, zip, end-of-file, runtime and key errors here
        raise ValueError(f"'{path}' {_fault(Path(path), error)}; {instead}") from error


def _fault(path: Path, error: Exception) -> str:
    with path.open("rb") as file:
        start = file.read(4)
    if not start:
        return "is an empty file, no checkpoint"
    if start != b"PK\x03\x04":  # torch writes zips
        return "is no checkpoint of `lightning fit`"
    if not zipfile.is_zipfile(path):  # whose table of contents stands at the end
        return "is a checkpoint that is cut short"
    if isinstance(error, pickle.UnpicklingError):
        return "cannot be read as a checkpoint without unpickling code, which could do harm"
    return "is a checkpoint that is damaged"
