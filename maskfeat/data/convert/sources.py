"""From the words of the command to inputs: what each holds, and the name of its shards."""

from __future__ import annotations

import contextlib
import glob
import hashlib
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

from maskfeat.data.annotations.limits import Limits
from maskfeat.data.convert.coco_json import is_panoptic, list_coco, read_coco
from maskfeat.data.convert.files import digest
from maskfeat.data.convert.folders import list_folder
from maskfeat.data.convert.images import (
    HEAD,
    fetch,
    list_image_folder,
    list_image_tar,
    measure_url,
)
from maskfeat.data.convert.layouts import (
    find_splits,
    list_ade20k,
    list_bsds500,
    list_files,
    list_tar,
)
from maskfeat.data.convert.mask_sets import list_masks, mask_format_of
from maskfeat.data.convert.sample import Record
from maskfeat.data.shards.compression import PACKED
from maskfeat.data.shards.names import expand_shards, is_url
from maskfeat.data.shards.sample_folder import sample_folders

_OF_OTHERS = ("yolo", "voc", "labelme", "geojson")  # folders of tools, see `mask_sets`
FORMATS = ("auto", "sa1b", "coco", "coco_panoptic", "bsds500", "ade20k", "folder", *_OF_OTHERS)
IMAGES = "images"  # a format of images without masks, to be segmented
# What does not come as tars is cut into inputs of this number of samples, for parallel jobs.
SAMPLES_PER_INPUT = 5000
_LONGEST_KEY = 90  # bytes: a name in a plain tar has a hundred


@dataclass(frozen=True)
class Input:
    """What becomes one series of shards, NAME-000000.tar and so on.

    Attributes:
        name: First part of the names of its shards.
        source: What it is read from.
        measure: By which it is noticed that a source has changed. Small things are hashed (the
            head of a tar, a JSON of COCO); of other files the size and the time of the last change
            count, so that a second run over a large set costs one `stat` for each file.
        list_records: Lists its samples. Reads the headers of a tar, so it is not done before the
            input's turn; of a tar at a url it takes the path of a copy.
        kind: The format that it was asked for by, for `find_inputs` to find it again.
        images_dir: As in `find_inputs`.
        left_out: How many annotations of its source belong to no sample, by reason.
    """

    name: str
    source: str
    measure: str
    list_records: Callable[..., Sequence[Record]]
    kind: str = "auto"
    images_dir: str | None = None
    left_out: Mapping[str, int] = field(default_factory=dict)

    @property
    def place(self) -> str:
        """The source as it is found from any folder."""
        if is_url(self.source):
            return self.source
        return os.path.abspath(os.path.expanduser(self.source))

    @contextlib.contextmanager
    def records(self, folder: Path) -> Iterator[Sequence[Record]]:
        """Its samples; what lies at a url is copied to a folder for as long as they are read.

        The copy of a run that was stopped is used again, unless the source has changed since.

        Raises:
            ValueError: If the samples cannot be listed.
        """
        if not is_url(self.source):
            yield self.list_records()
            return
        copy = folder / f"{self.name}.{digest(self.measure.encode())}.fetched"
        for other in set(folder.glob(f"{self.name}.*.fetched")) - {copy}:
            other.unlink()
        if not copy.is_file():
            fetch(self.source, copy)
        try:
            records = self.list_records(copy)
        except ValueError:
            copy.unlink()
            raise
        yield records
        copy.unlink()


