"""Label a set of images with a human in the loop: propose, correct, learn, propose better."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from maskfeat.arguments import is_whole
from maskfeat.arrays import BoolArray, IntArray
from maskfeat.data.annotations.read_as import ReadAs
from maskfeat.features.reading import FeatureModel
from maskfeat.folder_lock import held_folder
from maskfeat.labeling.checks import (
    check_is_elsewhere,
    check_settings,
    checked_click,
    checked_paths,
    checked_size,
)
from maskfeat.labeling.classifier import RegionClassifier
from maskfeat.labeling.click_log import IGNORED, Click, ClickFile
from maskfeat.labeling.descriptors import FeatureExtractor, default_extractor
from maskfeat.labeling.examples import superpixel_at
from maskfeat.labeling.export import Format, KeptLabels, export_labels
from maskfeat.labeling.image_store import ImageStore
from maskfeat.labeling.learner import (
    Acquisition,
    Learner,
    Progress,
    Proposal,
    SuperpixelLabels,
    from_there_on,
    most_wanted,
    on_pixels,
    on_superpixels,
)
from maskfeat.segment.inputs import model_of
from maskfeat.segment.score_cut import CLASS_PAIRWISE_WEIGHT

_LOG = logging.getLogger("maskfeat")


# Of 50, 100, 200 and 300, and of granularities from 0.5 to 0.87, the best on images of camvid and
# ccp train (experiments/labeling).
NUM_SEGMENTS = 200


class Labeler:
    """Gives the pixels of many images a class, asking as little as possible.

        labeler = Labeler("photos", ["sky", "road", "car"], maskfeat.load(), "photos_labels")
        labeler.prepare(in_background=True)
        image = labeler.next()
        proposal = labeler.proposal(image)
        proposal = labeler.correct(image, (120, 200), "car")
        proposal = labeler.correct(image, (10, 10), None)  # the region there is ignored
        labeler.set_done(image)
        labeler.export("exported")

    A click gives its whole region the class, see `examples.labeled_superpixels`. The classifier
    learns from the regions of all clicks of all images (`RegionClassifier`), and an image's labels
    are the cut of its probabilities along the borders of the features with hard constraints at the
    clicked regions (`segment.score_cut.class_cut`); beyond its region a click counts as far as the
    tree believes it (`examples.with_clicks`). An ignored region is label -1, is in no export, and
    nothing is learned from it. Every click is in the file `OUT/clicks.json` before
    it is answered; a new Labeler on the same folder goes on where the last one ended. Clicks on an
    image that is gone or was replaced are set aside in that file, see `ClickFile`. One process at a
    time works in the folder; `close` lets go of it.

    An instance may be used by many threads; but for `learn`, each call is done before the next
    begins. In memory are the last few images, some descriptors of every image (65 kB) and what is
    learned from.

    Args:
        images: A folder, or paths; of different names without ending.
        classes: Their names, at least two, each once.
        model: Gives features, e.g. a `FeaturePyramid`; or what `maskfeat.load` takes.
        out: Folder for clicks, labels and what is computed ahead; not that of the images.
        extractor: Descriptors of places, see `maskfeat.labeling.descriptors`; None is
            `default_extractor`.
        classifier: None is a `RegionClassifier` with its defaults.
        pairwise_weight: What a border between like superpixels costs, see `class_cut`.
        granularity: How large the region of a click may be, in (0, 1), see `Hierarchy.cut`; near
            0 large, near 1 small.
        num_segments: Instead, the region is one of this number of segments. None of both is
            `NUM_SEGMENTS`.
        acquisition: Which image comes next: the one of highest mean entropy ("uncertain"), of
            those of high entropy the one of highest energy ("energy"), or the next ("given").
        per_megapixel: Superpixels for a million pixels.
        max_megapixels: Larger images are worked on reduced.
        cache_dir: Where features are kept, see `FeatureCache`; None keeps descriptors alone.
        read_as: Which page and channels of the images are read, and which values become 8 bits.

    Raises:
        FileNotFoundError: If there are no images.
        ValueError: If two images share a name, classes are no list of different names, a
            setting is out of range, `out` has clicks for other classes, or another process
            works there (`FolderInUseError`).
    """

    def __init__(
        self,
        images: str | Path | Sequence[str | Path],
        classes: Sequence[str],
        model: FeatureModel | str | os.PathLike[str],
        out: str | Path,
        *,
        extractor: FeatureExtractor | None = None,
        classifier: RegionClassifier | None = None,
        pairwise_weight: float = CLASS_PAIRWISE_WEIGHT,
        granularity: float | None = None,
        num_segments: int | None = None,
        acquisition: Acquisition = "uncertain",
        per_megapixel: int = 8_000,
        max_megapixels: float = 1.0,
        cache_dir: str | Path | None = None,
        read_as: ReadAs = ReadAs(),  # noqa: B008 - frozen
    ) -> None:
        paths = checked_paths(images, Path(out))
        check_settings(classes, pairwise_weight, acquisition, max_megapixels, per_megapixel)
        model = model_of(model)
        self.classes, self.acquisition = list(classes), acquisition
        self._size = checked_size(granularity, num_segments, (None, NUM_SEGMENTS))
        self.out = Path(out)
        self._held = contextlib.ExitStack()
        self._held.enter_context(held_folder(self.out, "a Labeler"))
        self.store = ImageStore(
            paths,
            model,
            extractor or default_extractor(model),
            self.out / "prepared",
            per_megapixel,
            max_megapixels,
            None if cache_dir is None else Path(cache_dir),
            read_as,
        )
        names = [path.name for path in paths]
        try:
            file = self.out / "clicks.json"
            self._clicks = ClickFile(file, names, self.classes, self.store.digest)
        except BaseException:
            self._held.close()
            raise
        self._kept = KeptLabels(
            self.out / "labels", paths, self._clicks, lambda image: self.store.get(image).size
        )
        classifier = classifier or RegionClassifier(len(self.classes))
        self._learner = Learner(self.store, self._clicks, classifier, pairwise_weight)
        self._lock, self._learning = threading.RLock(), threading.Lock()

    @property
    def paths(self) -> list[Path]:
        """The images; an image is named by its number in this list."""
        return self.store.paths

    @property
    def progress(self) -> Progress:
        """How far it is."""
        clicks = self._clicks
        counts = self.store.num_prepared, len(clicks.done), len(clicks.clicks)
        return Progress(len(self.paths), *counts, len(self.store.failed))

    @property
    def clicks(self) -> list[Click]:
        """All clicks, first to last."""
        return list(self._clicks.clicks)

    @property
    def num_undone(self) -> int:
        """How many clicks were taken back and can come again."""
        return len(self._clicks.undone)

    @property
    def is_fresh(self) -> bool:
        """Whether all clicks were learned from."""
        return self._learner.is_fresh

    @property
    def knows_classes(self) -> bool:
        """Whether anything was learned yet."""
        return self._learner.knows_classes

    @property
    def num_examples(self) -> int:
        """How many places were learned from last."""
        return self._learner.num_examples

    @property
    def set_aside(self) -> dict[str, int]:
        """How many clicks were made on images that are gone or were replaced, by name."""
        return dict(Counter({one["name"]: len(one["clicks"]) for one in self._clicks.aside}))

    def clicks_on(self, image: int) -> list[Click]:
        """The clicks on one image, first to last."""
        return list(self._clicks.of_image(image))

    def is_done(self, image: int) -> bool:
        """Whether an image was called done."""
        return image in self._clicks.done

    def review(self, image: int) -> Literal["open", "check", "done"]:
        """How far an image is."""
        if image in self._clicks.to_check:
            return "check"
        return "done" if self.is_done(image) else "open"

    def learn(self) -> None:
        """Learn from new clicks, if there are any; other calls go on meanwhile with what was known.

        What asks for a proposal does so first, unless `learn` is false.
        """
        with self._learning:
            with self._lock:
                for image in self._clicks.images:
                    self._set_aside_if_changed(image)
            self._learner.learn()

    def prepare(self, in_background: bool = False) -> None:
        """Compute ahead, see `ImageStore.prepare_all`."""
        self.store.prepare_all(in_background)

    def next(self, after: int | None = None) -> int | None:
        """The image that should be looked at next; None if all are done.

        Those to be checked come when no other is left.

        Args:
            after: The image at hand, which is not proposed if there is another.
        """
        self.learn()
        with self._lock:
            failed, done = self.store.failed, self._clicks.done
            numbers = from_there_on(len(self.paths), after)
            left = [n for n in numbers if n not in done and n not in failed]
            others = [n for n in left if n != after] or left
            others = [n for n in others if n not in self._clicks.to_check] or others
            if not others:
                return None
            if self.acquisition == "given":
                return others[0]
            ready = [n for n in others if self.store.is_prepared(n)]
            return most_wanted(ready, self.acquisition, self._learner) if ready else others[0]

    def proposal(self, image: int) -> Proposal:
        """What an image may be, by all that is known now.

        Raises:
            ValueError: If there is no such image, or it cannot be read.
        """
        self.learn()
        with self._lock:
            self._check_image(image)
            found = self._learner.labels(image)
            kept = self._kept.read(image)
            labels = on_pixels(self.store.get(image), found.classes) if kept is None else kept
            confidence = on_pixels(self.store.get(image), found.confidence.astype(np.float32))
            return Proposal(labels, confidence, found.energy, kept is not None)

    def superpixel_proposal(self, image: int, learn: bool = True) -> SuperpixelLabels:
        """The same for the superpixels of `store.get(image)`: some thousand numbers, not millions.

        Args:
            image: Number of the image.
            learn: Whether to learn from new clicks first; their regions are hard constraints
                anyway.

        Raises:
            ValueError: As `proposal`.
        """
        if learn:
            self.learn()
        with self._lock:
            self._check_image(image)
            found, kept = self._learner.labels(image), self._kept.read(image)
            return (
                found
                if kept is None
                else found._replace(classes=on_superpixels(self.store.get(image), kept))
            )

    def region(
        self,
        image: int,
        click_yx: tuple[int, int],
        granularity: float | None = None,
        num_segments: int | None = None,
    ) -> BoolArray:
        """What a click would cover if nothing else were clicked, bool, shape (H, W).

        Raises:
            ValueError: As `correct` does.
        """
        with self._lock:
            row, column = self._checked_click(image, click_yx)
            prepared = self.store.get(image)
            level, number = checked_size(granularity, num_segments, self._size)
            superpixel = superpixel_at(prepared, row, column)
            region = prepared.tree.region_around(superpixel, granularity=level, num_groups=number)
            covered: BoolArray = on_pixels(prepared, region)
            return covered

    def correct(
        self,
        image: int,
        click_yx: tuple[int, int],
        class_name: str | None,
        granularity: float | None = None,
        num_segments: int | None = None,
    ) -> Proposal:
        """Give the region of a click its class, see `click`; the new proposal for this image."""
        self.click(image, click_yx, class_name, granularity, num_segments)
        return self.proposal(image)

    def click(
        self,
        image: int,
        click_yx: tuple[int, int],
        class_name: str | None,
        granularity: float | None = None,
        num_segments: int | None = None,
    ) -> None:
        """Save that the region of a click has this class. An image that was done is no longer.

        Args:
            image: Number of the image.
            click_yx: Row and column, pixels of the image.
            class_name: One of `classes`, or None: the region is ignored.
            granularity: Of this click.
            num_segments: Of this click; None of both is as the Labeler was made.

        Raises:
            ValueError: If there is no such image or class, the click lies outside, a setting is
                out of range, or another program changed the file. Nothing has changed then.
        """
        with self._lock:
            row, column = self._checked_click(image, click_yx)
            if class_name is not None and class_name not in self.classes:
                raise ValueError(f"the class must be one of {self.classes}, got {class_name!r}")
            size = checked_size(granularity, num_segments, self._size)
            number = IGNORED if class_name is None else self.classes.index(class_name)
            click = Click(image, row, column, number, *size)
            with self._kept.withdrawn(image):
                self._clicks.add(click)

    def undo(self) -> int:
        """Take the last click back; the image it was on.

        Raises:
            ValueError: If there is no click.
        """
        with self._lock, self._kept.withdrawn_of_last(self._clicks.clicks):
            return self._clicks.pop().image

    def redo(self) -> int:
        """Give the click again that was taken back last; the image it is on.

        Raises:
            ValueError: If there is none.
        """
        with self._lock, self._kept.withdrawn_of_last(self._clicks.undone):
            return self._clicks.restore().image

    def set_done(self, image: int, is_done: bool = True, learn: bool = True) -> None:
        """Keep the proposed labels of an image, or take that back.

        Args:
            image: Number of the image.
            is_done: Whether it is.
            learn: Whether to learn from new clicks first.

        Raises:
            ValueError: If there is no such image, or it cannot be read.
        """
        if learn:
            self.learn()
        with self._lock:
            self._check_image(image)
            if is_done:
                self._kept.keep(image, self._labels(image))
            else:
                self._kept.drop(image)

    def set_to_check(self, image: int, is_to_check: bool = True) -> None:
        """Say that somebody should look at an image again, or take that back.

        An image that is to be checked is not done; calling it done ends the check.

        Raises:
            ValueError: If there is no such image.
        """
        with self._lock:
            self._check_image(image)
            reopens = is_to_check and self.is_done(image)
            with self._kept.withdrawn(image) if reopens else contextlib.nullcontext():
                self._clicks.set_to_check(image, is_to_check)

    def export(
        self,
        folder: str | Path,
        formats: Sequence[Format] = ("png", "coco", "sa1b"),
        only_done: bool = True,
    ) -> int:
        """Write the labels of the images, see `export_labels`; the number of images written.

        Args:
            folder: Where to; made if it is not there. Not that of the images.
            formats: Any of "png", "coco" and "sa1b".
            only_done: Leave out images that are not done; else their proposals are taken.

        Raises:
            ValueError: If a format is unknown, or the folder is that of the images.
        """
        check_is_elsewhere(Path(folder), self.paths, "the folder to export to")
        with self._lock:
            numbers = [
                number
                for number in range(len(self.paths))
                if number in self._clicks.done
                or (not only_done and number not in self.store.failed)
            ]
        self.learn()
        labeled = self._labeled(numbers, only_done)
        return export_labels(
            Path(folder), labeled, self.classes, formats, read_as=self.store.read_as
        )

    def close(self) -> None:
        """End what computes ahead, and let go of the folder."""
        self.store.close()
        self._held.close()

    def _labeled(
        self, images: Sequence[int], only_done: bool
    ) -> Iterator[tuple[Path, int, IntArray]]:
        """Path, number and labels of each image; those that cannot be read any more are logged."""
        for image in images:
            try:
                labels = self._labels(image)
            except ValueError as error:
                if image not in self.store.failed:
                    raise
                _LOG.warning("not exported: %s", error)
                continue
            # An image that was replaced, or whose labels are lost, has turned out to be not done.
            if not only_done or self.is_done(image):
                yield self.paths[image], image, labels

    def _labels(self, image: int) -> IntArray:
        """The labels an image was left with, or those proposed now, of each pixel."""
        with self._lock:
            self._set_aside_if_changed(image)
            kept = self._kept.read(image)
            if kept is not None:
                return kept
            labels: IntArray = on_pixels(self.store.get(image), self._learner.labels(image).classes)
            return labels

    def _set_aside_if_changed(self, image: int) -> None:
        """Look whether a clicked image is still the one that was clicked."""
        if self._clicks.set_aside_if_changed(image):
            with self._kept.withdrawn(image):
                pass

    def _check_image(self, image: int) -> None:
        if not is_whole(image) or not 0 <= image < len(self.paths):
            raise ValueError(f"there is no image {image!r} among {len(self.paths)}")
        self._set_aside_if_changed(image)

    def _checked_click(self, image: int, click_yx: tuple[int, int]) -> tuple[int, int]:
        self._check_image(image)
        return checked_click(click_yx, self.store.get(image).size)
