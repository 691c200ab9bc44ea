"""The files that `lightning predict` writes for each image."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
from lightning.pytorch.callbacks import BasePredictionWriter
from PIL import Image

from maskfeat.data.folder import find_images
from maskfeat.evaluate.drawing import ColorProjection, feature_colors, label_colors, strip
from maskfeat.features.reading import Features
from maskfeat.files import holds_one_of, whole_file
from maskfeat.segment.partition import partition


class PredictionWriter(BasePredictionWriter):
    """Writes features, partition and image of each image.

    For KEY.jpg: KEY.npz (the pyramid in float16: `level_0`, `level_1`, ... of shape
    (C_l, h_l, w_l), `strides`, `size` (height, width) and `scale`), KEY_labels.png (16 bit
    segment numbers from 0) and KEY.png (image, features as color, partition). Each file is
    written whole, then renamed.

    Args:
        folder: Where to write.
        num_segments: Segments of the partition.
    """

    def __init__(self, folder: str = "predictions", num_segments: int = 100) -> None:
        super().__init__(write_interval="batch")
        self.folder = Path(folder)
        self.num_segments = num_segments
        self.projection = ColorProjection()  # fitted to the first image, the same for all

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Refuse images that would be written over, or whose files would have one name."""
        place = getattr(getattr(trainer, "datamodule", None), "predict", None)
        if stage == "predict" and place is not None:
            _check_names(find_images(place), self.folder)

    def write_on_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        prediction: Features,
        batch_indices: Sequence[int] | None,
        batch: dict[str, Any],
        batch_idx: int,
        dataloader_idx: int,
    ) -> None:
        """Write what belongs to one image."""
        key, rgb = batch["key"], batch["rgb"]
        labels = partition(prediction, self.num_segments)
        halves = (level.half().cpu().numpy() for level in prediction.pyramid)
        arrays = {f"level_{i}": level for i, level in enumerate(halves)}
        with whole_file(self.folder / f"{key}.npz") as file:
            np.savez(
                file,
                strides=np.array(prediction.strides),
                size=np.array(prediction.size),
                scale=np.float32(prediction.scale),
                **arrays,  # type: ignore[arg-type]
            )
        with whole_file(self.folder / f"{key}_labels.png") as file:
            Image.fromarray(labels.astype(np.uint16)).save(file, "PNG")
        colors = feature_colors(prediction, self.projection)
        with whole_file(self.folder / f"{key}.png") as file:
            Image.fromarray(strip([rgb, colors, label_colors(labels)])).save(file, "PNG")

    def on_predict_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Say where the files are."""
        if trainer.is_global_zero:
            print(f"predictions are in {self.folder}")


def _check_names(paths: Sequence[Path], folder: Path) -> None:
    if holds_one_of(folder, paths):
        raise ValueError(
            f"predictions must go to another folder than that of the images, '{folder}', whose "
            "files could be written over; set folder of PredictionWriter"
        )
    stems = {path.stem for path in paths}
    doubled = [stem for stem in sorted(stems) if f"{stem}_labels" in stems]
    if doubled:
        raise ValueError(
            f"images '{doubled[0]}' and '{doubled[0]}_labels' would both be written as "
            f"'{doubled[0]}_labels.png'; rename one of them"
        )
