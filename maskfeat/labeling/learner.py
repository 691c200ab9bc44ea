"""From clicks on some images to labels of all, and to the image that should be clicked next."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from maskfeat.arrays import BoolArray, Float64Array, FloatArray, IntArray
from maskfeat.labeling.classifier import RegionClassifier
from maskfeat.labeling.click_log import IGNORED, Click, ClickFile
from maskfeat.labeling.examples import (
    Examples,
    LabeledSuperpixels,
    evenly,
    examples_of,
    labeled_superpixels,
    with_clicks,
)
from maskfeat.labeling.image_store import ImageStore, PreparedImage
from maskfeat.segment.inputs import enlarged_labels
from maskfeat.segment.score_cut import class_cut
from maskfeat.segment.superpixels import first_pixels

# All that is learned from at once: 0.06 s of one core for eleven classes, 0.15 s for 6,000
# (experiments/labeling/speed.py).
_MOST_EXAMPLES = 3000
_MOST_PER_REGION = 16
# Images whose sampled descriptors are looked at together: some megabytes, however many there are.
_IMAGES_AT_ONCE = 128
_MOST_FOR_SCALE = 256
# How the next image is chosen, see `most_wanted`.
Acquisition = Literal["uncertain", "energy", "given"]
# Images of high entropy whose cuts are computed to compare energies.
_SHORT_LIST = 6


class SuperpixelLabels(NamedTuple):
    """What the superpixels of an image may be.

    Attributes:
        classes: int64, shape (K,); `IGNORED` in ignored regions.
        is_fixed: Which lie in the region of a click, bool, shape (K,).
        confidence: Probability of that class, see `with_clicks`; 1 in regions of clicks, (K,).
        energy: Of the cut, nats for each pixel.
    """

    classes: IntArray
    is_fixed: BoolArray
    confidence: Float64Array
    energy: float


class Learner:
    """Learns from all clicks on request, and predicts the classes of an image.

    `learn` may run in one thread while others ask: it fits a copy, and takes its place at the end.
    `num_examples` says how many superpixels were learned from last.
    """

    def __init__(
        self,
        store: ImageStore,
        clicks: ClickFile,
        classifier: RegionClassifier,
        pairwise_weight: float,
    ) -> None:
        self.pairwise_weight = pairwise_weight
        self._store, self._clicks, self._classifier = store, clicks, classifier
        # What each clicked image teaches, beside the clicks that it was taken for.
        self._examples: dict[int, tuple[tuple[Click, ...], Examples]] = {}
        self._learned: list[Click] | None = None
        self._scaled_for = 0
        self.num_examples = 0
        self._last_clicked: tuple[tuple[int, tuple[Click, ...]], LabeledSuperpixels] | None = None

    @property
    def knows_classes(self) -> bool:
        """Whether anything was learned."""
        return self._classifier.is_fitted

    def labels(self, image: int) -> SuperpixelLabels:
        """The cut of the probabilities, with hard constraints at the clicked regions.

        What is ignored takes part in the cut as if it had not been clicked.

        Raises:
            ValueError: If the image cannot be read.
        """
        prepared, clicked = self._store.get(image), self.clicked(image)
        chances = with_clicks(self._classifier.probabilities(prepared.descriptors), clicked)
        cut = class_cut(
            chances,
            prepared.graph,
            prepared.costs,
            self.pairwise_weight,
            clicked.is_fixed & ~clicked.is_ignored,
            clicked.classes,
        )
        confidence = chances[np.arange(len(chances)), cut.labels]
        confidence[clicked.is_fixed] = 1
        classes = np.where(clicked.is_ignored, IGNORED, cut.labels)
        energy = cut.energies[-1] / prepared.graph.labels.size
        return SuperpixelLabels(classes, clicked.is_fixed, confidence, energy)

    def clicked(self, image: int) -> LabeledSuperpixels:
        """What the clicks on an image say of its superpixels; asked for twice with every click."""
        wanted, last = (image, tuple(self._clicks.of_image(image))), self._last_clicked
        if last is None or last[0] != wanted:
            last = self._last_clicked = (
                wanted,
                labeled_superpixels(self._store.get(image), wanted[1]),
            )
        return last[1]

    def entropies(self, images: Sequence[int]) -> Float64Array:
        """Mean entropy of the classes over some superpixels of each prepared image, nats."""
        sampled = self._store.sampled_descriptors()
        entropies = np.zeros(len(images))
        for start in range(0, len(images), _IMAGES_AT_ONCE):
            some = images[start : start + _IMAGES_AT_ONCE]
            chances = self._classifier.probabilities(np.concatenate([sampled[n] for n in some]))
            of_superpixels = -(chances * np.log(chances)).sum(axis=1)
            lengths = [len(sampled[image]) for image in some]
            owner = np.repeat(np.arange(len(some)), lengths)
            entropies[start : start + len(some)] = np.bincount(owner, of_superpixels) / lengths
        return entropies

    @property
    def is_fresh(self) -> bool:
        """Whether all clicks were learned from."""
        return self._learned == self._clicks.clicks

    def learn(self) -> None:
        """Learn from all clicks, if there are new ones; one thread at a time."""
        if self.is_fresh:
            return
        learned = list(self._clicks.clicks)
        classifier = copy.deepcopy(self._classifier)
        self._fit(classifier)
        self._classifier, self._learned = classifier, learned

    def _fit(self, classifier: RegionClassifier) -> None:
        taught = self._readable_examples()
        if not taught:
            classifier.forget()
            return
        # Mean and std over images that are known; anew when they are twice as many.
        sampled = list(self._store.sampled_descriptors().values())
        if sampled and len(sampled) >= 2 * self._scaled_for:
            step = -(-len(sampled) // _MOST_FOR_SCALE)
            classifier.set_scale(np.concatenate(sampled[::step]))
            self._scaled_for = len(sampled)
        parts = list(taught.values())
        owner = np.repeat(list(taught), [len(part.classes) for part in parts])
        # Evenly over all: each region keeps its share.
        count = self.num_examples = min(len(owner), _MOST_EXAMPLES)
        kept = evenly(len(owner), count)
        classifier.fit(
            np.concatenate([part.descriptors for part in parts])[kept],
            np.concatenate([part.classes for part in parts])[kept],
            np.concatenate([part.weights for part in parts])[kept],
            owner[kept],
        )

    def _readable_examples(self) -> dict[int, Examples]:
        """What each clicked image teaches, kept until its clicks change; others are left out.

        They cannot be read any more, or all their clicks are on what is ignored.
        """
        found = {}
        for image in self._clicks.images:
            clicks, known = tuple(self._clicks.of_image(image)), self._examples.get(image)
            try:
                if known is None or known[0] != clicks:
                    labeled = self.clicked(image)
                    new = examples_of(self._store.get(image), labeled, _MOST_PER_REGION)
                    known = self._examples[image] = (clicks, new)
                if len(known[1].classes):
                    found[image] = known[1]
            except ValueError:
                if image not in self._store.failed:
                    raise
        return found


def from_there_on(num: int, after: int | None) -> list[int]:
    """The numbers of all images, beginning behind the image at hand, which comes last."""
    start = 0 if after is None else after + 1
    return [number % num for number in range(start, start + num)]


def most_wanted(ready: Sequence[int], acquisition: Acquisition, learner: Learner) -> int:
    """Of prepared images, at least one, that which the acquisition function ranks first.

    "given" takes the first; "uncertain" that of highest mean entropy; "energy" the highest energy
    of the cut among the six of highest entropy. The first wins a tie, as it does before anything is
    learned.
    """
    if acquisition == "given" or not learner.knows_classes:
        return ready[0]
    entropies = learner.entropies(ready)
    most = [ready[int(i)] for i in np.argsort(-entropies, kind="stable")[:_SHORT_LIST]]
    if acquisition == "uncertain":
        return most[0]
    return max(most, key=lambda image: learner.labels(image).energy)


class Proposal(NamedTuple):
    """What an image may be.

    Attributes:
        labels: Class of each pixel, int64, shape (H, W), 0 to L - 1; -1 where ignored.
        confidence: Probability of that class by the classifier, float32, shape (H, W); 1 in the
            regions of clicks.
        energy: Of the cut, nats for each pixel: the higher, the less classifier, borders and
            clicks agree.
        is_done: Whether the image was called done: then these are the labels it was left with.
    """

    labels: IntArray
    confidence: FloatArray
    energy: float
    is_done: bool


class Progress(NamedTuple):
    """How far it is."""

    num_images: int
    num_prepared: int
    num_done: int
    num_clicks: int
    num_failed: int


def on_pixels(image: PreparedImage, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Values of superpixels, (K,), at the size of the image, (H, W)."""
    superpixels: IntArray = enlarged_labels(image.graph.labels.astype(np.int64), image.size)
    return values[superpixels]


def on_superpixels(image: PreparedImage, labels: IntArray) -> IntArray:
    """Labels of the pixels of the image, (H, W), at the first pixel of each superpixel, (K,)."""
    small = image.graph.labels.shape
    first = first_pixels(image.graph.labels, image.graph.num_superpixels)
    places = zip(np.unravel_index(first, small), labels.shape, small, strict=True)
    y, x = ((2 * place + 1) * large // (2 * little) for place, large, little in places)
    found: IntArray = labels[y, x]
    return found
