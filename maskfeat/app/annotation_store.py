"""The files of `maskfeat annotate`: the marks of each picture, so that nothing clicked is lost."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from maskfeat.app.annotation import Annotation
from maskfeat.app.annotation_json import annotation_from_json, annotation_to_json
from maskfeat.files import whole_file

Stamp = tuple[int, int]


class AnnotationStore:
    """Reads and writes FOLDER/KEY.marks.json, each written whole, then renamed.

    In memory it holds one bit for each picture, so that thousands of them cost nothing.

    Args:
        folder: Where the files are; made when the first is written.
        paths: The pictures, of different names without ending.

    Raises:
        ValueError: If a file is there that holds no marks.
    """

    def __init__(self, folder: Path, paths: Sequence[Path]) -> None:
        self.folder = folder
        self.paths = list(paths)
        self._stamps: dict[int, Stamp | None] = {}
        self._is_done = [self._read(n).get("is_done") is True for n in range(len(self.paths))]

    @property
    def num_done(self) -> int:
        """How many pictures are done."""
        return sum(self._is_done)

    def is_done(self, number: int) -> bool:
        """Whether a picture was called done."""
        return self._is_done[number]

    def next_not_done(self, start: int) -> int | None:
        """The first picture that is not done, from `start` to the end, then from the beginning."""
        num = len(self.paths)
        return next(
            (n % num for n in range(start, start + num) if not self._is_done[n % num]), None
        )

    def load(self, number: int, size: tuple[int, int]) -> Annotation:
        """The marks of a picture, none if there is no file.

        Args:
            number: Which picture.
            size: Its height and width, pixels.

        Raises:
            ValueError: If the file is malformed, or belongs to another picture.
        """
        # First the stamp: what another program writes in between shows as a change when saving.
        self._stamps[number] = self._stamp(number)
        content = self._read(number)
        if not content:
            return Annotation()
        path, known = self._path(number), (content.get("file_name"), content.get("size"))
        expected = (self.paths[number].name, list(size))
        if known != expected:
            raise ValueError(
                f"'{path}' was written for the picture '{known[0]}' of (height, width) {known[1]}, "
                f"not for '{expected[0]}' of {expected[1]}; choose another folder with --out"
            )
        try:
            return annotation_from_json(content, size)
        except ValueError as error:
            raise ValueError(f"'{path}' cannot be read: {error}") from error

    def save(self, number: int, size: tuple[int, int], annotation: Annotation) -> None:
        """Write the marks of a picture that was loaded before.

        Raises:
            ValueError: If another program changed the file since. Nothing is written.
        """
        path = self._path(number)
        if self._stamp(number) != self._stamps[number]:
            raise ValueError(
                f"'{path}' was changed by another program; reload the page to go on from there"
            )
        content = {
            "version": 1,
            "file_name": self.paths[number].name,
            "size": list(size),
            "is_done": annotation.state.is_done,
            **annotation_to_json(annotation),
        }
        with whole_file(path) as file:
            file.write(json.dumps(content, separators=(",", ":")).encode())
        self._stamps[number] = self._stamp(number)
        self._is_done[number] = annotation.state.is_done

    def _path(self, number: int) -> Path:
        return self.folder / f"{self.paths[number].stem}.marks.json"

    def _stamp(self, number: int) -> Stamp | None:
        try:
            status = self._path(number).stat()
        except FileNotFoundError:
            return None
        return status.st_mtime_ns, status.st_ino

    def _read(self, number: int) -> dict[str, Any]:
        path = self._path(number)
        try:
            content = json.loads(path.read_bytes())
        except FileNotFoundError:
            return {}
        except (ValueError, RecursionError) as error:
            raise ValueError(
                f"'{path}' cannot be read: {error}; move it away to begin anew"
            ) from error
        if not isinstance(content, dict):
            raise ValueError(f"'{path}' holds no marks; move it away to begin anew")
        return content
