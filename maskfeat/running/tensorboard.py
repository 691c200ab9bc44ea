"""What a run writes to TensorBoard beside its curves: HPARAMS and CUSTOM SCALARS."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger

# Settings of the datamodule that runs are compared by.
_OF_DATA = ("batch_size", "crop_size", "num_points", "max_masks", "epoch_images", "short_side")
# Charts by group; the tags of each as regular expressions. Curves that a run does not log are
# left out, so a chart may stay empty, e.g. memory without a GPU.
LAYOUT = {
    "training": {
        "loss": ["train/loss$", "val/loss$"],
        "parts of the loss": ["train/loss_.+"],
        "learning rate": ["train/lr$"],
        "gradient norm before clipping": ["train/grad_norm$"],
    },
    "throughput": {
        "images per second, all devices": ["throughput/images_per_s$"],
        "masks per second, all devices": ["throughput/masks_per_s$"],
        "share of the time spent waiting for the input": ["throughput/input_wait_share$"],
        "GPU memory, GB": ["throughput/gpu_memory_gb$"],
        "skipped samples": ["data/skipped.*"],
    },
    "partition": {
        "achievable segmentation accuracy": ["val/.+/asa_.+"],
        "boundary recall": ["val/.+/boundary_recall_.+"],
        "covering": ["val/.+/covering_.+"],
        "variation of information": ["val/.+/voi_.+"],
        "AUC of pixel pairs": ["val/.+/auc$"],
    },
    "clicks": {
        "clicks to an IoU, percent": ["val/.+/noc_.+"],
        "IoU after n clicks": ["val/.+/iou_[0-9]+$"],
    },
}


class ScalarLayout(Callback):
    """Writes the layout of TensorBoard's page CUSTOM SCALARS when a fit starts, by rank zero.

    One page shows the run: training, throughput, partition, clicks. Needs a TensorBoardLogger;
    with other loggers nothing is written.
    """

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write it."""
        if not trainer.is_global_zero:
            return
        layout = {
            group: {name: ["Multiline", tags] for name, tags in charts.items()}
            for group, charts in LAYOUT.items()
        }
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                logger.experiment.add_custom_scalars(layout)


class RunSummary(Callback):
    """Writes the hyper-parameters of a fit with its last metrics when training ends.

    Runs below one `save_dir` can then be sorted and plotted by either. Needs a TensorBoardLogger
    with `default_hp_metric: false`; with other loggers nothing is written.
    """

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the line, once, by the first process."""
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
        if not metrics or not trainer.is_global_zero:
            return
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                # With the step, or the metrics stand at step 0, and every curve turns back there.
                settings = settings_of(trainer, pl_module)
                logger.log_hyperparams(settings, metrics, trainer.global_step)


def settings_of(trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
    """Settings of the task, its network and loss, the data and the trainer, by dotted names."""
    datamodule: Any = trainer.datamodule  # type: ignore[attr-defined]
    found: dict[str, Any] = {"steps": trainer.global_step, "precision": trainer.precision}
    found["images_per_step"] = trainer.world_size * trainer.accumulate_grad_batches
    found["images_per_step"] *= getattr(datamodule, "batch_size", None) or 1
    # Lightning's own entries, such as `_instantiator`, begin with an underscore.
    found |= {name: value for name, value in pl_module.hparams.items() if name[0] != "_"}
    net, loss = getattr(pl_module, "net", None), getattr(pl_module, "loss", None)
    found |= _dotted("net", getattr(net, "config", {}))
    found["loss"] = type(loss).__name__
    examples = getattr(datamodule, "examples", None)
    of_data = {name: getattr(datamodule, name, getattr(examples, name, None)) for name in _OF_DATA}
    return found | _dotted("data", of_data)


def _dotted(prefix: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    return {f"{prefix}.{name}": value for name, value in settings.items() if value is not None}
