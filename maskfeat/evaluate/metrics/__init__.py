"""Metrics: functions of one image, then thin torchmetrics classes of many."""

from maskfeat.evaluate.metrics.boundaries import boundary_precision, boundary_recall
from maskfeat.evaluate.metrics.classes import (
    AchievableSegmentationAccuracy,
    BoundaryPrecision,
    BoundaryRecall,
    Covering,
    MeanOverImages,
    MeanScores,
    NumberOfClicks,
    PairAuc,
    mean_of_counted,
)
from maskfeat.evaluate.metrics.pairs import pair_auc
from maskfeat.evaluate.metrics.regions import achievable_segmentation_accuracy, covering, iou, noc

__all__ = [
    "AchievableSegmentationAccuracy",
    "BoundaryPrecision",
    "BoundaryRecall",
    "Covering",
    "MeanOverImages",
    "MeanScores",
    "NumberOfClicks",
    "PairAuc",
    "achievable_segmentation_accuracy",
    "boundary_precision",
    "boundary_recall",
    "covering",
    "iou",
    "mean_of_counted",
    "noc",
    "pair_auc",
]
