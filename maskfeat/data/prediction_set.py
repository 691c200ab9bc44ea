"""Images to be predicted on, as a loader takes them."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from torch.utils.data import IterableDataset

from maskfeat.data.folder import read_image


class PredictionImages(IterableDataset[dict[str, Any]]):
    """Images one after another; one that cannot be read is named in the log and left out.

    Args:
        paths: Files.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = paths

    def __len__(self) -> int:
        """Images at most; a progress bar has an end then."""
        return len(self.paths)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """{"key": name without ending, "rgb": uint8 (H, W, 3)} for each image."""
        for path in self.paths:
            try:
                yield {"key": path.stem, "rgb": read_image(path)}
            except ValueError as error:
                logging.getLogger("maskfeat").warning("left out: %s", error)
