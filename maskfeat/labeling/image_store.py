"""The images of a folder of thousands, prepared ahead and kept on disk; few are in memory."""

from __future__ import annotations

import hashlib
import logging
import os
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
from torch import nn

from maskfeat.array_file import read_arrays
from maskfeat.arrays import Float64Array
from maskfeat.data.annotations.read_as import ReadAs
from maskfeat.data.folder import read_image
from maskfeat.features.cache import FeatureCache
from maskfeat.features.reading import FeatureModel, Features
from maskfeat.files import file_digest, whole_file
from maskfeat.labeling.descriptors import FeatureExtractor, describe, extractor_key, weights_key
from maskfeat.segment.hierarchy import hierarchy
from maskfeat.segment.inputs import RegionReader, reduced
from maskfeat.segment.score_cut import cut_costs
from maskfeat.segment.superpixels import RegionGraph, superpixels
from maskfeat.segment.tree import PartitionTree

_LOG = logging.getLogger("maskfeat")
# Some megabytes each: 3 at 640 x 480.
_MOST_OPEN = 8
# Superpixels sampled from an image, for what looks at all images: 65 kilobytes for each.
NUM_SAMPLED = 48
_LONGEST_STEM = 180  # bytes
_VERSION = 1
_NAMES = (
    "version",
    "labels",
    "centroids_yx",
    "edges",
    "border_lengths",
    "boundary_strengths",
    "scale",
    "costs",
    "parents",
    "altitudes",
    "descriptors",
    "size",
)


