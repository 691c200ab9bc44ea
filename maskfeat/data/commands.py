"""`maskfeat shards ...`: typed, documented functions that become commands."""

from __future__ import annotations

from typing import Any

from maskfeat.data.annotations.limits import Limits


def synth(
    out: str,
    num: int,
    seed: int = 0,
    prefix: str = "train",
    size: tuple[int, int] = (256, 320),
    samples_per_shard: int = 1000,
    jpg_quality: tuple[int, int] = (75, 95),
    num_workers: int = 2,
) -> None:
    """Draw scenes of objects, parts and subparts with exact masks, and write them as shards.

    Args:
        out: Folder to write to; it is made if it is not there.
        num: Number of scenes.
        seed: The same seed gives the same scenes, whatever `num` and `num_workers`.
        prefix: Shards are named PREFIX-000000.tar, ...
        size: Height and width of the scenes, pixels.
        samples_per_shard: Scenes in one tar.
        jpg_quality: Lowest and highest JPEG quality, 1 to 95.
        num_workers: Processes that draw.
    """
    from maskfeat.data.synth import write_scenes

    paths = write_scenes(
        out,
        num,
        seed,
        size=size,
        prefix=prefix,
        samples_per_shard=samples_per_shard,
        jpg_quality=jpg_quality,
        num_workers=num_workers,
        progress=True,
    )
    print(f"{num} scenes in {len(paths)} shards, the first is {paths[0]}")


def index(shards: str | list[str], index_dir: str | None = None) -> None:
    """Index tars by one header scan each, and print what is in them.

    Args:
        shards: A tar, a glob or a brace range, or a list of these.
        index_dir: Where to keep the indexes if not beside the tars.
    """
    from maskfeat.data.shards.indexed import IndexedShards
    from maskfeat.data.shards.names import expand_shards

    for path in expand_shards(shards):
        print(f"{path}: {len(IndexedShards(path, index_dir=index_dir))} samples")


