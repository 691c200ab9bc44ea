"""A folder of samples as files: KEY.json in the layout of SA-1B, and the image that it names.

This is what `maskfeat segment`, `annotate` and `convert --to sa1b` write, and what people put
together by hand.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from maskfeat.data.annotations.image import SampleError
from maskfeat.data.annotations.limits import Limits
from maskfeat.data.annotations.sample import check_sizes
from maskfeat.data.folder import ENDINGS, say_passed_over

_LOG = logging.getLogger("maskfeat")
# Folders that `annotate` makes beside its masks: other views of the same images.
_BESIDE = ("labels", "set_aside", "exported", "prepared")
# Files of `annotate` that hold clicks, not masks, today and formerly.
_CLICKS = (".prompts.json", ".marks.json")


class FileSample(NamedTuple):
    """A sample that lies in two files."""

    key: str
    image: str
    json: str


@dataclass(frozen=True)
class SampleFolder:
    """What a folder holds.

    Attributes:
        path: The folder.
        samples: Images with masks, sorted by key.
        left_out: (key, error) of the others: "incomplete", or of JSONs beyond the limits, which
            are not read, "too large".
    """

    path: str
    samples: tuple[FileSample, ...]
    left_out: tuple[tuple[str, SampleError], ...]


def is_sample_json(path: Path) -> bool:
    """Whether a file may be the KEY.json of an image, by its name."""
    is_visible = path.suffix == ".json" and not path.name.startswith(".")
    return is_visible and not path.name.endswith(_CLICKS)


def sample_folders(
    place: str | Path,
    limits: Limits = Limits(),  # noqa: B008 - frozen
) -> list[str]:
    """Folders, from this one downwards, that hold a KEY.json with masks of an image.

    Beside masks, the folders labels, set_aside, exported and prepared are passed over: those are
    other views of the same images, by `maskfeat annotate`. A JSON beyond `limits` is not read.
    """
    found = []
    for folder, inside, _ in os.walk(place):
        is_set = any(_is_of_image(content) for _, content in _contents(Path(folder), limits))
        if is_set:
            found.append(folder)
        inside[:] = sorted(
            name for name in inside if not name.startswith(".") and not (is_set and name in _BESIDE)
        )
    return found


def list_samples(
    folder: str | Path,
    limits: Limits = Limits(),  # noqa: B008 - frozen
) -> SampleFolder:
    """The samples of one folder.

    An image is looked for beside its KEY.json: as the `file_name` there, else as KEY with any
    ending; then where `path` says, from the folder on. An image whose annotations are empty, as of
    one that was done without an object, is left out with a line in the log; a JSON that is no
    KEY.json of an image is passed over, with another. One beyond `limits` is not read, as it takes
    many times as much memory.
    """
    folder = Path(folder)
    samples, others = list[FileSample](), list[Path]()
    left_out, num_empty = list[tuple[str, SampleError]](), 0
    for path, content in _contents(folder, limits):
        if isinstance(content, SampleError):
            left_out.append((path.stem, content))
        elif not _is_of_image(content):
            others.append(path)
        elif not content["annotations"]:
            num_empty += 1
        else:
            known = content["image"]
            image = find_image(path, known)
            if image is not None:
                samples.append(FileSample(path.stem, str(image), str(path)))
                continue
            name, place = known.get("file_name", path.stem), known.get("path")
            there = f" nor at '{path.parent / place}'" if isinstance(place, str) else ""
            what = f"its image '{name}' is not beside '{path}'{there}; put it there"
            left_out.append((path.stem, SampleError("incomplete", what)))
    if num_empty:
        _LOG.info("%d images in '%s' have no masks and are left out", num_empty, folder)
    say_passed_over(folder, others)
    return SampleFolder(str(folder), tuple(samples), tuple(left_out))


def find_image(path: Path, image: dict[str, Any]) -> Path | None:
    """The image that a KEY.json is of, see `list_samples`; None if it is not there.

    Args:
        path: The JSON.
        image: What it says of its image.
    """
    name, place = image.get("file_name"), image.get("path")
    beside = [path.parent / name] if isinstance(name, str) and Path(name).name == name else []
    beside += [path.with_suffix(ending) for ending in ENDINGS]
    beside += [path.parent / place] if isinstance(place, str) else []
    # `os.path.isfile` is false for a name that no file can have; `Path.is_file` raises OSError.
    return next((one for one in beside if os.path.isfile(one)), None)


def _is_of_image(content: Any) -> bool:  # noqa: ANN401 - any JSON
    if not isinstance(content, dict) or not isinstance(content.get("annotations"), list):
        return False
    return isinstance(content.get("image"), dict)


def _contents(folder: Path, limits: Limits) -> Iterator[tuple[Path, Any]]:
    """The JSON files of a folder by name, each with its content, or why it is not read."""
    for path in sorted(folder.iterdir()):
        if is_sample_json(path) and path.is_file():
            try:
                check_sizes(0, path.stat().st_size, limits)
                content = json.loads(path.read_bytes())
            except SampleError as error:
                content = error
            except (OSError, ValueError, RecursionError) as error:
                content = SampleError("incomplete", f"'{path}' cannot be read: {error}")
            yield path, content
