"""The smallest experiment: does brightness alone separate neighboring components?"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from lightning.pytorch import LightningModule, Trainer

from maskfeat.arrays import FloatArray, IntArray
from maskfeat.batch import HeldOutImage
from maskfeat.evaluate.callbacks import HeldOutEvaluation
from maskfeat.evaluate.scoring import HeldOutItems, positive


def share_separated(values: FloatArray, labels: IntArray, margin: float = 0.1) -> float:
    """Share of neighboring components whose means differ by more than a margin, in their unit.

    Of values (H, W) and components int (H, W), -1 for none. Each pair of components that touch
    (4-neighborhood) counts once; NaN where no two touch.
    """
    names, index = np.unique(labels, return_inverse=True)
    index = index.reshape(labels.shape)
    sizes = np.bincount(index.ravel())
    means = np.bincount(index.ravel(), weights=values.ravel()) / sizes
    pairs = np.concatenate(
        [
            np.stack([index[:, :-1].ravel(), index[:, 1:].ravel()]),
            np.stack([index[:-1].ravel(), index[1:].ravel()]),
        ],
        axis=1,
    )
    pairs = np.sort(pairs[:, pairs[0] != pairs[1]], axis=0)
    pairs = np.unique(pairs, axis=1)
    pairs = pairs[:, (names[pairs] >= 0).all(axis=0)]
    if pairs.shape[1] == 0:
        return float("nan")
    return float((np.abs(means[pairs[0]] - means[pairs[1]]) > margin).mean())


class BrightnessEvaluation(HeldOutEvaluation):
    """Logs `val/brightness/separated`, see `share_separated`, for features of one channel.

    The components are those of the finest true partition. Costs about 0.2 s per image.

    Args:
        num_images: Images to use, evenly spaced over all; the same every time.
        margin: Difference of mean brightness that counts, in the unit of the features.
        every_n_validations: Evaluate after the first, then every n-th validation.
        source: Images, a sequence of `HeldOutImage`; null asks the datamodule.
    """

    def __init__(
        self,
        num_images: int = 8,
        margin: float = 0.1,
        every_n_validations: int = 1,
        source: Sequence[HeldOutImage] | HeldOutItems | None = None,
    ) -> None:
        super().__init__(every_n_validations, source)
        positive(num_images=num_images)
        self.num_images = num_images
        self.margin = margin

    def evaluate(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Score and log."""
        evaluation = self.evaluation(trainer, pl_module, stage)

        def score(position: int) -> dict[str, float]:
            image: HeldOutImage = evaluation.items[position]
            dense = evaluation.model.features(image.image).dense()
            if dense.shape[2] != 1:
                raise ValueError(
                    f"brightness needs features of one channel, got {dense.shape[2]}; set the "
                    "net's levels to [0] and c0 to 1"
                )
            return {"separated": share_separated(dense[..., 0], image.partitions[-1], self.margin)}

        chosen = evaluation.chosen(self.num_images)
        scores = evaluation.means(["separated"], chosen, score, "brightness")
        self._log(trainer, pl_module, f"{stage}/brightness", scores)
        if trainer.is_global_zero and scores:
            print(
                f"{scores['separated']:.1%} of neighboring components differ by more than "
                f"{self.margin} in mean brightness"
            )
