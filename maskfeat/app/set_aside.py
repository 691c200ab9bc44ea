"""Files of images that were replaced: out of the way, and back when the image is back."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from pathlib import Path

NAME = "set_aside"


class SetAside:
    """The folder FOLDER/set_aside, with a folder in it for each time that something is set aside.

    Args:
        folder: Where the files belong.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._places: dict[str, list[Path]] = {}  # of each marks file, oldest first
        for path in sorted((folder / NAME).glob("*/*.marks.json")):
            self._places.setdefault(path.name, []).append(path.parent)

    def put(self, names: Sequence[str]) -> Path:
        """Move files there; those that are not there are passed over.

        Args:
            names: In the order in which they move; the last is that of the marks.

        Returns:
            Where they are now.
        """
        now = datetime.datetime.now().strftime("%Y-%m-%d_%H-%M-%S.%f")
        place = self._folder / NAME / now
        _move(self._folder, place, names)
        self._places.setdefault(names[-1], []).append(place)
        return place

    def places_of(self, name: str) -> list[Path]:
        """Where marks of this name are, the newest first."""
        return self._places.get(name, [])[::-1]

    def take_back(self, place: Path, names: Sequence[str]) -> None:
        """Move files back from one of these places to where they belong."""
        _move(place, self._folder, names)
        self._places[names[-1]].remove(place)


def _move(source: Path, target: Path, names: Sequence[str]) -> None:
    for name in names:
        if (source / name).exists():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).rename(target / name)
