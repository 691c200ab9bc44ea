"""Sets that are read in a fixed order: held-out crops, and images to be predicted on."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.data import Dataset, IterableDataset

from maskfeat.batch import Example, SkippedSample
from maskfeat.data.folder import read_image
from maskfeat.data.order.loaders import MakeExample, first_readable
from maskfeat.data.shards.indexed import IndexedShards


class HeldOutExamples(Dataset[Any]):
    """The middle crop of held-out images, always the same.

    Args:
        shards: The images.
        indices: Which of them.
        make_example: Cuts an example out of one.
    """

    def __init__(
        self, shards: IndexedShards, indices: Sequence[int], make_example: MakeExample
    ) -> None:
        self.shards = shards
        self.indices = indices
        self.make_example = make_example

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, item: int) -> list[Example | SkippedSample]:
        """The example; where it cannot be read, the next one that can be."""
        rotated = itertools.chain(self.indices[item:], self.indices[:item])
        return first_readable(
            self.shards,
            rotated,
            lambda s: self.make_example(s, np.random.default_rng(self.indices[item])),
        )


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
