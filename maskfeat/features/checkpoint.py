"""Checkpoints that are written whole or not at all, and read as data."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import torch
from fsspec.core import url_to_fs
from lightning.pytorch.plugins.io import TorchCheckpointIO

from maskfeat.features.stored_config import load_archive
from maskfeat.files import whole_file

# Without these Lightning cannot begin to read it.
_ENTRIES = {"state_dict", "pytorch-lightning_version"}
_INSTEAD = "give --ckpt_path the path of one, such as runs/NAME/checkpoints/last.ckpt"


class WholeFileCheckpointIO(TorchCheckpointIO):
    """Writes beside the final name, then renames; reads without unpickling.

    Lightning's own route goes through the system's folder of temporary files and moves the file
    from there; between two file systems that is a copy, which a kill can cut in half. To a url,
    which has no rename, Lightning's route writes.

    What is no checkpoint is refused in a sentence when it is loaded. A checkpoint at a url is
    fetched anew each time and read as a local one is: Lightning would run code that is pickled in
    it, and would keep it under its last name alone, for other urls that end alike.
    """

    def __init__(self) -> None:
        super().__init__()
        self._written_in: set[str] = set()  # folders

    def save_checkpoint(
        self,
        checkpoint: dict[str, Any],
        path: str | Path,
        storage_options: Any = None,  # noqa: ANN401 - Lightning's signature
    ) -> None:
        """Write a checkpoint to a local path, or hand a url to Lightning.

        Raises:
            BaseException: What stopped torch in mid-file: a full disk, Ctrl-C, a killed worker.
        """
        self._written_in.add(_folder_of(path))
        if _is_url(path):
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        with whole_file(path) as file:
            try:
                torch.save(checkpoint, file)
            except RuntimeError as error:
                # torch then closes its zip in mid-entry, and would tell of positions in it alone.
                if error.__context__ is not None:
                    raise error.__context__ from None
                raise

    def load_checkpoint(self, path: str | Path, *args: Any, **kwargs: Any) -> dict[str, Any]:  # noqa: ANN401 - Lightning's signature
        """Read a checkpoint to the CPU, whatever else is asked for.

        Raises:
            FileNotFoundError: If there is none.
            ValueError: If it is no whole checkpoint of `lightning fit`, or a url cannot be fetched.
        """
        if _is_url(path):
            with tempfile.TemporaryDirectory() as folder:
                return _load(_fetched(str(path), Path(folder)), str(path))
        if Path(path).is_dir():
            raise ValueError(f"'{path}' is a folder, no checkpoint of `lightning fit`; {_INSTEAD}")
        if not Path(path).exists():
            raise FileNotFoundError(f"no checkpoint at '{path}'; {_INSTEAD}")
        return _load(Path(path), str(path))

    def remove_checkpoint(self, path: str | Path) -> None:
        """Remove one file from a folder that this run has written a checkpoint in.

        Which file is superseded is read from the checkpoint that training went on from, which may
        come from a stranger: other folders are left alone.
        """
        if _folder_of(path) not in self._written_in:
            return
        if _is_url(path):
            file_system, inner = url_to_fs(str(path))
            file_system.rm_file(inner)
        else:
            Path(path).unlink(missing_ok=True)


def _load(path: Path, origin: str) -> dict[str, Any]:
    instead = _INSTEAD
    if origin.endswith(".safetensors"):
        instead += ", or these weights alone to model.start_from"
    checkpoint = load_archive(path, instead, origin)
    if not isinstance(checkpoint, dict) or not checkpoint.keys() >= _ENTRIES:
        raise ValueError(f"'{origin}' is no checkpoint of `lightning fit`; {instead}")
    return checkpoint


def _fetched(url: str, folder: Path) -> Path:
    """The file at a url, whole, in a folder."""
    path = folder / "fetched.ckpt"
    try:
        file_system, inner = url_to_fs(url)
        file_system.get_file(inner, str(path))
    except Exception as error:  # whatever a transport raises, or that none is installed
        message = str(error) or type(error).__name__
        raise ValueError(f"cannot fetch the checkpoint '{url}': {message}; {_INSTEAD}") from error
    return path


def _is_url(path: str | Path) -> bool:
    return "://" in str(path)


def _folder_of(path: str | Path) -> str:
    """The folder of a file, with one spelling for it."""
    if _is_url(path):
        return str(path).rpartition("/")[0]
    return os.path.realpath(Path(path).parent)
