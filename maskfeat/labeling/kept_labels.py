"""The label maps of images that are done."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from maskfeat.arrays import IntArray
from maskfeat.labeling.click_log import Click, ClickFile
from maskfeat.labeling.export import read_label_map, write_label_map

_LOG = logging.getLogger("maskfeat")


class KeptLabels:
    """Files `FOLDER/KEY.png`, one for each image that is done, and none for others.

    An image whose file is missing or damaged is not done any more, which is logged.

    Args:
        folder: Where they are; made with the first.
        paths: The images.
        clicks: Says which are done.
        size_of: Height and width of an image, pixels, by its number.
    """

    def __init__(
        self,
        folder: Path,
        paths: Sequence[Path],
        clicks: ClickFile,
        size_of: Callable[[int], tuple[int, int]],
    ) -> None:
        self._paths = [folder / f"{path.stem}.png" for path in paths]
        self._clicks, self._size_of = clicks, size_of
        for image in sorted(clicks.done):
            if not self._paths[image].is_file():
                self._reopen(image)

    def keep(self, image: int, labels: IntArray) -> None:
        """Call an image done with these classes of its pixels, shape (H, W)."""
        write_label_map(self._paths[image], labels)
        self._clicks.set_done(image, True)

    def drop(self, image: int) -> None:
        """Call an image not done."""
        with self.withdrawn(image):
            self._clicks.set_done(image, False)

    def read(self, image: int) -> IntArray | None:
        """The classes of an image that is done, shape (H, W); else None."""
        if image not in self._clicks.done:
            return None
        labels = read_label_map(self._paths[image])
        if labels is not None and labels.shape == self._size_of(image):
            return labels
        self._reopen(image)
        return None

    @contextlib.contextmanager
    def withdrawn(self, image: int) -> Iterator[None]:
        """Remove the file of an image when the block has ended well.

        It is out of sight from the start: a kill in between leaves no labels that clicks do not
        stand for.
        """
        path = self._paths[image]
        hidden = path.with_name(f".{path.name[-200:]}.old")
        with contextlib.suppress(FileNotFoundError):
            path.replace(hidden)
        try:
            yield
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                hidden.replace(path)
            raise
        hidden.unlink(missing_ok=True)

    def withdrawn_of_last(self, clicks: Sequence[Click]) -> contextlib.AbstractContextManager[None]:
        """The same for the image that the last of some clicks is on."""
        return self.withdrawn(clicks[-1].image) if clicks else contextlib.nullcontext()

    def _reopen(self, image: int) -> None:
        _LOG.warning(
            "'%s', the labels of an image that was done, is missing or damaged; the image is "
            "not done any more",
            self._paths[image],
        )
        self.drop(image)
