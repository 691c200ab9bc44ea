"""Callbacks: when to evaluate, what to log, which images to draw.

These callbacks use two things: `pl_module.features(rgb)` gives `Features`, and
`trainer.datamodule.held_out(stage)` gives held-out images. The first validation of a fit is
evaluated, then every n-th; with ModelCheckpoint(monitor=...) leave n at 1, or checkpoint as rarely.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_warn
from PIL import Image

from maskfeat.arrays import RgbImage
from maskfeat.evaluate.clicking import ClicksWithRadius, pick_target, run_session
from maskfeat.evaluate.drawing import (
    ColorProjection,
    draw_borders,
    draw_clicks,
    feature_colors,
    label_colors,
    overlay_mask,
    strip,
)
from maskfeat.evaluate.scoring import (
    Evaluation,
    Source,
    check_contract,
    click_scores,
    held_out_items,
    partition_scores,
    positive,
    with_progress,
)
from maskfeat.interactive.segmenter import InteractiveSegmenter
from maskfeat.segment.partition import partition


class HeldOutEvaluation(Callback, ABC):
    """Calls `evaluate` after validation and test epochs, on all ranks.

    Args:
        every_n_validations: Evaluate after the first, then every n-th validation.
        source: Held-out items, a sequence; null asks the datamodule for `held_out(stage)`, once
            per stage.
    """

    def __init__(self, every_n_validations: int, source: Source) -> None:
        positive(every_n_validations=every_n_validations)
        self.every_n_validations = every_n_validations
        self.source = source
        self.num_validations = 0
        self._items: dict[str, Sequence[Any]] = {}  # by stage: reading an index anew costs seconds

    @abstractmethod
    def evaluate(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Evaluate and log; `stage` is "val" or "test"."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Check before training, not after the first epoch."""
        check_contract(trainer, pl_module, self.source)
        self._items.clear()

    def held_out(self, trainer: Trainer, stage: str) -> Sequence[Any]:
        """The items of a stage, the same object every time."""
        if stage not in self._items:
            self._items[stage] = held_out_items(trainer, stage, self.source)
        return self._items[stage]

    def evaluation(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> Evaluation:
        """The module on the items of a stage; that it has `features` was checked in `setup`."""
        model: Any = pl_module
        return Evaluation(trainer, pl_module, model, self.held_out(trainer, stage))

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Evaluate, if it is time."""
        if trainer.sanity_checking:
            return
        if self.num_validations % self.every_n_validations == 0:
            self.evaluate(trainer, pl_module, "val")
        self.num_validations += 1

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Evaluate."""
        self.evaluate(trainer, pl_module, "test")

    def _log(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        prefix: str,
        scores: Mapping[str, float],
    ) -> None:
        if not scores:
            rank_zero_warn(f"nothing could be scored for {prefix}; are there held-out images?")
        tagged = {f"{prefix}/{name}": value for name, value in scores.items()}
        # Equal on all ranks; the mean over them only avoids a warning for each number.
        pl_module.log_dict(tagged, sync_dist=trainer.world_size > 1)


class PartitionEvaluation(HeldOutEvaluation):
    """Cuts held-out images into segments and logs how well these fit the true ones.

    Logs `val/partition/asa_100`, `boundary_recall_100`, `covering_100`, `components_100` and so on
    (see `score_partition`), `val/pairs/auc` and `auc_votes` (see `score_pairs`); after a test
    `test/...`.
    Cost: 1.1 s per image on one core (481 x 321 pixels, five annotators, three numbers of
    segments, the 85 channels of the default net; an eighth of it is the net).

    Args:
        num_segments: Segments to ask for.
        num_images: Held-out images to use, evenly spaced over all; the same every time.
        every_n_validations: Evaluate after the first, then every n-th validation.
        source: Held-out images, a sequence of `HeldOutImage`; null asks the datamodule for
            `held_out(stage)`. In a config, a class: class_path: maskfeat.data.heldout.ShardImages.
        name: Middle part of the tags, to tell two of these apart.
    """

    def __init__(
        self,
        num_segments: Sequence[int] = (25, 100, 400),
        num_images: int = 20,
        every_n_validations: int = 1,
        source: Source = None,
        name: str = "partition",
    ) -> None:
        super().__init__(every_n_validations, source)
        positive(num_images=num_images, **{f"num_segments {k}": k for k in num_segments})
        self.num_segments = tuple(num_segments)
        self.num_images = num_images
        self.name = name

    def evaluate(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Score and log."""
        evaluation = self.evaluation(trainer, pl_module, stage)
        scores = partition_scores(evaluation, self.num_images, self.num_segments)
        auc: dict[str, float] = {
            name: scores.pop(name) for name in ("auc", "auc_votes") if name in scores
        }
        self._log(trainer, pl_module, f"{stage}/{self.name}", scores)
        pairs = "pairs" if self.name == "partition" else f"{self.name}_pairs"
        self._log(trainer, pl_module, f"{stage}/{pairs}", auc)


class InteractiveEvaluation(HeldOutEvaluation):
    """Lets a simulated user click held-out objects and logs how many clicks it takes.

    Logs `val/interactive/noc_80` to `noc_95`, and the mean IoU by click: `iou_1`, `iou_3`, ... and
    `iou_mean` (see `summarize_clicks`); `test/...` after a test.
    Cost: 0.8 s per object of 20 clicks on one core (640 x 480 pixels, the 85 channels of the
    default net), half of it before the first click.

    Args:
        num_targets: Objects to click. Of held-out images each gives one (see `pick_target`)
            before any gives a second.
        max_clicks: Clicks per object.
        every_n_validations: Evaluate after the first, then every n-th validation.
        source: A sequence of `HeldOutImage` or of `ClickTarget`; null asks the datamodule for
            `held_out(stage)`. In a config, a class: class_path: maskfeat.data.heldout.ClickFolder.
        name: Middle part of the tags, to tell two of these apart.
    """

    def __init__(
        self,
        num_targets: int = 20,
        max_clicks: int = 20,
        every_n_validations: int = 1,
        source: Source = None,
        name: str = "interactive",
    ) -> None:
        super().__init__(every_n_validations, source)
        positive(num_targets=num_targets, max_clicks=max_clicks)
        self.num_targets = num_targets
        self.max_clicks = max_clicks
        self.name = name

    def evaluate(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Score and log."""
        evaluation = self.evaluation(trainer, pl_module, stage)
        scores = click_scores(evaluation, self.num_targets, self.max_clicks)
        self._log(trainer, pl_module, f"{stage}/{self.name}", scores)


class FeatureStrips(HeldOutEvaluation):
    """Draws what the features see: image, features as colors, partition, object after clicks.

    To TensorBoard as `val/strip/KEY`, and as PNG in the folder `strips` of the run. Rank zero
    draws. The colors of features are a projection fixed at first use (see `ColorProjection`); the
    tag of one-channel features names the range of the gray scale. Cost: 1.3 s per image on one core
    (481 x 321 pixels, the 85 channels of the default net).

    Args:
        num_images: Held-out images to draw, evenly spaced over all; the same every time.
        num_segments: Segments of the partition.
        num_clicks: Clicks of the simulated user on one true mask, see `pick_target`; without one
            the last panel is the image.
        every_n_validations: Draw after the first, then every n-th validation.
        value_range: For features of one channel: the values that become black and white,
            (-1, 1) after tanh, (0, 1) after sigmoid.
        source: Held-out images, a sequence of `HeldOutImage`; null asks the datamodule for
            `held_out(stage)`. In a config, a class: class_path: maskfeat.data.heldout.ShardImages.
        name: Middle part of the tags, to tell two of these apart.
    """

    def __init__(
        self,
        num_images: int = 4,
        num_segments: int = 100,
        num_clicks: int = 3,
        every_n_validations: int = 1,
        value_range: tuple[float, float] = (-1.0, 1.0),
        source: Source = None,
        name: str = "strip",
    ) -> None:
        super().__init__(every_n_validations, source)
        positive(num_images=num_images, num_segments=num_segments, num_clicks=num_clicks)
        self.num_images = num_images
        self.num_segments = num_segments
        self.num_clicks = num_clicks
        self.name = name
        self.projection = ColorProjection(value_range)

    def evaluate(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Draw on rank zero."""
        log_dir = trainer.log_dir  # asks rank zero: all ranks must come by here
        if not trainer.is_global_zero:
            return
        evaluation = self.evaluation(trainer, pl_module, stage)
        images = [evaluation.items[index] for index in evaluation.chosen(self.num_images)]
        features = [evaluation.model.features(image.image) for image in images]
        if features and not self.projection.is_fitted:
            self.projection.fit(features)
        pairs = list(zip(images, features, strict=True))
        for image, seen in with_progress(trainer, pairs, f"{stage}/{self.name}"):
            labels = partition(seen, self.num_segments)
            segments = draw_borders(label_colors(labels), labels)
            clicked, target = image.image, pick_target(image)
            if target is not None:
                segmenter = ClicksWithRadius(InteractiveSegmenter(evaluation.model))
                mask, clicks_yx, signs = run_session(segmenter, target, self.num_clicks)[-1]
                clicked = draw_clicks(overlay_mask(image.image, mask), clicks_yx, signs)
            colors = feature_colors(seen, self.projection)
            drawn = strip([image.image, colors, segments, clicked])
            self._write(trainer, stage, image.key, drawn, log_dir)

    def _write(
        self, trainer: Trainer, stage: str, key: str, strip_image: RgbImage, log_dir: str | None
    ) -> None:
        tag = f"{stage}/{self.name}/{key}"
        if self.projection.num_channels == 1:
            low, high = self.projection.value_range
            tag += f" (grey {low:g} to {high:g})"
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                logger.experiment.add_image(
                    tag, strip_image, trainer.global_step, dataformats="HWC"
                )
        if log_dir is not None:
            folder = Path(log_dir) / "strips"
            folder.mkdir(parents=True, exist_ok=True)
            name = f"{stage}_{self.name}_{key}".replace("/", "_").replace("\\", "_")
            Image.fromarray(strip_image).save(folder / f"{name}_step{trainer.global_step:07d}.png")
