"""Read torch's archives as data: nothing is unpickled, and what is wrong is one sentence."""

from __future__ import annotations

import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch


def load_archive(
    path: str | os.PathLike[str], instead: str, origin: str | None = None
) -> dict[str, Any] | Any:  # noqa: ANN401 - what torch.save was given
    """What `torch.save` wrote to a local file, on the CPU; nothing but weights and settings.

    Args:
        path: The file.
        instead: What to do, the end of the sentence.
        origin: How the sentence names the file; null is its path.

    Raises:
        ValueError: If the file is empty, foreign, cut short, damaged (a checksum does not fit), or
            holds more than weights and settings.
        OSError: If it cannot be read.
    """
    try:
        _check_archive(Path(path))
        return torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, MemoryError):  # these are of the machine, not of the file
        raise
    except Exception as error:  # torch raises pickle, zip, end-of-file, runtime and key errors here
        message = f"'{origin or path}' {_fault(Path(path), error)}; {instead}"
        raise ValueError(message) from error


def _check_archive(path: Path) -> None:
    """Compare the archive with its checksums, which torch does not look at.

    Raises:
        ValueError: If one does not fit, or if the archive would be larger than its file.
        zipfile.BadZipFile: If the file is no whole archive.
    """
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
        if sum(entry.file_size for entry in entries) > path.stat().st_size:
            raise ValueError("entries overlap or are compressed, and torch compresses none")
        damaged = archive.testzip()
    if damaged is not None:
        raise ValueError(f"the checksum of '{damaged}' does not fit")


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
