"""Metrics: functions of one image, and torchmetrics classes that average over many."""

from maskfeat.evaluate.metrics.boundaries import (
    BoundaryOverScales,
    boundary_counts,
    boundary_f,
    boundary_fs,
    boundary_precision,
    boundary_recall,
    num_matched,
)
from maskfeat.evaluate.metrics.classes import (
    MeanScores,
    OverScales,
    mean_of_counted,
)
from maskfeat.evaluate.metrics.clicks import (
    clicks_obeyed,
    dropped_share,
    is_reached,
    standard_error,
    std_over_seeds,
)
from maskfeat.evaluate.metrics.nested import (
    NestedOverlap,
    average_recall,
    best_node_ious,
    nestedness,
)
from maskfeat.evaluate.metrics.pairs import pair_auc
from maskfeat.evaluate.metrics.regions import (
    achievable_segmentation_accuracy,
    compactness,
    covering,
    explained_variation,
    iou,
    noc,
    probabilistic_rand_index,
    undersegmentation_error,
    variation_of_information,
)

__all__ = [
    "BoundaryOverScales",
    "MeanScores",
    "NestedOverlap",
    "OverScales",
    "achievable_segmentation_accuracy",
    "average_recall",
    "best_node_ious",
    "boundary_counts",
    "boundary_f",
    "boundary_fs",
    "boundary_precision",
    "boundary_recall",
    "clicks_obeyed",
    "compactness",
    "covering",
    "dropped_share",
    "explained_variation",
    "iou",
    "is_reached",
    "mean_of_counted",
    "nestedness",
    "noc",
    "num_matched",
    "pair_auc",
    "probabilistic_rand_index",
    "standard_error",
    "std_over_seeds",
    "undersegmentation_error",
    "variation_of_information",
]
