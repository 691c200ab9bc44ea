"""Hierarchies of held-out images: the scores of all their partitions, and when to log them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from lightning.pytorch import LightningModule, Trainer

from maskfeat.arrays import Float64Array
from maskfeat.batch import HeldOutImage
from maskfeat.evaluate.callbacks import HeldOutEvaluation
from maskfeat.evaluate.metrics import (
    BoundaryOverScales,
    MeanScores,
    NestedOverlap,
    OverScales,
    boundary_counts,
)
from maskfeat.evaluate.scoring import Evaluation, Source, positive, with_progress
from maskfeat.segment.hierarchy import Hierarchy, hierarchy
from maskfeat.segment.tree import PartitionTree

# Where hierarchies are cut, the same for all images.
GRANULARITIES = tuple(float(g) for g in np.linspace(0.99, 0.01, 99).round(2))
# Where boundaries are compared, which takes longest: every twelfth.
BOUNDARY_GRANULARITIES = GRANULARITIES[::12]
_CURVES = {"covering": True, "pri": True, "voi": False}  # whether higher is better
_SINGLES = (
    "ar_10",
    "ar_100",
    "ar_1000",
    "covering_own_level",
    "covering_any_node",
    "segments_at_half",
)


@dataclass(frozen=True)
class HierarchyScores:
    """Scores of one image, each the mean over annotators.

    Attributes:
        curves: `covering`, `pri` and `voi` at each granularity asked for.
        singles: `ar_n`, average recall of the n uppermost nodes, for the annotator with the
            median number of segments; `covering_own_level`, with the best granularity for each
            annotator; `covering_any_node`, with the best node for each true segment;
            `segments_at_half`, segments at granularity 0.5.
    """

    curves: dict[str, list[float]]
    singles: dict[str, float]


def score_hierarchy(
    found: Hierarchy, image: HeldOutImage, granularities: Sequence[float] = GRANULARITIES
) -> HierarchyScores:
    """Compare all partitions of a hierarchy, cut at some granularities, with the true ones.

    Raises:
        ValueError: If the image has no partition, or another size than the hierarchy.
    """
    altitudes = [1 - granularity for granularity in granularities]
    scores = score_tree(found.tree, found.superpixel_labels, image, altitudes)
    scores.singles["segments_at_half"] = float(found.tree.groups_at(0.5).max() + 1)
    return scores


def score_tree(
    tree: PartitionTree,
    leaf_labels: npt.NDArray[np.integer],
    image: HeldOutImage,
    altitudes: Sequence[float],
) -> HierarchyScores:
    """Compare all partitions of any tree with the true ones, whatever its altitudes mean.

    Labels are the leaf of each pixel, (H, W). All scores but `segments_at_half`.

    Raises:
        ValueError: If the image has no partition, or another size than the labels.
    """
    if not image.partitions:
        raise ValueError(f"image {image.key!r} has no true partition to compare with")
    overlaps = [NestedOverlap(tree, leaf_labels, target) for target in image.partitions]
    by_annotator = [[o.scores_at(altitude) for altitude in altitudes] for o in overlaps]
    curves = {
        name: np.mean([[at[name] for at in curve] for curve in by_annotator], axis=0).tolist()
        for name in _CURVES
    }
    order = np.argsort([len(overlap.target_sizes) for overlap in overlaps], kind="stable")
    median = overlaps[int(order[(len(order) - 1) // 2])]
    singles = {f"ar_{n}": median.average_recall(n) for n in (10, 100, 1000)}
    singles["covering_own_level"] = float(
        np.mean([max(at["covering"] for at in curve) for curve in by_annotator])
    )
    singles["covering_any_node"] = float(np.mean([o.best_covering() for o in overlaps]))
    return HierarchyScores(curves, singles)


def tree_boundary_counts(
    tree: PartitionTree,
    leaf_labels: npt.NDArray[np.integer],
    image: HeldOutImage,
    altitudes: Sequence[float],
    max_segments: int | None = None,
) -> Float64Array:
    """Compare the boundaries of the cuts of a tree with the true ones, as BSDS500 does.

    Args:
        tree: The tree.
        leaf_labels: Leaf of each pixel, shape (H, W).
        image: With at least one true partition.
        altitudes: Where to cut, each above the one before.
        max_segments: Cuts into more segments are not compared, and count as without boundaries.

    Returns:
        `boundary_counts` of each cut, float64, shape (T, 4). About 0.15 s for each cut that
        differs from the one before (481 x 321 pixels, five annotators, one core).
    """
    found: dict[int, Float64Array] = {}  # cuts are nested: as many groups, the same cut
    rows = []
    for altitude in altitudes:
        groups = tree.groups_at(altitude)
        num_groups = int(groups.max()) + 1
        if max_segments is not None and num_groups > max_segments:
            groups, num_groups = np.zeros_like(groups), 1
        if num_groups not in found:
            found[num_groups] = boundary_counts(groups[leaf_labels], image.partitions)
        rows.append(found[num_groups])
    return np.stack(rows)


def hierarchy_scores(evaluation: Evaluation, num_images: int) -> dict[str, float]:
    """Scores over evenly spaced images, equal on all ranks; all processes must call this.

    Returns:
        `covering_ods`, `covering_ois` and so on, see `OverScales`, `covering_granularity`, the
        best common one, `boundary_f_ods` and `_ois`, see `BoundaryOverScales`, and the means of the
        single scores; empty where nothing was scored.
    """
    trainer, device = evaluation.trainer, evaluation.pl_module.device
    curves = {n: OverScales(len(GRANULARITIES), up).to(device) for n, up in _CURVES.items()}
    boundaries = BoundaryOverScales(len(BOUNDARY_GRANULARITIES)).to(device)
    singles = MeanScores(_SINGLES).to(device)
    singles.update({})  # or torchmetrics takes a rank without items for a mistake
    nothing = [float("nan")] * len(GRANULARITIES)  # counted by no mean
    for metric in curves.values():
        metric.update(nothing)
    boundaries.update(np.zeros((len(BOUNDARY_GRANULARITIES), 4)))
    mine = evaluation.chosen(num_images)[trainer.global_rank :: trainer.world_size]
    for index in with_progress(trainer, mine, evaluation.title("hierarchies")):
        image: HeldOutImage = evaluation.items[index]
        if not image.partitions:
            continue
        found = hierarchy(evaluation.model.features(image.image))
        scores = score_hierarchy(found, image)
        altitudes = [1 - granularity for granularity in BOUNDARY_GRANULARITIES]
        boundaries.update(
            tree_boundary_counts(found.tree, found.superpixel_labels, image, altitudes)
        )
        for name, metric in curves.items():
            metric.update(scores.curves[name])
        singles.update(scores.singles)
    means = {name: value.item() for name, value in singles.compute().items()}
    best_f = boundaries.compute()  # by all processes, whatever was scored
    if not means:
        return {}
    means |= {f"boundary_f_{kind}": best_f[kind].item() for kind in ("ods", "ois")}
    for name, metric in curves.items():
        over_scales = metric.compute()
        means |= {f"{name}_{kind}": over_scales[kind].item() for kind in ("ods", "ois")}
    best = int(curves["covering"].compute()["scale"])
    return means | {"covering_granularity": GRANULARITIES[best]}


class HierarchyEvaluation(HeldOutEvaluation):
    """Logs how well hierarchies of held-out images fit the true partitions.

    `val/hierarchy/covering_ods`, `covering_ois`, `voi_ods`, `pri_ods`, `boundary_f_ods`, ... (one
    granularity for all images, and the best for each), `ar_1000`, `covering_any_node`; see
    `hierarchy_scores`. After a test `test/hierarchy/...`. Cost: 2 s per image on one core
    (481 x 321 pixels, five annotators, the default net).

    Args:
        num_images: Held-out images to use, evenly spaced over all; the same every time.
        every_n_validations: Evaluate after the first, then every n-th validation.
        source: Held-out images, a sequence of `HeldOutImage`; null asks the datamodule for
            `held_out(stage)`. In a config, a class: class_path: maskfeat.data.heldout.ShardImages.
        name: Middle part of the tags, to tell two of these apart.
    """

    def __init__(
        self,
        num_images: int = 20,
        every_n_validations: int = 1,
        source: Source = None,
        name: str = "hierarchy",
    ) -> None:
        super().__init__(every_n_validations, source)
        positive(num_images=num_images)
        self.num_images = num_images
        self.name = name

    def evaluate(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Score and log."""
        scores = hierarchy_scores(self.evaluation(trainer, pl_module, stage), self.num_images)
        self._log(trainer, pl_module, f"{stage}/{self.name}", scores)
