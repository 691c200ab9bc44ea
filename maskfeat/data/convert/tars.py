"""SA-1B's own tars and folders in that layout: read in place."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from maskfeat.data.annotations.counts import parse_counts
from maskfeat.data.annotations.image import SampleError
from maskfeat.data.annotations.limits import Limits
from maskfeat.data.annotations.sample import how_to_read, parse_annotations
from maskfeat.data.convert.files import read_file
from maskfeat.data.convert.sample import DEFAULTS, Missing, Record, Settings, SourceSample
from maskfeat.data.shards.index import index_shard
from maskfeat.data.shards.index_file import Span
from maskfeat.data.shards.indexed import check_sizes, read_pair
from maskfeat.data.shards.sample_folder import list_samples


@dataclass(frozen=True)
class TarRecord:
    """A JPEG and a JSON somewhere in a tar.

    Attributes:
        key: Name of the sample.
        path: The tar.
        span: Where its files lie.
        limits: What it may ask for.
    """

    key: str
    path: str
    span: Span
    limits: Limits = Limits()  # noqa: RUF009 - frozen

    @property
    def files(self) -> tuple[str, ...]:
        """What it is read from."""
        return (self.path,)

    def read(self, settings: Settings = DEFAULTS) -> SourceSample:
        """Read it, see `maskfeat.data.convert.sample.Record`."""
        jpg, text = read_pair(self.path, self.span, self.limits)
        return _source_sample(jpg, text, self.limits)


@dataclass(frozen=True)
class FileRecord:
    """An image and a JSON as files.

    Attributes:
        key: Name of the sample.
        image: The image, in any usual format.
        json: Its annotations in the layout of SA-1B.
        limits: What it may ask for.
    """

    key: str
    image: str
    json: str
    limits: Limits = Limits()  # noqa: RUF009 - frozen

    @property
    def files(self) -> tuple[str, ...]:
        """What it is read from."""
        return (self.image, self.json)

    def read(self, settings: Settings = DEFAULTS) -> SourceSample:
        """Read it, see `maskfeat.data.convert.sample.Record`."""
        jpg, text = read_file(self.image, "image"), read_file(self.json, "json")
        check_sizes(len(jpg), len(text), self.limits)
        return _source_sample(jpg, text, self.limits)


def _source_sample(jpg: bytes, text: bytes, limits: Limits) -> SourceSample:
    content, annotations, size = parse_annotations(text)
    try:
        counts = [one["segmentation"]["counts"] for one in annotations]
        runs = parse_counts(counts, size, limits.runs)
    except ValueError as error:
        raise SampleError("bad rle", str(error)) from error
    image = content.get("image")
    left_out = {"no segmentation": len(content["annotations"]) - len(annotations)}
    known = {**image} if isinstance(image, dict) else {}
    for name in ("path", "read_as"):  # the image goes into the shard, as it is read
        known.pop(name, None)
    read_as = how_to_read(content)
    return SourceSample(jpg, size, runs, annotations, known, left_out, limits.runs, read_as)


def list_tar(
    path: Path,
    index_dir: str | Path | None = None,
    limits: Limits = Limits(),  # noqa: B008 - frozen
) -> list[Record]:
    """The samples of a tar, those with a missing half too.

    Args:
        path: A plain tar, members in any order.
        index_dir: As in `maskfeat.data.shards.index.index_shard`.
        limits: What a sample may ask for.

    Raises:
        FileNotFoundError: If there is no such tar.
        ValueError: If it is no tar, or holds two members for one key.
    """
    index = index_shard(path, index_dir)
    records: list[Record] = [
        TarRecord(key, index.path, span, limits) for key, span in index.places()
    ]
    records += [Missing(key, detail) for key, detail in index.incomplete]
    return records


def list_files(folder: str, limits: Limits = Limits()) -> list[Record]:  # noqa: B008 - frozen
    """The samples of a folder of KEY.json with the images that they name, see `sample_folder`."""
    found = list_samples(folder)
    records: list[Record] = [FileRecord(*one, limits) for one in found.samples]
    records += [Missing(key, detail) for key, detail in found.incomplete]
    return records
