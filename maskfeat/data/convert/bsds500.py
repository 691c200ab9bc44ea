"""BSDS500: `images/SPLIT/KEY.jpg` with `groundTruth/SPLIT/KEY.mat`, all annotators' partitions."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from maskfeat.data.annotations.image import SampleError
from maskfeat.data.convert.files import read_file
from maskfeat.data.convert.runs import label_runs
from maskfeat.data.convert.sample import DEFAULTS, Missing, Record, Settings, SourceSample


@dataclass(frozen=True)
class BsdsRecord:
    """An image and its partitions; annotators are numbered from 0."""

    key: str
    jpg: str
    mat: str

    @property
    def files(self) -> tuple[str, ...]:
        """What it is read from."""
        return (self.jpg, self.mat)

    def read(self, settings: Settings = DEFAULTS) -> SourceSample:
        """Read it, see `maskfeat.data.convert.sample.Record`."""
        partitions = self._partitions()
        size = partitions[0].shape
        if any(labels.shape != size for labels in partitions):
            raise SampleError("size mismatch", f"the partitions of '{self.mat}' differ in size")
        runs, entries = [], list[dict[str, int]]()
        for annotator, labels in enumerate(partitions):
            values = np.unique(labels)
            starts, stops, owner = label_runs(labels, values)
            runs.append((starts, stops, owner + len(entries)))
            entries += [{"annotator": annotator}] * len(values)
        starts, stops, owner = (np.concatenate(parts) for parts in zip(*runs, strict=True))
        image = {"image_id": int(self.key)} if self.key.isascii() and self.key.isdigit() else {}
        jpg = read_file(self.jpg, "image")
        return SourceSample(jpg, (size[0], size[1]), (starts, stops, owner), entries, image)

    def _partitions(self) -> list[npt.NDArray[np.integer]]:
        from scipy.io import loadmat

        data = read_file(self.mat, "partitions")
        try:
            people = loadmat(io.BytesIO(data))["groundTruth"].ravel()
            partitions = [np.asarray(one["Segmentation"][0, 0]) for one in people]
        except Exception as error:  # SciPy's reader raises MatReadError, struct.error, zlib.error
            raise SampleError("bad mat", f"'{self.mat}' holds no groundTruth: {error!r}") from error
        if not partitions or not all(p.ndim == 2 and p.dtype.kind in "ui" for p in partitions):
            raise SampleError("bad mat", f"'{self.mat}' must hold label maps of whole numbers")
        return partitions


def find_splits(place: Path) -> dict[str, Path]:
    """The folders of .mat files: `place` itself, or those of a folder of the whole set, by name."""
    if any(place.glob("*.mat")):
        return {place.name: place}
    for root in (place, place / "data", place / "BSDS500" / "data"):
        folders = [path for path in sorted(root.glob("groundTruth/*")) if any(path.glob("*.mat"))]
        if folders:
            return {path.name: path for path in folders}
    return {}


def list_bsds500(folder: Path) -> list[Record]:
    """The samples of one split.

    Args:
        folder: The split's folder of .mat files, `.../groundTruth/SPLIT`; the images lie in
            `.../images/SPLIT`.

    Raises:
        FileNotFoundError: If the folder of images is missing.
    """
    images = folder.parent.parent / "images" / folder.name
    if not images.is_dir():
        raise FileNotFoundError(f"the images of '{folder}' should be in '{images}'")
    mats = {path.stem: path for path in folder.glob("*.mat")}
    jpgs = {path.stem: path for path in images.glob("*.jpg")}
    records: list[Record] = []
    for key in sorted(mats.keys() | jpgs.keys()):
        if key in mats and key in jpgs:
            records.append(BsdsRecord(key, str(jpgs[key]), str(mats[key])))
        else:
            records.append(Missing(key, f"there is no {key}.{'jpg' if key in mats else 'mat'}"))
    return records
