"""The few images of a folder that are open at a time: what is asked of one changes its files."""

from __future__ import annotations

import contextlib
import ctypes
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, wait
from dataclasses import replace
from itertools import islice
from pathlib import Path
from types import MappingProxyType
from typing import ClassVar

import numpy as np

from maskfeat.app.annotation import (
    AddPrompt,
    Annotation,
    ChooseMask,
    FinishObject,
    ReopenObject,
    SetDone,
    described,
)
from maskfeat.app.annotation_json import (
    JsonDict,
    description_to_json,
    mask_to_json,
    name_from_json,
    prompt_to_json,
    step_from_json,
)
from maskfeat.app.annotation_masks import (
    candidate_masks,
    click_radius_on,
    label_map,
    object_mask,
)
from maskfeat.app.annotation_state import OBJECT, ChosenMask, FinishedObject, MaskRuns, State
from maskfeat.app.annotation_store import AnnotationStore
from maskfeat.app.image_at_work import ImageAtWork, partition_bytes, read_at_work, thumbnail
from maskfeat.app.revisions import check_revision
from maskfeat.app.worker import Worker
from maskfeat.arrays import BoolArray
from maskfeat.data.annotations.image_identity import ImageIdentity
from maskfeat.data.annotations.painting import encode
from maskfeat.data.folder import MAX_MEGAPIXELS
from maskfeat.features.reading import FeatureModel
from maskfeat.files import file_stamp
from maskfeat.interactive.segmenter import InteractiveSegmenter

# What may be held at once; the image at hand and the next one may be beyond it.
_MOST_OPEN = 6
_MOST_PIXELS = 3_000_000
_MOST_AHEAD = 3
_NEEDING_MASKS = ("candidate", "finish", "reopen", "done", "save")