def convert(
    sources: list[str],
    out: str,
    size: int = 512,
    shard_mb: float = 256.0,
    format: str = "auto",
    min_area_px: int = 16,
    jpg_quality: int = 90,
    keep_crowds: bool = False,
    void_label: str = "auto",
    part: str = "0/1",
    num_workers: int | None = None,
    images_dir: str | None = None,
    index_dir: str | None = None,
    executor: str = "processes",
    executor_options: dict[str, Any] | None = None,
    parts: int | None = None,
    limits: Limits = Limits(),  # noqa: B008 - frozen
) -> None:
    """Convert data sets to training shards: smaller images, masks one connected piece each.

    What SOURCES may be, with the format that `auto` takes it for:

    - sa1b: a tar in the layout of SA-1B, a folder or a glob of such tars, JPEG or PNG. Members may
      lie in any order; they are read where they lie. Or a folder of KEY.json, as `maskfeat
      segment` and `annotate` write it; the images may lie elsewhere, see `path` in the KEY.json.
    - coco: a JSON of instances, with polygons or run lengths (ROOT/annotations/NAME.json).
      Polygons are filled by scikit-image: what holds a pixel's center holds the pixel.
    - coco_panoptic: a JSON of panoptic segments; the PNGs lie in the folder of its name beside it.
    - bsds500: the folder that holds images/SPLIT/KEY.jpg and groundTruth/SPLIT/KEY.mat, or one
      groundTruth/SPLIT. Each annotator's partition is kept, under `annotator`.
    - ade20k: a folder that holds, at any depth, KEY.jpg, KEY_seg.png, KEY_parts_1.png, ...;
      `level` is object, part or subpart.
    - folder: a folder that holds KEY.jpg, and beside it either KEY.png, a label map (gray,
      palette or color; 0 or black is no mask), or a folder KEY of binary PNGs, one a mask. Or
      the images lie in images/, in any usual format, and the masks in masks/. Where the colors of
      a mask say nothing, its alpha is the mask.
    - yolo, voc, labelme, geojson: folders of these tools, as `maskfeat convert` writes them, their
      images beside the masks, in images/ or JPEGImages/ there, or in images_dir.

    To OUT come NAME-000000.tar, NAME-000001.tar, ..., NAME being that of the source: KEY.jpg with
    KEY.json as in SA-1B, sorted by key, where dots in keys become "_". A pixel of a smaller image
    belongs to the masks that hold its center, so masks that nest still do. Other entries of
    annotations are kept (predicted_iou, annotator, level, label, ...). Annotations that give no
    mask (crowds, boxes without an outline, too small ones) are counted by reason. A source that is
    no tar is cut every 5000 samples.

    The work goes on where it was stopped, even by kill -9: finished shards are not done again,
    and all end in the same bytes as in one unbroken run. A source that has changed since (a file
    added, removed or written anew, by size and time) is converted anew. Samples that cannot be
    read are named in the log and counted by reason. When all sources are done, OUT/index.json
    tells samples, masks, bytes and a checksum of each shard.

    A cluster splits the work by `--part I/N`, I counted from 0: in a Slurm array given as
    --array=0-15 write --part $SLURM_ARRAY_TASK_ID/$SLURM_ARRAY_TASK_COUNT. If a job was lost, the
    same command without --part does what is left.

    Args:
        sources: What to convert.
        out: Folder of the shards; made if it is not there.
        size: Short side that larger images are reduced to, pixels.
        shard_mb: Largest size of a shard, 10^6 bytes.
        format: auto, sa1b, coco, coco_panoptic, bsds500, ade20k, folder, yolo, voc, labelme or
            geojson.
        min_area_px: Masks of fewer pixels in the new image are dropped.
        jpg_quality: Of the images that are reduced, 1 to 95; others keep their files.
        keep_crowds: Whether masks of many objects at once (`iscrowd` of COCO) are kept.
        void_label: In label maps, the number of pixels that nobody labeled, which give no mask: a
            whole number; auto, 255 in maps with the palette of PASCAL VOC; or none.
        part: Which inputs to do, I/N: every N-th from the I-th on, I from 0 to N-1.
        num_workers: Processes; 0 works in this one. Default: one for each core. Of dask, submitit
            and ray, those in each of their workers; default 0, and dask allows no other.
        images_dir: Folder of the images of a COCO JSON, or of other tools, if not in a usual place.
        index_dir: Where to keep the indexes of tars, if not beside them.
        executor: Who does it: processes of this machine, dask, submitit (Slurm) or ray. Each of
            the last three is an extra to install. A worker that dies is replaced three times.
        executor_options: JSON of options: of dask.distributed.Client (address; without it this
            machine), of submitit's executor (slurm_partition, timeout_min, cpus_per_task, ...;
            cluster local is this machine), or of Ray's tasks and ray.init (num_gpus, address).
        parts: How many parts dask, submitit and ray get; default: one for each input.
        limits: What a sample of a tar may ask for.
    """
    from pathlib import Path

    from maskfeat.data.convert import FORMATS, Settings, convert_inputs, find_inputs
    from maskfeat.data.convert.engines import engine_of
    from maskfeat.data.convert.report import print_summary

    settings = Settings(size, min_area_px, jpg_quality, shard_mb, keep_crowds, void_label)
    share = parse_part(part)
    engine = engine_of(executor, executor_options, parts, Path(out), num_workers)
    if format not in FORMATS:
        raise ValueError(f"format must be one of {', '.join(FORMATS)}, got '{format}'")
    inputs = find_inputs(sources, format, images_dir, index_dir, limits)
    print_summary(convert_inputs(inputs, out, settings, share, num_workers, True, engine))


