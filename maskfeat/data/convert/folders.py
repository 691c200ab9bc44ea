"""Plain folders of images beside their masks."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from maskfeat.data.convert.files import one_number, read_file, read_png
from maskfeat.data.convert.runs import join_runs, label_runs, mask_runs
from maskfeat.data.convert.sample import Missing, Record, SourceSample
from maskfeat.data.picture import SampleError

_IMAGES = (".jpg", ".jpeg")


@dataclass(frozen=True)
class LabelMapRecord:
    """An image, and a label map in which 0 (or black) belongs to no mask."""

    key: str
    image: str
    labels: str

    @property
    def files(self) -> tuple[str, ...]:
        """What it is read from."""
        return (self.image, self.labels)

    def read(self) -> SourceSample:
        """Read it, see `maskfeat.data.convert.sample.Record`."""
        labels = one_number(read_png(self.labels, "label map"))
        values = np.unique(labels[labels != 0])
        entries = [{"class_id": value} for value in values.tolist()]
        runs = label_runs(labels, values)
        size = (labels.shape[0], labels.shape[1])
        return SourceSample(read_file(self.image, "image"), size, runs, entries, {})


@dataclass(frozen=True)
class BinaryMasksRecord:
    """An image, and a file for each of its masks, which is whatever is not 0 there."""

    key: str
    image: str
    masks: tuple[str, ...]

    @property
    def files(self) -> tuple[str, ...]:
        """What it is read from."""
        return (self.image, *self.masks)

    def read(self) -> SourceSample:
        """Read it, see `maskfeat.data.convert.sample.Record`."""
        runs, sizes = [], set()
        for path in self.masks:  # one decoded mask at a time
            mask = one_number(read_png(path, "mask")) != 0
            sizes.add((mask.shape[0], mask.shape[1]))
            runs.append(mask_runs(mask))
        if len(sizes) != 1:
            raise SampleError("size mismatch", f"the masks of '{self.key}' differ in size")
        entries = [{"mask_file": Path(path).name} for path in self.masks]
        jpg = read_file(self.image, "image")
        return SourceSample(jpg, sizes.pop(), join_runs(runs), entries, {})


def list_folder(folder: Path) -> list[Record]:
    """The images of a folder, in order of name.

    Args:
        folder: Holds KEY.jpg with either KEY.png, a label map, or a folder KEY of binary PNGs;
            the masks may also lie in `masks` beside a folder `images` that holds the images.

    Raises:
        ValueError: If there is no image, or two of one name.
    """
    is_apart = (folder / "images").is_dir() and (folder / "masks").is_dir()
    images = folder / "images" if is_apart else folder
    masks = folder / "masks" if is_apart else folder
    endings = (*_IMAGES, ".png") if is_apart else _IMAGES
    records: dict[str, Record] = {}
    for path in sorted(images.iterdir()):
        if path.suffix.lower() not in endings or path.name.startswith("."):
            continue
        if path.stem in records:
            raise ValueError(f"'{images}' holds two images of the name '{path.stem}'")
        records[path.stem] = _record(path, masks)
    if not records:
        raise ValueError(f"'{images}' holds no image ({', '.join(endings)})")
    return [records[key] for key in sorted(records)]


def _record(path: Path, masks: Path) -> Record:
    key, labels = path.stem, masks / f"{path.stem}.png"
    if labels.is_file():
        return LabelMapRecord(key, str(path), str(labels))
    files = tuple(sorted(str(one) for one in (masks / key).glob("[!.]*.png")))
    if files:
        return BinaryMasksRecord(key, str(path), files)
    return Missing(key, f"there is neither {key}.png nor a folder {key} of PNGs in '{masks}'")