class ImageStore:
    """Prepares images, in a thread if wanted, and keeps what came out in files.

    A file is named by the image's name, size and time of change, in a folder named by model,
    extractor and settings: so nothing stale is read, and a changed image is computed again. Beside
    lie the descriptors of some of its superpixels, which stay in memory for all images.

    Args:
        paths: The images, of different names without ending.
        model: Gives features.
        extractor: Gives descriptors.
        folder: Where to keep things; made when it is needed.
        per_megapixel: Superpixels for a million pixels.
        max_megapixels: Larger images are reduced to it.
        cache_dir: Where features are kept for others that want them, see `FeatureCache`.
        read_as: How the images are read.

    Attributes:
        failed: What went wrong, by number of the image that cannot be read.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        model: FeatureModel,
        extractor: FeatureExtractor,
        folder: Path,
        per_megapixel: int,
        max_megapixels: float,
        cache_dir: Path | None = None,
        read_as: ReadAs = ReadAs(),  # noqa: B008 - frozen
    ) -> None:
        self.paths, self.read_as = list(paths), read_as
        self.failed: dict[int, str] = {}
        self._read = (
            model.features if cache_dir is None else FeatureCache(cache_dir, model).features
        )
        self._extractor = extractor
        self._per_megapixel, self._max_megapixels = per_megapixel, max_megapixels
        if isinstance(model, nn.Module):
            model_key = weights_key(model)
        else:  # an ONNX graph has an origin
            model_key = f"{type(model).__qualname__} {getattr(model, 'origin', '')}".strip()
        settings = f"{model_key} {extractor_key(extractor)} {per_megapixel} {max_megapixels}"
        settings += f" {read_as}" if read_as.to_json() else ""
        self._folder = folder / hashlib.sha256(settings.encode()).hexdigest()[:12]
        self._open: OrderedDict[int, tuple[Path, PreparedImage]] = OrderedDict()
        self._digests: dict[int, tuple[Path, str]] = {}
        self._sampled: dict[int, npt.NDArray[np.float16]] = {}
        self._lock, self._computing = threading.Lock(), threading.Lock()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        for number in range(len(self.paths)):
            path = self._path(number)
            arrays = read_arrays(_sampled_path(path), ["descriptors"]) if path.is_file() else None
            if arrays is not None:  # else it is computed again
                self._sampled[number] = arrays["descriptors"]

    @property
    def num_prepared(self) -> int:
        """How many images are on disk."""
        return len(self._sampled)

    def is_prepared(self, number: int) -> bool:
        """Whether an image need only be read."""
        return number in self._sampled

    def sampled_descriptors(self) -> dict[int, npt.NDArray[np.float16]]:
        """Descriptors of some superpixels of each image that is prepared, each float16, (n, D)."""
        with self._lock:
            return dict(self._sampled)

    def get(self, number: int) -> PreparedImage:
        """An image as its file is now; computed if need be.

        Raises:
            ValueError: If the image cannot be read.
        """
        path = self._path(number)
        with self._lock:
            found = self._open.get(number)
            if found is not None and found[0] == path:
                self._open.move_to_end(number)
                return found[1]
        image = load_prepared(path) if self.is_prepared(number) else None
        if image is None:
            image = self._computed(number)
        with self._lock:
            self._open[number] = (path, image)
            self._open.move_to_end(number)
            while len(self._open) > _MOST_OPEN:
                self._open.popitem(last=False)
        return image

    def digest(self, number: int) -> str | None:
        """Of an image: its file as it is now, and how it is read; None if it cannot be read."""
        path = self._path(number)
        known = self._digests.get(number)
        if known is None or known[0] != path:
            try:
                found = file_digest(self.paths[number])
            except OSError:
                return None
            # Clicks on one page are none on another; by default it is the file alone.
            found += f" {self.read_as}" if self.read_as.to_json() else ""
            known = self._digests[number] = (path, found)
        return known[1]

    def prepare_all(self, in_background: bool = False) -> None:
        """Prepare what is not yet; an image that cannot be read is logged and left out.

        Args:
            in_background: Return at once; a thread does it.
        """
        if not in_background:
            self._prepare_rest()
        elif self._thread is None or not self._thread.is_alive():
            self._stop.clear()
            self._thread = threading.Thread(target=self._prepare_rest, daemon=True)
            self._thread.start()

    def close(self) -> None:
        """End the thread, after the image it is at."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()

    def _prepare_rest(self) -> None:
        for number in range(len(self.paths)):
            if self._stop.is_set():
                return
            if number in self.failed or self.is_prepared(number):
                continue
            try:
                self._computed(number)
            except ValueError as error:
                _LOG.warning("left out: %s", error)
            except OSError as error:  # a full disk, say: each image is prepared when looked at
                _LOG.warning("preparing ahead ended: a file could not be written: %s", error)
                return

    def _computed(self, number: int) -> PreparedImage:
        with self._computing:  # one network at a time, and no image twice
            kept = load_prepared(self._path(number))
            if kept is not None and self.is_prepared(number):
                return kept
            image = self._made(number) if kept is None else kept
            # Some superpixels, large ones more often.
            share = image.superpixel_pixels / image.superpixel_pixels.sum()
            count = min(NUM_SAMPLED, len(share))
            chosen = np.random.default_rng(0).choice(len(share), count, replace=False, p=share)
            sampled = image.descriptors[chosen]
            with whole_file(_sampled_path(self._path(number))) as file:
                np.savez(file, allow_pickle=False, descriptors=sampled)
            self._path(number).with_suffix(".sketch.npz").unlink(missing_ok=True)  # its former name
            with self._lock:
                self._sampled[number] = sampled
            self.failed.pop(number, None)  # it may have been mended
            return image

    def _made(self, number: int) -> PreparedImage:
        """An image, computed and written."""
        try:
            rgb = read_image(self.paths[number], read_as=self.read_as)
        except ValueError as error:
            self.failed[number] = str(error)
            raise
        size = (rgb.shape[0], rgb.shape[1])
        small = reduced(rgb, self._max_megapixels)
        image = prepare(small, self._read(small), self._extractor, size, self._per_megapixel)
        save_prepared(image, self._path(number))
        return image

    def _path(self, number: int) -> Path:
        path = self.paths[number]
        try:
            status = path.stat()
        except OSError as error:
            self.failed[number] = f"'{path}' cannot be read as an image: {error}"
            return self._folder / f"{_short(path.stem)}-missing.npz"
        return self._folder / f"{_short(path.stem)}-{status.st_size:x}-{status.st_mtime_ns:x}.npz"


def _sampled_path(path: Path) -> Path:
    return path.with_suffix(".sampled.npz")


def _short(stem: str) -> str:
    """A name that leaves room for what is added to it: a system allows 255 bytes."""
    data = os.fsencode(stem)
    if len(data) <= _LONGEST_STEM:
        return stem
    return f"{os.fsdecode(data[:_LONGEST_STEM])}-{hashlib.sha256(data).hexdigest()[:12]}"