def verify(
    folder: str,
    num_workers: int | None = None,
    part: str = "0/1",
    executor: str = "processes",
    executor_options: dict[str, Any] | None = None,
    parts: int | None = None,
    limits: Limits = Limits(),  # noqa: B008 - frozen
) -> None:
    """Check converted shards: checksums, that every sample reads, that masks fit their images.

    Each shard is compared with the checksum and counts in index.json, each image is decoded,
    and of each mask the run lengths, the area and the box are checked. Sources that have changed
    since they were converted are reported, if they can be read. What is wrong is printed as a
    table, and the exit status is 1.

    Args:
        folder: What `maskfeat shards convert` or `segment` wrote.
        num_workers: Processes; 0 works in this one. Default: one for each core; with the
            executors below 0.
        part: Which shards to read, I/N: every N-th from the I-th on, I from 0 to N-1. Part 0 checks
            the folder as a whole, too.
        executor: Who does it, see `shards convert`, as for the next two.
        executor_options: JSON of its options.
        parts: How many parts dask, submitit and ray get; default: one for each shard.
        limits: What a sample may ask for.
    """
    from pathlib import Path

    from maskfeat.data.convert.engines import engine_of
    from maskfeat.data.convert.report import print_problems
    from maskfeat.data.convert.verify import verify_folder

    share = parse_part(part)
    engine = engine_of(executor, executor_options, parts, Path(folder), num_workers)
    report, num_shards = verify_folder(folder, num_workers, True, limits, share, engine)
    if report.problems:
        print_problems(report.problems)
        raise SystemExit(1)
    print(
        f"{num_shards} shards are sound: {report.num_samples:,} samples, {report.num_masks:,} masks"
    )


def stats(
    shards: list[str],
    json: str | None = None,
    image: str | None = None,
    num: int | None = None,
    num_imaged: int = 12,
    seed: int = 0,
    num_workers: int | None = None,
    index_dir: str | None = None,
    limits: Limits = Limits(),  # noqa: B008 - frozen
) -> None:
    """Count what is in shards: masks, their areas, how deep they nest; and draw some samples.

    The nesting depth of an image is the length of the longest chain of masks that each lie
    in the next: 95 % of its pixels do, counted exactly from the runs, and their IoU is below 0.7,
    else they are two outlines of one thing. 1 means that no mask lies in another.

    Args:
        shards: Tars in the layout of SA-1B, globs, or folders of tars.
        json: File to write the numbers to.
        image: PNG file to draw random samples to, each beside its masks.
        num: Samples to count, evenly spaced over all; default: all of them.
        num_imaged: Samples in the image.
        seed: Of the choice of these samples.
        num_workers: Processes; 0 works in this one. Default: one for each core.
        index_dir: Where to keep the indexes of tars, if not beside them.
        limits: What a sample may ask for.
    """
    from pathlib import Path

    from PIL import Image

    from maskfeat.data.convert import stats as reading
    from maskfeat.data.convert.report import draw_sheet, print_stats
    from maskfeat.data.convert.state import write_json
    from maskfeat.data.order.schedule import evenly_spaced
    from maskfeat.files import whole_file

    if num_imaged < 1 or (num is not None and num < 1):
        raise ValueError(f"num and num_imaged must be at least 1, got {num} and {num_imaged}")
    places, paths, num_incomplete = reading.find_places(shards, index_dir, limits)
    total = len(places)
    chosen = [places[number] for number in evenly_spaced(total, num)]
    facts, skipped = reading.count_up(chosen, num_workers, show_progress=True)
    if not facts:
        raise ValueError(f"none of the {total} samples can be read")
    skipped["incomplete"] += num_incomplete
    found = {
        "shards": len(paths),
        "samples_in_all": total,
        "counted": reading.summarize(facts),
        "skipped": {reason: n for reason, n in sorted(skipped.items()) if n},
        "skipped_at_conversion": reading.skipped_at_conversion(shards),
    }
    print_stats(found)
    if json is not None:
        write_json(Path(json), found)
    if image is not None:
        drawn = Image.fromarray(draw_sheet(places, num_imaged, seed))
        with whole_file(image) as file:
            drawn.save(file, "PNG")


def parse_part(part: str) -> tuple[int, int]:
    """Read I/N.

    Raises:
        ValueError: If it is not, or I is not in 0..N-1.
    """
    first, slash, second = part.partition("/")
    if not (slash and first.isdecimal() and second.isdecimal()):
        raise ValueError(f"part must be I/N, two whole numbers, got '{part}'")
    number, total = int(first), int(second)
    if number >= total:
        raise ValueError(
            f"part I/N counts from 0, so I must be below N, got '{part}'; "
            "a Slurm array of N jobs is --array=0-(N-1)"
        )
    return number, total
