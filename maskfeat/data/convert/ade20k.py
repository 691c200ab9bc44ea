"""ADE20K with parts: `KEY.jpg`, `KEY_seg.png`, `KEY_parts_1.png`, ..., in any depth of folders.

In all the PNGs red / 10 * 256 + green is the class, 0 where there is none, and blue the instance
(Zhou et al., CVPR 2017, and the code released with the set).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from maskfeat.arrays import IntArray
from maskfeat.data.annotations.image import SampleError
from maskfeat.data.convert.files import read_file, read_png
from maskfeat.data.convert.runs import label_runs
from maskfeat.data.convert.sample import DEFAULTS, Missing, Record, Settings, SourceSample

_LEVELS = ("object", "part", "subpart")


@dataclass(frozen=True)
class AdeRecord:
    """An image with its objects, their parts and the parts of these."""

    key: str
    jpg: str
    maps: tuple[str, ...]  # of objects, then of parts, level by level
    names: str | None  # the .json of the release of 2021, which names the classes

    @property
    def files(self) -> tuple[str, ...]:
        """What it is read from."""
        return (self.jpg, *self.maps, *([self.names] if self.names else []))

    def read(self, settings: Settings = DEFAULTS) -> SourceSample:
        """Read it, see `maskfeat.data.convert.sample.Record`."""
        names = self._class_names()
        runs, entries, size = [], list[dict[str, Any]](), None
        for depth, path in enumerate(self.maps):
            regions = _regions(read_png(path, "map of segments"), path)
            size = size or regions.shape
            if regions.shape != size:
                raise SampleError("size mismatch", f"the maps of '{self.key}' differ in size")
            values = np.unique(regions[regions > 0])
            starts, stops, owner = label_runs(regions, values)
            runs.append((starts, stops, owner + len(entries)))
            for value in values.tolist():
                entry = {"level": _LEVELS[min(depth, 2)], "class_id": value // 256}
                label = names.get(value // 256)
                entries.append(entry if label is None else entry | {"label": label})
        assert size is not None
        starts, stops, owner = (np.concatenate(parts) for parts in zip(*runs, strict=True))
        jpg = read_file(self.jpg, "image")
        return SourceSample(jpg, (size[0], size[1]), (starts, stops, owner), entries, {})

    def _class_names(self) -> dict[int, str]:
        """Names by class, as far as a .json tells them; its absence or faults cost the names."""
        if self.names is None:
            return {}
        try:
            content = json.loads(Path(self.names).read_bytes())
            objects = content["annotation"]["object"]
            return {int(one["name_ndx"]): str(one["name"]) for one in objects}
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return {}


def list_ade20k(folder: Path) -> list[Record]:
    """The samples in a folder and all those below it; a JPEG without a map is one not whole.

    Raises:
        ValueError: If two images have one name.
    """
    records: dict[str, Record] = {}
    for seg in sorted(folder.rglob("*_seg.png")):
        key = seg.name.removesuffix("_seg.png")
        if key in records:
            raise ValueError(f"'{folder}' holds two images of the name '{key}'; give them apart")
        jpg, names = seg.with_name(f"{key}.jpg"), seg.with_name(f"{key}.json")
        if not jpg.is_file():
            records[key] = Missing(key, f"there is no {key}.jpg")
            continue
        maps, level = [str(seg)], 1
        while (parts := seg.with_name(f"{key}_parts_{level}.png")).is_file():
            maps.append(str(parts))
            level += 1
        named = str(names) if names.is_file() else None
        records[key] = AdeRecord(key, str(jpg), tuple(maps), named)
    if not records:
        return []
    taken = {record.jpg for record in records.values() if isinstance(record, AdeRecord)}
    without = [
        Missing(str(jpg.relative_to(folder)), f"there is no {jpg.stem}_seg.png")
        for jpg in sorted(folder.rglob("*.jpg"))
        if str(jpg) not in taken
    ]
    return [records[key] for key in sorted(records)] + without


def _regions(values: npt.NDArray[Any], path: str) -> IntArray:
    """One number for each region, class * 256 + instance; 0 where there is no class."""
    if values.ndim != 3:
        raise SampleError("bad mask", f"'{path}' must be in color")
    red, green, blue = (values[..., channel].astype(np.int64) for channel in range(3))
    category = red // 10 * 256 + green
    return np.where(category > 0, category * 256 + blue, 0)
