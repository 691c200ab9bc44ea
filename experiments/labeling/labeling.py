"""The simulated user, and one session: mIoU after each click on every image."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scenes import UNKNOWN
from views import View

from maskfeat.formats.sa1b import depth_inside, label_components
from maskfeat.labeling.classifier import RegionClassifier
from maskfeat.labeling.click_log import Click
from maskfeat.labeling.examples import Examples


def simulate(
    views: Sequence[View], num_classes: int, clicks_per_image: int, seed: int
) -> list[dict]:
    """Click once on every image, learning after each click; and again.

    Args:
        views: The images, as one method sees them.
        num_classes: L.
        clicks_per_image: Clicks for each image.
        seed: Of the order of images and of where in an error the click falls.

    Returns:
        For each of these the clicks so far, and mIoU and accuracy over all images with what is
        known then.
    """
    rng = np.random.default_rng(seed)
    classifier = RegionClassifier(num_classes)
    classifier.set_scale(np.concatenate([view.descriptors[::4] for view in views]))
    clicks: list[list[Click]] = [[] for _ in views]
    examples: dict[int, Examples] = {}
    curve = []
    for _ in range(clicks_per_image):
        for image in rng.permutation(len(views)):
            view = views[image]
            labels = view.labels(classifier.probabilities(view.descriptors), clicks[image])
            found = worst_error(labels, view.patches.scene.classes, view.locked(clicks[image]), rng)
            if found is None:
                continue
            size = view.settings.get("granularity"), view.settings.get("num_segments")
            clicks[image].append(Click(int(image), *found, *size))
            examples[image] = view.examples(clicks[image])
            learn(classifier, examples)
        curve.append({"clicks": sum(map(len, clicks)), **score(views, clicks, classifier)})
    return curve


def learn(classifier: RegionClassifier, examples: dict[int, Examples]) -> None:
    """Refit to all examples so far."""
    lengths = [len(one.classes) for one in examples.values()]
    parts = zip(*examples.values(), strict=True)
    descriptors, classes, weights = (np.concatenate(part) for part in parts)
    classifier.fit(descriptors, classes, weights, np.repeat(list(examples), lengths))


def worst_error(
    labels: np.ndarray, truth: np.ndarray, locked: np.ndarray | None, rng: np.random.Generator
) -> tuple[int, int, int] | None:
    """Where the user clicks, and the class there: in the largest wrong region of one true class.

    Somewhere well inside: a random pixel at least half as far from the region's border as any.
    """
    wrong = (labels != truth) & (truth != UNKNOWN)
    if locked is not None:
        wrong &= ~locked
    if not wrong.any():
        return None
    regions = label_components(np.where(wrong, truth, UNKNOWN))
    areas = np.bincount(regions.ravel(), wrong.ravel())
    inside = regions == areas.argmax()
    depth = np.where(inside, depth_inside(regions), 0)
    places = np.argwhere(depth >= depth.max() / 2)
    row, column = places[rng.integers(len(places))].tolist()
    return row, column, int(truth[row, column])


def score(
    views: Sequence[View], clicks: Sequence[Sequence[Click]], classifier: RegionClassifier
) -> dict[str, float]:
    """Mean IoU over the classes that are there, and accuracy, over known pixels of all images."""
    num = classifier.num_classes
    confusion = np.zeros((num, num))
    for view, own in zip(views, clicks, strict=True):
        labels = view.labels(classifier.probabilities(view.descriptors), own)
        truth = view.patches.scene.classes
        known = truth != UNKNOWN
        pairs = truth[known] * num + labels[known]
        confusion += np.bincount(pairs, minlength=num * num).reshape(num, num)
    hits = np.diag(confusion)
    unions = confusion.sum(axis=0) + confusion.sum(axis=1) - hits
    is_there = confusion.sum(axis=1) > 0
    return {
        "miou": float((hits[is_there] / unions[is_there]).mean()),
        "accuracy": float(hits.sum() / confusion.sum()),
    }