def find_inputs(
    sources: Sequence[str],
    kind: str = "auto",
    images_dir: str | None = None,
    index_dir: str | None = None,
    limits: Limits = Limits(),  # noqa: B008 - frozen
) -> list[Input]:
    """Tell what the sources are.

    Args:
        sources: Files and folders, see `maskfeat shards convert --help`; globs of tars too.
        kind: One of `FORMATS`, the same for all sources; or `IMAGES`, for tars of images, their
            urls, and folders of images.
        images_dir: Where the images are, if not in a usual place; not for tars and plain folders.
        index_dir: Where to keep the indexes of tars, if not beside them.
        limits: What a sample of a tar may ask for.

    Returns:
        The inputs, sorted by name.

    Raises:
        FileNotFoundError: If a source is missing.
        ValueError: If one is of no known kind, or two would give shards of the same name.
    """
    if kind not in (*FORMATS, IMAGES):
        raise ValueError(f"format must be one of {', '.join(FORMATS)}, got '{kind}'")
    inputs: dict[str, Input] = {}
    for source in sources:
        for found in _inputs_of(source, kind, images_dir, index_dir, limits):
            other = inputs.setdefault(found.name, found)
            if other.source != found.source:
                raise ValueError(
                    f"'{other.source}' and '{found.source}' would both become '{found.name}'; "
                    "convert them to folders of their own"
                )
    if not inputs:
        raise FileNotFoundError("no source is given; name tars, a JSON of COCO, or a folder")
    return [inputs[name] for name in sorted(inputs)]


def clean_keys(keys: Iterable[str]) -> dict[str, str]:
    """Names for samples that any reader of tars takes: no dots, no slashes, not too long.

    Returns:
        The new name of each key: what webdataset would stumble over becomes "_"; where two would
        become one, those later in order of the old names are numbered.
    """
    cleaned: dict[str, str] = {}
    taken: set[str] = set()
    for key in sorted(keys):
        base = name = _clean(key)
        number = 2
        while name in taken:
            name, number = f"{base}_{number}", number + 1
        taken.add(name)
        cleaned[key] = name
    return cleaned


def _clean(key: str) -> str:
    name = re.sub(r"[./\\\s\x00-\x1f]", "_", key) or "_"
    data = name.encode(errors="replace")
    if len(data) <= _LONGEST_KEY and data.isascii():
        return name
    suffix = digest(key.encode(errors="surrogatepass"))
    return re.sub(rb"[^\x20-\x7e]", b"_", data)[:60].decode("ascii") + "_" + suffix


def _name(name: str) -> str:
    """The first part of names of shards."""
    return re.sub(r"[^A-Za-z0-9_-]", "_", _clean(name))


def _inputs_of(
    source: str, kind: str, images_dir: str | None, index_dir: str | None, limits: Limits
) -> list[Input]:
    """What a source holds: images, tars and folders as SA-1B here, other layouts below."""
    path = Path(source).expanduser()
    if kind == IMAGES and is_url(source):
        list_copy = partial(list_image_tar, limits=limits)
        urls = [(_name(Path(urlsplit(url).path).stem), url) for url in expand_shards(source)]
        return [Input(name, url, measure_url(url), list_copy, kind) for name, url in urls]
    if path.is_dir():
        named = list(path.glob("*.tar"))
    else:
        named = [path] if path.is_file() else [Path(name) for name in glob.glob(str(path))]
    tars = sorted(name for name in named if name.suffix == ".tar" and name.is_file())
    if kind == IMAGES and tars:
        return [_of_tar(tar, partial(list_image_tar, tar, limits), kind) for tar in tars]
    if kind == IMAGES and path.is_dir():
        return _cut(path.resolve().name, source, list_image_folder(path, limits), kind)
    if kind == IMAGES:
        raise FileNotFoundError(f"no tar or folder of images at '{source}'")
    if not tars and kind in ("sa1b", "auto") and path.is_dir():
        inputs = list[Input]()
        for folder in sample_folders(path, limits):  # the source, or those that lie in it
            name = "_".join([path.resolve().name, *Path(folder).relative_to(path).parts])
            inputs += _cut(name, folder, list_files(folder, limits), "sa1b")
        if inputs:
            return inputs
    if kind == "sa1b" or (kind == "auto" and tars):
        if not tars:
            raise FileNotFoundError(f"no tar matches '{source}'; name tars, or a folder of them")
        return [_of_tar(tar, partial(list_tar, tar, index_dir, limits), "sa1b") for tar in tars]
    return _inputs_in_layout(source, path, kind, images_dir)


