"""Images without masks, to be segmented: members of tars on disk or at urls, files in folders."""

from __future__ import annotations

import contextlib
import logging
import os
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from maskfeat.data.annotations.image import upright_size
from maskfeat.data.annotations.limits import Limits
from maskfeat.data.annotations.sample import check_sizes
from maskfeat.data.convert.files import digest, file_size, keys_of, read_file
from maskfeat.data.convert.sample import DEFAULTS, Record, Settings, SourceSample
from maskfeat.data.folder import ENDINGS, find_images
from maskfeat.data.shards.compression import compression_of
from maskfeat.data.shards.indexed import content_at
from maskfeat.data.shards.remote import RemoteStream, ShardSource
from maskfeat.data.shards.tar import Member, TarWalk
from maskfeat.files import whole_file

HEAD = 2**16  # bytes of a tar: its first headers
_LOG = logging.getLogger("maskfeat")


@dataclass(frozen=True)
class ImageRecord(Record):
    """An image, as a file or in a tar.

    Attributes:
        limits: What it may ask for.
        member: Where it lies in a tar; None for a file by itself.
    """

    limits: Limits = Limits()  # noqa: RUF009 - frozen
    member: Member | None = None

    def read(self, settings: Settings = DEFAULTS) -> SourceSample:
        """Read it; it has no masks, and lies upright."""
        data = self._content()
        nothing = np.zeros(0, np.int64)
        runs = (nothing, nothing, nothing.astype(np.int32))
        return SourceSample(data, upright_size(data), runs, [], {})

    def _content(self) -> bytes:
        path, member = self.files[0], self.member
        size = file_size(path, "image") if member is None else member.size
        check_sizes(size, 0, self.limits)
        if member is None:
            return read_file(path, "image")
        handle = os.open(path, os.O_RDONLY)
        try:
            return content_at(handle, member.offset, member.size, member.header)
        finally:
            os.close(handle)


def list_image_tar(path: Path, limits: Limits = Limits()) -> list[Record]:  # noqa: B008 - frozen
    """The images of a plain tar, by their endings; a sample is called as its file, with folders.

    Of files of one name the first counts. What else it holds is passed over.

    Raises:
        ValueError: If it holds no image, or is no plain tar.
    """
    members: dict[str, Member] = {}
    last = None
    with path.open("rb", buffering=0) as file:
        head = file.read(HEAD)
        file.seek(0)
        walk = TarWalk(file, path.stat().st_size)
        for member in walk:
            last = member.name
            name = PurePosixPath(member.name)
            is_image = name.suffix.lower() in ENDINGS and not name.name.startswith(".")
            if member.is_file and is_image:
                members.setdefault(str(name), member)
    if not members:
        how = compression_of(head)
        raise ValueError(f"'{path}' is compressed by {how}" if how else f"'{path}' holds no image")
    if not walk.is_whole:
        _LOG.warning("'%s' is cut short or broken after member %s", path, last)
    keys = keys_of(list(members))
    return [
        ImageRecord(key, (str(path),), limits, member)
        for key, member in zip(keys, members.values(), strict=True)
    ]


def list_image_folder(folder: Path, limits: Limits) -> list[Record]:
    """The images of a folder and of those in it, see `find_images`; named by their way there."""
    paths = find_images(str(folder), is_recursive=True)
    keys = keys_of([path.relative_to(folder).as_posix() for path in paths])
    return [ImageRecord(key, (str(path),), limits) for key, path in zip(keys, paths, strict=True)]


def measure_url(url: str) -> str:
    """Size, version and first bytes of a tar at a url; another text if it has changed.

    Raises:
        FileNotFoundError: If there is none.
        UnreachableError: If it cannot be read.
    """
    with contextlib.closing(RemoteStream(url, ShardSource())) as stream:
        head = digest(stream.read(HEAD))
    return f"{stream.total} bytes, {stream.version}, {head}"


def fetch(url: str, path: Path) -> None:
    """Write what lies at a url to a file, whole or not at all; errors as of `measure_url`."""
    with contextlib.closing(RemoteStream(url, ShardSource())) as stream, whole_file(path) as file:
        while chunk := stream.read(2**20):
            file.write(chunk)
