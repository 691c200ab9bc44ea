"""Label a set of images with a human in the loop: propose, correct, learn, propose better."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from maskfeat.data.folder import find_pictures
from maskfeat.hill.classifier import RegionClassifier
from maskfeat.hill.clicks import Click, ClickFile
from maskfeat.hill.evidence import atom_at
from maskfeat.hill.export import Format, export_labels, read_label_map, write_label_map
from maskfeat.hill.image_store import ImageStore
from maskfeat.hill.learner import Learner
from maskfeat.hill.sources import Source, default_source
from maskfeat.segment.hill import CLASS_SMOOTHNESS
from maskfeat.segment.interactive import FeatureModel
from maskfeat.segment.resizing import enlarged_labels

BoolArray = npt.NDArray[np.bool_]
IntArray = npt.NDArray[np.int64]
Order = Literal["uncertain", "energy", "given"]

# Of 0.25, 0.5 and 0.75 on eight images of camvid train (experiments/hill); the three are close.
GRANULARITY = 0.5
# Of so many images the least sure of, one is chosen by its energy: each takes a cut.
_SHORT_LIST = 6


class Proposal(NamedTuple):
    """What an image may be.

    Attributes:
        labels: Class of each pixel, int64, shape (H, W), 0 to L - 1.
        confidence: Probability of that class by the classifier, float32, shape (H, W); 1 in the
            regions of clicks.
        energy: Of the cut, nats for each pixel: the higher, the less classifier, borders and
            clicks agree.
        is_done: Whether the image was called done: then these are the labels it was left with.
    """

    labels: IntArray
    confidence: npt.NDArray[np.float32]
    energy: float
    is_done: bool


class Progress(NamedTuple):
    """How far it is."""

    num_images: int
    num_prepared: int
    num_done: int
    num_clicks: int
    num_failed: int


class Labeler:
    """Gives the pixels of many images a class, asking as little as possible.

        labeler = Labeler("photos", ["sky", "road", "car"], maskfeat.load(), "photos_labels")
        labeler.prepare(in_background=True)
        image = labeler.next()
        proposal = labeler.proposal(image)
        proposal = labeler.correct(image, (120, 200), "car")
        labeler.set_done(image)
        labeler.export("exported")

    A click gives its whole region the class, see `evidence.labeled_atoms`. The classifier learns
    from the regions of all clicks of all images (`RegionClassifier`), and an image's labels are
    the cut of its probabilities along the borders of the features with the clicked regions held
    (`segment.hill.class_cut`). Every click is in the file `OUT/clicks.json` before it is answered;
    a new Labeler on the same folder goes on where the last one ended.

    An instance may be used by many threads; each call is done before the next begins. In memory
    are the last few images, some descriptors of every image (40 kB) and what is learned from.

    Args:
        pictures: A folder, or paths; of different names without ending.
        classes: Their names, at least two, each once.
        model: Gives features, e.g. a `FeaturePyramid`.
        out: Folder for clicks, labels and what is computed ahead; not that of the pictures.
        source: Descriptors of places, see `maskfeat.hill.sources`; None is `default_source`.
        classifier: None is a `RegionClassifier` with its defaults.
        smoothness: What a border between like atoms costs, see `class_cut`.
        granularity: In (0, 1): how large the region of a click may be, see `Hierarchy.cut`; near
            0 large, near 1 small.
        order: Which image comes next: the one the classifier is least sure of ("uncertain"), of the
            least sure ones that with the highest energy ("energy"), or the next one ("given").
        per_megapixel: Atoms for a million pixels.
        max_megapixels: Larger pictures are worked on reduced.
        cache_dir: Where features are kept, see `FeatureCache`; None keeps descriptors alone.

    Raises:
        FileNotFoundError: If there are no pictures.
        ValueError: If two pictures share a name, classes are no list of different names, a
            setting is out of range, or `out` has clicks of other pictures or classes.
    """

    def __init__(
        self,
        pictures: str | Path | Sequence[str | Path],
        classes: Sequence[str],
        model: FeatureModel,
        out: str | Path,
        *,
        source: Source | None = None,
        classifier: RegionClassifier | None = None,
        smoothness: float = CLASS_SMOOTHNESS,
        granularity: float = GRANULARITY,
        order: Order = "uncertain",
        per_megapixel: int = 8_000,
        max_megapixels: float = 1.0,
        cache_dir: str | Path | None = None,
    ) -> None:
        paths = _checked_paths(pictures, Path(out))
        _check_settings(classes, smoothness, granularity, order, max_megapixels)
        self.classes = list(classes)
        self.granularity, self.order = granularity, order
        self.out = Path(out)
        self.store = ImageStore(
            paths,
            model,
            source or default_source(model),
            self.out / "prepared",
            per_megapixel,
            max_megapixels,
            None if cache_dir is None else Path(cache_dir),
        )
        names = [path.name for path in paths]
        self._clicks = ClickFile(self.out / "clicks.json", names, self.classes)
        classifier = classifier or RegionClassifier(len(self.classes))
        self._learner = Learner(self.store, self._clicks, classifier, smoothness)
        self._lock = threading.RLock()

    @property
    def paths(self) -> list[Path]:
        """The pictures; an image is named by its number in this list."""
        return self.store.paths

    @property
    def progress(self) -> Progress:
        """How far it is."""
        clicks = self._clicks
        counts = self.store.num_prepared, len(clicks.done), len(clicks.clicks)
        return Progress(len(self.paths), *counts, len(self.store.failed))

    @property
    def clicks(self) -> list[Click]:
        """All clicks, in their order."""
        return list(self._clicks.clicks)

    def prepare(self, in_background: bool = False) -> None:
        """Compute ahead, see `ImageStore.prepare_all`."""
        self.store.prepare_all(in_background)

    def next(self, after: int | None = None) -> int | None:
        """The image that should be looked at next; None if all are done.

        Args:
            after: The image at hand, which is not proposed if there is another.
        """
        with self._lock:
            num = len(self.paths)
            start = 0 if after is None else after + 1
            circle = [n % num for n in range(start, start + num)]
            failed, done = self.store.failed, self._clicks.done
            left = [n for n in circle if n not in done and n not in failed]
            others = [n for n in left if n != after] or left
            ready = [n for n in others if self.store.is_prepared(n)]
            if not others:
                return None
            if self.order == "given" or not ready:
                return others[0]
            if not self._learner.knows_classes:
                return ready[0]
            doubts = self._learner.doubts(ready)
            most = [ready[int(i)] for i in np.argsort(-doubts, kind="stable")[:_SHORT_LIST]]
            if self.order == "uncertain":
                return most[0]
            return max(most, key=lambda image: self._learner.labels(image).energy)

    def proposal(self, image: int) -> Proposal:
        """What an image may be, by all that is known now.

        Raises:
            ValueError: If there is no such image, or it cannot be read.
        """
        with self._lock:
            self._check_image(image)
            found, prepared = self._learner.labels(image), self.store.get(image)
            atoms = enlarged_labels(prepared.graph.labels.astype(np.int64), prepared.size)
            kept = self._kept_labels(image)
            labels = found.classes[atoms] if kept is None else kept
            confidence = found.confidence.astype(np.float32)[atoms]
            return Proposal(labels, confidence, found.energy, kept is not None)

    def region(
        self, image: int, click_yx: tuple[int, int], granularity: float | None = None
    ) -> BoolArray:
        """What a click would cover if nothing else were clicked, bool, shape (H, W).

        Raises:
            ValueError: As `correct` does.
        """
        with self._lock:
            row, column = self._checked_click(image, click_yx)
            prepared = self.store.get(image)
            none = np.zeros(prepared.graph.num_atoms, bool)
            level = self._checked_granularity(granularity)
            region = prepared.region(atom_at(prepared, row, column), level, none)
            return (
                enlarged_labels(region[prepared.graph.labels].astype(np.int64), prepared.size) > 0
            )

    def correct(
        self,
        image: int,
        click_yx: tuple[int, int],
        class_name: str,
        granularity: float | None = None,
    ) -> Proposal:
        """Give the region of a click its class; the click is saved first.

        An image that was done is no longer.

        Args:
            image: Number of the image.
            click_yx: Row and column, pixels of the picture.
            class_name: One of `classes`.
            granularity: Of this click; None is that of the Labeler.

        Returns:
            The new proposal for this image.

        Raises:
            ValueError: If there is no such image or class, the click lies outside, or the
                granularity is out of range. Nothing has changed then.
        """
        with self._lock:
            row, column = self._checked_click(image, click_yx)
            if class_name not in self.classes:
                raise ValueError(f"the class must be one of {self.classes}, got {class_name!r}")
            level = self._checked_granularity(granularity)
            self._clicks.add(Click(image, row, column, self.classes.index(class_name), level))
            return self.proposal(image)

    def undo(self) -> int:
        """Take the last click back; the image it was on.

        Raises:
            ValueError: If there is no click.
        """
        with self._lock:
            click = self._clicks.pop()
            return click.image

    def set_done(self, image: int, is_done: bool = True) -> None:
        """Keep the proposed labels of an image, or take that back.

        Raises:
            ValueError: If there is no such image, or it cannot be read.
        """
        with self._lock:
            self._check_image(image)
            if is_done:
                write_label_map(self._label_path(image), self.proposal(image).labels)
            self._clicks.set_done(image, is_done)

    def export(
        self,
        folder: str | Path,
        formats: Sequence[Format] = ("png", "coco", "sa1b"),
        only_done: bool = True,
    ) -> int:
        """Write the labels of the images, see `export_labels`; the number of images written.

        Args:
            folder: Where to; made if it is not there.
            formats: Any of "png", "coco" and "sa1b".
            only_done: Leave out images that are not done; else their proposals are taken.

        Raises:
            ValueError: If a format is unknown.
        """
        with self._lock:
            numbers = [
                number
                for number in range(len(self.paths))
                if number in self._clicks.done
                or (not only_done and number not in self.store.failed)
            ]
        labeled = ((self.paths[n], n, self.proposal(n).labels) for n in numbers)
        return export_labels(Path(folder), labeled, self.classes, formats)

    def close(self) -> None:
        """End what computes ahead."""
        self.store.close()

    def _kept_labels(self, image: int) -> IntArray | None:
        """The labels an image was left with when it was done."""
        return read_label_map(self._label_path(image)) if image in self._clicks.done else None

    def _label_path(self, image: int) -> Path:
        return self.out / "labels" / f"{self.paths[image].stem}.png"

    def _check_image(self, image: int) -> None:
        if not 0 <= image < len(self.paths):
            raise ValueError(f"there is no image {image} among {len(self.paths)}")

    def _checked_click(self, image: int, click_yx: tuple[int, int]) -> tuple[int, int]:
        self._check_image(image)
        height, width = self.store.get(image).size
        row, column = (int(value) for value in click_yx)
        if not (0 <= row < height and 0 <= column < width):
            raise ValueError(
                f"the click (row, column) = {(row, column)} lies outside the picture of "
                f"{height} x {width} pixels (height x width)"
            )
        return row, column

    def _checked_granularity(self, granularity: float | None) -> float:
        level = self.granularity if granularity is None else float(granularity)
        if not 0 < level < 1:
            raise ValueError(f"granularity must lie in (0, 1), got {level}")
        return level


def _checked_paths(pictures: str | Path | Sequence[str | Path], out: Path) -> list[Path]:
    if isinstance(pictures, str | Path):
        paths = find_pictures(str(pictures))
    else:
        paths = [Path(path) for path in pictures]
    if not paths:
        raise FileNotFoundError("no picture is given; name a folder or at least one file")
    if out.resolve() == paths[0].parent.resolve():
        raise ValueError(f"out must be another folder than that of the pictures, '{out}'")
    first_of: dict[str, Path] = {}
    for path in paths:
        first = first_of.setdefault(path.stem, path)
        if first is not path:
            raise ValueError(
                f"'{first.name}' and '{path.name}' would both be written as '{path.stem}'; "
                "rename one of them"
            )
    return paths


def _check_settings(
    classes: Sequence[str], smoothness: float, granularity: float, order: str, max_megapixels: float
) -> None:
    if isinstance(classes, str) or len(classes) < 2 or len(set(classes)) < len(classes):
        raise ValueError(f"classes must be at least two different names, got {classes!r}")
    if not smoothness >= 0:
        raise ValueError(f"smoothness must not be negative, got {smoothness}")
    if not 0 < granularity < 1:
        raise ValueError(f"granularity must lie in (0, 1), got {granularity}")
    if order not in ("uncertain", "energy", "given"):
        raise ValueError(f"order must be uncertain, energy or given, got {order!r}")
    if not max_megapixels > 0:
        raise ValueError(f"max_megapixels must be above 0, got {max_megapixels}")