def _inputs_in_layout(source: str, path: Path, kind: str, images_dir: str | None) -> list[Input]:
    """What a JSON of COCO, or a folder in a layout of its own or of another tool, holds."""
    if not path.exists():
        raise FileNotFoundError(f"no source '{source}'; name tars, a JSON of COCO, or a folder")
    kind = _kind_of(path) if kind == "auto" else kind
    wants_file = kind.startswith("coco")
    if wants_file != path.is_file():
        wanted = "a JSON file" if wants_file else "a folder"
        raise ValueError(f"the format {kind} is read from {wanted}, got '{source}'")
    if wants_file:
        content, hashed = read_coco(path)
        is_segments = is_panoptic(content) if kind == "coco" else True
        records, left_out = list_coco(path, content, images_dir, is_segments)
        first, *others = _cut(path.stem, source, records, kind, hashed, images_dir)
        return [replace(first, left_out=left_out), *others]
    if kind == "bsds500":
        splits = find_splits(path)
        if not splits:
            raise ValueError(f"'{source}' holds no groundTruth/SPLIT/KEY.mat, as BSDS500 does")
        found = [(f"bsds500_{name}", place) for name, place in splits.items()]
        return [
            one for name, place in found for one in _cut(name, place, list_bsds500(place), kind)
        ]
    if kind in _OF_OTHERS:
        return _cut(path.resolve().name, source, list_masks(path, kind, images_dir), kind)
    records = list_ade20k(path) if kind == "ade20k" else list_folder(path)
    if not records:
        raise ValueError(f"'{source}' holds no KEY_seg.png, as ADE20K does")
    return _cut(path.resolve().name, source, records, kind)


def _of_tar(tar: Path, list_records: Callable[[], Sequence[Record]], kind: str) -> Input:
    """The input of a tar; it is measured by its size, time of the last change and first headers."""
    status = tar.stat()
    with tar.open("rb") as file:
        measure = f"{status.st_size} bytes, {status.st_mtime_ns}, {digest(file.read(HEAD))}"
    return Input(_name(tar.stem), str(tar), measure, list_records, kind)


def _kind_of(path: Path) -> str:
    if path.is_file():
        if path.suffix == ".json":
            return "coco"  # panoptic or not is seen when it is read
        if path.name.endswith(PACKED):
            raise ValueError(f"'{path}' is compressed, so it cannot be read at random; unpack it")
        raise ValueError(f"'{path}' is neither a .tar nor a .json; set format if it is one")
    if find_splits(path):
        return "bsds500"
    other = mask_format_of(path)
    if other in _OF_OTHERS:
        return other
    return "ade20k" if next(path.rglob("*_seg.png"), None) else "folder"


def _cut(
    name: str,
    source: str | Path,
    records: Sequence[Record],
    kind: str,
    basis: str = "",
    images_dir: str | None = None,
) -> list[Input]:
    """One input, or several if it is large."""
    records = sorted(records, key=lambda record: record.key)
    starts = range(0, max(1, len(records)), SAMPLES_PER_INPUT)
    inputs = []
    for number, start in enumerate(starts):
        some = records[start : start + SAMPLES_PER_INPUT]
        numbered = f"{name}_{number:03d}" if len(starts) > 1 else name
        measure = _measure_records(some, basis)
        list_some: Callable[[], Sequence[Record]] = partial(list, some)
        inputs.append(Input(_name(numbered), str(source), measure, list_some, kind, images_dir))
    return inputs


def _measure_records(records: Sequence[Record], basis: str = "") -> str:
    """Words that differ where a file of some samples was added, removed, or written anew.

    Folders do not count, so a source that is moved with its times stays the same. `basis` is a
    digest of what else they are read from.
    """
    total = hashlib.sha256(basis.encode())
    for record in records:
        lines = [record.key, *(_state_of(path) for path in record.files)]
        total.update(("\n".join(lines) + "\0").encode(errors="surrogatepass"))
    return f"{len(records)} samples {total.hexdigest()[:16]}"


def _state_of(path: str) -> str:
    name = os.path.basename(path)
    try:
        status = os.stat(path)
    except (OSError, ValueError):  # gone, out of reach, or no name: reading it says so
        return f"{name} -"
    return f"{name} {status.st_size} {status.st_mtime_ns}"
