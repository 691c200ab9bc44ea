"""The clicks of a person on a set of images, in one file that is never half written."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from maskfeat.files import file_stamp, whole_file

_LOG = logging.getLogger("maskfeat")
# What odd values of a file lead to; int(1e400) is an OverflowError.
_BAD = (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError)
_VERSION = 3  # 1 had no digests of the images, 2 no ignored regions
# Stands in the file and in label maps where a class would be.
IGNORED = -1


class Click(NamedTuple):
    """One correction.

    Attributes:
        image: Number of the image.
        row: Clicked pixel of the image.
        column: Clicked pixel of the image.
        class_number: What the region there is; `IGNORED` if that is not to be known.
        granularity: How large that region may be, in (0, 1), see `PartitionTree.region_around`;
            or None, and `num_segments` says it.
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
    """All clicks, first to last, and which images are done or to be checked.

    The whole file is written anew and renamed with each change: a few milliseconds for some
    thousand clicks. A change that cannot be written raises, and is none.

    Clicks belong to the content of an image. Those on an image that is gone or has another content
    are set aside: they stay in the file under its name, and count again when the image is back.

    Args:
        path: The file; made with the first change.
        names: Of the images, in order.
        classes: Names of the classes.
        digest_of: Digest of an image's content, by its number; None where it cannot be read.

    Attributes:
        done: Numbers of the images that are done.
        to_check: Of those that a person wants to look at again; none is both.
        aside: What was set aside: name and digest of the image, and rows of the file.

    Raises:
        ValueError: If the file there cannot be read, was written by a newer version, or for other
            classes. New images may come at any place, classes at the end.
    """

    path: Path
    names: list[str]
    classes: list[str]
    digest_of: Callable[[int], str | None]

    def __post_init__(self) -> None:
        self.aside: list[dict[str, Any]] = []
        self._digests: dict[int, str | None] = {}  # of the images with clicks
        self._know([], [], set(), set())
        self._stamp = file_stamp(self.path)
        if self._stamp is not None:
            self._read()

    def add(self, click: Click) -> None:
        """Keep a click; its image is not done then. What was taken back cannot come again."""
        self._digests.setdefault(click.image, self.digest_of(click.image))
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
        self._digests.setdefault(image, self.digest_of(image))
        done = self.done | {image} if is_done else self.done - {image}
        self._save(self.clicks, self.undone, done)

    def set_to_check(self, image: int, is_to_check: bool) -> None:
        """Say that somebody should look at an image again, which is not done then; or not."""
        self._digests.setdefault(image, self.digest_of(image))
        others = self.to_check - {image}
        if is_to_check:
            self._save(self.clicks, self.undone, self.done - {image}, others | {image})
        else:
            self._save(self.clicks, self.undone, self.done, others)

    def set_aside_if_changed(self, image: int) -> bool:
        """Set the clicks on an image aside if it is not the one that they were made on.

        Returns:
            Whether it was so.
        """
        digest = self._digests.get(image)
        if digest is None or self.digest_of(image) == digest:
            return False
        rows = [self._row(click) for click in self.of_image(image)]
        self._put_aside(self.names[image], self._digests.pop(image), rows)
        kept, undone = (
            [click for click in some if click.image != image] for some in (self.clicks, self.undone)
        )
        self._save(kept, undone, self.done - {image}, self.to_check - {image})
        return True

    def of_image(self, image: int) -> list[Click]:
        """The clicks on one image, first to last."""
        return self._of_image.get(image, [])

    @property
    def images(self) -> list[int]:
        """The images that were clicked, by rising number."""
        return sorted(self._of_image)

    def _put_aside(self, name: str, digest: str | None, rows: list[Any]) -> None:
        _LOG.warning(
            "the image '%s' is gone or has changed since it was clicked; its %d clicks are set "
            "aside in '%s' and count again when it is back",
            name,
            len(rows),
            self.path,
        )
        if rows:
            self.aside.append({"name": name, "digest": digest, "clicks": rows})

    def _save(
        self,
        clicks: list[Click],
        undone: list[Click],
        done: set[int],
        to_check: set[int] | None = None,
    ) -> None:
        """Write what is known from now on, and know it only when it is written."""
        if file_stamp(self.path) != self._stamp:
            raise ValueError(
                f"'{self.path}' was changed by another program; end both and start one again"
            )
        to_check = (self.to_check if to_check is None else to_check) - done
        self._write(clicks, undone, done, to_check)
        self._know(clicks, undone, done, to_check)

    def _know(
        self, clicks: list[Click], undone: list[Click], done: set[int], to_check: set[int]
    ) -> None:
        of_image: dict[int, list[Click]] = {}
        for click in clicks:
            of_image.setdefault(click.image, []).append(click)
        self.clicks, self.undone, self._of_image = clicks, undone, of_image
        self.done, self.to_check = done, to_check

    def _write(
        self, clicks: list[Click], undone: list[Click], done: set[int], to_check: set[int]
    ) -> None:
        content = {
            "version": _VERSION,
            "classes": self.classes,
            "clicks": [self._row(click) for click in clicks],
            "undone": [self._row(click) for click in undone],
            "done": sorted(self.names[image] for image in done),
            "check": sorted(self.names[image] for image in to_check),
            "images": {self.names[image]: digest for image, digest in self._digests.items()},
            "aside": self.aside,
        }
        with whole_file(self.path) as file:
            file.write(json.dumps(content, separators=(",", ":")).encode())
        self._stamp = file_stamp(self.path)

    def _row(self, click: Click) -> list[Any]:
        size = click.num_segments if click.granularity is None else click.granularity
        return [self.names[click.image], *click[1:4], size]

    def _read(self) -> None:
        try:
            content: dict[str, Any] = json.loads(self.path.read_bytes())
            version = int(content["version"])
            known = [str(name) for name in content["classes"]]
            rows, undone = (list(content.get(part, [])) for part in ("clicks", "undone"))
            done = [str(name) for name in content["done"]]
            to_check = [str(name) for name in content.get("check", [])]
            digests: dict[str, str | None] = dict(content.get("images", {}))
            self.aside = list(content.get("aside", []))
            self._check(version, known)
            aside = [r for one in self.aside for r in _clicks_aside(one)]
            for row in [*rows, *undone, *aside]:
                if not IGNORED <= _parsed(row)[3] < len(known):
                    raise ValueError(f"a click has class {row[3]}, and there are {len(known)}")
        except _BAD as error:
            if isinstance(error, _ForeignFileError):
                raise
            raise ValueError(
                f"'{self.path}' cannot be read: {error}; move it away to begin anew"
            ) from error
        self._take(rows, undone, done, to_check, digests)

    def _check(self, version: int, known: list[str]) -> None:
        if version > _VERSION:
            raise _ForeignFileError(
                f"'{self.path}' was written by a newer maskfeat (version {version} of the file, "
                f"this one reads up to {_VERSION}); update maskfeat, or choose another folder"
            )
        if known != self.classes[: len(known)]:
            raise _ForeignFileError(
                f"'{self.path}' was written for the classes {known}, not for {self.classes}; "
                "name these first, or choose another folder"
            )

    def _take(
        self,
        rows: list[Any],
        undone: list[Any],
        done: list[str],
        to_check: list[str],
        digests: dict[str, str | None],
    ) -> None:
        """Know what a file says, but for images that are gone or have changed."""
        number = {name: place for place, name in enumerate(self.names)}
        named = {str(row[0]) for row in [*rows, *undone]} | {*done, *to_check}
        for name in sorted(named):
            now = self.digest_of(number[name]) if name in number else None
            then = digests.get(name)
            if name in number and (then is None or then == now):
                self._digests[number[name]] = now
                continue
            self._put_aside(name, then, [row for row in rows if row[0] == name])
        for one in list(self.aside):
            image = number.get(one["name"])
            if image is None or image in self._digests:
                continue
            now = self.digest_of(image)
            if now is not None and one["digest"] in (None, now):
                self._digests[image] = now
                rows = [*rows, *one["clicks"]]
                self.aside.remove(one)
        kept, taken_back = (
            [
                Click(number[str(row[0])], *_parsed(row)[1:])
                for row in some
                if number.get(str(row[0])) in self._digests
            ]
            for some in (rows, undone)
        )
        reviewed = (
            {number[name] for name in some if number.get(name) in self._digests}
            for some in (done, to_check)
        )
        self._know(kept, taken_back, *reviewed)


class _ForeignFileError(ValueError):
    """A file that is sound, and not for this program or these classes."""


def _clicks_aside(one: Any) -> list[Any]:  # noqa: ANN401
    """The rows of an image that was set aside, whose name and digest are there too."""
    if not isinstance(one["name"], str) or not isinstance(one["digest"], str | None):
        raise TypeError("an image set aside needs a name and a digest")
    return list(one["clicks"])


def _parsed(row: Any) -> tuple[str, int, int, int, float | None, int | None]:  # noqa: ANN401
    """A row of the file, which has one number for granularity and num_segments."""
    name, y, x, number, size = row
    sizes = (float(size), None) if 0 < size < 1 else (None, max(1, int(size)))
    return str(name), int(y), int(x), int(number), *sizes
