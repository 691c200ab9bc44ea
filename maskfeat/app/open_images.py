"""The few images that are open at a time, of a folder of thousands, and what computes ahead."""

from __future__ import annotations

import contextlib
import ctypes
import sys
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from types import MappingProxyType

from maskfeat.app.annotation_json import JsonDict
from maskfeat.app.annotation_store import AnnotationStore
from maskfeat.app.image_at_work import read_at_work, thumbnail
from maskfeat.app.open_image import OpenImage
from maskfeat.app.worker import Worker
from maskfeat.data.folder import MAX_MEGAPIXELS
from maskfeat.features.reading import FeatureModel
from maskfeat.interactive.segmenter import InteractiveSegmenter

# What may be held at once; the image at hand and the next one may be beyond it.
_MOST_OPEN = 6
_MOST_PIXELS = 3_000_000
_MOST_AHEAD = 3


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


def _return_free_memory() -> None:
    """Give back to the system what the C library keeps of freed arrays: half a gigabyte or so."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):  # musl has no such function
            ctypes.CDLL(None).malloc_trim(0)
