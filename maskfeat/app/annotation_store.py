"""The files of `maskfeat annotate`: the prompts of each image and the masks made of them."""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from maskfeat.app.annotation import AddObjects, Annotation
from maskfeat.app.annotation_json import annotation_from_json, annotation_text, as_name
from maskfeat.app.annotation_results import LABELS_FOLDER, Results, written_results
from maskfeat.app.annotation_state import MaskRuns, Review, State
from maskfeat.app.label_map import LabelMapPainter
from maskfeat.app.revisions import StaleError, revision_of
from maskfeat.app.set_aside import ENDING, FORMER_ENDING, SetAside, adopt
from maskfeat.data.annotations.image import SampleError
from maskfeat.data.annotations.image_identity import ImageIdentity, holds_image, identity_from_json
from maskfeat.data.annotations.read_as import ReadAs
from maskfeat.data.convert.mask_files import UNNAMED
from maskfeat.data.convert.mask_sets import MaskRecord
from maskfeat.files import file_stamp, whole_file

Size = tuple[int, int]

_LOG = logging.getLogger("maskfeat")
_VERSION = 1


class AnnotationStore:
    """Reads and writes FOLDER/KEY.prompts.json, and the results that are derived from them.

    At the start, results that are missing or made of other prompts are made anew, and prompts of an
    image that was replaced are set aside with their results until it is back. A file that cannot
    be read is named in the log, and costs its own image alone.

    In memory it holds one word for each image, so that thousands of them cost nothing.

    Args:
        folder: Where the files are; made when the first is written.
        paths: The images, of different names without ending.
        read_as: How they are read. Prompts on another page or other channels are set aside, too.
        masks: Masks of other programs, by name of the image without ending: an image that has no
            prompts yet begins with these as finished objects.

    Attributes:
        notices: What the user should know of some images, by number.
    """

    def __init__(
        self,
        folder: Path,
        paths: Sequence[Path],
        read_as: ReadAs = ReadAs(),  # noqa: B008 - frozen
        masks: Mapping[str, MaskRecord] = MappingProxyType({}),
    ) -> None:
        self._masks = masks
        self.folder, self.read_as = folder, read_as
        self.paths = list(paths)
        self.notices: dict[int, str] = {}
        self._aside = SetAside(folder)
        self._painter = LabelMapPainter()
        self._stems = {path.stem for path in paths}
        self._stamps: dict[int, tuple[int, int, int] | None] = {}
        self._revisions: dict[int, str] = {}
        self._reviews: list[Review] = ["open"] * len(self.paths)
        self._is_mending = False  # logged once: thousands take a while
        for number in range(len(self.paths)):
            try:
                self._begin(number)
            except ValueError as error:
                _LOG.warning("left out: %s", error)

    @property
    def num_done(self) -> int:
        """How many images are done."""
        return self._reviews.count("done")

    def is_done(self, number: int) -> bool:
        """Whether an image was called done."""
        return self._reviews[number] == "done"

    def review(self, number: int) -> Review:
        """How far an image is."""
        return self._reviews[number]

    def next_not_done(self, start: int) -> int | None:
        """The first image of `not_done`."""
        return next(self.not_done(start), None)

    def not_done(self, start: int) -> Iterator[int]:
        """The images that are not done, from `start` to the end, then from the beginning."""
        num = len(self.paths)
        return (n % num for n in range(start, start + num) if not self.is_done(n % num))

    def revision(self, number: int) -> str:
        """Of the prompts of an image that was loaded, see `revision_of`."""
        return self._revisions[number]

    def load(self, number: int, size: Size, image: ImageIdentity) -> Annotation:
        """The prompts of an image of a size (height, width; pixels).

        None if there is no file; one of another image or size is set aside.

        Raises:
            ValueError: If the file is malformed.
        """
        # First the stamp: what another program writes in between shows as a change when saving.
        self._stamps[number] = file_stamp(self._path(number))
        raw = self._bytes(number)
        self._revisions[number] = revision_of(raw)
        if not raw:
            return self._first_annotation(number, size)
        content = self._parsed(number, raw)
        known = identity_from_json(content.get("image"))
        is_same = content.get("file_name") == self.paths[number].name
        if known is not None:
            is_same = known.has_equal_content(image)
        is_same = is_same and self._is_read_so(content)
        if not is_same or content.get("size") != list(size):
            self._set_aside(number)
            self._stamps[number], self._revisions[number] = None, ""
            return Annotation()
        return self._annotation(number, content, size)

    def save(
        self,
        number: int,
        size: Size,
        image: ImageIdentity,
        annotation: Annotation,
        based_on: str,
        with_results: bool = True,
    ) -> None:
        """Write the prompts of an image that was loaded before, and its results if they change.

        Args:
            number: Which image.
            size: Its height and width, pixels.
            image: Identity of its file when it was read.
            annotation: The prompts.
            based_on: The revision that was changed to get them.
            with_results: Whether the results may change; else they are not looked at.

        Raises:
            StaleError: If the prompts have another revision. Nothing is written.
            OSError: If results or prompts cannot be written, e.g. on a full disk.
        """
        path = self._path(number)
        if based_on != self._revisions[number] or file_stamp(path) != self._stamps[number]:
            raise StaleError(
                f"'{path}' was changed by another program; it is shown now as it is, and the last "
                "step was not made"
            )
        content = {
            "version": _VERSION,
            "file_name": self.paths[number].name,
            "size": list(size),
            "image": image.to_json(),
            **({"read_as": self.read_as.to_json()} if self.read_as.to_json() else {}),
            "is_done": annotation.state.is_done,
        }
        head = json.dumps(content, separators=(",", ":"))
        raw = f"{head[:-1]},{annotation_text(annotation)[1:]}".encode()
        # The prompts come last but for the renaming: results that cannot be written leave all as it
        # was, and after a kill in between they are made anew at the next start.
        due = self._due_results(number, size, annotation.state) if with_results else []
        with self._all_written(due), whole_file(path) as file:
            file.write(raw)
        self._stamps[number], self._revisions[number] = file_stamp(path), revision_of(raw)
        self._reviews[number] = annotation.state.review

    def write_results(self, number: int, size: Size, state: State) -> None:
        """Make the results of an image anew, where they are missing or made of something else."""
        due = self._due_results(number, size, state)
        if due and not self._is_mending:
            _LOG.info("masks that are missing or made of other prompts are made anew")
            self._is_mending = True
        with self._all_written(due):
            pass

    def _begin(self, number: int) -> None:
        """Look whether an image is done, and mend what an earlier end has left."""
        adopt(self._path(number))
        raw = self._bytes(number)
        before = self._parsed(number, raw) if raw else {}
        known = identity_from_json(before.get("image"))
        is_other = known is not None and _holds(self.paths[number], known) is False
        if is_other or (before and not self._is_read_so(before)):
            self._set_aside(number)
            raw = b""
        raw = raw or self._take_back(number)
        if not raw:
            return
        content = self._parsed(number, raw)
        match content.get("size"):
            case [int(height), int(width)] if height > 0 and width > 0:
                state = self._annotation(number, content, (height, width)).state
            case size:
                raise ValueError(f"'{self._path(number)}' cannot be read: its size is {size!r}")
        self.write_results(number, (height, width), state)
        self._reviews[number] = state.review

    def _first_annotation(self, number: int, size: Size) -> Annotation:
        """No prompts, but the masks that other programs made of the image."""
        record = self._masks.get(self.paths[number].stem)
        if record is None:
            return Annotation()
        try:
            found = record.masks()
        except SampleError as error:
            _LOG.warning("the masks of '%s' are left out: %s", self.paths[number], error)
            return Annotation()
        if found.size != size:
            _LOG.warning(
                "the masks of '%s' are left out: they are %d x %d pixels, the image %d x %d",
                *(self.paths[number], *found.size, *size),
            )
            return Annotation()
        masks = tuple(MaskRuns(size, counts) for counts in found.counts)
        # What nobody named has no class, instead of one of that name.
        names = tuple("" if name == UNNAMED else as_name(name) for name in found.names)
        return Annotation().with_step(AddObjects(masks, names)) if masks else Annotation()

    def _is_read_so(self, content: dict[str, Any]) -> bool:
        """Whether prompts were made on the page, channels and values that are shown now."""
        return bool(content.get("read_as", {}) == self.read_as.to_json())

    def _annotation(self, number: int, content: dict[str, Any], size: Size) -> Annotation:
        try:
            return annotation_from_json(content, size)
        except ValueError as error:
            raise ValueError(f"'{self._path(number)}' cannot be read: {error}") from error

    def _due_results(self, number: int, size: Size, state: State) -> list[Results]:
        """The results that have to be written: objects and labels have files of their own."""
        masks = {one.number: one.mask for one in state.finished}
        place, path = self.folder / LABELS_FOLDER, self.paths[number]
        words = {one.number: one.description for one in state.finished}
        objects = Results(
            self.folder, path, number, size, masks, False, self.read_as, words, state.order
        )
        kept = dict(state.labels)
        labels = Results(place, path, number, size, kept, True, self.read_as)
        # None at all is a result, too, once it is one, or was.
        are_objects = state.finished or (state.is_done and not state.label_prompts)
        due = []
        if (are_objects or objects.are_on_disk) and objects.are_due:
            due.append(objects)
        if (state.labels or (state.is_done and labels.are_on_disk)) and labels.are_due:
            due.append(labels)
        return due

    @contextlib.contextmanager
    def _all_written(self, due: Sequence[Results]) -> Iterator[None]:
        with contextlib.ExitStack() as stack:
            for results in due:
                stack.enter_context(written_results(results, self._painter))
            yield

    def _set_aside(self, number: int) -> None:
        """Move the prompts and results of an image that was replaced to where nothing else is."""
        place = self._aside.put(self._names(number))
        self._reviews[number] = "open"
        self.notices[number] = (
            f"'{self.paths[number].name}' is not the image that its prompts were made on: they are "
            f"set aside in '{place}', and it begins anew; they count again when that image is back"
        )
        _LOG.warning("%s", self.notices[number])

    def _take_back(self, number: int) -> bytes:
        """The prompts set aside of the image, and the page, that is there now, moved back."""
        for place in self._aside.places_of(self._path(number).name):
            content = self._parsed(number, (place / self._path(number).name).read_bytes())
            known = identity_from_json(content.get("image"))
            if known is None or not self._is_read_so(content):
                continue
            if _holds(self.paths[number], known):
                self._aside.take_back(place, self._names(number))
                self.notices.pop(number, None)
                _LOG.info("'%s' is back, and so are its prompts", self.paths[number].name)
                return self._bytes(number)
        return b""

    def _names(self, number: int) -> list[str]:
        """All files of an image, the prompts last: what was cut short is done again."""
        stem = self.paths[number].stem
        results = [f"{stem}_mask.png", f"{stem}.json"]
        labels = [f"{LABELS_FOLDER}/{name}" for name in results]
        return [*results, *labels, f"{stem}{FORMER_ENDING}", self._path(number).name]

    def _path(self, number: int) -> Path:
        return self.folder / f"{self.paths[number].stem}{ENDING}"

    def _bytes(self, number: int) -> bytes:
        """The file as it is; none if it is not there."""
        path, stem = self._path(number), self.paths[number].stem
        other, _, ending = stem.rpartition(".")
        if ending in ("prompts", "marks") and other in self._stems:
            raise ValueError(
                f"the masks of '{self.paths[number].name}' would be written over the prompts of "
                f"'{other}'; rename one of the two"
            )
        try:
            return path.read_bytes()
        except FileNotFoundError:
            return b""
        except OSError as error:  # a name too long, a folder of this name
            raise ValueError(
                f"the prompts of '{self.paths[number].name}' cannot be kept in '{path}': "
                f"{error.strerror}; rename the image"
            ) from error

    def _parsed(self, number: int, raw: bytes) -> dict[str, Any]:
        path = self._path(number)
        try:
            content = json.loads(raw)
        except (ValueError, RecursionError) as error:
            raise ValueError(
                f"'{path}' cannot be read: {error}; move it away to begin anew"
            ) from error
        if not isinstance(content, dict):
            raise ValueError(f"'{path}' holds no prompts; move it away to begin anew")
        version = content.get("version", _VERSION)
        if type(version) is not int or not 1 <= version <= _VERSION:
            raise ValueError(
                f"'{path}' has version {str(version)[:80]} of these files, and this maskfeat reads "
                f"{_VERSION}: install a newer one, or move the file away to begin anew"
            )
        return content


def _holds(path: Path, known: ImageIdentity) -> bool | None:
    """As `holds_image`; None if the file cannot be read, which the page says when it is opened."""
    try:
        return holds_image(path, known)
    except (OSError, ValueError):
        return None
