"""Files of images that were replaced: out of the way, and back when the image is back."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from pathlib import Path

from maskfeat.files import whole_file

NAME = "set_aside"
ENDING, FORMER_ENDING = ".prompts.json", ".marks.json"  # of the file of an image's prompts


class SetAside:
    """The folder FOLDER/set_aside, with a folder in it for each time that something is set aside.

    Args:
        folder: Where the files belong.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._places: dict[str, list[Path]] = {}  # of each prompts file, oldest first
        for path in (folder / NAME).glob(f"*/*{FORMER_ENDING}"):
            adopt(path.with_name(path.name.removesuffix(FORMER_ENDING) + ENDING))
        for path in sorted((folder / NAME).glob(f"*/*{ENDING}")):
            self._places.setdefault(path.name, []).append(path.parent)

    def put(self, names: Sequence[str]) -> Path:
        """Move those of the files that are there, the prompts last; says where they are."""
        now = datetime.datetime.now().strftime("%Y-%m-%d_%H-%M-%S.%f")
        place = self._folder / NAME / now
        _move(self._folder, place, names)
        self._places.setdefault(names[-1], []).append(place)
        return place

    def places_of(self, name: str) -> list[Path]:
        """Where prompts of this name are, the newest first."""
        return self._places.get(name, [])[::-1]

    def take_back(self, place: Path, names: Sequence[str]) -> None:
        """Move files back from one of these places to where they belong."""
        _move(place, self._folder, names)
        self._places[names[-1]].remove(place)


def adopt(path: Path) -> None:
    """Copy a prompts file of 0.1 to the name of today, unless there is one; the old one stays."""
    former = path.with_name(path.name.removesuffix(ENDING) + FORMER_ENDING)
    try:
        content = former.read_bytes()
    except OSError:  # there is none
        return
    if not path.exists():
        with whole_file(path) as file:
            file.write(content)


def _move(source: Path, target: Path, names: Sequence[str]) -> None:
    for name in names:
        if (source / name).exists():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).rename(target / name)