class OpenImages:
    """The backend of the page of objects, see `server.Backend`.

    It opens images, keeps the last few, and reads and computes the next ones ahead: three, fewer
    where they are large.

    Args:
        store: The images and their prompts.
        model: Gives features; asked by one thread alone.
        max_megapixels: Larger images are reduced to it before their features are taken.
    """

    page = "index.html"
    queries: Mapping[str, Callable[[Mapping[str, str]], JsonDict]] = MappingProxyType({})
    commands: Mapping[str, Callable[[JsonDict], JsonDict]] = MappingProxyType({})

    def __init__(self, store: AnnotationStore, model: FeatureModel, max_megapixels: float) -> None:
        self.store = store
        self._model = model
        self._max_megapixels = max_megapixels
        # An image can be looked at while the features of another are computed.
        self._reader, self._computer = Worker("read"), Worker("compute")
        self._lock = threading.Lock()
        self._open: OrderedDict[int, OpenImage] = OrderedDict()
        self._num_users: dict[int, int] = {}

    def start(self) -> None:
        """Nothing runs before an image is looked at."""

    def folder(self) -> JsonDict:
        """The images, which of them are done, and the first that is not."""
        store = self.store
        return {
            "names": [path.name for path in store.paths],
            "is_done": [store.is_done(number) for number in range(len(store.paths))],
            "review": [store.review(number) for number in range(len(store.paths))],
            "first": store.next_not_done(0) or 0,
            "out": str(store.folder),
        }

    def view(self, number: int, timeout_s: float = 0, learn: bool = False) -> JsonDict:
        """See `OpenImage.view`; when it is ready the next ones are begun. `learn` has no effect."""
        with self.hold(number) as image:
            view = image.view(timeout_s)
        if view["is_ready"]:
            self.prepare_next(number)
        return view

    def jpeg(self, number: int) -> bytes:
        """An image as the page shows it."""
        with self.hold(number) as image:
            return image.image.result().jpeg

    def thumbnail(self, number: int) -> bytes:
        """An image in the overview."""
        self._check_number(number)
        return thumbnail(self.store.paths[number], self.store.read_as)

    def partition(self, number: int) -> bytes:
        """See `OpenImage.partition`."""
        with self.hold(number) as image:
            return image.partition()

    def act(self, number: int, action: JsonDict) -> JsonDict:
        """See `OpenImage.act`."""
        with self.hold(number) as image:
            return image.act(action)

    @contextlib.contextmanager
    def hold(self, number: int) -> Iterator[OpenImage]:
        """Open an image, and keep it open in the meantime.

        Raises:
            ValueError: If there is no image of that number.
        """
        self._check_number(number)
        with self._lock:
            image = self._opened(number, is_ahead=False)
            self._open.move_to_end(number)
            self._num_users[number] = self._num_users.get(number, 0) + 1
            self._close_oldest()
        try:
            yield image
        finally:
            with self._lock:
                self._num_users[number] -= 1

    def prepare_next(self, number: int) -> None:
        """Begin with the images that come after this one, of those that are left to be done."""
        with self._lock:
            at_hand = self._open.get(number)
            if at_hand is None or not at_hand.is_read:  # others were opened, or its file replaced
                return
            num_fitting = _MOST_PIXELS // (at_hand.image.result().rgb.size // 3) - 1
            others = (n for n in self.store.not_done(number + 1) if n != number)
            following = list(islice(others, min(max(num_fitting, 1), _MOST_AHEAD)))
            for one in following:
                self._opened(one, is_ahead=True)
            for one in [*reversed(following), number]:  # what is wanted last is closed first
                self._open.move_to_end(one)
            self._close_oldest()

    def revision(self, number: int) -> str | None:
        """Of an image that is open and was shown, else None; "replaced" if its file changed."""
        with self._lock:
            found = self._open.get(number)
        if found is None:
            return None
        return "replaced" if found.is_replaced else found.revision()

    def close(self) -> None:
        """Begin nothing more; what is being computed ends first."""
        self._reader.close()
        self._computer.close()

    def _check_number(self, number: int) -> None:
        if not 0 <= number < len(self.store.paths):
            raise ValueError(f"there is no image {number} among {len(self.store.paths)}")

    def _opened(self, number: int, is_ahead: bool) -> OpenImage:
        found = self._open.get(number)
        if found is not None and found.is_replaced:
            self._forget(number)
            found = None
        if found is None:
            path = self.store.paths[number]
            read_as = self.store.read_as
            image = self._reader.submit(
                lambda: read_at_work(path, self._max_megapixels, read_as), is_ahead
            )

            def compute() -> InteractiveSegmenter:
                # The image is reduced already.
                segmenter = InteractiveSegmenter(self._model, max_megapixels=MAX_MEGAPIXELS)
                segmenter.set_image(image.result().rgb)
                _return_free_memory()
                return segmenter

            segmenter = self._computer.submit(compute, is_ahead)
            found = self._open[number] = OpenImage(number, self.store, image, segmenter)
        elif not is_ahead:
            # It was begun ahead, and now it is waited for.
            self._reader.hurry(found.image)
            self._computer.hurry(found.segmenter)
        return found

    def _close_oldest(self) -> None:
        """Forget what was not looked at for longest; the last two stay. Prompts are in files."""
        for number in list(self._open)[:-2]:
            if len(self._open) <= _MOST_OPEN and self._num_pixels() <= _MOST_PIXELS:
                return
            if not self._num_users.get(number):
                self._forget(number)

    def _forget(self, number: int) -> None:
        closed = self._open.pop(number)
        if not self._num_users.get(number):  # else somebody waits for them
            closed.segmenter.cancel()
            closed.image.cancel()

    def _num_pixels(self) -> int:
        read = [one.image.result() for one in self._open.values() if one.is_read]
        return sum(image.rgb.size // 3 for image in read)


class OpenImage:
    """An image's prompts and masks. Its methods may be called from any thread, and wait if need be.

    Args:
        number: Of the image.
        store: Where its prompts are.
        image: What is being read.
        segmenter: What is being computed.
    """

    def __init__(
        self,
        number: int,
        store: AnnotationStore,
        image: Future[ImageAtWork],
        segmenter: Future[InteractiveSegmenter],
    ) -> None:
        self.number = number
        self.image = image
        self.segmenter = segmenter
        self._store = store
        self._stamp = file_stamp(self._path)
        self._lock = threading.Lock()
        self._annotation: Annotation | None = None
        self._prompts_revision = ""
        self._partition: bytes | None = None

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the image, pixels."""
        return self.image.result().size

    @property
    def is_read(self) -> bool:
        """Whether the image is there, so that nobody waits for it."""
        image = self.image
        return image.done() and not image.cancelled() and image.exception() is None

    @property
    def is_replaced(self) -> bool:
        """Whether the file has changed since it was opened."""
        return file_stamp(self._path) != self._stamp

    def revision(self) -> str | None:
        """Of image and prompts as they are shown; None if nothing was shown yet."""
        with self._lock:
            return None if self._annotation is None else self._revision()

    def view(self, timeout_s: float = 0) -> JsonDict:
        """All that the page shows.

        Args:
            timeout_s: How long to wait for the features; without them masks at hand are missing.
        """
        wait([self.segmenter], timeout_s)
        if self.segmenter.done():
            self.segmenter.result()  # errors are raised here
        with self._lock:
            return self._view(self._loaded())

    def partition(self) -> bytes:
        """The tree that the page cuts, see `partition_bytes`."""
        segmenter = self.segmenter.result()
        with self._lock:
            if self._partition is None:
                hierarchy = segmenter.hierarchy
                self._partition = partition_bytes(hierarchy.superpixel_labels, hierarchy.tree)
            return self._partition

    def act(self, request: JsonDict) -> JsonDict:
        """Do what the page asks: save it, then compute what it changes.

        A prompt made before the features are there is saved, and answered without masks.

        Args:
            request: A step, see `step_from_json`, but that "finish" comes without a mask (it,
                "reopen" and "done" may have the `"class"` of the object at hand), and that a
                prompt's click radius is found here; or `{"do": "candidate"}`, the next mask that
                the prompts may stand for; or `{"do": "undo" | "redo" | "save"}`. With `"revision"`,
                that of the view it was decided upon.

        Returns:
            As `view`, the finished objects only if they changed, and of these only masks that
            did.

        Raises:
            StaleError: If the view has another revision by now.
            ValueError: If it cannot be done; then nothing has changed, in the files neither.
            OSError: If a file cannot be written; nothing has changed either.
        """
        what = str(request.get("do"))
        if what in _NEEDING_MASKS:
            self.segmenter.result()  # without the lock: prompts can be made meanwhile
        with self._lock:
            before = self._loaded()
            check_revision(request, self._revision(), self._path.name)
            after = self._answers.get(what, OpenImage._with_step)(self, before, request)
            self._keep(after)
            if after is not before:  # who goes on has read it
                self._store.notices.pop(self.number, None)
            try:
                view = self._view(after, before.state)
                if after.position > before.position and "problem" in view:
                    raise ValueError(view["problem"])
            except Exception:  # too little memory, say: what fails is not saved
                self._keep(before)
                raise
            return view

    def _with_step(self, before: Annotation, request: JsonDict) -> Annotation:
        step = step_from_json(request, self.size)
        if isinstance(step, AddPrompt):
            if step.prompt.kind == "box" and before.state.chosen is not None:
                raise ValueError(
                    "a box begins an object, and this one has a mask already; correct it with "
                    "clicks, scribbles and paint, or clear it"
                )
            radius = None  # of labels, and before the features are there
            if before.state.mode == "object" and self._is_ready():
                radius = click_radius_on(self._open_mask(before.state), step.prompt, self.size)
            step = AddPrompt(replace(step.prompt, click_radius=radius))
        return before.with_step(step)

    def _with_next_candidate(self, before: Annotation, request: JsonDict) -> Annotation:
        state = before.state
        before.with_step(ChooseMask(0, 1))  # refused, if there is nothing to choose
        masks = candidate_masks(self.segmenter.result(), state.open_prompts, self.size)
        if len(masks) == 1:
            raise ValueError("the prompts have no other mask; click once more instead")
        number = ((state.chosen.number if state.chosen else 0) + 1) % len(masks)
        mask = _runs_of(masks[number]) if number else None
        return before.with_step(ChooseMask(number, len(masks), mask))

    def _with_object_finished(self, before: Annotation, request: JsonDict) -> Annotation:
        if before.state.mode != "object":
            raise ValueError("labels are not finished one by one; call the image done")
        runs = self._open_runs(before.state)
        if runs is None:
            raise ValueError("the object has no pixels yet; left click it first")
        return before.with_step(FinishObject(runs, name_from_json(request, "class")))

    def _with_object_reopened(self, before: Annotation, request: JsonDict) -> Annotation:
        step = step_from_json(request, self.size)
        assert isinstance(step, ReopenObject)
        if before.state.has_open:
            before = self._with_object_finished(before, request)
        return before.with_step(step)

    def _with_image_done(self, before: Annotation, request: JsonDict) -> Annotation:
        step = step_from_json(request, self.size)
        assert isinstance(step, SetDone)
        state = before.state
        if not step.is_done:
            return before.with_step(SetDone(False))
        if state.mode == "object" and state.has_open:
            before = self._with_object_finished(before, request)
        elif state.has_open and (runs := self._open_runs(state)):  # left for the labels
            before = before.with_step(FinishObject(runs, name_from_json(request, "class")))
        return before.with_step(SetDone(True, self._labels(state)))

    def _with_results_written(self, before: Annotation, request: JsonDict) -> Annotation:
        """Labels are kept by a step, as objects are, so that results follow from steps alone."""
        state = before.state
        labels = self._labels(state) if state.mode == "labels" else state.labels
        if labels != state.labels:
            return before.with_step(SetDone(state.is_done, labels))
        self._store.write_results(self.number, self.size, state)
        return before

    _answers: ClassVar[dict[str, Callable[[OpenImage, Annotation, JsonDict], Annotation]]] = {
        "undo": lambda self, before, request: before.undone(),
        "redo": lambda self, before, request: before.redone(),
        "save": _with_results_written,
        "candidate": _with_next_candidate,
        "finish": _with_object_finished,
        "reopen": _with_object_reopened,
        "done": _with_image_done,
    }

    def _loaded(self) -> Annotation:
        if self._annotation is None:
            self._annotation = self._store.load(self.number, self.size, self._identity)
            self._prompts_revision = self._store.revision(self.number)
        return self._annotation

    def _keep(self, annotation: Annotation) -> None:
        before, self._annotation = self._annotation, None  # what fails is read again
        assert before is not None
        if annotation is not before:
            self._store.save(
                self.number,
                self.size,
                self._identity,
                annotation,
                self._prompts_revision,
                with_results=before.state.shown_in_results != annotation.state.shown_in_results,
            )
            self._prompts_revision = self._store.revision(self.number)
        self._annotation = annotation

    def _view(self, annotation: Annotation, known: State | None = None) -> JsonDict:
        """What the page shows; of finished objects only what is another than in a known state."""
        state = annotation.state
        is_ready = self._is_ready()
        view: JsonDict = {
            "moment": time.monotonic_ns(),  # views overtake one another on their way
            "number": self.number,
            "revision": self._revision(),
            "size": list(self.size),
            "is_ready": is_ready,
            "mode": state.mode,
            "is_done": state.is_done,
            "num_done": self._store.num_done,
            "can_undo": annotation.can_undo,
            "can_redo": annotation.can_redo,
            "undo": described(annotation.last_step) if annotation.last_step else None,
            "prompts": [prompt_to_json(prompt) for prompt in state.prompts],
            "review": state.review,
            "has_open": state.has_open,
            "open_number": state.open_number or state.next_number,
            "description": description_to_json(state.description),
            "chosen": _number_of(state.chosen),
            "masks": [],
        }
        if known is None or (known.finished, known.order) != (state.finished, state.order):
            known_masks = {one.number: one.mask for one in known.finished} if known else {}
            view["finished"] = [_finished_to_json(one, known_masks) for one in state.in_order]
        if self.number in self._store.notices:
            view["notice"] = self._store.notices[self.number]
        if is_ready:
            try:
                is_object = state.mode == "object"
                masks = {OBJECT: self._open_mask(state)} if is_object else self._label_masks(state)
                view["masks"] = [
                    {"label": label, "size": list(mask.shape), "counts": encode(mask)}
                    for label, mask in masks.items()
                    if mask.any()
                ]
            except ValueError as error:
                view["problem"] = str(error)
        return view

    def _is_ready(self) -> bool:
        return self.segmenter.done() and not self.segmenter.exception()

    def _open_mask(self, state: State) -> BoolArray:
        prompts = state.open_prompts
        return object_mask(self.segmenter.result(), prompts, self.size, state.chosen)

    def _open_runs(self, state: State) -> MaskRuns | None:
        """The pixels that the object at hand would be finished with, None if it has none."""
        mask = self._open_mask(state)
        if not mask.any():
            return None
        # What was read from a file and is not corrected stays as it is, at full size.
        return state.chosen.mask if state.chosen and not state.open_prompts else _runs_of(mask)

    def _label_masks(self, state: State) -> dict[int, BoolArray]:
        labels = label_map(self.segmenter.result(), state.label_prompts, self.size)
        return {int(label): labels == label for label in np.unique(labels) if label > 0}

    def _labels(self, state: State) -> tuple[tuple[int, MaskRuns], ...]:
        """The labels of all pixels, to be kept."""
        masks = self._label_masks(state) if state.label_prompts else {}
        return tuple((label, _runs_of(mask)) for label, mask in masks.items())

    def _revision(self) -> str:
        return f"{self._identity.file_digest[:12]}-{self._prompts_revision}"

    @property
    def _identity(self) -> ImageIdentity:
        return self.image.result().identity

    @property
    def _path(self) -> Path:
        return self._store.paths[self.number]


def _finished_to_json(one: FinishedObject, known: Mapping[int, MaskRuns]) -> JsonDict:
    """A finished object, its mask left out if it is known."""
    is_known = known.get(one.number) == one.mask
    mask = {} if is_known else mask_to_json(one.mask)
    return {"number": one.number, **description_to_json(one.description), **mask}


def _number_of(chosen: ChosenMask | None) -> JsonDict | None:
    return None if chosen is None else {"number": chosen.number, "num_masks": chosen.num_masks}


def _runs_of(mask: BoolArray) -> MaskRuns:
    return MaskRuns((mask.shape[0], mask.shape[1]), encode(mask))


def _return_free_memory() -> None:
    """Give back to the system what the C library keeps of freed arrays: half a gigabyte or so."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):  # musl has no such function
            ctypes.CDLL(None).malloc_trim(0)
