"""`maskfeat shards ...`: typed, documented functions that become commands."""

from __future__ import annotations


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
    from maskfeat.data.shards import IndexedShards, expand_shards

    for path in expand_shards(shards):
        print(f"{path}: {len(IndexedShards(path, index_dir=index_dir))} samples")
