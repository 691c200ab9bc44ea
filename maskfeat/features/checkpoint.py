"""Checkpoints that are written whole or not at all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO

from maskfeat.features.unreadable import unreadable_in_a_sentence
from maskfeat.files import whole_file

# Without these Lightning cannot begin to read it.
_ENTRIES = {"state_dict", "pytorch-lightning_version"}
_INSTEAD = "give --ckpt_path the path of one, such as runs/NAME/checkpoints/last.ckpt"


class WholeFileCheckpointIO(TorchCheckpointIO):
    """Writes beside the final name, then renames.

    Lightning's own route goes through the system's folder of temporary files and moves the file
    from there; between two file systems that is a copy, which a kill can cut in half.
    Remote urls take Lightning's route.

    What is no checkpoint is refused in a sentence when it is loaded.
    """

    def save_checkpoint(
        self,
        checkpoint: dict[str, Any],
        path: str | Path,
        storage_options: Any = None,  # noqa: ANN401 - Lightning's signature
    ) -> None:
        """Write a checkpoint to a local path, or hand a url to Lightning."""
        if "://" in str(path):
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        with whole_file(path) as file:
            try:
                torch.save(checkpoint, file)
            except RuntimeError as error:
                # Behind torch's words on positions in its zip stands, for one, a full disk.
                if isinstance(error.__context__, OSError):
                    raise error.__context__ from None
                raise

    def load_checkpoint(self, path: str | Path, *args: Any, **kwargs: Any) -> dict[str, Any]:  # noqa: ANN401 - Lightning's signature
        """Read a checkpoint.

        Raises:
            FileNotFoundError: If there is none.
            ValueError: If a local file is no whole checkpoint of `lightning fit`.
        """
        if "://" in str(path):
            return super().load_checkpoint(path, *args, **kwargs)
        if Path(path).is_dir():
            raise ValueError(f"'{path}' is a folder, no checkpoint of `lightning fit`; {_INSTEAD}")
        if not Path(path).exists():
            raise FileNotFoundError(f"no checkpoint at '{path}'; {_INSTEAD}")
        instead = _INSTEAD
        if Path(path).suffix == ".safetensors":
            instead += ", or these weights alone to model.start_from"
        with unreadable_in_a_sentence(path, instead):
            checkpoint = super().load_checkpoint(path, *args, **kwargs)
        if not isinstance(checkpoint, dict) or not checkpoint.keys() >= _ENTRIES:
            raise ValueError(f"'{path}' is no checkpoint of `lightning fit`; {instead}")
        return checkpoint
