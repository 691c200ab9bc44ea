"""From clicks on some images to labels of all: what is learned, and what an image may be by it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from maskfeat.hill.classifier import RegionClassifier
from maskfeat.hill.clicks import Click, ClickFile
from maskfeat.hill.evidence import Examples, LabeledAtoms, examples_of, labeled_atoms
from maskfeat.hill.image_store import ImageStore
from maskfeat.segment.hill import class_cut_of_atoms

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

# All that is learned from at once, so that a refit stays below a second or two.
_MOST_EXAMPLES = 6000
_MOST_PER_REGION = 16


class AtomLabels(NamedTuple):
    """What the atoms of an image may be.

    Attributes:
        classes: int64, shape (K,).
        confidence: Probability of that class by the classifier, 1 in regions of clicks, (K,).
        energy: Of the cut, nats for each pixel.
    """

    classes: IntArray
    confidence: FloatArray
    energy: float


class Learner:
    """Learns from all clicks when it is asked for something and there are new ones.

    Args:
        store: The images.
        clicks: What was said of them.
        classifier: Learns.
        smoothness: Of the cut, see `class_cut`.
    """

    def __init__(
        self, store: ImageStore, clicks: ClickFile, classifier: RegionClassifier, smoothness: float
    ) -> None:
        self.smoothness = smoothness
        self._store, self._clicks, self._classifier = store, clicks, classifier
        # What each clicked image teaches, beside the clicks that it was taken for.
        self._examples: dict[int, tuple[tuple[Click, ...], Examples]] = {}
        self._learned: list[Click] | None = None
        self._scaled_for = 0

    @property
    def knows_classes(self) -> bool:
        """Whether anything was learned."""
        self._refit()
        return self._classifier.is_fitted

    def labels(self, image: int) -> AtomLabels:
        """The cut of the probabilities, with clicked regions held.

        Raises:
            ValueError: If the image cannot be read.
        """
        self._refit()
        prepared, clicked = self._store.get(image), self.clicked(image)
        chances = self._classifier.probabilities(prepared.descriptors)
        cut = class_cut_of_atoms(
            chances,
            prepared.graph,
            prepared.costs,
            self.smoothness,
            clicked.is_held,
            clicked.classes,
        )
        confidence = chances[np.arange(len(chances)), cut.classes]
        confidence[clicked.is_held] = 1
        return AtomLabels(cut.classes, confidence, cut.energies[-1] / prepared.graph.labels.size)

    def clicked(self, image: int) -> LabeledAtoms:
        """What the clicks on an image say of its atoms."""
        return labeled_atoms(self._store.get(image), self._clicks.of_image(image))

    def doubts(self, images: Sequence[int]) -> FloatArray:
        """Mean entropy of the classes over some atoms of each image, nats; all are prepared."""
        self._refit()
        sketches = self._store.sketches()
        lengths = [len(sketches[image]) for image in images]
        chances = self._classifier.probabilities(np.concatenate([sketches[n] for n in images]))
        entropies = -(chances * np.log(chances)).sum(axis=1)
        owner = np.repeat(np.arange(len(images)), lengths)
        doubts: FloatArray = np.bincount(owner, entropies) / lengths
        return doubts

    def _refit(self) -> None:
        if self._learned == self._clicks.clicks:
            return
        self._learned = list(self._clicks.clicks)
        images = [image for image in self._clicks.images if image not in self._store.failed]
        parts = [self._examples_of(image) for image in images]
        if not parts:
            self._classifier.forget()
            return
        self._set_scale()
        owner = np.repeat(images, [len(part.classes) for part in parts])
        # Evenly over all: each region keeps its share.
        count = min(len(owner), _MOST_EXAMPLES)
        kept = np.linspace(0, len(owner) - 1, count).round().astype(int)
        self._classifier.fit(
            np.concatenate([part.descriptors for part in parts])[kept],
            np.concatenate([part.classes for part in parts])[kept],
            np.concatenate([part.weights for part in parts])[kept],
            owner[kept],
        )

    def _examples_of(self, image: int) -> Examples:
        """What an image teaches; kept until its clicks change."""
        clicks = tuple(self._clicks.of_image(image))
        known = self._examples.get(image)
        if known is None or known[0] != clicks:
            found = examples_of(self._store.get(image), self.clicked(image), _MOST_PER_REGION)
            known = self._examples[image] = (clicks, found)
        return known[1]

    def _set_scale(self) -> None:
        """Mean and spread over all images that are known; anew when they are twice as many."""
        sketches = self._store.sketches()
        if sketches and len(sketches) >= 2 * self._scaled_for:
            self._classifier.set_scale(np.concatenate(list(sketches.values())))
            self._scaled_for = len(sketches)
