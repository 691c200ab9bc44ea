"""What a person said of a set of images, in one file that is never half written."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from maskfeat.files import whole_file

_VERSION = 1


class Click(NamedTuple):
    """One correction.

    Attributes:
        image: Number of the image.
        row: Clicked pixel of the picture.
        column: Clicked pixel of the picture.
        class_number: What the region there is.
        granularity: How large that region may be, in (0, 1), see `PreparedImage.region`; or None,
            and `num_segments` says it.
        num_segments: How large it may be, at least 1; or None.
    """

    image: int
    row: int
    column: int
    class_number: int
    granularity: float | None
    num_segments: int | None = None


@dataclass
class ClickFile:
    """All clicks, in their order, and which images are done.

    The whole file is written anew and renamed with each change: a few milliseconds for some
    thousand clicks. A change that cannot be written raises, and is none.

    Args:
        path: The file; made with the first change.
        names: Of the images, in order.
        classes: Names of the classes.

    Raises:
        ValueError: If the file there cannot be read, or is of other images or classes. New images
            may come at any place, classes at the end.
    """

    path: Path
    names: list[str]
    classes: list[str]

    def __post_init__(self) -> None:
        self._know([], [], set())
        self._stamp = self._stamp_now()
        if self._stamp is not None:
            self._read()

    def add(self, click: Click) -> None:
        """Keep a click; its image is not done then. What was taken back cannot come again."""
        self._save([*self.clicks, click], [], self.done - {click.image})

    def pop(self) -> Click:
        """Take the last click back.

        Raises:
            ValueError: If there is none.
        """
        if not self.clicks:
            raise ValueError("there is no click to take back")
        click = self.clicks[-1]
        self._save(self.clicks[:-1], [*self.undone, click], self.done - {click.image})
        return click

    def restore(self) -> Click:
        """Keep again what was taken back last.

        Raises:
            ValueError: If there is none.
        """
        if not self.undone:
            raise ValueError("there is no click to do again")
        click = self.undone[-1]
        self._save([*self.clicks, click], self.undone[:-1], self.done - {click.image})
        return click

    def set_done(self, image: int, is_done: bool) -> None:
        """Call an image done, or not."""
        done = self.done | {image} if is_done else self.done - {image}
        self._save(self.clicks, self.undone, done)

    def of_image(self, image: int) -> list[Click]:
        """The clicks on one image, in their order."""
        return self._of_image.get(image, [])

    @property
    def images(self) -> list[int]:
        """The images that were clicked, by rising number."""
        return sorted(self._of_image)

    def _save(self, clicks: list[Click], undone: list[Click], done: set[int]) -> None:
        """Write what is known from now on, and know it only when it is written."""
        if self._stamp_now() != self._stamp:
            raise ValueError(
                f"'{self.path}' was changed by another program; end both and start one again"
            )
        self._write(clicks, undone, done)
        self._know(clicks, undone, done)

    def _know(self, clicks: list[Click], undone: list[Click], done: set[int]) -> None:
        of_image: dict[int, list[Click]] = {}
        for click in clicks:
            of_image.setdefault(click.image, []).append(click)
        self.clicks, self.undone, self.done, self._of_image = clicks, undone, done, of_image

    def _stamp_now(self) -> tuple[int, int] | None:
        try:
            status = self.path.stat()
        except FileNotFoundError:
            return None
        return status.st_mtime_ns, status.st_ino

    def _write(self, clicks: list[Click], undone: list[Click], done: set[int]) -> None:
        content = {
            "version": _VERSION,
            "classes": self.classes,
            "clicks": [self._row(click) for click in clicks],
            "undone": [self._row(click) for click in undone],
            "done": sorted(self.names[image] for image in done),
        }
        with whole_file(self.path) as file:
            file.write(json.dumps(content, separators=(",", ":")).encode())
        self._stamp = self._stamp_now()

    def _row(self, click: Click) -> list[Any]:
        size = click.num_segments if click.granularity is None else click.granularity
        return [self.names[click.image], *click[1:4], size]

    def _read(self) -> None:
        try:
            content: dict[str, Any] = json.loads(self.path.read_bytes())
            known = [str(name) for name in content["classes"]]
            rows = [_parsed(row) for row in content["clicks"]]
            undone = [_parsed(row) for row in content.get("undone", [])]
            done = [str(name) for name in content["done"]]
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise ValueError(
                f"'{self.path}' cannot be read: {error}; move it away to begin anew"
            ) from error
        if known != self.classes[: len(known)]:
            raise ValueError(
                f"'{self.path}' was written for the classes {known}, not for {self.classes}; "
                "name these first, or choose another folder"
            )
        number = {name: place for place, name in enumerate(self.names)}
        named = {row[0] for row in [*rows, *undone]} | set(done)
        missing = sorted(named - set(number))
        if missing:
            raise ValueError(
                f"'{self.path}' has clicks on '{missing[0]}', which is not among the "
                f"{len(self.names)} pictures; put it back, or choose another folder"
            )
        kept, taken_back = (
            [Click(number[row[0]], *row[1:]) for row in some] for some in (rows, undone)
        )
        self._know(kept, taken_back, {number[name] for name in done})


def _parsed(row: Any) -> tuple[str, int, int, int, float | None, int | None]:  # noqa: ANN401
    """A row of the file, which has one number for granularity and num_segments."""
    name, y, x, number, size = row
    sizes = (float(size), None) if 0 < size < 1 else (None, max(1, int(size)))
    return str(name), int(y), int(x), int(number), *sizes
