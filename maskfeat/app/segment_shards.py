"""`maskfeat shards segment`: images become shards with nested masks. Torch waits for the work."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from maskfeat import __version__
from maskfeat.app.segment_command import cut_settings, origin_of_model
from maskfeat.data.annotations.image import SampleError, decode_image
from maskfeat.data.annotations.limits import Limits
from maskfeat.data.annotations.painting import reduced_size
from maskfeat.data.commands import parse_part
from maskfeat.data.convert import convert_inputs, find_inputs
from maskfeat.data.convert.engines import engine_of
from maskfeat.data.convert.report import print_summary
from maskfeat.data.convert.sample import Record, Shrunk, check_output, reduced_jpg
from maskfeat.data.convert.sources import IMAGES
from maskfeat.formats.sa1b import image_entry, json_bytes

_LEAST_PX = 2  # masks of one pixel are read by nobody


def segment(
    sources: list[str],
    out: str,
    size: int = 512,
    num_segments: int | None = None,
    granularity: float | None = None,
    model: str = "maskfeat-b0",
    max_megapixels: float = 2.0,
    shard_mb: float = 256.0,
    jpg_quality: int = 90,
    part: str = "0/1",
    num_workers: int | None = None,
    device: str = "cpu",
    executor: str = "processes",
    executor_options: dict[str, Any] | None = None,
    parts: int | None = None,
    limits: Limits = Limits(),  # noqa: B008 - frozen
) -> None:
    """Segment images in bulk, and write them with nested masks as shards in the layout of SA-1B.

    SOURCES are tars of images (whatever else they hold, such as KEY.json, is passed over), folders
    or globs of tars, urls of tars (with brace ranges), or folders of images, at any depth. A tar at
    a url is copied to OUT/.convert as long as it is read.

    To OUT come NAME-000000.tar, NAME-000001.tar, ..., NAME being that of the source: KEY.jpg, lying
    upright, with KEY.json. The masks are those that `maskfeat segment` writes: first the segments
    of the cut, then the larger ones they are merged into. OUT is training data as it is, and what
    `shards verify`, `shards stats` and `shards convert` read.

    All is as with `shards convert`: the work goes on where it was stopped, even by kill -9, and
    ends in the same bytes, whatever the number of processes and the executor (on processors of one
    kind; others round otherwise). Images that cannot be read or segmented are named in the log and
    counted by reason. When all is done, OUT/index.json tells samples, masks and a checksum of each
    shard.

    Args:
        sources: What to segment.
        out: Folder of the shards; made if it is not there.
        size: Short side that larger images are reduced to, pixels, before they are segmented.
        num_segments: See `maskfeat segment`, as for the next three.
        granularity: The probability of "one segment" from which regions are merged.
        model: A file, a name, or the word lab.
        max_megapixels: Size to work with.
        shard_mb: Largest size of a shard, 10^6 bytes.
        jpg_quality: Of the images that are reduced, 1 to 95; other JPEGs keep their files.
        part: Which inputs to do, I/N: every N-th from the I-th on, I from 0 to N-1.
        num_workers: Processes, each with one thread and about 1 GB of memory; 0 works in this one.
            Default: one for each core. Of dask, submitit and ray, those in each of their workers;
            default 0, and dask allows no other.
        device: Where the network runs: cpu, cuda, cuda:1, mps; auto takes a GPU, in all workers,
            if the machine that starts the run has one. OUT is made on devices of one kind.
        executor: Who does it: processes of this machine, dask, submitit (Slurm) or ray. Each of
            the last three is an extra to install. A worker that dies is replaced three times.
        executor_options: JSON of options: of dask.distributed.Client (address; without it this
            machine), of submitit's executor (slurm_partition, timeout_min, cpus_per_task, ...;
            cluster local is this machine), or of Ray's tasks and ray.init (num_gpus, address).
        parts: How many parts dask, submitit and ray get; default: one for each input.
        limits: What an image may ask for.
    """
    if not max_megapixels > 0:
        raise ValueError(f"max_megapixels must be above 0, got {max_megapixels}")
    cut = cut_settings(num_segments, granularity)
    recipe = SegmentRecipe(model, device, cut, max_megapixels, size, jpg_quality, shard_mb)
    share = parse_part(part)
    engine = engine_of(executor, executor_options, parts, Path(out), num_workers)
    inputs = find_inputs(sources, IMAGES, limits=limits)
    print_summary(convert_inputs(inputs, out, recipe, share, num_workers, True, engine))


@dataclass(frozen=True)
class SegmentRecipe:
    """Segments images for shards, a `Recipe`.

    Args:
        cut: What to cut hierarchies with, see `Hierarchy.cut`; for the others see `segment`. The
            device "auto" is decided where the recipe is made.

    Attributes:
        origin: What tells the model from others, see `origin_of_model`; no worker takes another.

    Raises:
        FileNotFoundError: If there is no such model.
        ValueError: If a setting is out of range.
    """

    model: str
    device: str
    cut: dict[str, Any]
    max_megapixels: float = 2.0
    size: int = 512
    jpg_quality: int = 90
    shard_mb: float = 256.0
    origin: dict[str, str] = field(init=False)

    def __post_init__(self) -> None:
        check_output(self.size, self.jpg_quality, self.shard_mb)
        object.__setattr__(self, "origin", origin_of_model(self.model))
        if self.device == "auto":
            from maskfeat.features.device import device_of

            object.__setattr__(self, "device", str(device_of(self.device)))

    def described(self) -> dict[str, Any]:
        """The settings, what tells the model from others, and the kind of device, which rounds."""
        made_by = {"command": "segment", "version": __version__, **self.origin}
        made_by["device"] = self.device.partition(":")[0]
        numbers = ("max_megapixels", "size", "jpg_quality", "shard_mb")
        return {**made_by, **self.cut, **{name: getattr(self, name) for name in numbers}}

    def make(self, key: str, number: int, record: Record) -> Shrunk:
        """Segment an image as it lies in the shard, reduced and encoded.

        Raises:
            SampleError: As `reduced_jpg`; "not segmented" with the reason; "no masks" of an image
                of one pixel.
            FileNotFoundError: If the model is not there.
            ValueError: If it cannot be loaded, is another one by now, or the device is not there.
        """
        from maskfeat.app.nested_masks import annotate_cut
        from maskfeat.segment.hierarchy import hierarchy
        from maskfeat.segment.inputs import reduced

        encoder = _encoder(self.model, self.device, self.origin.get("model_digest"))
        sample = record.read()
        size = reduced_size(sample.size, self.size)
        jpg = reduced_jpg(sample, size, self.jpg_quality)
        rgb = np.asarray(decode_image(jpg, size))
        try:
            tree = hierarchy(encoder(reduced(rgb, self.max_megapixels)))
            found = annotate_cut(tree, tree.cut(**self.cut), size)
        except ValueError as error:
            raise SampleError("not segmented", str(error)) from error
        annotations = [one for one in found if one["area"] >= _LEAST_PX]
        if not annotations:
            raise SampleError("no masks", f"the image is {size[0]} x {size[1]}")
        content = {"image": image_entry(number, size, f"{key}.jpg"), "annotations": annotations}
        num_small = len(found) - len(annotations)
        left_out = {"too small": num_small} if num_small else {}
        return Shrunk(jpg, json_bytes(content), len(annotations), left_out)


@lru_cache(1)
def _encoder(model: str, device: str, digest: str | None) -> Callable[..., Any]:
    """A model, loaded once in a process, whose libraries take one thread from now on.

    Processes share out the cores; and more threads could add up numbers in another order. Workers
    of a cluster live longer than a run, so the content of the file is part of the key.
    """
    import torch
    from threadpoolctl import threadpool_limits  # comes with scikit-learn

    from maskfeat.app.segment_images import encoder_of

    torch.set_num_threads(1)
    threadpool_limits(1, "blas")
    encoder = encoder_of(model, device)
    if origin_of_model(model).get("model_digest") != digest:
        raise ValueError(
            f"the model '{model}' is not the one that this run was begun with; give all workers "
            "the same file, and choose another folder for other weights"
        )
    return encoder
