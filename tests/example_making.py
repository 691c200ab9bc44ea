"""Examples as tests make them: the sizes first, then what varies."""

from __future__ import annotations

from typing import Any

from maskfeat.data.augment import ExampleMaker
from maskfeat.data.settings import Augmentation, ExampleSettings


def example_maker(
    crop_size: int,
    num_points: int,
    max_masks: int,
    augmentation: Augmentation | None = None,
    **more: Any,
) -> ExampleMaker:
    """An `ExampleMaker` for these sizes."""
    settings = ExampleSettings(
        crop_size=crop_size, num_points=num_points, max_masks=max_masks, **more
    )
    return ExampleMaker(settings, augmentation)
