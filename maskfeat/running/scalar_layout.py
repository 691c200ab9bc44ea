"""Which curves stand together on TensorBoard's page CUSTOM SCALARS."""

from __future__ import annotations

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger

# Charts by group; the tags of each as regular expressions. Curves that a run does not log are
# left out, so a chart may stay empty: memory without a GPU, say.
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
        "IoU after so many clicks": ["val/.+/iou_[0-9]+$"],
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
