"""Where each sample lies in a tar, from one scan of the headers.

The members of the genuine SA-1B tars lie in random order, so a sample's JPEG and JSON are found
by name. With their offsets kept, any tar is read at random where it lies.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import stat
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from maskfeat.files import whole_file

_LOG = logging.getLogger("maskfeat")
_VERSION = 1
_KINDS = {"jpg": "jpg", "jpeg": "jpg", "json": "json"}


@dataclass(frozen=True, eq=False)
class ShardIndex:
    """The samples of one tar, sorted by key.

    Attributes:
        path: The tar.
        keys: Names of the samples that have both a JPEG and a JSON.
        spans: Offset and size of the JPEG, then of the JSON, in bytes, int64, shape (N, 4).
        incomplete: (key, what is missing: "jpg" or "json") of the others.
        cut_after: Last whole member of a tar that is cut short; None for a whole tar.
    """

    path: str
    keys: tuple[str, ...]
    spans: npt.NDArray[np.int64]
    incomplete: tuple[tuple[str, str], ...]
    cut_after: str | None


def index_shard(path: str | Path, index_dir: str | Path | None = None) -> ShardIndex:
    """Get the index of a tar, from the file kept with it or by a scan of its headers.

    A tar that is cut short is read up to its last whole member, with a warning in the log.

    Args:
        path: A plain tar; members in any order, folders in their names are ignored.
        index_dir: Where to keep the index. None is `PATH.index.json` beside the tar, or where that
            folder is read-only, the folder `maskfeat` in $XDG_CACHE_HOME or ~/.cache. A kept
            index counts while the tar has the same size and modification time.

    Returns:
        The index.

    Raises:
        FileNotFoundError: If there is no such tar.
        ValueError: If the file is no tar, holds no whole member, or two members for one key.
    """
    path = Path(os.path.abspath(path))
    if not path.is_file():
        raise FileNotFoundError(f"no shard at '{path}'; name a tar in SA-1B's layout that is there")
    home = _home_of_index(path, index_dir)
    index = _load(home, path)
    if index is None:
        status = path.stat()  # before the scan: if the tar changes meanwhile, the index is stale
        index = scan_shard(path)
        _save(index, home, status)
    if index.cut_after is not None:
        _LOG.warning(
            "shard %s is cut short after member %s; reading its %d whole samples",
            path,
            index.cut_after,
            len(index.keys),
        )
    return index


def member_key(name: str) -> tuple[str, str] | None:
    """Part the name of a tar member into the key of its sample and what it is.

    Args:
        name: For instance `./photos/sa_1.5_0.jpg`.

    Returns:
        The name without folders and without its last extension, and "jpg" or "json"; None for
        members that are neither, or are hidden (`._sa_1.jpg`, which macOS adds).
    """
    key, dot, extension = name.rsplit("/", 1)[-1].rpartition(".")
    kind = _KINDS.get(extension.lower())
    if not dot or not key or key.startswith(".") or kind is None:
        return None
    return key, kind


def scan_shard(path: Path) -> ShardIndex:
    """Index a tar by reading its headers, and nothing else.

    Args:
        path: A plain tar.

    Returns:
        The index.

    Raises:
        ValueError: As `index_shard`.
    """
    members, is_whole = _whole_members(path)
    if not members and not is_whole:
        raise ValueError(f"shard '{path}' holds no whole member of a tar; is it cut short?")
    names: dict[tuple[str, str], str] = {}
    places: dict[tuple[str, str], tuple[int, int]] = {}
    for name, offset, size in members:
        member = member_key(name)
        if member is None:
            continue
        if names.setdefault(member, name) != name:
            raise ValueError(
                f"shard '{path}' holds two files for {member[1]} of key '{member[0]}', "
                f"'{names[member]}' and '{name}'; give samples different names"
            )
        places[member] = (offset, size)  # of members of one name the last counts, as in tar
    keys = sorted({key for key, _ in places})
    complete = [key for key in keys if (key, "jpg") in places and (key, "json") in places]
    spans = [(*places[key, "jpg"], *places[key, "json"]) for key in complete]
    missing = [(key, "json" if (key, "jpg") in places else "jpg") for key in keys]
    return ShardIndex(
        path=str(path),
        keys=tuple(complete),
        spans=np.array(spans, np.int64).reshape(-1, 4),
        incomplete=tuple(one for one in missing if one[0] not in set(complete)),
        cut_after=None if is_whole else members[-1][0],
    )


def _whole_members(path: Path) -> tuple[list[tuple[str, int, int]], bool]:
    """Name, offset and size of each whole regular member; and whether the tar is whole."""
    length = path.stat().st_size
    members: list[tuple[str, int, int]] = []
    with path.open("rb") as file:
        try:
            tar = tarfile.open(fileobj=file, mode="r:")
        except (tarfile.ReadError, EOFError) as error:
            raise ValueError(f"shard '{path}' is no plain tar: {error}") from error
        while True:
            try:
                member = tar.next()
            except (tarfile.TarError, ValueError, OverflowError):
                return members, False  # what comes after the members seen is no tar
            if member is None:
                break
            if member.size < 0 or member.offset_data + member.size > length:
                return members, False
            if member.isreg() and not member.issparse():
                members.append((member.name, member.offset_data, member.size))
        # tarfile ends quietly, too, where a header is missing or broken; a whole tar ends with
        # blocks of zeros.
        file.seek(tar.offset)
        return members, file.read(512) == bytes(512)


def _home_of_index(path: Path, index_dir: str | Path | None) -> Path:
    if index_dir is None:
        folder = path.parent
        # Root may write anywhere; a folder that its owner has closed stays as it is.
        is_closed = not stat.S_IMODE(folder.stat().st_mode) & 0o222
        if os.access(folder, os.W_OK) and not is_closed:
            return path.with_name(path.name + ".index.json")
        cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        index_dir = Path(cache) / "maskfeat"
    digest = hashlib.sha256(os.fsencode(path)).hexdigest()[:16]
    return Path(index_dir) / f"{path.name}.{digest}.index.json"


def _load(home: Path, path: Path) -> ShardIndex | None:
    """The kept index, if there is one and the tar has not changed since."""
    if not home.is_file():
        return None
    status = path.stat()
    try:
        kept = json.loads(home.read_bytes())
        if (kept["version"], kept["size"], kept["mtime_ns"]) != (
            _VERSION,
            status.st_size,
            status.st_mtime_ns,
        ):
            return None
        return _from_json(path, kept)
    except (OSError, ValueError, KeyError, TypeError) as error:
        _LOG.warning("index %s cannot be read and is made anew: %s", home, error)
        return None


def _from_json(path: Path, kept: dict[str, Any]) -> ShardIndex:
    keys = tuple(str(key) for key in kept["keys"])
    spans = np.array(kept["spans"], np.int64).reshape(-1, 4)
    ends = spans[:, [0, 2]] + spans[:, [1, 3]]
    if len(spans) != len(keys) or (spans < 0).any() or (ends > kept["size"]).any():
        raise ValueError("its offsets do not fit the tar")
    incomplete = tuple((str(key), str(missing)) for key, missing in kept["incomplete"])
    return ShardIndex(str(path), keys, spans, incomplete, kept["cut_after"])


def _save(index: ShardIndex, home: Path, status: os.stat_result) -> None:
    kept = {
        "version": _VERSION,
        "size": status.st_size,
        "mtime_ns": status.st_mtime_ns,
        "cut_after": index.cut_after,
        "incomplete": index.incomplete,
        "keys": index.keys,
        "spans": index.spans.tolist(),
    }
    try:
        with whole_file(home) as file:  # several processes may do this at once
            file.write(json.dumps(kept).encode())
    except OSError as error:
        _LOG.warning("index %s cannot be kept, so the tar is scanned each time: %s", home, error)
