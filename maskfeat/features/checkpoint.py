"""Checkpoints that are written whole or not at all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO

from maskfeat.files import whole_file


class WholeFileCheckpointIO(TorchCheckpointIO):
    """Writes beside the final name, then renames.

    Lightning's own route goes through the system's folder of temporary files and moves the file
    from there; between two file systems that is a copy, which a kill can cut in half.
    Remote urls take Lightning's route.
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