@dataclass(frozen=True)
class PreparedImage:
    """The superpixels of one image, described; its features are not needed any more.

    Attributes:
        graph: The superpixels, without their features (K, 0); all arrays as in `RegionGraph`.
        costs: What parting adjacent superpixels costs, see `cut_costs`, float64, shape (E,).
        tree: The merges of the superpixels, see `Hierarchy`.
        descriptors: What is known of each superpixel, float16, shape (K, D).
        size: Height and width of the image itself, pixels; the superpixels may be of a reduced
            one.
    """

    graph: RegionGraph
    costs: Float64Array
    tree: PartitionTree
    descriptors: npt.NDArray[np.float16]
    size: tuple[int, int]

    @cached_property
    def superpixel_pixels(self) -> Float64Array:
        """Pixels of each superpixel, float64, (K,)."""
        return self.graph.sizes.astype(np.float64)


def prepare(
    rgb: npt.NDArray[np.uint8],
    features: Features,
    extractor: FeatureExtractor,
    size: tuple[int, int],
    per_megapixel: int,
) -> PreparedImage:
    """Cut an image, uint8 (h, w, 3), into superpixels of its features and describe them.

    The size is that of the image that rgb may be a reduced copy of; superpixels are counted for a
    million pixels of rgb.
    """
    graph = superpixels(features, per_megapixel)
    tree = hierarchy(graph).tree
    reader = RegionReader(graph.labels, graph.num_superpixels)
    descriptors = describe(extractor(rgb, features), reader)
    limit = float(np.finfo(np.float16).max)
    half = descriptors.clip(-limit, limit).astype(np.float16)
    costs, none = cut_costs(graph), np.zeros((graph.num_superpixels, 0), np.float32)
    return PreparedImage(replace(graph, features=none), costs, tree, half, size)


def save_prepared(image: PreparedImage, path: Path) -> None:
    """Write a file, 4 MB for 640 x 480 pixels, whole or not at all."""
    graph, tree = image.graph, image.tree
    small = np.uint16 if graph.num_superpixels <= 2**16 else np.int32
    with whole_file(path) as file:
        # Not compressed: descriptors hardly shrink, and to unpack them takes longer than to read.
        np.savez(
            file,
            allow_pickle=False,
            version=_VERSION,
            labels=graph.labels.astype(small),
            centroids_yx=graph.centroids_yx.astype(np.float16),
            edges=graph.edges.astype(small),
            border_lengths=graph.border_lengths.astype(np.float32),
            boundary_strengths=graph.boundary_strengths.astype(np.float16),
            scale=graph.scale,
            costs=image.costs.astype(np.float32),
            parents=tree.parents.astype(np.int32),
            altitudes=tree.altitudes.astype(np.float32),
            descriptors=image.descriptors,
            size=np.array(image.size),
        )


def load_prepared(path: Path) -> PreparedImage | None:
    """Read what `save_prepared` wrote; None if it is not there, damaged or of another version."""
    arrays = read_arrays(path, _NAMES)
    if arrays is None or int(arrays["version"]) != _VERSION:
        return None  # it is computed again
    labels = arrays["labels"].astype(np.int32)
    sizes = np.bincount(labels.ravel()).astype(np.float32)
    graph = RegionGraph(
        labels=labels,
        features=np.zeros((len(sizes), 0), np.float32),
        sizes=sizes,
        centroids_yx=arrays["centroids_yx"].astype(np.float32),
        edges=arrays["edges"].astype(np.int32),
        border_lengths=arrays["border_lengths"],
        boundary_strengths=arrays["boundary_strengths"].astype(np.float32),
        scale=float(arrays["scale"]),
    )
    parents, altitudes = arrays["parents"].astype(np.int64), arrays["altitudes"].astype(np.float64)
    bare = PartitionTree(parents, altitudes, np.zeros(len(parents)))
    tree = PartitionTree(parents, altitudes, bare.sums(sizes))
    height, width = arrays["size"].tolist()
    costs, descriptors = arrays["costs"].astype(np.float64), arrays["descriptors"]
    return PreparedImage(graph, costs, tree, descriptors, (height, width))
