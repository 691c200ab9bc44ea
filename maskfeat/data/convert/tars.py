"""SA-1B's own tars, and any in that layout: read in place by their index of offsets."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from maskfeat.data.convert.sample import DEFAULTS, Missing, Record, Settings, SourceSample
from maskfeat.data.index import index_shard
from maskfeat.data.picture import SampleError
from maskfeat.data.rle import parse_counts
from maskfeat.data.sample import parse_annotations


@dataclass(frozen=True)
class TarRecord:
    """A JPEG and a JSON somewhere in a tar.

    Attributes:
        key: Name of the sample.
        path: The tar.
        span: Offset and size of the JPEG, then of the JSON, bytes.
    """

    key: str
    path: str
    span: tuple[int, int, int, int]

    @property
    def files(self) -> tuple[str, ...]:
        """What it is read from."""
        return (self.path,)

    def read(self, settings: Settings = DEFAULTS) -> SourceSample:
        """Read it, see `maskfeat.data.convert.sample.Record`."""
        jpg_offset, jpg_size, json_offset, json_size = self.span
        handle = os.open(self.path, os.O_RDONLY)
        try:
            jpg = os.pread(handle, jpg_size, jpg_offset)
            text = os.pread(handle, json_size, json_offset)
        finally:
            os.close(handle)
        content, annotations, size = parse_annotations(text)
        try:
            runs = parse_counts([one["segmentation"]["counts"] for one in annotations], size)
        except ValueError as error:
            raise SampleError("bad rle", str(error)) from error
        image = content.get("image")
        left_out = {"no segmentation": len(content["annotations"]) - len(annotations)}
        known = image if isinstance(image, dict) else {}
        return SourceSample(jpg, size, runs, annotations, known, left_out)


def list_tar(path: Path, index_dir: str | Path | None = None) -> list[Record]:
    """The samples of a tar, those with a missing half too.

    Args:
        path: A plain tar, members in any order.
        index_dir: As in `maskfeat.data.index.index_shard`.

    Raises:
        FileNotFoundError: If there is no such tar.
        ValueError: If it is no tar, or holds two members for one key.
    """
    index = index_shard(path, index_dir)
    records: list[Record] = [
        TarRecord(key, index.path, (span[0], span[1], span[2], span[3]))
        for key, span in zip(index.keys, index.spans.tolist(), strict=True)
    ]
    records += [Missing(key, f"the tar has no {key}.{kind}") for key, kind in index.incomplete]
    return records
