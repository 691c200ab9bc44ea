"""What the page of `maskfeat annotate --classes` shows of the images, and what it may do."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, wait
from typing import Any

from maskfeat.app.annotation_json import JsonDict
from maskfeat.app.image_at_work import partition_bytes, read_at_work, thumbnail
from maskfeat.app.revisions import check_revision, revision_of
from maskfeat.app.server import number_of
from maskfeat.app.worker import Worker
from maskfeat.files import file_stamp
from maskfeat.labeling.click_log import IGNORED
from maskfeat.labeling.examples import superpixel_at
from maskfeat.labeling.image_store import PreparedImage
from maskfeat.labeling.labeler import Labeler

# The granularity at first: regions are about as large as the labeler's own.
GRANULARITY = 0.85


class LabelViews:
    """The backend of the page of classes, see `server.Backend`: a `Labeler` as the page sees it.

    Args:
        labeler: Holds the images, their clicks and proposals.
    """

    page = "label.html"

    def __init__(self, labeler: Labeler) -> None:
        self.labeler = labeler
        # An image that is asked for comes before those that are prepared ahead.
        self._worker = Worker("prepare")
        self._lock, self._acting = threading.Lock(), threading.Lock()
        self._preparing: dict[int, Future[PreparedImage]] = {}
        self.queries: Mapping[str, Callable[[Mapping[str, str]], JsonDict]] = {
            "progress": lambda _: self.progress(),
            "next": lambda query: {"number": labeler.next(number_of(query, "after", None))},
        }
        self.commands: Mapping[str, Callable[[JsonDict], JsonDict]] = {"export": self.export}

    def start(self) -> None:
        """Prepare the images in the background."""
        self.labeler.prepare(in_background=True)

    def folder(self) -> JsonDict:
        """All that does not change by clicks, and which image comes first."""
        labeler = self.labeler
        numbers = range(len(labeler.paths))
        return {
            "names": [path.name for path in labeler.paths],
            "classes": labeler.classes,
            "is_done": [labeler.is_done(number) for number in numbers],
            "review": [labeler.review(number) for number in numbers],
            "first": labeler.next(),
            "granularity": GRANULARITY,
            "out": str(labeler.out),
            "progress": self.progress(),
        }

    def progress(self) -> JsonDict:
        """How far it is, and what went wrong, by name of the image."""
        failed = dict(self.labeler.store.failed)
        names = {self.labeler.paths[number].name: text for number, text in failed.items()}
        return {**self.labeler.progress._asdict(), "failed": names}

    def view(self, number: int, timeout_s: float = 0, learn: bool = False) -> JsonDict:
        """What an image may be.

        Args:
            number: Of the image.
            timeout_s: How long to wait until it is prepared.
            learn: Whether to learn from new clicks first.

        Raises:
            ValueError: If there is no such image, or it cannot be read.
        """
        if not self._is_prepared(number, timeout_s):
            return {"number": number, "is_ready": False, "progress": self.progress()}
        labeler = self.labeler
        if learn:
            labeler.learn()
        state, found = self._state(number), labeler.superpixel_proposal(number, learn=False)
        if state["revision"] != self.revision(number):  # the clicks on another image went aside
            state, found = self._state(number), labeler.superpixel_proposal(number, learn=False)
        return {
            **state,
            "knows_classes": labeler.knows_classes,
            "classes": found.classes.tolist(),
            "fixed": found.is_fixed.nonzero()[0].tolist(),
        }

    def revision(self, number: int) -> str | None:
        """Of one image and its clicks: two people may label different images at a time."""
        if not 0 <= number < len(self.labeler.paths):
            return None
        state = self.labeler.clicks_on(number), self.labeler.review(number)
        return revision_of(repr((state, file_stamp(self.labeler.paths[number]))).encode())

    def _state(self, number: int) -> JsonDict:
        """What is known of a prepared image without any computing."""
        labeler = self.labeler
        # First what says how old the rest may be.
        moment, revision = time.monotonic_ns(), self.revision(number)
        is_fresh, prepared = labeler.is_fresh, labeler.store.get(number)
        return {
            "revision": revision,
            "moment": moment,  # views overtake one another on their way
            "number": number,
            "is_ready": True,
            "size": list(prepared.size),
            "is_fresh": is_fresh,
            "is_done": labeler.is_done(number),
            "review": labeler.review(number),
            "can_undo": bool(labeler.clicks),
            "can_redo": labeler.num_undone > 0,
            "num_set_aside": labeler.set_aside.get(labeler.paths[number].name, 0),
            "clicks": [
                {
                    "at_yx": [click.row, click.column],
                    "superpixel": superpixel_at(prepared, click.row, click.column),
                    "class": click.class_number,
                }
                for click in labeler.clicks_on(number)
            ],
            "progress": self.progress(),
        }

    def jpeg(self, number: int) -> bytes:
        """An image as the page shows it."""
        self._check_number(number)
        return read_at_work(self.labeler.paths[number], 1, self.labeler.store.read_as).jpeg

    def thumbnail(self, number: int) -> bytes:
        """An image in the overview."""
        self._check_number(number)
        return thumbnail(self.labeler.paths[number], self.labeler.store.read_as)

    def partition(self, number: int) -> bytes:
        """The tree of an image that is prepared, see `partition_bytes`."""
        self._is_prepared(number, timeout_s=60)
        prepared = self.labeler.store.get(number)
        return partition_bytes(prepared.graph.labels, prepared.tree)

    def act(self, number: int, request: JsonDict) -> JsonDict:
        """Do what the page asks: it is saved before the answer, which comes before it is learned.

        So the answer says no classes, and the next click need not wait for those.

        Args:
            number: Of the image that is shown.
            request: `{"do": "click", "at_yx": [row, column], "class": number, "granularity": g}`
                with class -1 for a region to be ignored, `{"do": "undo" | "redo"}`,
                `{"do": "done", "is_done": true | false}` or `{"do": "check", "is_to_check": true |
                false}`. With `"revision"`, that of the view it was decided upon.

        Returns:
            What `view` says but for the classes, of the image that changed: the last click may
            be on another one.

        Raises:
            StaleError: If something else has come before it.
            ValueError: If it cannot be done; then nothing has changed, in the files neither.
        """
        with self._acting:
            labeler = self.labeler
            revision = self.revision(number)
            if revision is not None:
                check_revision(request, revision, labeler.paths[number].name)
            return self._state(self._act(number, request))

    def _act(self, number: int, request: JsonDict) -> int:
        """The number of the image that changed."""
        labeler, what = self.labeler, str(request.get("do"))[:80]
        if what == "click":
            row, column = _numbers(request.get("at_yx"), 2, "at_yx")
            (place,) = _numbers([request.get("class")], 1, "class")
            if not IGNORED <= place < len(labeler.classes):
                raise ValueError(f"there is no class {place} among {len(labeler.classes)}")
            size = request.get("granularity")
            if type(size) not in (int, float):
                raise ValueError(f"granularity must be a number, got {str(size)[:80]}")
            name = None if place == IGNORED else labeler.classes[place]
            labeler.click(number, (row, column), name, granularity=size)
        elif what in ("undo", "redo"):
            number = labeler.undo() if what == "undo" else labeler.redo()
        elif what == "done":
            # The labels that were seen are kept: not those of what is learned at this moment.
            labeler.set_done(number, request.get("is_done") is True, learn=False)
        elif what == "check":
            labeler.set_to_check(number, request.get("is_to_check") is True)
        else:
            raise ValueError(f"an action must be click, undo, redo, done or check, got {what!r}")
        return number

    def export(self, request: JsonDict) -> JsonDict:
        """Write the labels of all images that are done, `{"formats": ["png", ...]}`."""
        formats: Any = request.get("formats", ["png", "coco", "sa1b"])
        if not isinstance(formats, list) or not all(isinstance(one, str) for one in formats):
            raise ValueError(f"formats must be a list of words, got {str(formats)[:80]}")
        folder = self.labeler.out / "exported"
        return {"num": self.labeler.export(folder, formats), "folder": str(folder)}

    def close(self) -> None:
        """Begin nothing more; what is being computed ends first."""
        self._worker.close()
        self.labeler.close()

    def _is_prepared(self, number: int, timeout_s: float) -> bool:
        if 0 <= number and self.labeler.store.is_prepared(number):
            return True  # to be read in a moment
        self._check_number(number)
        with self._lock:
            future = self._preparing.get(number)
            if future is None:
                future = self._worker.submit(lambda: self.labeler.store.get(number), is_ahead=False)
                self._preparing[number] = future
        wait([future], timeout_s)
        if not future.done():
            return False
        with self._lock:
            self._preparing.pop(number, None)
        future.result()  # raises what went wrong
        return True

    def _check_number(self, number: int) -> None:
        if not 0 <= number < len(self.labeler.paths):
            raise ValueError(f"there is no image {number} among {len(self.labeler.paths)}")


def _numbers(given: Any, count: int, name: str) -> list[int]:  # noqa: ANN401
    is_right = isinstance(given, list) and len(given) == count
    if not is_right or not all(type(value) is int for value in given):
        raise ValueError(f"{name} must be whole numbers, got {str(given)[:80]}")
    return [int(value) for value in given]
